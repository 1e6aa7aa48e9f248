"""Kinds of issues: planted faults are found in just their rows, and healthy rows are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.viewstore.inspect.planted import ROWS, pictures, plant
from tests.viewstore.small_stores import build_small, round_before, write_npz
from viewstore.errors import ConfigError
from viewstore.inspect.issues import Issue, IssueSettings, issue_named, issues_of, name_in_filters
from viewstore.store.matching import matching_rows
from viewstore.store.store import Store, open_store

VIEWS = 2
HEIGHT, WIDTH = 24, 32  # of the pictures
WHOLE = np.array([0, 0, HEIGHT, WIDTH], np.float32)


def status_with(*faults: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a status of 1 but for (row, view, status)."""
    found = np.ones((ROWS, VIEWS), np.uint8)
    for row, view, status in faults:
        found[row, view] = status
    return found


def found_in(store: Store, settings: IssueSettings | None = None) -> dict[str, Issue]:
    return {each.name: each for each in issues_of(store, list(store.view_sets.values()), settings)}


def planted(folder: Path, **values: Any) -> Store:  # noqa: ANN401
    settings = {name: values.pop(name) for name in ("policy", "unpacked") if name in values}
    return plant(folder / "s", "p", values, source=pictures(folder / "pictures"), **settings)


def rows_of(issue: Issue) -> list[int]:
    rows: list[int] = issue.rows.tolist()
    return rows


def test_a_store_that_a_build_made_has_no_issues(tmp_path: Path) -> None:
    for generator, views in (("simclr", 4), ("moco", 2), ("dino-local", 6)):
        settings = {"views": views, "height": 16, "width": 16}
        source = write_npz(tmp_path / "i.npz") if generator == "simclr" else None
        rows = {} if source else {"shard_rows": None}
        build_small(tmp_path / "s", source, generator=generator, settings=settings, **rows)
    assert found_in(open_store(tmp_path / "s")) == {}


def test_each_status_is_a_kind_of_its_own(tmp_path: Path) -> None:
    faults = ((3, 0, 2), (3, 1, 2), (5, 1, 3), (9, 0, 4), (10, 1, 0), (11, 0, 2))
    store = planted(tmp_path, status=status_with(*faults))
    found = found_in(store)
    assert {name: (rows_of(each), each.views) for name, each in found.items()} == {
        "p/off goal": ([3, 11], 3),
        "p/failed": ([5], 1),
        "p/black": ([9], 1),
        "p/not built": ([10], 1),
    }
    for each in found.values():
        assert each.where is not None
        assert matching_rows(store, each.where).tolist() == rows_of(each)


def test_a_box_outside_is_found_and_one_that_fills_the_image_is_not(tmp_path: Path) -> None:
    boxes = np.tile(WHOLE, (ROWS, VIEWS, 1))
    boxes[4, 1] = [-1, 0, 10, 10]
    boxes[6, 0] = [0, 20, 10, 12.5]  # half a pixel over the right edge
    boxes[7, 0] = [0, 20, 10, 0]
    boxes[8, 1] = np.nan  # not made
    store = planted(tmp_path, crop_box=boxes, status=status_with((8, 1, 3)))
    found = found_in(store)
    assert rows_of(found["p/box outside"]) == [4, 6, 7]
    assert found["p/box outside"].where is None
    assert "p/box small" not in found  # the plan names no policy
    naive = (boxes[..., 0] + boxes[..., 2] > HEIGHT) | (boxes[..., 0] < 0)  # one axis alone
    assert np.flatnonzero(naive.any(1)).tolist() != [4, 6, 7]


def test_a_box_below_its_policy_is_small_but_for_rounding_and_for_the_box_where_none_fits(
    tmp_path: Path,
) -> None:
    least = 0.2 * HEIGHT * WIDTH  # of moco: 153.6
    boxes = np.tile(WHOLE, (ROWS, VIEWS, 1))
    boxes[2, 1] = [1, 1, 12, 12]  # 144, which 12.4 x 12.4 is rounded to
    boxes[3, 0] = [1, 1, 11, 11]  # 121, which no box of 153.6 is
    boxes[5, 0] = [0, 10, HEIGHT, 5]  # as high as the image
    store = planted(tmp_path, crop_box=boxes, policy="moco")
    assert rows_of(found_in(store)["p/box small"]) == [3]
    area = boxes[..., 2] * boxes[..., 3]
    assert np.flatnonzero((area < least).any(1)).tolist() == [2, 3, 5]  # naive: too many


@pytest.mark.parametrize(("policy", "count"), [("simclr", 0), ("moco", 1), ("no-such", 0)])
def test_the_least_area_is_that_of_the_policy_of_the_plan(
    tmp_path: Path, policy: str, count: int
) -> None:
    boxes = np.tile(WHOLE, (ROWS, VIEWS, 1))
    boxes[3, 0] = [1, 1, 10, 10]  # 100 of 768: .13
    found = found_in(planted(tmp_path, crop_box=boxes, policy=policy))
    assert [name for name in found if "small" in name] == ["p/box small"] * count


def test_nan_is_an_issue_where_the_status_says_that_there_is_a_number(tmp_path: Path) -> None:
    blur = np.ones((ROWS, VIEWS), np.float32)
    blur[[2, 4, 6], 1] = np.nan
    wide = np.ones((ROWS, VIEWS, 3), np.float32)
    wide[7, 0, 2] = np.nan
    never = np.full((ROWS, VIEWS), np.nan, np.float32)
    status = status_with((4, 1, 3), (6, 1, 2))
    store = planted(tmp_path, blur=blur, x_wide=wide, x_never=never, status=status)
    found = {name: each for name, each in found_in(store).items() if "not a number" in name}
    assert {name: (rows_of(each), each.views) for name, each in found.items()} == {
        "p/not a number: blur": ([2, 6], 2),
        "p/not a number: x_wide": ([7], 1),
    }
    where = found["p/not a number: blur"].where
    assert where is not None
    assert matching_rows(store, where).tolist() == [2, 6]
    assert matching_rows(store, "blur is missing").tolist() == [2, 4, 6]  # naive
    assert found["p/not a number: x_wide"].where is None


@pytest.mark.parametrize("known", [True, False])
def test_latents_at_the_centre_are_found_by_a_failed_one_or_by_each_other(
    tmp_path: Path, known: bool
) -> None:
    rng = np.random.Generator(np.random.Philox(5))
    centre = rng.normal(size=(1, 6)).astype(np.float16)
    latents = rng.normal(size=(ROWS, VIEWS, 1, 6)).astype(np.float16)
    latents[3, 0], latents[8, 0] = centre, centre
    latents[11, 1] = centre
    latents[11, 1, 0, 5] += np.float16(0.01)  # near, and not at it
    faults = ()
    if known:
        latents[15, 0], faults = centre, ((15, 0, 3),)
    store = planted(tmp_path, latent=latents, status=status_with(*faults), unpacked=("latent",))
    found = found_in(store)["p/latent at the centre"]
    assert rows_of(found) == [3, 8]


def test_latents_of_their_own_are_no_issue(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(5))
    latents = rng.normal(size=(ROWS, VIEWS, 1, 6)).astype(np.float16)
    assert found_in(planted(tmp_path, latent=latents)) == {}


def test_near_duplicate_views_follow_the_setting(tmp_path: Path) -> None:
    least = np.full((ROWS, VIEWS), 0.2, np.float32)
    least[1], least[2, 0], least[3] = 0.05, 0.049, np.nan
    store = planted(tmp_path, min_pair_distance=least, status=status_with((3, 0, 3), (3, 1, 3)))
    found = found_in(store)["p/near-duplicate views"]
    assert (rows_of(found), found.views) == ([2], 1)
    wider = found_in(store, IssueSettings(near_duplicate=0.3))["p/near-duplicate views"]
    assert len(wider.rows) == ROWS - 1
    for each in (found, wider):
        assert each.where is not None
        assert matching_rows(store, each.where).tolist() == rows_of(each)


def test_kinds_of_pixels_are_those_of_columns_sets(tmp_path: Path) -> None:
    planted(tmp_path, flip=np.zeros((ROWS, VIEWS), np.uint8))
    assert found_in(open_store(tmp_path / "s")) == {}
    mean, std = np.full((2, ROWS, VIEWS), 90, np.float32)
    twin = np.full((ROWS, VIEWS), 254, np.uint8)
    mean[4, 1], std[[5, 6], 0], twin[7], mean[8, 0] = 15.5, 3.5, (1, 0), np.nan
    twin[8, 0], std[8, 0] = 255, np.nan
    values = {"luma_mean": mean, "luma_std": std, "twin": twin, "status": status_with((8, 0, 4))}
    plant(tmp_path / "s", "quality", values, of="p")
    duplicate = np.full(ROWS, -1, np.int64)
    duplicate[[2, 9]], duplicate[10] = 2, -2
    store = plant(
        tmp_path / "s", "duplicates", {"duplicate": duplicate}, of="source", views=1,
        per={"duplicate": "sample"},
    )  # fmt: skip
    found = found_in(store)
    assert {name: rows_of(each) for name, each in found.items()} == {
        "quality/without a view": [8],
        "quality/dark": [4],
        "quality/flat": [5, 6],
        "quality/equal views": [7],
        "duplicates/near-duplicate samples": [2, 9],
    }
    for each in found.values():
        assert each.where is not None
        assert matching_rows(store, each.where).tolist() == rows_of(each)


def test_a_filter_means_the_round_that_has_the_issue(tmp_path: Path) -> None:
    planted(tmp_path, flip=np.zeros((ROWS, VIEWS), np.uint8))
    quality = [np.full((ROWS, VIEWS), 90, np.float32) for _ in range(2)]
    quality[0][3, 0] = 2
    for name, values in zip(("quality", "quality-r2"), quality, strict=True):
        store = plant(
            tmp_path / "s", name, {"luma_mean": values}, of="p",
            after=round_before(tmp_path / "s", name),
        )  # fmt: skip
    assert name_in_filters(store, store.view_sets["quality"]) == "quality-r1"
    (issue,) = issues_of(store, list(store.view_sets.values()))
    assert issue.where == "quality-r1.luma_mean < 16"
    assert matching_rows(store, issue.where).tolist() == [3]
    with pytest.raises(ConfigError, match="keeps none"):  # naive: the name of the set
        matching_rows(store, "quality.luma_mean < 16")


def test_an_issue_is_named_and_another_name_says_the_nearest(tmp_path: Path) -> None:
    store = planted(tmp_path, status=status_with((3, 0, 2)))
    issues = list(found_in(store).values())
    assert issue_named(issues, "p/off goal") is issues[0]
    with pytest.raises(ConfigError, match="off goal"):
        issue_named(issues, "p/off gaol")
    with pytest.raises(ConfigError, match="there are none"):
        issue_named([], "p/off goal")
