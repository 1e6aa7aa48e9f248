"""Stores and view sets in notebooks: HTML that asks for nothing, and agrees with their text."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import viewstore
from tests.viewstore.pages import HOSTILE, Page
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.inspect.notebook import MAX_BYTES, notebook_html
from viewstore.inspect.summary import label_counts
from viewstore.store.html import html_of
from viewstore.store.store import Store, open_store
from viewstore.store.view_set import ViewSet


def html_pages(path: Path) -> dict[str, str]:
    """Return what a notebook shows of a store and of each of its view sets, by their text."""
    store = viewstore.open(path)
    shown: list[Store | ViewSet] = [store, *store.view_sets.values()]
    found = {repr(each): each._repr_html_() for each in shown}
    assert None not in found.values()
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("store", ["digits", "searched", "hostile"])
def test_it_has_at_most_200_kb_and_asks_for_nothing(
    store: str, request: pytest.FixtureRequest
) -> None:
    for raw in html_pages(request.getfixturevalue(store)).values():
        assert len(raw.encode()) <= MAX_BYTES
        page = Page(raw.encode())
        assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
        for _, attrs in page.tags:
            assert not [name for name in attrs if name.startswith("on") or name == "style"]
            assert str(attrs.get("src", "data:image/")).startswith("data:image/")
        assert "url(" not in raw
        assert "@import" not in raw
        assert "http://" not in raw.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("store", ["digits", "searched"])
def test_it_agrees_with_the_text(store: str, request: pytest.FixtureRequest) -> None:
    for text, raw in html_pages(request.getfixturevalue(store)).items():
        page = Page(raw.encode())
        assert text in page.text
        beside = page.text.replace(text, "", 1)
        for number in re.findall(r"\d+(?:x\d+)*", text.partition(",")[2]):
            assert number in beside.replace(",", "")


def test_it_shows_three_rows_with_their_pictures_and_the_statistics(digits: Path) -> None:
    store = open_store(digits)
    page = Page(notebook_html(store.view_sets["simclr"]).encode())
    assert len(page.images()) == 3 * (1 + 4)
    assert sum(tag == "details" for tag, _ in page.tags) == 1
    for name in store.view_sets["simclr"].stats:
        assert name in page.text
    whole = Page(notebook_html(store).encode())
    assert f"{len(label_counts(store))} labels" in whole.text
    assert "verdict: good" in whole.text
    assert all(name in whole.text for name in ("simclr", "wide"))


def test_a_hostile_key_stays_text(hostile: Path) -> None:
    store = open_store(hostile)
    for shown in (store, store.view_sets["simclr"]):
        raw = notebook_html(shown)
        assert HOSTILE in Page(raw.encode()).text
        assert "<img src=x" not in raw
        assert "<script" not in raw


def test_many_large_views_shrink_until_they_fit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", images=rng.integers(0, 256, (4, 300, 300, 3), np.uint8))
    settings = {"views": 20, "height": 224, "width": 224}
    request = BuildRequest(
        generator="simclr", out=tmp_path / "s", source=str(tmp_path / "noise.npz"),
        settings=settings, workers=1,
    )  # fmt: skip
    build(request)
    raw = notebook_html(open_store(tmp_path / "s"))
    assert 50_000 < len(raw.encode()) <= MAX_BYTES
    assert len(Page(raw.encode()).images()) == 3 * (1 + 12)


def test_css_reaches_nothing_outside_of_it(digits: Path) -> None:
    """All rules are nested in the one of the block; a notebook's own look stays as it is."""
    (css,) = re.findall(r"<style>(.*?)</style>", notebook_html(open_store(digits)), re.DOTALL)
    depth, before = 0, ""
    for character in css:
        if character == "{" and depth == 0:
            assert before.strip() == ".viewstore"
        before = "" if character in "{}" else before + character
        depth += {"{": 1, "}": -1}.get(character, 0)
    assert (depth, before.strip()) == (0, "")


def test_what_cannot_be_read_is_said_in_it(tmp_path: Path) -> None:
    """It is shown after an answer that was right: it never raises in its place."""
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    store = open_store(tmp_path / "s")
    (tmp_path / "s" / "views" / "simclr" / "stats.json").unlink()
    for shown in (store, store.view_sets["simclr"]):
        assert "stats.json of simclr is missing or changed" in notebook_html(shown)


def test_a_view_set_alone_and_a_copy_of_it_are_shown(digits: Path) -> None:
    view_set = open_store(digits).view_sets["simclr"]
    copy = pickle.loads(pickle.dumps(view_set))
    assert notebook_html(copy) == notebook_html(view_set)


def test_nothing_that_draws_is_loaded_before_it_is_shown(digits: Path) -> None:
    program = (
        "import sys, viewstore\n"
        f"store = viewstore.open({str(digits)!r})\n"
        "assert 'jinja2' not in sys.modules and 'viewstore.inspect' not in sys.modules\n"
        "assert store._repr_html_()\n"
        "assert 'jinja2' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_where_nobody_makes_it_a_store_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewstore.store.html.make", None)
    assert html_of(object()) is None
