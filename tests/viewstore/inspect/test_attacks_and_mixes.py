"""Attacks and mixes on sheet, report and pages: what they were made from, and what that gave."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.generators.scored.encoders import write_encoder
from tests.viewstore.inspect.looked import facts_of, page_of, pixels_of, site_of
from tests.viewstore.pages import Page
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.inspect.report import write_report
from viewstore.inspect.sheet import INK, draw_sheet, notes_of
from viewstore.inspect.sheet_layout import CELL, lay_out
from viewstore.inspect.shown_rows import is_attack, read_row
from viewstore.inspect.told import looked_at, made_from, told_of
from viewstore.store.store import Store, open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """20 pictures: views, attacks on them and mixes of them."""
    folder = tmp_path_factory.mktemp("hard")
    out = folder / "s"
    build_small(out, write_npz(folder / "images.npz"))
    write_encoder(folder / "encoder", np.load(folder / "images.npz")["images"][:, :16, :16])
    attack = {"generator": "adversarial", "files": {"scorer": folder / "encoder"}}
    for each in (attack, {"generator": "cutmix", "codec": "png"}):
        build(BuildRequest(out=out, settings={"of": "simclr"}, workers=1, **each))  # type: ignore[arg-type]
    return open_store(out)


def test_what_they_were_made_from_is_shown_before_them(store: Store) -> None:
    sets = store.view_sets
    for name in ("adversarial", "cutmix"):
        assert [each.name for each in looked_at(store, [sets[name]])] == ["simclr", name]
        assert made_from(store, sets[name]) is sets["simclr"]
    assert made_from(store, sets["simclr"]) is None
    assert [each.name for each in looked_at(store, [sets["simclr"]])] == ["simclr"]
    assert [is_attack(sets[name]) for name in ("simclr", "cutmix", "adversarial")] == [
        False, False, True,
    ]  # fmt: skip


def test_their_view_loss_and_partner_are_told(store: Store) -> None:
    params = store.view_sets["adversarial"].params
    for row in (0, 11):
        for view, words in enumerate(told_of(store, store.view_sets["adversarial"], row)):
            before, after = params["loss0"][row, view], params["loss"][row, view]
            assert words[0] == f"from view {params['parent'][row, view]}"
            assert words[1] == f"loss {before:.3g} to {after:.3g}"
        cells = read_row(store, row, [store.view_sets["adversarial"]]).cells["adversarial"]
        assert not any(words.startswith("loss") for cell in cells for words in cell.params)
    page = Page(write_report(store, [11], looked_at(store, [store.view_sets["adversarial"]])))
    assert words[1] in page.text


def test_a_search_is_no_attack(searched: Path) -> None:
    """Its losses fall: they are among its params as they were."""
    store = open_store(searched)
    view_set = store.view_set("w-search")
    assert {"loss", "loss0"} <= set(view_set.params)
    assert not is_attack(view_set)
    assert looked_at(store, [view_set]) == [view_set]


def test_the_box_of_a_mix_is_drawn_on_the_sheet_and_in_the_report(store: Store) -> None:
    view_set = store.view_sets["cutmix"]
    boxes = view_set.params["mix_box"]
    row = int(np.flatnonzero((boxes[:, :, 2] - boxes[:, :, 0] > 4).all(1))[0])
    sheet = np.asarray(Image.open(io.BytesIO(draw_sheet(store, [row], [view_set]))))
    told = {"cutmix": max(map(len, told_of(store, view_set, row)))}
    layout = lay_out([view_set], 1, len(notes_of(store, [view_set])), told)
    ((block, left),) = layout.lefts()
    ink = [int(INK[at : at + 2], 16) for at in (1, 3, 5)]
    page = Page(write_report(store, [row], [view_set]))
    for view in range(2):
        x0, y0, x1, y1 = boxes[row, view].tolist()
        x, y = block.offset(view)
        scale = CELL // 16
        middle = layout.header + 18 + y + (y0 + y1) * scale // 2
        line = sheet[middle, left + x + x0 * scale : left + x + x0 * scale + 3]
        assert line.tolist() == [[255] * 3, ink, [255] * 3]  # it shows on black and on white
        place = {"x": f"{x0}", "y": f"{y0}", "width": f"{x1 - x0}", "height": f"{y1 - y0}"}
        assert ("rect", place) in page.tags
    assert "A box in a view is what was pasted into it." in page.text
    assert "A box in a view is what was pasted into it." in str(notes_of(store, [view_set]))


def test_the_clean_view_stands_beside_its_attack_on_the_page(store: Store) -> None:
    site = site_of(store)
    page = Page(page_of(site, store.name, "sample/4?view_set=adversarial").body)
    shown = [str(attrs["src"]).removeprefix("../") for attrs in page.images()]
    facts = facts_of(site, store.name, "sample/4?view_set=adversarial")
    for view, cell in enumerate(facts["shown"]["view_sets"]["adversarial"]):
        clean, attack = shown[1 + 2 * view : 3 + 2 * view]
        assert f"/simclr/{cell['parent']}/" in clean
        assert f"/adversarial/{view}/" in attack
        found = pixels_of(page_of(site, store.name, clean))
        assert np.array_equal(found, store.view_sets["simclr"][4][cell["parent"]])
        assert any(words.startswith("loss ") for words in cell["told"])
