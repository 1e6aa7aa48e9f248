"""Heavy views in stores: built on other view sets, as params alone, replayed, loaded, hostile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.viewstore.small_stores import build_small, write_npz, write_photographs
from viewstore.build.request import Built
from viewstore.errors import ConfigError, FormatError
from viewstore.images.operated import HEAVY
from viewstore.images.resize import resize
from viewstore.loaders import Cached, ViewLoader
from viewstore.store.store import open_store
from viewstore.store.verify import verify

ROWS = 6
SHARD_ROWS = 4


def heavy(
    out: Path,
    source: str | None = None,
    *,
    generator: str = "heavy",
    codec: str = "raw",
    **settings: Any,  # noqa: ANN401
) -> Built:
    """Build five heavy views a sample, with these settings."""
    return build_small(
        out,
        source,
        generator=generator,
        view_set="heavy",
        codec=codec,
        settings={"views": 5, **settings},
        shard_rows=SHARD_ROWS,
        seed=4,
    )


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three simclr views of each of six samples, to be copied."""
    folder = tmp_path_factory.mktemp("standard")
    settings = {"views": 3, "height": 24, "width": 20}
    source = write_npz(folder / "images.npz", rows=ROWS, side=40)
    build_small(folder / "s", source, settings=settings, shard_rows=SHARD_ROWS)
    return folder


def store(standard: Path, tmp_path: Path, name: str) -> Path:
    """Return a store of its own with the standard views."""
    shutil.copytree(standard / "s", tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("chain", HEAVY)
def test_params_alone_give_the_views_that_would_have_been_stored(
    standard: Path, tmp_path: Path, chain: str
) -> None:
    views = {}
    for codec in ("raw", "params"):
        out = store(standard, tmp_path, codec)
        heavy(out, chain=chain, codec=codec)
        opened = open_store(out)
        views[codec] = opened.view_sets["heavy"]
        assert list(verify(out, level="content")) == []
    raw, params = views["raw"], views["params"]
    assert raw.roles == ("heavy",) * 5
    assert (raw.kind, params.kind) == ("pixels", "recipe")
    assert params.of == raw.of == "simclr"
    assert raw.num_views == 5
    for row in range(ROWS):
        assert np.array_equal(params[row], raw[row])
        again = np.stack([raw.replay(row, view) for view in range(5)])
        assert np.array_equal(again, raw[row])


def test_params_alone_are_drawn_without_pixels_of_the_parent(
    standard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proved, drawn = (store(standard, tmp_path, name) for name in ("proved", "drawn"))
    heavy(proved, codec="params")
    opened: list[int] = []
    kind = type(open_store(drawn).view_sets["simclr"])
    real = kind.__getitem__

    def noticed(self: Any, row: Any) -> Any:  # noqa: ANN401
        opened.append(row)
        return real(self, row)

    monkeypatch.setattr(kind, "__getitem__", noticed)
    heavy(drawn, codec="params", proof=False)
    assert opened == []
    monkeypatch.undo()
    first, second = (open_store(each).view_sets["heavy"] for each in (proved, drawn))
    assert np.array_equal(first[3], second[3])


@pytest.mark.parametrize("generator", ["randaugment", "uniformaugment", "jigsaw"])
@pytest.mark.parametrize("codec", ["raw", "params"])
def test_generators_of_the_source_need_no_other_views(
    standard: Path, tmp_path: Path, generator: str, codec: str
) -> None:
    source = str(standard / "images.npz")
    heavy(tmp_path / "s", source, generator=generator, codec=codec, height=16, width=24)
    opened = open_store(tmp_path / "s")
    views = opened.view_sets["heavy"]
    assert views.of is None
    assert (views.params["parent"] == -1).all()
    assert (views.params["crop_box"] == [0, 0, 40, 40]).all()
    for row in range(ROWS):
        plain = resize(opened.source.image(row), 16, 24)
        assert not (views[row] == plain).all()
        assert np.array_equal(views.replay(row, 2), views[row][2])
    assert list(verify(tmp_path / "s", level="content")) == []


@pytest.mark.parametrize(
    "policy", ["simclr+ra16", "paper3", "digits+ua", "dino+either", "dssl-byol"]
)
def test_expert_views_with_operators_are_recipes_too(
    standard: Path, tmp_path: Path, policy: str
) -> None:
    settings = {"policy": policy, "views": 4, "height": 24, "width": 20}
    source = str(standard / "images.npz")
    for codec in ("raw", "params"):
        build_small(tmp_path / codec, source, settings=settings, codec=codec)
    raw, params = (open_store(tmp_path / each).view_sets["simclr"] for each in ("raw", "params"))
    assert params.kind == "recipe"
    for row in range(ROWS):
        assert np.array_equal(params[row], raw[row])
        assert np.array_equal(params.replay(row, 3), raw[row][3])


def test_a_slot_shows_heavy_views_of_the_view_in_another_slot(
    standard: Path, tmp_path: Path
) -> None:
    out = store(standard, tmp_path, "s")
    heavy(out, chain="byol")
    opened = open_store(out)
    for epoch in range(3):
        with ViewLoader(
            opened, [Cached("simclr"), Cached("heavy", follow=0)], batch_size=6
        ) as all_:
            all_.set_epoch(epoch)
            first, second = next(iter(all_)).views
        assert second.role == "heavy"
        assert second.parent.tolist() == first.view.tolist()
        outer, inner = (view.params["crop_box"].numpy() for view in (first, second))
        assert (inner[:, :2] >= outer[:, :2] - 1e-4).all()
        assert (inner[:, :2] + inner[:, 2:] <= outer[:, :2] + outer[:, 2:] + 1e-4).all()


@pytest.mark.parametrize("generator", ["jigsaw", "randaugment"])
def test_a_view_that_was_never_made_has_params_that_change_nothing(
    tmp_path: Path, generator: str
) -> None:
    source = write_photographs(tmp_path / "images", 4, cut=2)
    settings = {"views": 2, "height": 15, "width": 18}
    changes: dict[str, Any] = {"generator": generator, "codec": "params", "on_error": "skip"}
    build_small(tmp_path / "s", str(source), settings=settings, **changes)
    views = open_store(tmp_path / "s").view_sets[generator]
    assert not views[2].any()
    assert views[1].any()
    params, made = views.rendering.params(np.arange(4), np.tile(np.arange(2), (4, 1)))
    assert made.tolist() == [[True] * 2, [True] * 2, [False] * 2, [True] * 2]
    image = np.arange(15 * 18 * 3, dtype=np.uint8).reshape(15, 18, 3)
    one = {name: column[2, 0] for name, column in params.items()}
    assert np.array_equal(views.rendering.renderer.render(image, one), image)


@pytest.mark.parametrize("photometric", ["cpu", "device"])
@pytest.mark.parametrize("chain", ["paper3", "byol"])
def test_loaders_show_params_alone_as_they_show_pixels(
    standard: Path, tmp_path: Path, chain: str, photometric: str
) -> None:
    asked: list[list[Any]] = [
        [Cached("simclr"), Cached("heavy", follow=0), "ra16"],
        [Cached("heavy", n=2, then="flip"), "ra16"],
    ]
    shown: dict[str, list[Any]] = {}
    for codec in ("raw", "params"):
        out = store(standard, tmp_path, codec)
        heavy(out, chain=chain, codec=codec)
        settings = {"batch_size": 3, "photometric": photometric, "device": "cpu"}
        shown[codec] = []
        for views in asked:
            with ViewLoader(open_store(out), views, **settings) as loader:  # type: ignore[arg-type]
                shown[codec] += [batch.views for batch in loader]
    for raw, params in zip(shown["raw"], shown["params"], strict=True):
        for first, second in zip(raw, params, strict=True):
            assert np.array_equal(first.pixels, second.pixels)
            for name in ("ops", "jigsaw", "crop_box", "crop_local"):
                assert (name in first.params) == (name in second.params)
                if name in first.params:
                    assert np.array_equal(first.params[name], second.params[name])


def test_a_view_set_to_start_from_must_be_there(standard: Path, tmp_path: Path) -> None:
    out = store(standard, tmp_path, "s")
    with pytest.raises(ConfigError, match="no view set 'simclrs'"):
        heavy(out, of="simclrs")


@pytest.mark.parametrize(
    ("column", "value"),
    [("ops", 77), ("ops_args", np.nan), ("parent", 3), ("parent", -1), ("jigsaw", 0)],
)
def test_params_that_no_view_can_have_are_refused(
    standard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: float
) -> None:
    out = store(standard, tmp_path, "s")
    heavy(out, chain="paper", codec="params")
    views = open_store(out).view_sets["heavy"]
    whole = views.params[column].copy()
    whole[2, 1] = value
    monkeypatch.setitem(views.params._whole, column, whole)
    assert views[1].any()
    with pytest.raises(FormatError, match=f"{column} of row 2 view 1 of heavy cannot be") as caught:
        views[2]
    assert caught.value.code == "VS203"
