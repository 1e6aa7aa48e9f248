"""A1 of Constructive Assimilation, as views of the loader and the standard strategy."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.generators.latent_world import write_networks
from tests.train.loops import loop_loss
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.images.resize import crop_resize
from viewstore.store.store import Store, open_store
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import open_feed
from viewstore.train.methods.base import Frame
from viewstore.train.methods.simclr import Negatives, SimCLRSettings
from viewstore.train.nets.network import NetworkSettings, seeded_network
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.standard import Standard
from viewstore.train.views import At, views_of

SAMPLES = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two W-search views of each sample, of a random generator."""
    folder = tmp_path_factory.mktemp("a1")
    files = write_networks(folder, samples=SAMPLES)
    build(
        BuildRequest(
            generator="w-search",
            out=folder / "store",
            source=str(folder / "images.npz"),
            settings={"views": 2, "eps1": 0.3, "eps2": 0.4, "max_steps": 5, "slots": 6},
            files=files,
        )
    )
    return open_store(folder / "store")


def config_of(generated: str, **method: Any) -> PretrainConfig:  # noqa: ANN401
    return PretrainConfig(
        views=("simclr", generated),
        method=SimCLRSettings(**method),
        strategy=Strategy(Standard()),
        network=NetworkSettings(backbone="conv3", projector=(32, 16)),
        epochs=1,
        batch_size=SAMPLES,
    )


@pytest.mark.parametrize("negatives", ["both", "other"])
def test_the_loss_is_the_loop_over_expert_and_cropped_generated_views(
    store: Store, negatives: Negatives
) -> None:
    config = config_of("w-search+smallcrop", negatives=negatives)
    with open_feed(store, config, num_threads=1) as feed:
        assert feed.roles == ("expert", "generated")
        (batch,) = feed.loader
    views = views_of(batch, roles=feed.roles, device=torch.device("cpu"), at=At(0, 0, 1, 1, 0))
    # In evaluation mode views do not meet in batch statistics, so that they can be compared.
    frame = Frame(prepare=config.prepare)
    method = config.method.make(seeded_network(config.network, 0), frame).eval()
    embedded = method(config.strategy.plan(views, method))
    first, second = embedded.student["z"]
    expected = torch.tensor(loop_loss(first, second, negatives, 0.5), dtype=torch.float64).mean()
    torch.testing.assert_close(embedded.loss.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "least"), [("smallcrop", 0.9), ("medcrop", 0.7), ("largecrop", 0.5)]
)
def test_the_generated_view_is_cropped_and_flipped_as_its_params_say(
    store: Store, name: str, least: float
) -> None:
    areas, flips = [], []
    with (
        open_feed(store, config_of("w-search"), num_threads=1) as plain,
        open_feed(store, config_of(f"w-search+{name}"), num_threads=1) as cropped,
    ):
        for _ in range(30):
            (before,), (after,) = plain.loader, cropped.loader
            assert before.index.tolist() == after.index.tolist()
            stored, view = before.views[1].pixels, after.views[1]
            for sample, box in enumerate(np.asarray(view.params["crop_box"])):
                mirrored = bool(view.params["flip"][sample])
                image = np.ascontiguousarray(stored[sample].permute(1, 2, 0).numpy())
                expected = crop_resize(image, box, (16, 16), "area", mirrored=mirrored)
                assert np.array_equal(view.pixels[sample].permute(1, 2, 0).numpy(), expected)
                areas.append(float(box[2] * box[3]) / 16**2)
                flips.append(mirrored)
    # Sides are rounded to whole pixels.
    assert least - 0.07 < min(areas) < least + 0.07
    assert 0.4 < np.mean(flips) < 0.6
