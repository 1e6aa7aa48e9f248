"""The contact sheet: the same bytes each time, every view in its own cell."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewstore.errors import ConfigError
from viewstore.inspect.chosen_rows import choose_rows, choose_view_sets
from viewstore.inspect.pictures import fit
from viewstore.inspect.sheet import BORDER, draw_sheet, notes_of
from viewstore.inspect.sheet_layout import CELL, ORIGINAL, lay_out
from viewstore.inspect.shown_rows import read_row
from viewstore.store.store import open_store


def test_the_same_sheet_has_the_same_bytes_and_says_what_it_shows(digits: Path) -> None:
    store = open_store(digits)
    rows = choose_rows(store, count=3, random=True, seed=5)
    sets = choose_view_sets(store, "simclr")
    first = draw_sheet(store, rows, sets, seed=5)
    assert first == draw_sheet(open_store(digits), rows, sets, seed=5)
    assert first != draw_sheet(store, [0, 1, 2], sets, seed=5)
    text = Image.open(io.BytesIO(first)).text  # type: ignore[attr-defined]
    assert text["viewstore:store_id"] == store.store_id
    assert text["viewstore:view_set"] == "simclr"
    assert text["viewstore:seed"] == "5"


@pytest.mark.parametrize("name", ["simclr", "wide"])
def test_every_view_lies_in_its_own_cell(digits: Path, name: str) -> None:
    store = open_store(digits)
    view_set = store.view_set(name)
    sheet = Image.open(io.BytesIO(draw_sheet(store, [4, 9], [view_set])))
    layout = lay_out([view_set], 2, len(notes_of(store, [view_set])))
    ((block, left),) = layout.lefts()
    for index, row in enumerate((4, 9)):
        top = layout.header + index * layout.row_height + 18
        for view in range(view_set.num_views):
            x, y = block.offset(view)
            corner = left + x, top + y
            cell = sheet.crop((*corner, corner[0] + CELL, corner[1] + CELL))
            enlarged = view_set[row][view].repeat(7, axis=0).repeat(7, axis=1)
            assert np.array_equal(np.asarray(cell), enlarged), (row, view)


def test_boxes_are_drawn_in_the_colour_of_their_view(digits: Path) -> None:
    store = open_store(digits)
    view_set = store.view_set("simclr")
    sheet = np.asarray(Image.open(io.BytesIO(draw_sheet(store, [4], [view_set]))))
    layout = lay_out([view_set], 1, len(notes_of(store, [view_set])))
    top = layout.header + 18
    original = sheet[top : top + CELL, 16 : 16 + ORIGINAL].reshape(-1, 3)
    for cell in read_row(store, 4, [view_set]).cells["simclr"]:
        colour = [int(cell.colour[i : i + 2], 16) for i in (0, 2, 4)]
        assert (original == colour).all(axis=1).sum() > 40


def test_a_large_picture_keeps_its_shape() -> None:
    assert fit(np.zeros((400, 200, 3), np.uint8), 112).size == (56, 112)
    assert fit(np.zeros((16, 8, 1), np.uint8), 112).size == (56, 112)
    assert fit(np.zeros((300, 400, 3), np.uint8), 112, wide=168).size == (149, 112)
    assert fit(np.zeros((300, 900, 3), np.uint8), 112, wide=168).size == (168, 56)


def test_a_view_has_a_border_so_that_a_white_one_is_seen(digits: Path) -> None:
    store = open_store(digits)
    view_set = store.view_set("simclr")
    sheet = np.asarray(Image.open(io.BytesIO(draw_sheet(store, [4], [view_set]))))
    layout = lay_out([view_set], 1, len(notes_of(store, [view_set])))
    ((block, left),) = layout.lefts()
    grey = [int(BORDER[i : i + 2], 16) for i in (1, 3, 5)]
    for view in range(4):
        x, y = block.offset(view)
        corner = layout.header + 18 + y - 1, left + x - 1
        assert (sheet[corner[0], corner[1] : corner[1] + CELL + 2] == grey).all()


def test_the_words_above_the_rows_say_what_the_goal_is(searched: Path) -> None:
    store = open_store(searched)
    notes = notes_of(store, choose_view_sets(store, None))
    assert "w-search: 3 views (generated) of 16 x 16 px; goal: every view 0.300 +-" in str(notes)
    assert "recon: 1 view (generated) of 16 x 16 px; goal: an anchor within" in str(notes)


def test_a_sheet_of_more_than_64_megapixels_is_refused_with_a_number_that_fits(
    digits: Path,
) -> None:
    sets = choose_view_sets(open_store(digits), None)
    with pytest.raises(ConfigError, match="at most 64 megapixels") as error:
        lay_out(sets, 5000, 3)
    fitting = re.search(r"at most (\d+) samples", str(error.value.fix))
    assert fitting is not None
    lay_out(sets, int(fitting[1]), 3)
    with pytest.raises(ConfigError):
        lay_out(sets, int(fitting[1]) + 1, 3)
