"""What is built: commits of shards, their Merkle root, the index and the manifest. Pure.

A shard exists when its commit record exists; a manifest names a generation of whole view sets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from viewstore.errors import FormatError
from viewstore.format.columns import COLUMN_NAME
from viewstore.format.plan import VIEW_SET_NAME, Plan
from viewstore.format.records import FORMAT, canonical, check_form, parse, seal, unseal
from viewstore.format.tar import Strided, strided_layout

COMMIT_KIND = "viewstore-commit"
MANIFEST_KIND = "viewstore-manifest"
INDEX_KIND = "viewstore-index"
SHARD_SUFFIX = ".tar"
SHA256 = re.compile(r"[0-9a-f]{64}")
ROLE = re.compile(rf"views|params|column:{COLUMN_NAME.pattern}")
DERIVED_NAME = re.compile(
    rf"index\.json|index/members\.npy|stats\.json|params\.zarr/({COLUMN_NAME.pattern}/)?zarr\.json"
)
FILES_FORM = [(str, str, int, str)]
PLACES_FORM = {...: (int, int, str)}
COMMIT_FORM: Mapping[str, Any] = {
    "view_set": str,
    "shard": int,
    "plan_id": str,
    "attempt": str,
    "rows": int,
    "files": FILES_FORM,
    "columns": PLACES_FORM,
    "seconds": int | float,
    "host": str,
    "created": str,
}
MANIFEST_FORM: Mapping[str, Any] = {
    "generation": int,
    "previous": str | None,
    "complete": bool,
    "sources_id": str,
    "store_id": str,
    "view_sets": {...: {"plan_id": str, "root": str, "derived": {...: (int, str)}}},
}
INDEX_FORM: Mapping[str, Any] = {
    "format": int,
    "kind": str,
    "view_set": str,
    "plan_id": str,
    "root": str,
    "rows": int,
    "complete": bool,
    "members": [str],
    "strided": dict | None,
    "shards": [{"shard": int, "rows": int, "files": FILES_FORM, "columns": PLACES_FORM}],
}
STRIDED_FORM = {"stride": int, "offset": int, "shape": (int, int, int, int)}


@dataclass(frozen=True, kw_only=True)
class BlobRecord:
    """A content-addressed file of a shard. `role`: "views", "params" or "column:<name>"."""

    role: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The record that makes a shard exist. `attempt` to `created` enter no id."""

    view_set: str
    shard: int
    plan_id: str
    attempt: str
    rows: int
    files: tuple[BlobRecord, ...]
    columns: Mapping[str, tuple[int, int, str]]
    seconds: float
    host: str
    created: str

    def file(self, role: str) -> BlobRecord:
        """Return the blob of `role`. Raises FormatError if the commit names none."""
        return _blob_of(self.files, role, f"commit of shard {self.shard}")

    def pack(self) -> bytes:
        """Return the bytes of the commit record."""
        return seal(COMMIT_KIND, {**asdict(self), "files": _rows(self.files)})

    @classmethod
    def unpack(cls, raw: bytes) -> Commit:
        """Return the commit in a record. Raises FormatError."""
        record = unseal(raw, kind=COMMIT_KIND, form=COMMIT_FORM)
        values = {key: record[key] for key in COMMIT_FORM}
        values["files"] = _blobs(values["files"])
        values["columns"] = {name: tuple(place) for name, place in values["columns"].items()}
        commit = cls(**values)
        for blob in commit.files:
            check_blob_name(blob, commit.shard)
        return commit


def _blobs(rows: Sequence[Sequence[Any]]) -> tuple[BlobRecord, ...]:
    return tuple(
        BlobRecord(role=role, name=name, bytes=size, sha256=sha256)
        for role, name, size, sha256 in rows
    )


def _blob_of(blobs: Sequence[BlobRecord], role: str, what: str) -> BlobRecord:
    for blob in blobs:
        if blob.role == role:
            return blob
    raise FormatError(f"{what} names no file for {role}")


def _rows(blobs: Sequence[BlobRecord]) -> list[list[Any]]:
    return [[blob.role, blob.name, blob.bytes, blob.sha256] for blob in blobs]


def blob_name(shard: int, sha256: str, role: str) -> str:
    """Return the content name of a shard's blob, for example "000123-<sha16>.tar"."""
    suffix = {"views": SHARD_SUFFIX, "params": ".params"}.get(role)
    suffix = suffix or f".{role.removeprefix('column:')}.chunk"
    return f"{shard:06d}-{sha256[:16]}{suffix}"


def check_blob_name(blob: BlobRecord, shard: int) -> None:
    """Raise FormatError unless the name follows from the content: no path comes from data."""
    if not (ROLE.fullmatch(blob.role) and SHA256.fullmatch(blob.sha256) and shard >= 0):
        raise FormatError(f"blob {blob.name!r} of shard {shard} has no role or no sha256")
    if blob.name != blob_name(shard, blob.sha256, blob.role):
        raise FormatError(f"blob of shard {shard} must not be named {blob.name!r}")


def merkle_root(leaves: Sequence[bytes]) -> str:
    """Return the RFC 9162 tree hash of leaf data, in hex."""
    return _merkle([hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]).hex()


def _merkle(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << ((len(hashes) - 1).bit_length() - 1)
    pair = _merkle(hashes[:split]) + _merkle(hashes[split:])
    return hashlib.sha256(b"\1" + pair).digest()


def view_set_root(commits: Mapping[int, Commit], shards: int) -> str:
    """Return the Merkle root over shards 0..K-1; an absent shard is a leaf without files."""
    leaves = [
        canonical([k, commits[k].rows, _rows(commits[k].files)] if k in commits else [k, 0, []])
        for k in range(shards)
    ]
    return merkle_root(leaves)


def store_id(sources_id: str, view_sets: Mapping[str, tuple[str, str]]) -> str:
    """Return the id of a store from the (plan_id, root) of each view set."""
    value = {
        "format": 1,
        "sources": sources_id,
        "view_sets": {name: list(pair) for name, pair in view_sets.items()},
    }
    return hashlib.sha256(b"\2" + canonical(value)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ViewSetEntry:
    """A view set as the manifest names it; `derived`: path below the view set -> bytes, sha256."""

    plan_id: str
    root: str
    derived: Mapping[str, tuple[int, str]]


def check_entry(name: str, entry: ViewSetEntry) -> None:
    """Raise FormatError unless all names are ones that finalise gives: no path comes from data."""
    if not VIEW_SET_NAME.fullmatch(name):
        raise FormatError(f"manifest names a view set {name!r}")
    for path in entry.derived:
        if not DERIVED_NAME.fullmatch(path):
            raise FormatError(f"manifest names a derived file {path!r}")
    if missing := {"index.json", "index/members.npy", "stats.json"} - set(entry.derived):
        raise FormatError(f"manifest must name {', '.join(sorted(missing))} of {name}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One generation of a store."""

    generation: int
    previous: str | None
    complete: bool
    sources_id: str
    view_sets: Mapping[str, ViewSetEntry]

    @property
    def store_id(self) -> str:
        """Digest of the sources and of every shard of every view set."""
        pairs = {name: (entry.plan_id, entry.root) for name, entry in self.view_sets.items()}
        return store_id(self.sources_id, pairs)

    def pack(self) -> bytes:
        """Return the bytes of manifest.json."""
        return seal(MANIFEST_KIND, {**asdict(self), "store_id": self.store_id})

    @classmethod
    def unpack(cls, raw: bytes) -> Manifest:
        """Return the manifest in manifest.json. Raises FormatError."""
        record = unseal(raw, kind=MANIFEST_KIND, form=MANIFEST_FORM)
        entries = {
            name: ViewSetEntry(
                plan_id=entry["plan_id"],
                root=entry["root"],
                derived={path: (size, sha) for path, (size, sha) in entry["derived"].items()},
            )
            for name, entry in record["view_sets"].items()
        }
        keys = (field.name for field in fields(cls))
        manifest = cls(**{**{key: record[key] for key in keys}, "view_sets": entries})
        if manifest.generation < 1:
            raise FormatError(f"manifest generation must be positive, got {manifest.generation}")
        for name, entry in entries.items():
            check_entry(name, entry)
        if record["store_id"] != manifest.store_id:
            raise FormatError("manifest does not match its store id")
        return manifest


@dataclass(frozen=True, kw_only=True)
class IndexedShard:
    """One shard as index.json lists it: what its commit says of its files."""

    shard: int
    rows: int
    files: tuple[BlobRecord, ...]
    columns: Mapping[str, tuple[int, int, str]]

    def file(self, role: str) -> BlobRecord:
        """Return the blob of `role`. Raises FormatError if the index names none."""
        return _blob_of(self.files, role, f"index of shard {self.shard}")


@dataclass(frozen=True, kw_only=True)
class Index:
    """The shards of a view set that exist, as index.json lists them; a wids index too."""

    view_set: str
    plan_id: str
    root: str
    rows: int
    complete: bool
    members: tuple[str, ...]
    strided: Strided | None
    shards: tuple[IndexedShard, ...]

    @classmethod
    def of(cls, plan: Plan, commits: Mapping[int, Commit]) -> Index:
        """Return the index of the committed shards of a plan."""
        shape = (plan.views, plan.height, plan.width, plan.channels)
        return cls(
            view_set=plan.view_set,
            plan_id=plan.id,
            root=view_set_root(commits, plan.shards),
            rows=plan.rows,
            complete=len(commits) == plan.shards,
            members=plan.members,
            strided=strided_layout(plan.members, plan.json_bytes, shape),
            shards=tuple(
                IndexedShard(shard=k, rows=c.rows, files=c.files, columns=c.columns)
                for k, c in sorted(commits.items())
            ),
        )

    def pack(self) -> bytes:
        """Return the bytes of index.json."""
        shards = [
            {"shard": s.shard, "rows": s.rows, "files": _rows(s.files), "columns": s.columns}
            for s in self.shards
        ]
        listed = [(shard.file("views"), shard.rows) for shard in self.shards]
        shardlist = [
            {"url": b.name, "nsamples": rows, "filesize": b.bytes, "sha256": b.sha256}
            for b, rows in listed
        ]
        inner = {"format": FORMAT, "kind": INDEX_KIND, **asdict(self), "shards": shards}
        return canonical(
            {
                "__kind__": "wids-shard-index-v1",
                "wids_version": 1,
                "name": self.view_set,
                "shardlist": shardlist,
                "viewstore": inner,
            }
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Index:
        """Return the index in index.json, whose sha256 the caller has checked."""
        inner = parse(raw).get("viewstore")
        check_form(inner, INDEX_FORM, INDEX_KIND)
        assert inner is not None  # its form was checked
        strided = inner["strided"]
        if strided is not None:
            check_form(strided, STRIDED_FORM, f"{INDEX_KIND}.strided")
            strided = Strided(**{**strided, "shape": tuple(strided["shape"])})
        shards = tuple(
            IndexedShard(
                shard=entry["shard"],
                rows=entry["rows"],
                files=_blobs(entry["files"]),
                columns={name: tuple(place) for name, place in entry["columns"].items()},
            )
            for entry in inner["shards"]
        )
        values = {field.name: inner[field.name] for field in fields(cls)}
        members = tuple(values["members"])
        for entry in shards:
            for blob in entry.files:
                check_blob_name(blob, entry.shard)
        return cls(**{**values, "strided": strided, "shards": shards, "members": members})
