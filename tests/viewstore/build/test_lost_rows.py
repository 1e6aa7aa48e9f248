"""A store that lost its rows, or a plan: what is recorded again is what it was, or refused."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small
from viewstore.build.adopt import adopt_sources
from viewstore.build.differences import plan_differences
from viewstore.build.rehearsal import rehearse
from viewstore.build.request import BuildRequest
from viewstore.errors import ConfigError, FormatError
from viewstore.files import disk
from viewstore.format.paths import StorePaths
from viewstore.sources.open import open_source
from viewstore.store.committed import read_plan
from viewstore.store.verify import verify


def files_of(store: StorePaths) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in sorted(store.root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def lose(store: StorePaths, name: str) -> None:
    for path in store.sources.glob(name):
        path.unlink()


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-7])


@pytest.fixture
def other(tmp_path: Path) -> str:
    """Other images of the same names and sizes."""
    path = tmp_path / "other.npz"
    images = np.random.Generator(np.random.Philox(8)).integers(0, 256, (20, 20, 20, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(20) % 3)
    return str(path)


@pytest.fixture
def store(tmp_path: Path, source: str) -> StorePaths:
    build_small(tmp_path / "s", source)
    return StorePaths(tmp_path / "s")


@pytest.mark.parametrize("view_set", ["simclr", "second"])
def test_other_rows_are_refused_where_the_record_is_lost(
    store: StorePaths, other: str, view_set: str
) -> None:
    lose(store, "sources.json")
    before = files_of(store)
    with pytest.raises(ConfigError, match=r"simclr was made of 20 other rows") as caught:
        build_small(store.root, other, view_set=view_set)
    assert caught.value.code == "VS103"
    assert files_of(store) == before
    with pytest.raises(ConfigError, match="simclr was made of 20 other rows"):
        adopt_sources(store, open_source(other).table, 8)
    assert files_of(store) == before


def test_a_dry_run_refuses_other_rows_as_the_build_would(store: StorePaths, other: str) -> None:
    lose(store, "sources.json")
    request = BuildRequest(generator="simclr", out=store.root, source=other, view_set="second")
    with pytest.raises(ConfigError, match="simclr was made of 20 other rows"):
        rehearse(request, 4)


def test_other_rows_are_refused_where_only_the_manifest_is_left(
    store: StorePaths, other: str
) -> None:
    lose(store, "sources.json")
    shutil.rmtree(store.views)
    with pytest.raises(ConfigError, match="manifest names other images"):
        build_small(store.root, other, view_set="second")


@pytest.mark.parametrize("name", ["sources.json", "crc32-*", "key_offset-*"])
@pytest.mark.parametrize("harmed", [Path.unlink, damage])
def test_the_same_rows_are_recorded_again(
    store: StorePaths, source: str, name: str, harmed: object
) -> None:
    before = {path.name: path.read_bytes() for path in store.sources.iterdir()}
    assert callable(harmed)
    for path in list(store.sources.glob(name)):
        harmed(path)
    (fault,) = verify(store.root)
    assert (fault.view_set, fault.kind) == ("source", "record")
    # Another view set would choose other shards, were it the first of its store.
    build_small(store.root, source, view_set="second", shard_rows=None)
    assert {path.name: path.read_bytes() for path in store.sources.iterdir()} == before
    assert list(verify(store.root)) == []


def test_a_record_of_another_version_is_not_replaced(
    store: StorePaths, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewstore.format.records.FORMAT", 2)
    with pytest.raises(FormatError, match="format version must be 2"):
        build_small(store.root, source)


def test_a_set_of_other_rows_is_a_fault_and_nothing_is_added_to_it(
    store: StorePaths, tmp_path: Path, other: str
) -> None:
    build_small(tmp_path / "t", other)
    for path in (tmp_path / "t" / "sources").iterdir():
        disk.write_atomic(store.sources / path.name, path.read_bytes())
    faults = [(fault.view_set, fault.kind) for fault in verify(store.root)]
    assert faults == [("manifest", "record"), ("simclr", "source")]
    with pytest.raises(ConfigError, match="simclr was made of 20 other rows") as caught:
        build_small(store.root, None, view_set="second")
    assert caught.value.fix is not None
    assert "viewstore rm" in caught.value.fix


def test_shards_of_a_lost_plan_are_not_taken_for_those_of_another(
    store: StorePaths, source: str
) -> None:
    store.view_set("simclr").plan.unlink()
    before = files_of(store)
    with pytest.raises(ConfigError, match="simclr has shards that were made with other settings"):
        build_small(store.root, source, seed=5)
    assert files_of(store) == before
    assert build_small(store.root, source).samples == 0
    assert list(verify(store.root)) == []


def test_plans_that_differ_say_what_differs(
    store: StorePaths, tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_small(tmp_path / "t", other)
    build_small(tmp_path / "u", other, settings={"views": 3, "height": 16, "width": 16})
    roots = (store.root, tmp_path / "t", tmp_path / "u")
    plans = [read_plan(StorePaths(root).view_set("simclr")) for root in roots]
    assert plan_differences(plans[0], plans[1]) == ["the source was another one"]
    assert plan_differences(plans[1], plans[2]) == ["views was 2, is 3"]
    options = ("--generator", "simclr", "--views", 3, "--size", 16)
    code, _, err = run(capsys, "build", *options, "--out", store.root)
    assert code == 2
    assert "begun with other settings: views was 2, is 3\n" in err


def test_every_field_of_a_plan_that_differs_is_said(store: StorePaths) -> None:
    plan = read_plan(store.view_set("simclr"))
    changed = {
        "json_bytes": 1024, "members": ("json",), "roles": ("expert", "local"),
        "resample": {}, "columns": plan.columns[1:], "sources_id": "0" * 64, "libraries": {},
        "rows": 21, "reach": "set",
        "inputs": {"bank": {"view_set": "queue", "plan_id": "0" * 64}},
    }  # fmt: skip
    assert set(changed) < {field.name for field in fields(plan)}
    for name, value in changed.items():
        assert plan_differences(plan, replace(plan, **{name: value}))
    assert plan_differences(plan, replace(plan, view_set="simclr-r2", round=2))
