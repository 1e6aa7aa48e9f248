"""What columns sets say of views, in inspect's text, on the sheet and in the report."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.loaders.told import choices, say_choices, tell
from tests.viewstore.commands import invoke
from tests.viewstore.pages import Page
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.inspect.report import write_report
from viewstore.inspect.sheet import FRAME, INK, draw_sheet, notes_of
from viewstore.inspect.sheet_layout import CELL, GAP, lay_out
from viewstore.inspect.shown_rows import read_row
from viewstore.inspect.told import chosen_of, looked_at, told_columns, told_of, with_told
from viewstore.store.store import Store, open_store

VIEWS = 4
DARK = np.array([int(INK[i : i + 2], 16) for i in (1, 3, 5)])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures: 4 views, quality of them and of the pictures, choices of 1 and of 2 groups."""
    folder = tmp_path_factory.mktemp("told")
    out = folder / "s"
    source = write_npz(folder / "images.npz")
    build_small(out, source, settings={"views": VIEWS, "height": 16, "width": 16})
    for name, of in (("quality", "simclr"), ("images", "source")):
        build(
            BuildRequest(
                generator="quality", view_set=name, out=out, settings={"of": of}, workers=1
            )
        )
    tell(out, "hard", "simclr", groups=2, choose=2)
    tell(out, "one", "simclr", groups=1, choose=2)
    return out


@pytest.fixture
def store(root: Path) -> Store:
    return open_store(root)


def test_words_are_the_numbers_of_the_view(store: Store) -> None:
    views, quality = store.view_sets["simclr"], store.view_sets["quality"].params
    told = told_of(store, views, 5)
    for view in range(VIEWS):
        mean, std = (quality[name][5, view] for name in ("luma_mean", "luma_std"))
        words = [f"hard score {500 + view}", f"one score {500 + view}"]
        words += [f"luma mean {mean:.3g}", f"luma std {std:.3g}"]
        twin = quality["twin"][5, view]
        words += [f"twin {twin}"] if twin < VIEWS else []
        assert told[view] == tuple(words)
    assert [each.name for each in told_columns(store.view_sets["hard"])] == ["score"]


def test_what_was_never_written_is_not_told(store: Store) -> None:
    quality = store.view_sets["quality"].params
    quality._whole["luma_mean"] = np.full((20, VIEWS), np.nan, np.float32)
    quality._whole["twin"] = np.tile(np.array([255, 254, 0, 1], np.uint8), (20, 1))
    told = told_of(store, store.view_sets["simclr"], 0)
    found = [[w for w in words if w.startswith(("luma mean", "twin"))] for words in told]
    assert found == [[], [], ["twin 0"], ["twin 1"]]


def test_the_first_classes_are_told_and_a_long_row_is_not(store: Store) -> None:
    quality = store.view_sets["quality"]
    assert quality.index.rows == quality.plan.rows  # read while the plan is its own
    own = quality.plan.columns
    found = {}
    for width in (3, 6):
        column = Column(name="topk_class", dtype="i4", shape=(VIEWS, width), per="view")
        plan_id = quality.plan.id
        columns = tuple(sorted((*own, column), key=lambda each: each.name))
        quality.plan = replace(quality.plan, columns=columns)
        object.__setattr__(quality.plan, "_stored_id", plan_id)
        quality.params.columns["topk_class"] = column
        classes = np.tile(np.arange(width, dtype=np.int32), (20, VIEWS, 1))
        classes[:, 2] = column.fill
        quality.params._whole["topk_class"] = classes
        told = told_of(store, store.view_sets["simclr"], 0)
        found[width] = [[w for w in words if "topk" in w] for words in told]
    assert found[3] == [["topk class 0, 1, 2"], ["topk class 0, 1, 2"], [], ["topk class 0, 1, 2"]]
    assert found[6] == [[]] * 4


def test_the_chosen_pair_is_framed(store: Store) -> None:
    """Ink around the chosen views, in the gap that is else paper; nothing else moves."""
    view_set = store.view_sets["simclr"]
    chosen = chosen_of(store, [view_set], "one")
    assert (chosen.name, chosen.of) == ("one.selected", "simclr")
    framed, plain = (
        np.asarray(Image.open(io.BytesIO(draw_sheet(store, [3, 4], [view_set], chosen=each))))
        for each in (chosen, None)
    )
    notes = len(notes_of(store, [view_set], chosen))
    told = {"simclr": len(told_of(store, view_set, 4)[0])}
    layout = lay_out([view_set], 2, notes, told)
    ((block, left),) = layout.lefts()
    pair = choices(4, VIEWS, 1, 2, 0)[0].tolist()
    for index, row in enumerate((3, 4)):  # of row 3 nothing was chosen
        top = layout.header + index * layout.row_height + 18
        for view in range(VIEWS):
            x, y = block.offset(view)
            line = framed[top + y + 30, left + x - FRAME : left + x - 1]
            assert (line == DARK).all() == (row == 4 and view in pair)
            inside = framed[top + y + 30, left + x - 1]  # so that it shows on a black picture
            assert (inside == 255).all() == (row == 4 and view in pair)
    assert plain.shape[1] == framed.shape[1]
    assert f"A frame marks the views that {chosen.name} chose." in str(
        notes_of(store, [view_set], chosen)
    )


def test_views_say_their_group_where_there_are_several(store: Store) -> None:
    view_set = store.view_sets["simclr"]
    table = np.tile(np.array([[0, 2], [2, 3]]), (20, 1, 1))
    say_choices(store, "hard", "selected", table)
    chosen = chosen_of(store, [view_set], "hard")
    cells = with_told(store, read_row(store, 4, [view_set]), [view_set], chosen).cells["simclr"]
    assert [cell.chosen for cell in cells] == [True, False, True, True]
    assert [cell.told[0] for cell in cells][::2] == ["group 0", "group 0, 1"]
    assert cells[1].told[0] == "hard score 401"


def test_choices_beyond_the_views_frame_nothing(store: Store) -> None:
    say_choices(store, "one", "selected", np.tile(np.array([[200, 1]]), (20, 1, 1)))
    view_set = store.view_sets["simclr"]
    chosen = chosen_of(store, [view_set], "one")
    cells = with_told(store, read_row(store, 4, [view_set]), [view_set], chosen).cells["simclr"]
    assert [cell.chosen for cell in cells] == [False, True, False, False]


def test_columns_are_shown_with_their_views(store: Store) -> None:
    names = [[each.name for each in looked_at(store, [store.view_sets[n]])] for n in store.names]
    by_name = dict(zip(store.names, names, strict=True))
    assert by_name == {
        "hard": ["simclr"],
        "images": [],
        "one": ["simclr"],
        "quality": ["simclr"],
        "simclr": ["simclr"],
    }
    text = Page(write_report(store, [4], [store.view_sets["simclr"]])).text
    assert "What quality says of 4 views of simclr for each sample" in text
    assert "hard score 402" in text
    assert "A frame marks" not in text


def test_a_report_frames_the_chosen_pair(store: Store) -> None:
    view_set = store.view_sets["simclr"]
    page = write_report(store, [4], [view_set], chosen=chosen_of(store, [view_set], "one"))
    pair = choices(4, VIEWS, 1, 2, 0)[0].tolist()
    found = re.findall(rb'class="view v(\d) chosen"', page)
    assert sorted(map(int, found)) == sorted(pair)
    assert "A frame marks the views that one.selected chose." in Page(page).text


def test_a_columns_set_is_a_paragraph_of_its_parent(root: Path) -> None:
    text = invoke("inspect", root).output
    heads = [line for line in text.splitlines() if re.match(r" *(view set|columns) ", line)]
    assert heads == [
        "columns images",
        "view set simclr",
        "  columns hard",
        "  columns one",
        "  columns quality",
    ]
    assert "    describes  4 views of simclr (4 expert)" in text
    alone = invoke("inspect", root, "--view-set", "quality").output
    assert "\ncolumns quality\n  describes  4 views of simclr" in alone
    answer = json.loads(invoke("--json", "inspect", root).output)
    assert sorted(answer["result"]["view_sets"]) == ["hard", "images", "one", "quality", "simclr"]


def test_a_sample_is_listed_with_what_is_said_of_it(root: Path, store: Store) -> None:
    text = invoke("inspect", root, store.keys[4]).output
    heads = [line for line in text.splitlines() if line.startswith(("view set", "columns "))]
    assert heads == [
        "view set simclr",
        "columns hard, of simclr",
        "columns one, of simclr",
        "columns quality, of simclr",
        "columns images, of source",
    ]
    assert re.search(r"twin\n  0 +expert .* none\n", text)


def test_the_command_frames_what_it_is_told_to(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.png"
    invoke("inspect", root, "--view-set", "quality", "--sheet", path, "--pick", "hard", "-n", 2)
    assert Image.open(path).text["viewstore:view_set"] == "simclr"  # type: ignore[attr-defined]
    for pick, message in (
        ("hart", "there is no view set 'hart'"),
        ("hard.loss", "hard has no choice 'loss'; there are easiest, selected"),
        ("images", "images describes source, not simclr"),
    ):
        with pytest.raises(ConfigError, match=message):
            invoke("inspect", root, "--sheet", path, "--pick", pick)
    with pytest.raises(ConfigError, match="--pick frames views that are drawn, and none are"):
        invoke("inspect", root, "--pick", "hard")


def test_cells_stay_where_they_are_below_more_words(store: Store) -> None:
    view_set = store.view_sets["simclr"]
    told = len(told_of(store, view_set, 4)[0])
    plain, tall = (lay_out([view_set], 2, 3, each) for each in (None, {"simclr": told}))
    assert plain.blocks[0].offset(3) == tall.blocks[0].offset(3)
    assert tall.row_height - plain.row_height == 15 * told
    assert plain.blocks[0].offset(1)[0] - plain.blocks[0].offset(0)[0] == CELL + GAP
