"""Views of a frozen ViewMaker in a store: by hand, in other builds, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.generators.standard_views import context_of
from tests.viewstore.small_stores import ROWS, build_small, write_npz
from viewstore.errors import ConfigError
from viewstore.generators.contract import Sample
from viewstore.generators.learned.viewmaker import ViewMaker
from viewstore.images.colours import Pixels
from viewstore.images.resize import resize
from viewstore.randomness import Op, Stream
from viewstore.store.store import open_store
from viewstore.store.verify import verify
from viewstore.train.maker_file import save_maker
from viewstore.train.nets import view_maker

SIDE = 16


def network(**shape: Any) -> view_maker.ViewMaker:  # noqa: ANN401
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = view_maker.ViewMaker(view_maker.ViewMakerShape(**{"size": SIDE, **shape}))
    return found.requires_grad_(False).eval()


def build_views(store: Path, source: str | None, file: Path, **changes: Any) -> Any:  # noqa: ANN401
    settings = {"views": 3, "slots": 4, **changes.pop("settings", {})}
    request = {"files": {"viewmaker": file}, **changes}
    return build_small(store, source, generator="viewmaker", settings=settings, **request)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a frozen network and stores of its views, on images and on views."""
    folder = tmp_path_factory.mktemp("viewmaker")
    source = write_npz(folder / "images.npz")
    save_maker(folder / "maker", "viewmaker", network(), {})
    build_small(folder / "s", source)
    build_views(folder / "s", None, folder / "maker", codec="png")
    build_views(folder / "s", None, folder / "maker", settings={"of": "simclr"}, view_set="of")
    return folder


def by_hand(image: Pixels, view_set: str, row: int, view: int, seed: int = 0) -> Pixels:
    maker = network()
    noise = Stream.of_view_set(seed, view_set).floats(Op.NOISE, row, view, maker.noise_numbers)
    x = torch.from_numpy(resize(image, SIDE, SIDE).copy()).permute(2, 0, 1)[None] / 255
    made = 255 * maker(x, torch.from_numpy(noise)[None])[0]
    levels: Pixels = made.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    return levels


def close(first: Pixels, second: Pixels) -> bool:
    """Whether levels are equal but for roundings: a batch of another shape rounds otherwise."""
    difference = np.abs(first.astype(int) - second)
    return bool(difference.max() <= 1 and (difference > 0).mean() < 0.01)


def test_views_are_those_of_the_network_by_keyed_noise(world: Path) -> None:
    store = open_store(world / "s")
    views = store.view_sets["viewmaker"]
    assert views.roles == ("generated",) * 3
    for row in (0, 7, ROWS - 1):
        image = store.source.image(row)
        for view in range(3):
            assert close(views[row][view], by_hand(image, "viewmaker", row, view))
        start = resize(image, SIDE, SIDE).astype(float)
        change = np.abs(views[row] - start).mean((1, 2, 3)) / 255
        np.testing.assert_allclose(views.params["x_change"][row], change, rtol=1e-6)
        assert (views.params["parent"][row] == -1).all()
        assert len({each.tobytes() for each in views[row]}) == 3
    # What is cut off at the ends of the range is missing from the budget, and nothing is added.
    assert 0.02 < views.params["x_change"].min() < views.params["x_change"].max() < 0.053


def test_views_of_views_take_them_in_turn(world: Path) -> None:
    store = open_store(world / "s")
    views, parents = store.view_sets["of"], store.view_sets["simclr"]
    assert views.plan.parent is not None
    assert views.plan.parent["view_set"] == "simclr"
    assert (views.params["parent"][:] == [0, 1, 0]).all()
    for row in (0, 9):
        for view, parent in enumerate((0, 1, 0)):
            assert close(views[row][view], by_hand(parents[row][parent], "of", row, view))


def test_the_plan_names_the_network_and_verify_finds_nothing(world: Path) -> None:
    (weights,) = open_store(world / "s").view_sets["viewmaker"].plan.weights
    data = (world / "maker").read_bytes()
    assert (weights.role, weights.sha256) == ("viewmaker", hashlib.sha256(data).hexdigest())
    assert list(verify(world / "s", level="content")) == []


def test_another_seed_gives_other_views_and_other_shards_the_same(
    world: Path, tmp_path: Path
) -> None:
    source = str(world / "images.npz")
    build_views(tmp_path / "same", source, world / "maker", shard_rows=5)
    build_views(tmp_path / "other", source, world / "maker", seed=1)
    same, other, first = (
        open_store(path).view_sets["viewmaker"]
        for path in (tmp_path / "same", tmp_path / "other", world / "s")
    )
    for row in range(ROWS):
        assert np.array_equal(same[row], first[row])
        assert not np.array_equal(other[row], first[row])


def test_views_of_which_nothing_was_made_are_failed() -> None:
    """A network whose output is no number, and views to start from that were never made."""
    maker = network()
    maker.grow[-1].bias.fill_(torch.nan)  # type: ignore[union-attr,operator]
    image = np.full((SIDE, SIDE, 3), 9, np.uint8)
    context = context_of(lambda row: image, 1, models={"viewmaker": maker})
    settings = ViewMaker(slots=1).resolve(context)
    (rendered,) = settings.make(context).render([Sample.of(0, image)])
    assert rendered.params["status"].tolist() == [3, 3]
    assert np.isnan(rendered.params["x_change"]).all()
    assert rendered.pixels is not None
    assert not rendered.pixels.any()


def test_a_gray_network_makes_gray_views() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    context = context_of(lambda row: image, 1, models={"viewmaker": network(channels=1)})
    settings = ViewMaker(slots=1, views=1).resolve(context)
    (rendered,) = settings.make(context).render([Sample.of(0, image)])
    assert rendered.pixels is not None
    assert rendered.pixels.shape == (1, SIDE, SIDE, 3)
    assert np.array_equal(rendered.pixels[..., 0], rendered.pixels[..., 2])


def test_without_a_network_it_says_what_trains_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="viewmaker needs the network that a training made") as e:
        build_small(
            tmp_path / "s", write_npz(tmp_path / "a.npz"), generator="viewmaker", settings={}
        )
    assert "--viewmaker RUN/viewmaker.safetensors" in str(e.value.fix)


def test_another_size_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="makes views of 16 px a side, got 32"):
        build_views(
            tmp_path / "s", str(world / "images.npz"), world / "maker", settings={"height": 32}
        )


def test_params_alone_are_refused(world: Path) -> None:
    with pytest.raises(ConfigError, match="generator viewmaker has no recipe"):
        build_views(world / "s", None, world / "maker", codec="params", view_set="params")


@pytest.mark.parametrize("name", ["views", "slots", "threads"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"viewmaker\.{name} must be a whole number from 1 to"):
        ViewMaker(**{name: 0})  # type: ignore[arg-type]
