"""What is shown of a row: which rows, their crop boxes, views that are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.commands import invoke
from tests.viewstore.pages import Page
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.paths import StorePaths
from viewstore.inspect.chosen_rows import choose_rows, choose_view_sets, first_shown
from viewstore.inspect.drawn_rows import DrawnBlock, DrawnView
from viewstore.inspect.report import write_report
from viewstore.inspect.sheet import draw_sheet
from viewstore.inspect.shown_rows import in_words, read_row
from viewstore.store.committed import read_commit
from viewstore.store.store import open_store


def test_a_seed_draws_the_same_rows_for_ever(digits: Path) -> None:
    store = open_store(digits)
    assert choose_rows(store, count=5, random=True, seed=3) == [0, 7, 53, 58, 66]
    assert choose_rows(store, count=5, random=True, seed=4) != [0, 7, 53, 58, 66]
    assert choose_rows(store, count=3) == [7, 29, 64]
    assert len(choose_rows(store, count=999, random=True)) == 80


@pytest.mark.parametrize("count", [1, 3, 7, 79, 80, 999])
def test_rows_are_spread_over_the_store(digits: Path, count: int) -> None:
    """One of each of equal ranges; the first ones would be of one class."""
    rows = choose_rows(open_store(digits), count=count)
    assert len(set(rows)) == min(count, 80)
    ranges = np.array_split(np.arange(80), min(count, 80))
    assert all(row in each for row, each in zip(rows, ranges, strict=True))


def test_params_are_told_in_words_and_what_is_off_is_not() -> None:
    assert in_words("jitter", [1.0, 1.0, 1.0, 0.0]) == []
    assert in_words("jitter", [1.25, 1.0, 0.5, -0.1])[::3] == ["brightness 1.25", "hue -0.1"]
    assert (in_words("flip", 1), in_words("flip", 0)) == (["flip"], [])
    assert (in_words("solarize", 256), in_words("solarize", 128)) == ([], ["solarize 128"])
    assert (in_words("blur", 0.0), in_words("loss", float("nan"))) == ([], [])
    assert in_words("x_rotation", 0.123456) == ["rotation 0.123"]
    assert in_words("ops", [3, 0, 255, 255]) == ["Rotate", "AutoContrast"]
    assert (in_words("jigsaw", [1, 0, 2, 3]), in_words("jigsaw", [0, 1, 2, 3])) == (["jigsaw"], [])


def test_a_crop_box_is_the_one_the_view_was_rendered_from(digits: Path) -> None:
    store = open_store(digits)
    view_set = store.view_set("simclr")
    cells = read_row(store, 7, [view_set]).cells["simclr"]
    stored = view_set.params["crop_box"][7]
    for cell in cells:
        assert cell.box is not None
        box = [cell.box.top, cell.box.left, cell.box.height, cell.box.width]
        assert box == stored[cell.view].tolist()
        assert cell.area == pytest.approx(np.prod(stored[cell.view, 2:]) / 256)
    assert [cell.dashed for cell in cells] == [False, True, False, True]
    assert len({cell.colour for cell in cells}) == 4


def test_views_that_are_not_built_or_damaged_say_so_and_the_rest_is_shown(tmp_path: Path) -> None:
    out = tmp_path / "store"
    build(BuildRequest(generator="simclr", out=out, limit=130, shard_rows=64, only=(0, 2)))
    finalise(out, allow_partial=True)
    view_set = open_store(out).view_set("simclr")
    shard = view_set.shards[2].path
    data = bytearray(shard.read_bytes())
    place = view_set.members[129][0]
    data[int(place["offset"]) + int(place["size"]) - 1] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    store = open_store(out)
    sets = choose_view_sets(store, None)
    notes = {
        row: [cell.note for cell in read_row(store, row, sets).cells["simclr"]]
        for row in (0, 64, 128, 129)
    }
    assert notes == {0: [""] * 2, 64: ["not built"] * 2, 128: [""] * 2, 129: ["cannot be read"] * 2}
    assert "2 of 3 shards" in invoke("inspect", out).output
    page = Page(write_report(store, [0, 64, 129], sets))
    assert page.text.count("not built") == 5, (
        "in the picture's place and below it, of two views; above"
    )
    assert draw_sheet(store, [0, 64, 129], sets)


def test_what_is_shown_first_does_not_change_when_a_view_set_is_added(tmp_path: Path) -> None:
    out = tmp_path / "s"
    build_small(out, write_npz(tmp_path / "images.npz"), view_set="wide")
    build_small(out, None, view_set="again", seed=1)
    begun(out, "wide", "2026-01-02T03:04:05+00:00")
    begun(out, "again", "2026-01-02T03:04:06+00:00")
    shown = first_shown(open_store(out))
    assert shown is not None
    assert shown.name == "wide"  # by name it would be "again"


@pytest.mark.parametrize("created", ["", "yesterday"])
def test_where_commits_do_not_say_when_the_first_by_name_is_shown(
    tmp_path: Path, created: str
) -> None:
    out = tmp_path / "s"
    for name in ("wide", "again"):
        build_small(out, write_npz(tmp_path / "images.npz"), view_set=name)
        begun(out, name, created)
    shown = first_shown(open_store(out))
    assert shown is not None
    assert shown.name == "again"
    StorePaths(out).view_set("again").commit(0).unlink()
    assert first_shown(open_store(out)) is not None


def begun(out: Path, name: str, created: str) -> None:
    """Write into the first commit of a view set when it was made."""
    paths = StorePaths(out).view_set(name)
    commit = read_commit(paths, 0)
    assert commit is not None
    paths.commit(0).chmod(0o644)
    paths.commit(0).write_bytes(replace(commit, created=created).pack())


def test_a_role_is_told_only_where_views_differ_in_theirs(digits: Path) -> None:
    store = open_store(digits)
    view_set = store.view_sets["simclr"]
    row = read_row(store, 3, [view_set], pixels=False)

    def captions(roles: str) -> list[str]:
        cells = [
            replace(cell, role=role) for cell, role in zip(row.cells["simclr"], roles, strict=True)
        ]
        views = tuple(DrawnView(cell=cell, image=None) for cell in cells)
        block = DrawnBlock(name="simclr", goal="", height=1, width=1, views=views)
        return [block.caption(cell) for cell in cells]

    assert [each.partition("\N{NO-BREAK SPACE}")[0] for each in captions("aaaa")] == ["area"] * 4
    assert [each.partition(",")[0] for each in captions("abab")] == list("abab")
