"""Rows of which no view could be made are left out of every order, and counted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import viewstore
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, FormatError
from viewstore.loaders import Mix, ViewLoader
from viewstore.loaders.plan.usable import leave_out
from viewstore.loaders.settings import Missing
from viewstore.store.store import Store

BROKEN = (2, 6)
LEFT = [0, 1, 3, 4, 5, 7]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 photographs of which rows 2 and 6 end early: sets `simclr` and `other` of 2 views."""
    folder = tmp_path_factory.mktemp("broken")
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        path = folder / "images" / "c" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        if number in BROKEN:
            path.write_bytes(path.read_bytes()[:1500])
    for name in ("simclr", "other"):
        make_set(folder / "store", name)
    return folder / "store"


def make_set(out: Path, name: str) -> None:
    """Build 2 views of the images beside `out`."""
    build(
        BuildRequest(
            generator="simclr",
            view_set=name,
            out=out,
            source=str(out.parent / "images"),
            shard_rows=3,
            settings={"views": 2, "height": 8, "width": 8},
            on_error="skip",
            workers=1,
        )
    )


@pytest.fixture
def broken(root: Path) -> Store:
    return viewstore.open(root)


def make(store: Store, views: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    settings = {"batch_size": 2, "num_threads": 0, "tail": "keep", **changes}
    return ViewLoader(store, views, **settings)


def rows_of(loader: ViewLoader) -> list[int]:
    return sorted(row for batch in loader for row in batch.index.tolist())


@pytest.mark.parametrize("missing", ["raise", "fallback", "resample"])
@pytest.mark.parametrize(
    "views",
    [
        "cached:simclr,cached:simclr",
        "online:simclr",
        "cached:other+flip,online:moco",
        [Mix({"simclr": 1, "other": 1}, n=2)],
    ],
)
def test_rows_without_views_are_left_out_and_counted(
    broken: Store,
    views: Any,  # noqa: ANN401
    missing: Missing,
) -> None:
    loader = make(broken, views, missing=missing)
    assert [rows_of(loader), rows_of(loader)] == [LEFT, LEFT]
    assert loader.stats()["left_out"] == len(BROKEN)
    assert len(loader) == 3
    assert loader.num_rows == len(LEFT)


def test_rows_that_were_asked_for_are_left_out_too(broken: Store) -> None:
    loader = make(broken, "online:simclr", rows=[1, 2, 3])
    assert (rows_of(loader), loader.stats()["left_out"]) == ([1, 3], 1)
    loader = make(broken, "cached:simclr", where="index >= 6")
    assert (rows_of(loader), loader.stats()["left_out"]) == ([7], 1)
    with pytest.raises(ConfigError, match="none of 2 rows has a view that was made"):
        make(broken, "cached:simclr", rows=BROKEN)


def test_each_of_several_stores_leaves_its_own_out(broken: Store) -> None:
    loader = make([broken, broken], "online:simclr")  # type: ignore[arg-type]
    assert rows_of(loader) == [*LEFT, *(8 + row for row in LEFT)]
    assert loader.stats()["left_out"] == 2 * len(BROKEN)


def test_a_store_without_failures_leaves_nothing_out(digits: Store) -> None:
    loader = ViewLoader(digits, "hard,simclr", batch_size=8, num_threads=0)
    assert (loader.num_rows, loader.stats()["left_out"]) == (70, 0)
    assert loader.state_dict()["rows"] is None


def test_a_row_with_one_view_is_no_row_without_views(broken: Store) -> None:
    """A view of it may be shown for the other; `missing` says so."""
    views = broken.view_sets["simclr"]
    status = views.params["status"].copy()
    status[0] = (3, 1)
    views.params._whole["status"] = status
    assert leave_out(broken, None, [views], online=False)[1] == len(BROKEN)
    assert rows_of(make(broken, "cached:simclr", missing="resample")) == LEFT
    with pytest.raises(FormatError, match="view 0 of row 0 of simclr was not made") as error:
        [rows_of(make(broken, "cached:simclr,cached:simclr"))]
    assert "missing='resample'" in str(error.value.fix)


def test_a_row_whose_views_failed_still_has_its_source_image(broken: Store) -> None:
    views = broken.view_sets["simclr"]
    status = views.params["status"].copy()
    status[0] = 3
    views.params._whole["status"] = status
    assert rows_of(make(broken, "cached:simclr")) == LEFT[1:]
    assert rows_of(make(broken, "online:simclr")) == LEFT
    assert rows_of(make(broken, "cached:other")) == LEFT


def test_an_image_that_any_view_set_was_made_from_can_be_read(broken: Store) -> None:
    views = broken.view_sets["other"]
    status = views.params["status"].copy()
    status[0] = 4
    views.params._whole["status"] = status
    assert rows_of(make(broken, "online:simclr")) == LEFT


def test_a_damaged_view_set_that_is_not_shown_is_no_fault(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "store")
    stats = copy / "views" / "other" / "stats.json"
    stats.chmod(0o644)
    stats.write_bytes(b"{}")
    store = viewstore.open(copy)
    assert leave_out(store, None, [], online=True)[1] == len(BROKEN)


def test_the_state_depends_on_rows_and_shown_view_sets_alone(root: Path, tmp_path: Path) -> None:
    """A running training resumes after another view set was built, or taken away."""
    out = tmp_path / "store"
    shutil.copytree(root.parent / "images", tmp_path / "images")
    make_set(out, "simclr")
    views = "cached:simclr,online:moco"
    with make(viewstore.open(out), views, seed=4) as loader:
        whole = [batch.index.tolist() for batch in loader]
        state = loader.batch(0, 0).state
    make_set(out, "another")
    with make(viewstore.open(out), views) as loader:
        assert loader.batch(0, 1).state.keys() == state.keys()
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        assert [batch.index.tolist() for batch in loader] == whole[1:]
    with (
        make(viewstore.open(out), "cached:another,online:moco", seed=4) as loader,
        pytest.warns(UserWarning, match="saved with other views"),
    ):
        loader.load_state_dict(state)


def test_other_bytes_of_a_shown_view_set_are_other_views(broken: Store) -> None:
    state = make(broken, "cached:simclr").state_dict()
    views = broken.view_sets["simclr"]
    views.__dict__["index"] = replace(views.index, root="0" * 64)
    other = make(broken, "cached:simclr").state_dict()
    assert {name for name in state if state[name] != other[name]} == {"views"}


def test_columns_of_views_that_failed_say_nothing_of_images(root: Path, tmp_path: Path) -> None:
    """The status of what is said of a failed view is 4 too; its image can be read."""
    out = tmp_path / "store"
    shutil.copytree(root, out)
    build(BuildRequest(generator="quality", out=out, settings={"of": "simclr"}, workers=1))
    store = viewstore.open(out)
    assert leave_out(store, None, [], online=True)[0].tolist() == LEFT  # type: ignore[union-attr]
    for name, status in (("simclr", 3), ("other", 3), ("quality", 4)):
        views = store.view_sets[name]
        found = np.array(views.params["status"])
        found[1] = status
        views.params._whole["status"] = found
    assert leave_out(store, None, [], online=True)[0].tolist() == LEFT  # type: ignore[union-attr]
