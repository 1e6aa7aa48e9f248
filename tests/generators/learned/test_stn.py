"""Views of a frozen spatial transformer in a store: replayed from their params, and what fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.generators.standard_views import context_of
from tests.viewstore.small_stores import ROWS, build_small, write_npz
from viewstore.build.request import BuildRequest
from viewstore.errors import ConfigError
from viewstore.generators import make_settings
from viewstore.generators.contract import Sample
from viewstore.images.boxes import transformed_boxes
from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.policies import dino_colours, policies
from viewstore.images.resize import resize
from viewstore.progress import Silent
from viewstore.randomness import Stream
from viewstore.store.store import open_store
from viewstore.store.verify import verify
from viewstore.train.maker_file import save_maker
from viewstore.train.nets.spatial_transformer import SpatialTransformer, TransformerShape

SIDE, LOCAL = 16, 8


def network(*, spread: float = 0.2, **shape: Any) -> SpatialTransformer:  # noqa: ANN401
    values = {"size": SIDE, "local_size": LOCAL, "n_locals": 3, **shape}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = SpatialTransformer(TransformerShape(**values))
        for head in found.heads:
            head[-1].weight.normal_(std=spread)  # type: ignore[index,union-attr]
    return found.requires_grad_(False).eval()


def build_views(store: Path, source: str | None, file: Path, part: str, **changes: Any) -> Any:  # noqa: ANN401
    settings = {"part": part, "slots": 4}
    request = {"files": {"stn": file}, "settings": settings, **changes}
    name = "stn" if part == "global" else "stn-local"
    return build_small(store, source, generator=name, **request)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a frozen network, and a store of its global and its local views."""
    folder = tmp_path_factory.mktemp("stn")
    source = write_npz(folder / "images.npz")
    save_maker(folder / "net", "stn", network(), {})
    build_views(folder / "s", source, folder / "net", "global")
    build_views(folder / "s", None, folder / "net", "local", codec="png")
    return folder


@pytest.mark.parametrize(
    ("name", "role", "side", "first", "count"),
    [("stn", "global", SIDE, 0, 2), ("stn-local", "local", LOCAL, 2, 3)],
)
def test_recorded_params_give_the_views_again(
    world: Path, name: str, role: str, side: int, first: int, count: int
) -> None:
    """Cut by the transform, within 1/255; then coloured as Pillow does it, to the bit."""
    store = open_store(world / "s")
    views, net = store.view_sets[name], network()
    assert views.roles == (role,) * count
    policy: Any = policies("dino")[0]
    for row in (0, 5, ROWS - 1):
        image = store.source.image(row)
        x = torch.from_numpy(resize(image, SIDE, SIDE).copy()).permute(2, 0, 1)[None] / 255
        expected = net(x)[0, first : first + count]
        params = {each: views.params[each][row] for each in views.params}
        np.testing.assert_allclose(params["x_theta"], expected, rtol=0, atol=1e-5)
        boxes = transformed_boxes(params["x_theta"], *image.shape[:2])
        assert np.array_equal(params["crop_box"], boxes)
        for view in range(count):
            drawn = dino_colours(role, first + view, side, Stream.of_view_set(0, name), row, view)
            for column in COLOUR_COLUMNS:
                assert np.array_equal(params[column][view], drawn[column])
            theta = torch.from_numpy(params["x_theta"][view].copy())[None]
            cut = 255 * net.cut(x, theta, side)[0].permute(1, 2, 0)
            replayed = np.ascontiguousarray(cut.round().to(torch.uint8).numpy())
            contrast = replayed.astype(float).std((0, 1)).max()
            assert params["x_contrast"][view] == pytest.approx(contrast, abs=0.1)
            policy.recolour(replayed, {each: params[each][view] for each in COLOUR_COLUMNS})
            assert np.array_equal(views[row][view], replayed)
    assert list(verify(world / "s", level="content")) == []


def test_views_are_cut_in_different_places_of_different_images(world: Path) -> None:
    theta = open_store(world / "s").view_sets["stn"].params["x_theta"][:]
    assert theta.std(0)[:, [0, 1], [0, 2]].min() > 1e-3
    assert (np.abs(theta).sum(-1) <= 1 + 1e-6).all()


def test_views_that_may_be_turned_have_no_box(tmp_path: Path) -> None:
    save_maker(tmp_path / "net", "stn", network(mode="affine"), {})
    build_views(tmp_path / "s", write_npz(tmp_path / "a.npz"), tmp_path / "net", "global")
    views = open_store(tmp_path / "s").view_sets["stn"]
    assert "crop_box" not in views.params
    assert views.plan.generator["args"]["boxes"] is False


def rendered(net: SpatialTransformer, image: Any) -> Any:  # noqa: ANN401
    context = context_of(lambda row: image, 1, models={"stn": net})
    settings = make_settings("stn", {"slots": 1}).resolve(context)
    (found,) = settings.make(context).render([Sample.of(0, image)])
    return found


def test_views_of_a_single_colour_have_missed_their_goal() -> None:
    """Zoomed into the middle of an image whose middle is flat; and of no number at all."""
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    image[:4] = 10
    net = network(spread=0.0)
    net.heads[1][-1].bias.zero_()  # type: ignore[index,union-attr,operator]
    found = rendered(net, image)
    assert found.params["status"].tolist() == [1, 2]
    assert found.params["x_contrast"][1] == 0
    net.heads[0][-1].bias.fill_(torch.nan)  # type: ignore[index,union-attr,operator]
    found = rendered(net, image)
    assert found.params["status"].tolist() == [3, 2]
    assert not found.pixels[0].any()


def test_a_static_network_is_told_of(world: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Told(Silent):
        def warn(self, text: str) -> None:
            told.append(text)

    from viewstore.build.run import build

    for name, net in (("static", network(spread=0.0)), ("moving", network())):
        save_maker(tmp_path / name, "stn", net, {})
        request = BuildRequest(
            generator="stn",
            out=tmp_path / f"{name}-store",
            source=str(world / "images.npz"),
            files={"stn": tmp_path / name},
            settings={},
            workers=1,
        )
        build(request, Told())
    (text,) = told
    assert text.startswith("the views are static: where the network cuts does not depend on the")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views": 5}, "views of this network's global views must be 2, got 5"),
        ({"height": 32}, "height of this network's global views must be 16, got 32"),
    ],
)
def test_other_views_than_the_networks_are_refused(given: dict[str, Any], message: str) -> None:
    context = context_of(lambda row: np.zeros((8, 8, 3), np.uint8), 1, models={"stn": network()})
    with pytest.raises(ConfigError, match=message):
        make_settings("stn", given).resolve(context)


def test_a_network_without_local_views_makes_none() -> None:
    models = {"stn": network(n_locals=0)}
    context = context_of(lambda row: np.zeros((8, 8, 3), np.uint8), 1, models=models)
    with pytest.raises(ConfigError, match="this network makes no local views"):
        make_settings("stn-local", {}).resolve(context)


def test_settings_of_no_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stn\.part must be global or local, got 'all'"):
        make_settings("stn", {"part": "all"})
    with pytest.raises(ConfigError, match=r"stn\.slots must be a whole number from 1 to"):
        make_settings("stn", {"slots": 0})


def test_without_a_network_it_says_what_trains_one() -> None:
    context = context_of(lambda row: np.zeros((8, 8, 3), np.uint8), 1)
    with pytest.raises(ConfigError, match="stn needs the network that a training made") as caught:
        make_settings("stn-local", {}).resolve(context)
    assert "--stn RUN/stn.safetensors" in str(caught.value.fix)
