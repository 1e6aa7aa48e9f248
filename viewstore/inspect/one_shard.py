"""One shard by itself: its files, which checks fail, and a row, where the rest of a store is lost.

Only the plan, the commit record and the files of that shard are read: a manifest, an index or
other shards that are damaged, or gone, do not matter.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.files import disk
from viewstore.format.chunks import unpack_chunk, unpack_params
from viewstore.format.manifest import Commit
from viewstore.format.paths import ViewSetPaths
from viewstore.format.plan import Plan
from viewstore.images.codec import codec_from_plan
from viewstore.store.committed import read_commit, read_plan
from viewstore.store.faults import Fault, fault_of
from viewstore.store.verify import shard_faults

Facts = dict[str, Any]
MOST_BYTES = 8 << 30  # of a file of a shard


def shard_facts(paths: ViewSetPaths, shard: int, row: int | None = None) -> Facts:
    """Return what a shard holds and what is wrong with it; of row `row` of it, what is stored.

    Returns:
        "view_set", "shard", "rows": the first and how many. "commit": when, where and in how many
        seconds it was built, None without one. "files": role, name, bytes and sha256 that they
        must have. "faults": kind, path and what is wrong of each check that fails. "row": None, or
        its number in the store, "key" and "label" where pictures say them, its members and params.

    Raises:
        FormatError: The plan is damaged.
        ConfigError: The view set has no such shard, or the shard no such row.
    """
    plan = read_plan(paths)
    if shard >= plan.shards:
        raise ConfigError(
            f"{plan.view_set} has shards 0 to {plan.shards - 1}, there is no shard {shard}"
        )
    rows = plan.shard_range(shard)
    if row is not None and row >= len(rows):
        raise ConfigError(
            f"shard {shard} has rows 0 to {len(rows) - 1}, there is no row {row} in it"
        )
    commit, faults = _commit(paths, plan, shard)
    facts: Facts = {
        "view_set": plan.view_set,
        "shard": shard,
        "rows": [rows.start, len(rows)],
        "commit": None,
        "files": [],
        "row": None,
    }
    if commit is not None:
        faults += shard_faults(paths, plan, codec_from_plan(plan.codec), commit, "content")
        facts["commit"] = {
            name: getattr(commit, name) for name in ("created", "host", "seconds", "attempt")
        }
        facts["files"] = [asdict(blob) for blob in commit.entry.files]
        if row is not None:
            facts["row"], wrong = _row(paths, plan, commit, row)
            faults += wrong
    facts["faults"] = [{"kind": each.kind, "path": each.path, "what": each.what} for each in faults]
    return facts


def _commit(paths: ViewSetPaths, plan: Plan, shard: int) -> tuple[Commit | None, list[Fault]]:
    path = paths.commit(shard)
    try:
        commit = read_commit(paths, shard, plan)
        if commit is None:
            what = "it was not built: it has no commit record"
            return None, [fault_of(plan.view_set, shard, "missing", path, what)]
    except FormatError as error:
        return None, [fault_of(plan.view_set, shard, "commit", path, str(error))]
    return commit, []


def _row(
    paths: ViewSetPaths, plan: Plan, commit: Commit, row: int
) -> tuple[Facts | None, list[Fault]]:
    """Return what is stored of a row, and what of that cannot be read."""
    entry = commit.entry
    faults: list[Fault] = []
    pack = entry.file("params")
    path = paths.root / pack.name
    names = [column.name for column in plan.columns if column.pack]
    try:
        raw = disk.read_limited(path, MOST_BYTES)
        members, chunks = unpack_params(raw, names)
        params = {
            column.name: unpack_chunk(column, chunks[column.name], plan.shard_rows)[row].tolist()
            for column in plan.columns
            if column.pack
        }
    except (FormatError, OSError) as error:
        what = f"row {row} cannot be read: {error}"
        return None, [fault_of(plan.view_set, entry.shard, "params", path, what)]
    facts: Facts = {"row": plan.shard_range(entry.shard)[row], "key": None, "label": None}
    facts |= {"members": [], "params": params}
    if plan.kind == "pixels":
        views = paths.root / entry.file("views").name
        stored = members.reshape(-1, len(plan.members))[row]
        found, wrong = _members(views, plan, stored)
        faults += [fault_of(plan.view_set, entry.shard, "member", views, each) for each in wrong]
        facts |= found
    return facts, faults


def _members(path: Any, plan: Plan, stored: NDArray[Any]) -> tuple[Facts, list[str]]:  # noqa: ANN401
    """Return the members of a row, with the key and label that are told there, and their faults."""
    members, wrong = [], []
    told: Mapping[str, Any] = {}
    for extension, member in zip(plan.members, stored, strict=True):
        offset, size, crc32 = (int(member[name]) for name in ("offset", "size", "crc32"))
        try:
            with path.open("rb") as file:
                file.seek(offset)
                payload = file.read(size)
        except OSError:
            payload = b""
        whole = len(payload) == size and zlib.crc32(payload) == crc32
        members.append(
            {"name": extension, "offset": offset, "size": size, "crc32": crc32, "whole": whole}
        )
        if not whole:
            wrong.append(f"{extension} of the row does not match its CRC-32")
        elif extension == "json":
            told = json.loads(payload)
    return {"key": told.get("key"), "label": told.get("label"), "members": members}, wrong
