"""What is shown of a row: which rows, their crop boxes, views that are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.commands import invoke
from tests.viewstore.pages import Page
from viewstore.build.finalise import finalise
from viewstore.build.run import BuildRequest, build
from viewstore.inspect.report import write_report
from viewstore.inspect.sheet import draw_sheet
from viewstore.inspect.shown_rows import choose_rows, choose_view_sets, read_row
from viewstore.store.store import open_store


def test_a_seed_draws_the_same_rows_for_ever(digits: Path) -> None:
    store = open_store(digits)
    assert choose_rows(store, count=5, random=True, seed=3) == [0, 7, 53, 58, 66]
    assert choose_rows(store, count=5, random=True, seed=4) != [0, 7, 53, 58, 66]
    assert choose_rows(store, count=3) == [0, 1, 2]
    assert len(choose_rows(store, count=999, random=True)) == 80


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
    assert page.text.count("not built") == 4, "in the picture's place and below it, of two views"
    assert draw_sheet(store, [0, 64, 129], sets)
