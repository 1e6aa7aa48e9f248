"""A1 of Constructive Assimilation, by its name and as views of the standard strategy."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.generators.latent_world import write_networks
from tests.train.loops import loop_loss
from tests.train.world import make_method, make_views, slots_of
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.images.resize import crop_resize
from viewstore.store.store import Store, open_store
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import open_feed
from viewstore.train.methods.base import Frame
from viewstore.train.methods.simclr import Negatives, SimCLRSettings
from viewstore.train.methods.traits import Traits
from viewstore.train.nets.network import NetworkSettings, seeded_network
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.standard import Standard
from viewstore.train.strategies.table import strategy_of
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


def config_of(
    generated: str,
    strategy: Strategy | None = None,
    **method: Any,  # noqa: ANN401
) -> PretrainConfig:
    return PretrainConfig(
        views=("simclr", generated),
        method=SimCLRSettings(**method),
        strategy=strategy or Strategy(Standard()),
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


def pixels_of(store: Store, config: PretrainConfig) -> tuple[str | None, list[torch.Tensor]]:
    with open_feed(store, config, num_threads=1) as feed:
        (batch,) = feed.loader
        return feed.shown_id, [torch.as_tensor(view.pixels).clone() for view in batch.views]


@pytest.mark.parametrize("word", ["w-search", "w-search+medcrop"])
def test_its_name_is_the_standard_strategy_on_cropped_generated_views(
    store: Store, word: str
) -> None:
    named = pixels_of(store, config_of(word, strategy_of("a1", {})))
    spelt = pixels_of(store, config_of(word if "+" in word else "w-search+smallcrop"))
    assert named[0] == spelt[0]
    assert all(map(torch.equal, named[1], spelt[1]))
    plain = pixels_of(store, config_of("w-search"))
    assert torch.equal(plain[1][0], named[1][0])
    assert not torch.equal(plain[1][1], named[1][1])


@pytest.mark.parametrize(("flip", "flipped"), [(True, {0, 1}), (False, {0})])
def test_digits_are_cropped_without_a_flip(store: Store, flip: bool, flipped: set[int]) -> None:
    config = config_of("w-search", strategy_of("a1", {"a1_flip": flip}))
    found: set[int] = set()
    with open_feed(store, config, num_threads=1) as feed:
        for _ in range(10):
            (batch,) = feed.loader
            found |= set(np.asarray(batch.views[1].params["flip"]).tolist())
    assert found == flipped


def test_the_plan_is_the_standard_one_of_both_views() -> None:
    views = make_views(("expert", "generated"))
    method = make_method("moco-v2")
    plan = strategy_of("a1", {}).plan(views, method)
    assert [row.view for row in plan.students] == [0]
    assert [row.view for row in plan.targets] == [1]


CROPS = Traits(
    name="crops", target="ema", decomposable=False, forward="per_size", target_roles=("global",)
)
LABELS = Traits(name="labels", target="prototype", decomposable=False, forward="per_size")


@pytest.mark.parametrize(("traits", "why"), [(CROPS, "target_roles"), (LABELS, "(target)")])
def test_methods_of_crops_and_of_labels_are_refused(traits: Traits, why: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy a1 .* method {traits.name}") as caught:
        strategy_of("a1", {}).check(traits, slots_of(("expert", "generated")))
    assert why in (caught.value.why or "")
    assert "use --strategy a2" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("names", "roles", "message"),
    [
        ("a1", ("expert", "expert"), "an expert and a generated view, got expert,expert"),
        ("a1", ("expert", "generated", "generated"), "got expert,generated,generated"),
        ("a1,graded", ("expert", "generated"), "compares crops of a sample"),
    ],
)
def test_other_views_and_graded_ones_are_refused(
    names: str, roles: tuple[str, ...], message: str
) -> None:
    traits = SimCLRSettings(loss_scale=2).traits
    with pytest.raises(ConfigError, match=message):
        strategy_of(names, {}).check(traits, slots_of(roles))


def test_a_strategy_has_one_chooser() -> None:
    for other in ("hvp", "random", "min_iou", "cooperative"):
        with pytest.raises(ConfigError, match=f"one chooser, got {other} and a1"):
            strategy_of(f"{other},a1", {})
