"""The records of what is built: commits of shards, index and manifest, and the ids over them.

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
from viewstore.format.records import (
    FORMAT,
    MAX_INTEGER,
    SHA256,
    canonical,
    check_between,
    check_form,
    check_match,
    parse,
    seal,
    unseal,
)
from viewstore.format.tar import Strided, strided_layout

COMMIT_KIND = "viewstore-commit"
MANIFEST_KIND = "viewstore-manifest"
INDEX_KIND = "viewstore-index"
SHARD_SUFFIX = ".tar"
ATTEMPT = re.compile(r"[0-9A-Za-z-]{1,64}")
MOST_SECONDS = 1e9  # of one shard: 30 years
MOST_HOST = 255  # letters of its name
MOST_GENERATIONS = 10**6 - 1  # their numbers have six digits
ROLE = re.compile(rf"views|params|column:{COLUMN_NAME.pattern}")
DERIVED_NAME = re.compile(
    rf"index\.json|index/members\.npy|stats\.json|params\.zarr/({COLUMN_NAME.pattern}/)?zarr\.json"
)
ENTRY_FORM: Mapping[str, Any] = {
    "shard": int,
    "rows": int,
    "files": [(str, str, int, str)],
    "columns": {...: (int, int, str)},
    "lineage": str | None,
}
ENTRY_DEFAULTS = {"lineage": None}
COMMIT_OWN_FORM: Mapping[str, Any] = {
    "view_set": str,
    "plan_id": str,
    "attempt": str,
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
    "shards": [ENTRY_FORM],
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
class ShardEntry:
    """A committed shard: what its commit record and index.json say of it.

    Attributes:
        shard: Its number.
        rows: How many rows it holds.
        files: Its files, one for each role.
        columns: Params columns in the pack: name -> offset and size in bytes, and sha256.
        lineage: Digest of the bytes of other view sets that it was made from, in hex; None where
            it was made from none. It enters no id.
    """

    shard: int
    rows: int
    files: tuple[BlobRecord, ...]
    columns: Mapping[str, tuple[int, int, str]]
    lineage: str | None = None

    def file(self, role: str) -> BlobRecord:
        """Return the file of `role`. Raises FormatError if the entry names none."""
        for blob in self.files:
            if blob.role == role:
                return blob
        raise FormatError(f"entry of shard {self.shard} names no file for {role}")

    @property
    def has_views(self) -> bool:
        """Whether it stores pixels."""
        return any(blob.role == "views" for blob in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the entry as a commit record and index.json hold it."""
        return {
            "shard": self.shard,
            "rows": self.rows,
            "files": _rows(self.files),
            "columns": self.columns,
            "lineage": self.lineage,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShardEntry:
        """Return the entry in JSON of the right form. Raises FormatError: a name is not its own."""
        files = tuple(
            BlobRecord(role=role, name=name, bytes=size, sha256=sha256)
            for role, name, size, sha256 in value["files"]
        )
        for blob in files:
            check_blob_name(blob, value["shard"])
        if value["lineage"] is not None and not SHA256.fullmatch(value["lineage"]):
            raise FormatError(f"entry of shard {value['shard']} must have a sha256 as lineage")
        return cls(
            shard=value["shard"],
            rows=value["rows"],
            files=files,
            columns={name: tuple(part) for name, part in value["columns"].items()},
            lineage=value["lineage"],
        )


def check_shard(entry: ShardEntry, plan: Plan) -> None:
    """Raise FormatError unless an entry has the shard, rows, files and columns of its plan."""
    shard = entry.shard
    if shard >= plan.shards or entry.rows != len(plan.shard_range(shard)):
        raise FormatError(f"entry of shard {shard} has {entry.rows} rows, not those of its plan")
    packed = {column.name: column for column in plan.columns if column.pack}
    views = ["views"] if plan.kind == "pixels" else []
    roles = ["params", *views, *(f"column:{c.name}" for c in plan.columns if not c.pack)]
    found = [blob.role for blob in entry.files]
    if sorted(found) != sorted(roles):
        raise FormatError(f"entry of shard {shard} must name files for {roles}, got {found}")
    if differing := sorted(set(packed) ^ set(entry.columns)):
        raise FormatError(f"entry of shard {shard} has other columns than its plan: {differing[0]}")
    for name, (offset, size, sha256) in entry.columns.items():
        if not SHA256.fullmatch(sha256) or not 0 <= offset <= offset + size:
            raise FormatError(f"entry of shard {shard} has no place or no sha256 for column {name}")
        if offset + size > entry.file("params").bytes:
            raise FormatError(f"entry of shard {shard} places column {name} behind its pack")


def _with_defaults(entry: Any) -> Any:  # noqa: ANN401
    return {**ENTRY_DEFAULTS, **entry} if isinstance(entry, dict) else entry


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The record that makes a shard exist. `attempt`, `seconds`, `host`, `created` enter no id."""

    view_set: str
    plan_id: str
    entry: ShardEntry
    attempt: str
    seconds: float
    host: str
    created: str

    def check(self, plan: Plan) -> None:
        """Raise FormatError unless it commits a shard of `plan`, with all that asks for."""
        if (self.view_set, self.plan_id) != (plan.view_set, plan.id):
            raise FormatError("it belongs to another plan")
        check_shard(self.entry, plan)

    def pack(self) -> bytes:
        """Return the bytes of the commit record."""
        own = {key: getattr(self, key) for key in COMMIT_OWN_FORM}
        return seal(COMMIT_KIND, {**own, **self.entry.to_json()})

    @classmethod
    def unpack(cls, raw: bytes) -> Commit:
        """Return the commit in a record. Raises FormatError."""
        form = {**COMMIT_OWN_FORM, **ENTRY_FORM}
        record = unseal(raw, kind=COMMIT_KIND, form=form, defaults=ENTRY_DEFAULTS)
        own = {key: record[key] for key in COMMIT_OWN_FORM}
        if not ATTEMPT.fullmatch(own["attempt"]):  # a withdrawn record is named after it
            raise FormatError(f"commit must not have the attempt {own['attempt'][:80]!r}")
        check_match(own["plan_id"], SHA256, "commit plan_id")
        if not 0 <= own["seconds"] <= MOST_SECONDS:
            raise FormatError(f"commit must not have taken {own['seconds']} seconds")
        if len(own["host"].splitlines()) > 1 or len(own["host"]) > MOST_HOST:  # it is shown
            raise FormatError(f"commit must not have the host {own['host'][:80]!r}")
        return cls(entry=ShardEntry.from_json(record), **own)


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
    check_between(blob.bytes, 0, MAX_INTEGER, f"bytes of blob {blob.name}")
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


def view_set_root(entries: Mapping[int, ShardEntry], shards: int) -> str:
    """Return the Merkle root over shards 0..K-1; an absent shard is a leaf without files."""
    return merkle_root([_leaf(k, entries.get(k)) for k in range(shards)])


def _leaf(shard: int, entry: ShardEntry | None) -> bytes:
    rows, files = (0, ()) if entry is None else (entry.rows, entry.files)
    return canonical([shard, rows, _rows(files)])


def leaf_hash(entry: ShardEntry) -> str:
    """Return the digest of a shard by which others say that they were made from it, in hex."""
    return hashlib.sha256(b"\0" + _leaf(entry.shard, entry)).hexdigest()


def lineage_of(digests: Mapping[str, str]) -> str:
    """Return the lineage of a shard that was made from these: role of an input -> digest."""
    return hashlib.sha256(
        b"\3" + canonical([list(pair) for pair in sorted(digests.items())])
    ).hexdigest()


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
    check_match(entry.plan_id, SHA256, f"manifest plan_id of {name}")
    check_match(entry.root, SHA256, f"manifest root of {name}")
    for path, (size, sha256) in entry.derived.items():
        if not DERIVED_NAME.fullmatch(path):
            raise FormatError(f"manifest names a derived file {path!r}")
        if size < 0 or not SHA256.fullmatch(sha256):  # which names a file of the cache
            raise FormatError(f"manifest must have size and sha256 of {path} of {name}")
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
        check_between(manifest.generation, 1, MOST_GENERATIONS, "manifest generation")
        check_match(manifest.sources_id, SHA256, "manifest sources_id")
        if manifest.previous is not None:
            check_match(manifest.previous, SHA256, "manifest previous")
        for name, entry in entries.items():
            check_entry(name, entry)
        if record["store_id"] != manifest.store_id:
            raise FormatError("manifest does not match its store id")
        return manifest


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
    shards: tuple[ShardEntry, ...]

    @classmethod
    def of(cls, plan: Plan, commits: Mapping[int, Commit]) -> Index:
        """Return the index of the committed shards of a plan."""
        shape = (plan.views, plan.height, plan.width, plan.channels)
        return cls(
            view_set=plan.view_set,
            plan_id=plan.id,
            root=view_set_root({k: each.entry for k, each in commits.items()}, plan.shards),
            rows=plan.rows,
            complete=len(commits) == plan.shards,
            members=plan.members,
            strided=strided_layout(plan.members, plan.json_bytes, shape),
            shards=tuple(commit.entry for _, commit in sorted(commits.items())),
        )

    def check(self, plan: Plan) -> None:
        """Raise FormatError unless this is an index of shards of `plan`, each once, in order."""
        numbers = [entry.shard for entry in self.shards]
        if numbers != sorted(set(numbers)) or self.complete != (len(numbers) == plan.shards):
            raise FormatError(f"index of {plan.view_set} must name each shard once, in order")
        if (self.rows, self.members, self.plan_id) != (plan.rows, plan.members, plan.id):
            raise FormatError(f"index of {plan.view_set} has other rows or members than its plan")
        for entry in self.shards:
            check_shard(entry, plan)

    def pack(self) -> bytes:
        """Return the bytes of index.json."""
        shardlist = [
            {"url": b.name, "nsamples": shard.rows, "filesize": b.bytes, "sha256": b.sha256}
            for shard in self.shards
            for b in shard.files
            if b.role == "views"
        ]
        inner = {"format": FORMAT, "kind": INDEX_KIND, **asdict(self)}
        inner["shards"] = [shard.to_json() for shard in self.shards]
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
        if isinstance(inner, dict) and isinstance(inner.get("shards"), list):
            inner["shards"] = [_with_defaults(shard) for shard in inner["shards"]]
        check_form(inner, INDEX_FORM, INDEX_KIND)
        assert inner is not None  # its form was checked
        strided = inner["strided"]
        if strided is not None:
            check_form(strided, STRIDED_FORM, f"{INDEX_KIND}.strided")
            strided = Strided(**{**strided, "shape": tuple(strided["shape"])})
        shards = tuple(map(ShardEntry.from_json, inner["shards"]))
        values = {field.name: inner[field.name] for field in fields(cls)}
        members = tuple(values["members"])
        return cls(**{**values, "strided": strided, "shards": shards, "members": members})
