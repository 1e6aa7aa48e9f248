"""The page Issues: its counts are those of Browse, of verify, and of each shard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

import viewstore
from tests.remote.servers import plain_server
from tests.viewstore.inspect.planted import HOSTILE, ROWS, SHARD_ROWS, pictures, plant
from tests.viewstore.pages import Page
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
from viewstore.errors import ConfigError
from viewstore.files.cache_settings import CacheSettings
from viewstore.inspect.pages.among import rows_among
from viewstore.inspect.pages.site import Site
from viewstore.inspect.shard_grid import MOST_CELLS, STORED, shard_grid
from viewstore.inspect.shard_states import quick_faults, shard_states
from viewstore.store.store import open_store
from viewstore.store.verify import verify

VIEWS = 2


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards: the first is whole, the second has faults of status, the third of boxes."""
    folder = tmp_path_factory.mktemp("issues")
    boxes = np.tile(np.array([0, 0, 24, 32], np.float32), (ROWS, VIEWS, 1))
    boxes[17, 1, 0] = 3
    status = np.ones((ROWS, VIEWS), np.uint8)
    status[9, 0], status[12, 1], status[13, 1] = 2, 3, 2
    values = {"crop_box": boxes, "status": status}
    plant(folder / "s", "p", values, source=pictures(folder / "pictures"))
    mean = np.full((ROWS, VIEWS), 90, np.float32)
    mean[[1, 18], 0] = 3
    plant(folder / "s", "quality", {"luma_mean": mean}, of="p")
    return folder / "s"


@pytest.fixture
def damaged(built: Path, tmp_path: Path) -> Path:
    """A copy whose files a test may harm."""
    return Path(shutil.copytree(built, tmp_path / "s"))


def site_of(root: Path) -> Site:
    store = open_store(root)
    return Site({"s": lambda: store})


def facts_of(
    site: Site, path: str = "issues", query: str = "", status: int = 200
) -> dict[str, Any]:
    page = site.get("s", path, f"{query}&format=json")
    assert page.status == status, page.body
    facts: dict[str, Any] = json.loads(page.body)
    return facts


def html_of(site: Site, query: str = "") -> Page:
    page = site.get("s", "issues", query)
    assert page.status == 200
    return Page(page.body)


def kinds(facts: Mapping[str, Any]) -> dict[str, int]:
    return {f"{each['view_set']}/{each['kind']}": each["count"] for each in facts["kinds"]}


def test_counts_are_those_of_the_rows_that_the_links_name(built: Path) -> None:
    site = site_of(built)
    facts = facts_of(site)
    assert kinds(facts) == {
        "p/off goal": 2, "p/failed": 1, "p/box outside": 1, "quality/dark": 2
    }  # fmt: skip
    for each in facts["kinds"]:
        assert (each["where"] is None) != (each["among"] is None)
        name = "where" if each["where"] else "among"
        fields = urlencode({name: each[name], "view_set": "p"})
        found = facts_of(site, "browse", fields)
        assert found["count"] == each["count"]
        assert found["rows"][0]["key"] == each["first_key"]
        assert each["share"] == each["count"] / ROWS


def test_browse_filters_among_the_rows_of_an_issue(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = site_of(built)
    fields = urlencode({"among": "issue/p/box outside", "where": "index > 16"})
    found = facts_of(site, "browse", fields)
    assert [each["row"] for each in found["rows"]] == [17]
    assert facts_of(site, "browse", fields.replace("16", "17"))["count"] == 0
    assert facts_of(site, "browse", "where=index+%3E+16")["count"] == 3  # not kept under one name
    page = Page(site.get("s", "browse", fields).body)
    exec(compile(f"{page.code}\nprint(rows)", "page", "exec"), {})
    assert capsys.readouterr().out == "[17]\n"
    wrong = facts_of(site, "browse", "among=issue%2Fp%2Fnone", status=400)
    assert "no issue" in wrong["error"]["message"]


def test_the_page_has_the_numbers_of_its_json_and_links_to_the_rows(built: Path) -> None:
    site = site_of(built)
    facts, page = facts_of(site), html_of(site)
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a" and "href" in attrs]
    for each in facts["kinds"]:
        assert each["kind"] in page.text
        assert f"{100 * each['share']:.2f} %" in page.text
        assert any("browse?" in link and "view_set=p" in link for link in links)
    assert any("among=issue%2Fp%2Fbox+outside" in link for link in links)
    assert any("where=quality.luma_mean+%3C+16" in link for link in links)
    assert f"viewstore verify {open_store(built).location}" in page.text


def test_the_code_finds_the_rows(built: Path) -> None:
    site = site_of(built)
    found: dict[str, Any] = {}
    exec(compile(html_of(site).code, "page", "exec"), found)
    assert {name: len(rows) for name, rows in found["rows"].items()} == kinds(facts_of(site))


def test_a_picked_view_set_is_shown_with_what_describes_it(built: Path) -> None:
    assert facts_of(site_of(built), query="view_set=p")["view_sets"] == ["p", "quality"]
    facts = facts_of(site_of(built), query="view_set=quality")
    assert list(facts["shards"]) == ["quality"]
    assert kinds(facts) == {"quality/dark": 2}


def test_each_shard_has_the_worst_of_its_states_and_its_numbers(built: Path) -> None:
    facts = facts_of(site_of(built))["shards"]
    assert facts["p"]["states"] == ["ok", "failed", "flawed"]
    assert facts["quality"]["states"] == ["flawed", "ok", "flawed"]
    second, third = facts["p"]["not_ok"]
    assert (second["shard"], second["first"], second["last"]) == (1, SHARD_ROWS, 2 * SHARD_ROWS)
    assert second["views"] == [0, 16 - 3, 2, 1, 0]
    assert (third["flawed"], third["views"]) == (1, [0, 8, 0, 0, 0])
    assert facts["p"]["counts"] == {
        "ok": 1, "flawed": 1, "off goal": 0, "failed": 1, "damaged": 0, "not built": 0
    }  # fmt: skip


def blob(root: Path, shard: int) -> Path:
    return next((root / "views/p").glob(f"{shard:06d}-*.tar"))


def test_faults_of_files_are_those_of_verify_quick(damaged: Path) -> None:
    blob(damaged, 0).unlink()
    second = blob(damaged, 1)
    second.chmod(0o644)
    second.write_bytes(second.read_bytes()[:-1])
    (damaged / "views/p/000002-0123456789abcdef.tar").write_bytes(b"x")
    index = damaged / "views/quality/stats.json"
    index.chmod(0o644)
    index.write_bytes(index.read_bytes() + b" ")
    site = Site({"s": lambda: open_store(damaged)})
    expected = [each.kind for each in verify(damaged, level="quick")]
    assert sorted(expected) == ["derived", "missing", "orphan", "size"]
    found = facts_of(site)
    assert list(found["unreadable"]) == ["quality"]
    assert "stats.json of quality" in html_of(site).text
    assert {kind: each["count"] for kind, each in found["faults"]["kinds"].items()} == {
        "derived": 1, "leftovers": 1, "missing": 1, "size": 1
    }  # fmt: skip
    assert found["shards"]["p"]["states"] == ["damaged", "damaged", "flawed"]
    assert [each["faults"] for each in found["shards"]["p"]["not_ok"][:2]] == [
        ["missing: its views are missing"],
        [f"size: {second.stat().st_size} bytes, its commit says {second.stat().st_size + 1}"],
    ]


def test_a_flipped_byte_is_named_as_what_the_page_does_not_look_for(damaged: Path) -> None:
    """The naive reading of a page without faults, that all bytes are right, would be wrong."""
    path = blob(damaged, 0)
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[700] ^= 1
    path.write_bytes(raw)
    facts = facts_of(site_of(damaged))
    assert facts["faults"]["kinds"] == {}
    assert "hash" in facts["looks"][0]["kinds"]
    assert {each.kind for each in verify(damaged)} == {"hash"}


def test_faults_are_looked_at_again_and_rows_are_not(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    site = site_of(damaged)
    facts_of(site)
    blob(damaged, 0).unlink()
    assert facts_of(site)["faults"]["kinds"] == {}
    now += 11
    assert set(facts_of(site)["faults"]["kinds"]) == {"missing"}


def test_hostile_keys_are_text(built: Path, tmp_path: Path) -> None:
    status = np.full((ROWS, VIEWS), 2, np.uint8)
    root = tmp_path / "s"
    source = pictures(tmp_path / "pictures")
    for each in (source / "label0").glob("[!a]*"):
        each.unlink()
    rows = sum(1 for each in source.rglob("*.png"))
    plant(root, "p", {"status": status[:rows]}, source=source)
    page = html_of(site_of(root))
    assert f"label0/{HOSTILE[0]}" in page.text
    assert page.images() == []
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs or "style" in attrs]


def test_rows_among_names_what_it_knows(built: Path) -> None:
    site, store = site_of(built), open_store(built)
    for name in ("", "issue/p/none", "map/x.feature/0,1,0,1", "else/p"):
        with pytest.raises(ConfigError):
            rows_among(site.facts, store, name)


def test_a_grid_of_many_shards_shows_the_worst_of_neighbours() -> None:
    states = ["ok"] * (3 * MOST_CELLS)
    states[4] = "not built"
    states[5] = "flawed"
    drawn = shard_grid(states, STORED, title="t")
    assert drawn.count("M") == MOST_CELLS
    assert drawn.count("<text") == 1
    assert ">0</text>" in drawn


def test_a_healthy_store_says_so(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "i.npz"))
    page = html_of(site_of(tmp_path / "s"))
    assert "No issue found" in page.text
    assert quick_faults(open_store(tmp_path / "s")) == []
    states = shard_states(open_store(tmp_path / "s").view_sets["simclr"], [], [])
    assert [each.state for each in states] == ["ok"] * 3


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of which the last of three shards is absent."""
    folder = tmp_path_factory.mktemp("partial")
    build_small(folder / "s", write_npz(folder / "i.npz"), only=(0, 1))
    finalise(folder / "s", allow_partial=True)
    return folder / "s"


def test_a_shard_that_is_absent_is_not_built(partial: Path) -> None:
    site = site_of(partial)
    facts = facts_of(site)
    assert facts["shards"]["simclr"]["states"] == ["ok", "ok", "not built"]
    assert kinds(facts) == {"simclr/not built": ROWS - 2 * SHARD_ROWS}
    (kind,) = facts["kinds"]
    browse = facts_of(site, "browse", urlencode({"where": kind["where"]}))
    assert browse["count"] == kind["count"]


def test_of_a_store_far_away_the_records_tell(partial: Path, tmp_path: Path) -> None:
    with plain_server(partial) as url:
        cache = CacheSettings(directory=tmp_path / "cache", limit_bytes=1 << 30)
        store = viewstore.open(url, cache=cache)
        assert [(each.kind, each.shard) for each in quick_faults(store)] == [("missing", 2)]
        facts = facts_of(Site({"s": lambda: store}))
    assert facts["faults"]["looked_at"] == "records"
    assert facts["looks"][0]["command"] == f"viewstore verify {url} --quick"
    assert facts["shards"]["simclr"]["states"] == ["ok", "ok", "not built"]
