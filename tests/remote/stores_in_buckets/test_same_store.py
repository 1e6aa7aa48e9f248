"""A store that is built into a bucket is the store that a folder would have."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import viewstore
from tests.remote.stores_in_buckets.parts import (
    DEADLINE_SECONDS,
    Run,
    content,
    kept,
    simclr_of,
)
from tests.viewstore.small_stores import ROWS, build_small
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.files.bucket import Bucket
from viewstore.files.working_copy import store_at
from viewstore.format.paths import StorePaths
from viewstore.loaders import ViewLoader
from viewstore.sources.open import open_source
from viewstore.store.committed import read_plan
from viewstore.store.verify import verify
from viewstore.store.verify_remote import verify_remote


def test_every_object_has_the_bytes_of_the_local_file(whole: str, local: Path) -> None:
    files = {
        str(path.relative_to(local)): path.read_bytes()
        for path in local.rglob("*")
        if path.is_file()
    }
    objects = content(whole)
    assert {n: d for n, d in objects.items() if kept(n)} == {
        n: d for n, d in files.items() if kept(n)
    }
    assert {n for n in objects if not kept(n)} == {n for n in files if "/commits/" in n}
    assert viewstore.open(whole).store_id == viewstore.open(local).store_id


def test_what_is_there_is_whole(whole: str, run: Run) -> None:
    assert list(verify_remote(whole, level="content")) == []
    assert run("verify", whole)[0] == 0


def test_a_loader_reads_the_same_batches(whole: str, local: Path) -> None:
    batches = []
    for place in (whole, local):
        store = viewstore.open(place)
        with ViewLoader(store, "heavy,heavy", batch_size=4, seed=1) as loader:
            batches.append([np.asarray(batch.views[0].pixels) for batch in loader])
    assert len(batches[0]) == ROWS // 4
    for ours, theirs in zip(*batches, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_copy_on_a_disk_is_whole_after_finalise(
    whole: str, local: Path, tmp_path: Path, run: Run
) -> None:
    for name, data in content(whole).items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert {fault.kind for fault in verify(tmp_path / "copy")} == {"derived"}
    assert run("finalise", str(tmp_path / "copy"))[0] == 0
    assert list(verify(tmp_path / "copy", level="content")) == []
    copied, built = viewstore.open(tmp_path / "copy"), viewstore.open(local)
    assert copied.manifest == built.manifest
    features = [each.view_sets["embed"].params["feature"] for each in (copied, built)]
    assert np.array_equal(*features)


def test_slices_of_several_processes_and_a_plan_end_in_the_local_store(
    url: str, source: str, local: Path, run: Run
) -> None:
    line = ["build", "--generator", "simclr", "--out", url]
    first = ["--source", source, "--shard-rows", "8", "--views", "2", "--size", "16", "--plan"]
    code, out, err = run(*line, *first)
    assert code == 0, err
    assert "3 to build" in out
    program = [sys.executable, "-m", "viewstore", *line, "-j", "1"]
    slices = [subprocess.Popen([*program, "--shard", f"{index}/2"]) for index in range(2)]
    assert [each.wait(DEADLINE_SECONDS) for each in slices] == [0, 0]
    code, out, _ = run("status", url)
    assert code == 0
    assert "3 of 3 shards" in out
    assert f"viewstore finalise {url}" in out
    assert run("finalise", url)[0] == 0
    assert viewstore.open(url).manifest.view_sets["simclr"] == simclr_of(local)
    assert "not published" not in run("status", url)[1]


def test_a_second_view_set_needs_no_pack_of_the_first(
    whole: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    get = Bucket.get

    def counted(bucket: Bucket, name: str, *rest: Any) -> bytes:  # noqa: ANN401
        fetched.append(name)
        return get(bucket, name, *rest)

    monkeypatch.setattr(Bucket, "get", counted)
    before = viewstore.open(whole).store_id
    assert build_small(whole, source).manifest is not None
    assert viewstore.open(whole).store_id == before
    assert fetched
    assert [name for name in fetched if name.endswith((".params", ".chunk", ".tar"))] == []


def test_plans_and_rows_are_in_the_copy(whole: str, local: Path) -> None:
    with store_at(whole) as (root, _):
        for name in ("simclr", "heavy", "embed"):
            ours = read_plan(StorePaths(root).view_set(name))
            assert ours == read_plan(StorePaths(local).view_set(name))
        assert not list(root.rglob("*.tar"))


def test_an_import_keeps_its_listing_in_the_bucket(url: str, source: str, tmp_path: Path) -> None:
    keys = open_source(source).table.keys
    (tmp_path / "views").mkdir()
    for row, key in enumerate(keys[:4]):
        pixels = np.full((16, 16, 3), row, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "views" / f"{key}.png")
    request: dict[str, Any] = {
        "generator": "import",
        "source": source,
        "limit": 4,
        "settings": {"files": f"{tmp_path}/views/{{key}}.png"},
        "shard_rows": 2,
        "workers": 1,
    }
    for out in (tmp_path / "local", url):
        build(BuildRequest(out=out, **request))
    assert viewstore.open(url).store_id == viewstore.open(tmp_path / "local").store_id
    assert any("/listing-" in name for name in Bucket(url).listed())
    shutil.rmtree(tmp_path / "views")  # the listing alone says now what the files were
    assert build(BuildRequest(out=url, **request)).left == 0
