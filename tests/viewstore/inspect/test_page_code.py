"""The code of pages: it opens the store wherever it runs, and gives what the page shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.viewstore.inspect.looked import facts_of, page_of
from tests.viewstore.pages import Page
from tests.viewstore.serve.servers import serving
from tests.viewstore.small_stores import build_small
from tests.viewstore.told_store import build_told
from viewstore.build.draws import drawn_anew
from viewstore.inspect.pages.site import Site
from viewstore.inspect.pages.tabs import TABS
from viewstore.store.store import open_store

PAGES = [each.name for each in TABS if each.whole is None]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with data for every page but Constraints."""
    out = build_told(tmp_path_factory.mktemp("code") / "told")
    build_small(out, None, settings={"views": 2})
    return out


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder from which no relative path leads to a store; code runs there."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def relative(store: Path) -> Site:
    """Return the pages of a store that was opened by a relative path, as people do."""
    opened = open_store(os.path.relpath(store))
    return Site({"s": lambda: opened}, replays=drawn_anew)


def run_code(site: Site, address: str, folder: Path) -> dict[str, Any]:
    """Run the code of a page in a folder; return its names."""
    page = page_of(site, "s", address)
    assert page.status == 200, (address, page.body)
    found: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(Page(page.body).code, address, "exec"), found)
    finally:
        os.chdir(before)
    return found


def test_the_code_of_every_page_runs_in_any_folder(
    told: Path, searched: Path, tmp_path: Path
) -> None:
    ran = set()
    for store in (told, searched):
        site = relative(store)
        for name in PAGES:
            address = f"{name}/?key=0" if name == "sample" else name
            if page_of(site, "s", address).status == 404:
                continue
            run_code(site, address, tmp_path)
            ran.add(name)
    assert ran == set(PAGES)


def test_browse_selects_the_rows_or_those_that_are_marked(told: Path, tmp_path: Path) -> None:
    site = relative(told)
    address = "browse?where=index%20%3E%203&sort=-label&n=5"
    rows = [each["row"] for each in facts_of(site, "s", address)["rows"]]
    assert run_code(site, address, tmp_path)["rows"] == rows
    assert run_code(site, f"{address}&marks=3,17", tmp_path)["rows"] == [3, 17]


def test_stats_reads_the_numbers_or_both_columns(told: Path, tmp_path: Path) -> None:
    site = relative(told)
    found = run_code(site, "stats?view_set=moco", tmp_path)["columns"]
    for each in facts_of(site, "s", "stats?view_set=moco")["sets"]:
        for column in each["columns"]:
            assert found[each["view_set"]][column["name"]]["mean"] == column["mean"]
    address = "stats?view_set=moco&x=crop_box.top&y=quality.luma_mean"
    both = run_code(site, address, tmp_path)
    assert both["x"].shape == both["y"].shape == (40, 4)
    counts = facts_of(site, "s", address)["together"]
    assert counts["caption"].startswith("quality.luma_mean")


def test_constraints_gives_the_distances_and_what_was_asked_for(
    searched: Path, tmp_path: Path
) -> None:
    site = relative(searched)
    found, facts = run_code(site, "constraints", tmp_path), facts_of(site, "s", "constraints")
    assert found["wanted"].eps1 == facts["constraints"]["eps1"]
    assert found["distance"].shape == (6, 3)
    assert found["counts"].within == facts["tally"]["within"]


@pytest.mark.parametrize("sort", ["", "blur"])
def test_compare_joins_the_samples_and_orders_them(told: Path, tmp_path: Path, sort: str) -> None:
    site = relative(told)
    address = f"compare?view_set=moco&with=simclr&sort={sort}&page=2"
    rows = [each["first"]["row"] for each in facts_of(site, "s", address)["rows"]]
    found = run_code(site, address, tmp_path)
    assert found["rows"].tolist() == rows
    assert found["others"].name == "simclr"


def test_compare_opens_the_other_store(told: Path, searched: Path, tmp_path: Path) -> None:
    stores = {"s": open_store(os.path.relpath(told)), "o": open_store(os.path.relpath(searched))}
    site = Site({name: (lambda each=each: each) for name, each in stores.items()})
    found = run_code(site, "compare?view_set=moco&with=o%2Fw-search", tmp_path)
    assert (found["views"].name, found["others"].name) == ("moco", "w-search")


def test_augment_draws_anew_and_checks(told: Path, tmp_path: Path) -> None:
    site = relative(told)
    found = run_code(site, "augment?view_set=moco", tmp_path)
    facts = facts_of(site, "s", "augment?view_set=moco")
    assert [each.name for each in found["checks"]] == [each["name"] for each in facts["checks"]]
    assert len(found["disagree"]) == facts["disagree"]


def test_embeddings_finds_the_nearest(told: Path, tmp_path: Path) -> None:
    site = relative(told)
    address = "embeddings?view_set=moco&near=5&near_view=2"
    near = facts_of(site, "s", address)["near"]["samples"]
    found = run_code(site, address, tmp_path)["near"]
    assert [(each.row, each.view) for each in found] == [(e["row"], e["view"]) for e in near]


def test_code_from_a_server_opens_its_address(
    told: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(elsewhere / "cache"))
    monkeypatch.chdir(told.parent)
    with serving("told", "--root-path", "/a/b") as server:
        monkeypatch.chdir(elsewhere)
        for name in (*PAGES, "browse?marks=3"):
            address = f"{name}/?key=0" if name == "sample" else name
            answer = server.ask(f"/a/b/inspect/told/{address}")
            if answer.status == 404 and name == "constraints":
                continue
            assert answer.status == 200, address
            code = Page(answer.body).code
            assert f"viewstore.open('http://127.0.0.1:{server.port}/a/b/v1/stores/told')" in code
            exec(compile(code, address, "exec"), {})
