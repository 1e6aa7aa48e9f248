"""Commits, index and manifest: exact hashes, and names that never come from data."""

from dataclasses import replace
from typing import Any

import pytest

from viewstore.errors import FormatError
from viewstore.format.manifest import (
    BlobRecord,
    Commit,
    Manifest,
    ShardEntry,
    ViewSetEntry,
    blob_name,
    merkle_root,
)
from viewstore.format.records import canonical, digest_of, parse


def commit_of(name: str | None = None) -> Commit:
    sha256 = "ab" * 32
    name = name or blob_name(7, sha256, "views")
    blob = BlobRecord(role="views", name=name, bytes=1, sha256=sha256)
    return Commit(
        view_set="t",
        plan_id="0" * 64,
        entry=ShardEntry(shard=7, rows=3, files=(blob,), columns={"status": (512, 12, "00")}),
        attempt="a",
        seconds=1.0,
        host="h",
        created="now",
    )


def test_merkle_root_is_frozen() -> None:
    assert merkle_root([b"a", b"b", b"c"]) == (
        "36642e73c2540ab121e3a6bf9545b0a24982cd830eb13d3cd19de3ce6c021ec1"
    )


def test_a_commit_round_trips() -> None:
    assert Commit.unpack(commit_of().pack()) == commit_of()


@pytest.mark.parametrize("name", ["../../etc/passwd", "000008-abababababababab.tar", "x"])
def test_a_commit_cannot_name_another_file(name: str) -> None:
    with pytest.raises(FormatError, match="must not be named"):
        Commit.unpack(commit_of(name).pack())


def test_a_manifest_whose_store_id_was_changed_is_refused() -> None:
    derived = dict.fromkeys(("index.json", "index/members.npy", "stats.json"), (1, "4" * 64))
    entry = ViewSetEntry(plan_id="1" * 64, root="2" * 64, derived=derived)
    manifest = Manifest(
        generation=1, previous=None, complete=True, sources_id="3" * 64, view_sets={"t": entry}
    )
    assert Manifest.unpack(manifest.pack()) == manifest
    value = parse(manifest.pack())
    del value["digest"]
    value["store_id"] = "0" * 64
    with pytest.raises(FormatError, match="does not match its store id"):
        Manifest.unpack(canonical(value | {"digest": digest_of(value)}))


@pytest.mark.parametrize(
    "facts", [{"seconds": -1.0}, {"seconds": 1e300}, {"host": "h\nshard 0 is missing"}]
)
def test_a_commit_says_nothing_that_cannot_be(facts: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="commit must not have"):
        Commit.unpack(replace(commit_of(), **facts).pack())
