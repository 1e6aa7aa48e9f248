"""What inspect, sheet, report and verify say of networks, rounds and stale shards."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import viewstore
from tests.generators.scored.encoders import write_encoder
from tests.viewstore.commands import invoke, run
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.refresh import refresh
from viewstore.build.rename import remove_view_set
from viewstore.format.paths import StorePaths
from viewstore.inspect.origin import origin_facts, origin_words, outdated_words
from viewstore.inspect.report import write_report
from viewstore.inspect.sheet import ALARM, FAINT, notes_of
from viewstore.store.committed import read_plan


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views, and two rounds of what two encoders say of them."""
    folder = tmp_path_factory.mktemp("origin")
    store = folder / "s"
    build_small(store, write_npz(folder / "images.npz"))
    views = np.concatenate(list(viewstore.open(store).view_sets["simclr"]))
    files = [folder / f"{name}.safetensors" for name in ("older", "newer")]
    write_encoder(files[0], views[:12])
    write_encoder(files[1], views[20:])
    settings = {"of": "simclr"}
    given = {"encoder": files[0]}
    build_small(store, None, generator="embed", settings=settings, files=given, shard_rows=None)
    refresh(store, "embed", {"encoder": files[1]}, workers=1)
    return store


def digest(store: Path, name: str) -> str:
    (weights,) = read_plan(StorePaths(store).view_set(name)).weights
    return weights.sha256[:12]


def words_of(store: Path) -> dict[str, list[str]]:
    opened = viewstore.open(store)
    return {
        name: origin_words(name, origin_facts(opened, each))
        for name, each in opened.view_sets.items()
    }


def test_each_round_names_its_network_and_the_newest(store: Path) -> None:
    first, second = (digest(store, name) for name in ("embed", "embed-r2"))
    assert first != second
    assert words_of(store) == {
        "embed": [f"by the encoder older.safetensors {first}", "round 1, the newest is embed-r2"],
        "embed-r2": [f"by the encoder newer.safetensors {second}", "round 2, the newest"],
        "simclr": [],
    }
    opened = viewstore.open(store)
    assert [each.round for each in opened.view_sets.values()] == [1, 2, 1]
    assert opened.view_sets["embed"].weights[0].name == "older.safetensors"


def test_a_recorded_step_is_told() -> None:
    facts = {
        "weights": [],
        "model_step": 700,
        "round": 1,
        "newest": "a",
        "made_from": [],
        "stale": 0,
    }
    assert origin_words("a", facts) == ["of training step 700"]


def test_stale_and_orphaned_sets_are_told(store: Path, tmp_path: Path) -> None:
    """A parent that has other bytes now, and one that is another set now."""
    out = Path(shutil.copytree(store, tmp_path / "s"))
    opened = viewstore.open(out)
    parent, child = opened.view_sets["simclr"], opened.view_sets["embed-r2"]
    entry = parent.shards[1].entry
    others = tuple(replace(each, sha256="0" * 64) for each in entry.files)
    object.__setattr__(entry, "files", others)
    facts = origin_facts(opened, child)
    assert facts["stale"] == 1
    assert outdated_words("embed-r2", facts) == [
        "1 shard is stale, made from other bytes of simclr"
    ]
    shutil.rmtree(out / "views" / "simclr")
    build_small(out, None, seed=9, shard_rows=None)
    said = words_of(out)["embed-r2"][-1]
    assert said == "simclr is not what it was made from: it was taken out, or built anew"


def test_a_round_without_the_first_is_the_newest(store: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(store, tmp_path / "s"))
    remove_view_set(out, "embed")
    assert words_of(out)["embed-r2"][-1] == "round 2, the newest"


def test_all_that_is_shown_says_so(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, newest = (digest(store, name) for name in ("embed", "embed-r2"))
    text = invoke("inspect", store).output
    assert f"    origin     by the encoder older.safetensors {older}\n" in text
    assert "               round 1, the newest is embed-r2\n" in text
    facts = json.loads(invoke("inspect", store, "--json").stdout)["result"]["view_sets"]
    assert facts["embed"]["newest"] == facts["embed-r2"]["newest"] == "embed-r2"
    assert (facts["simclr"]["weights"], facts["simclr"]["stale"]) == ([], 0)

    opened = viewstore.open(store)
    notes = notes_of(opened, [opened.view_sets["simclr"]])
    assert (f"embed: by the encoder older.safetensors {older}", FAINT) in notes
    assert ("embed: round 1, the newest is embed-r2", ALARM) in notes
    assert ("embed-r2: round 2, the newest", FAINT) in notes

    page = html.unescape(write_report(opened, [0], [opened.view_sets["simclr"]]).decode())
    told = dict(re.findall(r'<p class="(facts[^"]*)">(by the encoder .*?)</p>', page))
    assert told == {
        "facts alarm": f"by the encoder older.safetensors {older}; round 1, the newest is embed-r2",
        "facts": f"by the encoder newer.safetensors {newest}; round 2, the newest",
    }

    code, out, _ = run(capsys, "verify", store)
    assert code == 0
    assert out.splitlines() == [
        f"{store} is whole",
        f"embed: by the encoder older.safetensors {older}; round 1, the newest is embed-r2",
        f"embed-r2: by the encoder newer.safetensors {newest}; round 2, the newest",
    ]
    code, out, _ = run(capsys, "verify", store, "--view-set", "embed", "--json")
    found = json.loads(out)["result"]
    assert sorted(found) == ["faults", "level", "origins"]
    assert sorted(found["origins"]["embed"]) == [
        *("made_from", "model_step", "newest", "round", "stale", "weights")
    ]
    assert list(found["origins"]) == ["embed"]


def test_a_view_set_that_is_shown_has_its_networks_among_its_facts(searched: Path) -> None:
    opened = viewstore.open(searched)
    page = write_report(opened, [0], [opened.view_sets["w-search"]]).decode()
    assert "<dt>origin</dt><dd>by the gan gan.safetensors " in page
