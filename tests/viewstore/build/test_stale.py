"""Columns whose parent was mended to other bytes: just those shards are stale, and are mended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.generators.scored.encoders import classifier, export
from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small
from viewstore.build.repair import repair, withdraw
from viewstore.errors import ConfigError
from viewstore.format.paths import StorePaths
from viewstore.generators.scored import quality
from viewstore.store import lineage
from viewstore.store.committed import read_commit
from viewstore.store.store import open_store
from viewstore.store.verify import verify

ROWS, SHARD_ROWS = 12, 4
LOST = 5  # a row of shard 1
CHILDREN = ("quality", "teacher")


def write_folder(folder: Path) -> Path:
    """Write pictures of which one is cut; return where the whole of it lies."""
    folder.mkdir()
    for row in range(ROWS):
        pixels = np.random.Generator(np.random.Philox(row)).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).resize((30, 24)).save(folder / f"{row:02d}.png")
    whole = folder / f"{LOST:02d}.png"
    kept = folder.parent / "whole.png"
    shutil.copy(whole, kept)
    whole.write_bytes(whole.read_bytes()[:200])
    return kept


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an encoder."""
    return export(tmp_path_factory.mktemp("net") / "net.pt2", classifier())


@pytest.fixture
def folder(tmp_path: Path, net: Path) -> Path:
    """A store whose views of one image are missing, and columns of those views.

    The image was mended since.
    """
    whole = write_folder(tmp_path / "images")
    shutil.copy(net, tmp_path / "net.pt2")
    store = tmp_path / "s"
    build_small(store, str(tmp_path / "images"), shard_rows=SHARD_ROWS, on_error="skip")
    build_columns(store, "quality", "quality", "simclr")
    build_columns(store, "embed", "teacher", "simclr", files={"encoder": tmp_path / "net.pt2"})
    shutil.copy(whole, tmp_path / "images" / f"{LOST:02d}.png")
    return tmp_path


def build_columns(store: Path, generator: str, name: str, of: str, **changes: Any) -> None:  # noqa: ANN401
    build_small(
        store, None, generator=generator, view_set=name, settings={"of": of}, shard_rows=None,
        on_error="skip", **changes,
    )  # fmt: skip


def mend(folder: Path, capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, str]:
    """Repair, as a user would who mended the image; return exit code, and all that was said."""
    code, out, err = run(
        capsys, "verify", folder / "s", "--repair", "--failed", "-j", "1", *options
    )
    return code, out + err


def inodes(store: Path, name: str) -> list[int]:
    commits = StorePaths(store).view_set(name).commits
    return [path.stat().st_ino for path in sorted(commits.glob("*.json"))]


def rebuilt(before: list[int], after: list[int]) -> list[int]:
    return [shard for shard in range(3) if before[shard] != after[shard]]


def test_parent_and_children_are_mended_in_one_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = folder / "s"
    before = {name: inodes(store, name) for name in ("simclr", *CHILDREN)}
    assert open_store(store).view_sets["teacher"].params["status"][LOST].tolist() == [4, 4]
    code, said = mend(folder, capsys, "--encoder", folder / "net.pt2")
    assert code == 0, said
    for name, first in before.items():
        assert rebuilt(first, inodes(store, name)) == [1], name
        assert (open_store(store).view_sets[name].params["status"] == 1).all()
    assert list(verify(store, level="content")) == []


def test_a_child_without_its_weights_stays_stale_with_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parent and the child that needs no weights are mended all the same."""
    store = folder / "s"
    for _ in range(2):  # and a second time, when it is a fault from the start
        code, said = mend(folder, capsys)
        assert code == 1
        assert "1 shard of teacher must be made again too, and cannot be now" in said
        command = f"viewstore verify {store} --repair --view-set teacher --encoder net.pt2"
        assert command in " ".join(said.split())
        (fault,) = verify(store, level="content")
        assert (fault.view_set, fault.shard, fault.kind) == ("teacher", 1, "stale")
    assert "other bytes of simclr" in fault.what
    opened = open_store(store)
    assert (opened.view_sets["quality"].params["status"] == 1).all()
    assert opened.view_sets["teacher"].params["status"][LOST].tolist() == [4, 4]  # readable still

    encoder = ("--encoder", folder / "net.pt2")
    code, _, err = run(capsys, "verify", store, "--repair", "--view-set", "teacher", *encoder)
    assert code == 0, err
    assert list(verify(store)) == []


def test_nothing_is_built_on_what_is_stale(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = folder / "s"
    assert mend(folder, capsys)[0] == 1
    with pytest.raises(ConfigError, match=r"d is made from teacher, .* shard 1 is stale") as caught:
        build_columns(store, "duplicates", "d", "teacher")
    assert caught.value.code == "VS202"
    assert "--repair --view-set teacher" in str(caught.value.fix)


def test_a_set_that_reaches_all_rows_is_stale_as_a_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any row may be the like of one that was not there before."""
    store = folder / "s"
    build_columns(store, "quality", "hashes", "source")
    build_columns(store, "duplicates", "duplicates", "hashes")
    before = inodes(store, "duplicates")
    withdraw(StorePaths(store).view_set("hashes"), 0)
    with monkeypatch.context() as patch:  # other libraries make other hashes
        patch.setattr(quality, "difference_hash", lambda luma: np.uint64(7))
        build_columns(store, "quality", "hashes", "source")
    stale = [fault for fault in verify(store) if fault.kind == "stale"]
    assert [(fault.view_set, fault.shard) for fault in stale] == [
        ("duplicates", shard) for shard in range(3)
    ]
    assert repair(store, stale, workers=1).shards == {"duplicates": [0, 1, 2]}
    assert rebuilt(before, inodes(store, "duplicates")) == [0, 1, 2]
    assert open_store(store).view_sets["duplicates"].params["duplicate"][:4].tolist() == [0] * 4
    assert list(verify(store)) == []


def test_equal_bytes_make_nothing_stale(folder: Path) -> None:
    store = folder / "s"
    pack = next(StorePaths(store).view_set("simclr").root.glob("000002-*.params"))
    pack.chmod(0o644)
    pack.write_bytes(b"")
    faults = list(verify(store))
    assert {(fault.view_set, fault.shard) for fault in faults} == {("simclr", 2)}
    assert repair(store, faults, workers=1).shards == {"simclr": [2]}
    assert list(verify(store)) == []


def test_without_the_comparison_nobody_would_see_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: columns of views that are others now pass every checksum."""
    assert mend(folder, capsys)[0] == 1
    monkeypatch.setattr("viewstore.store.verify.is_stale", lambda *arguments: False)
    assert list(verify(folder / "s", level="content")) == []


def test_lineage_is_of_the_leaf_that_was_read(folder: Path) -> None:
    paths = StorePaths(folder / "s")
    store = open_store(paths.root)
    parent = store.view_sets["simclr"]
    for shard in range(3):
        commit = read_commit(paths.view_set("teacher"), shard)
        assert commit is not None
        found = lineage.lineage_now(store.view_sets["teacher"].plan, shard, {"parent": parent})
        assert commit.entry.lineage == found
    own = read_commit(paths.view_set("simclr"), 0)
    assert own is not None
    assert own.entry.lineage is None
