"""Checks every file of a store of this machine and yields the faults it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from pathlib import Path
from typing import Literal

from viewstore.errors import FormatError, UnavailableError, ViewStoreError
from viewstore.files import disk
from viewstore.files.maps import map_file
from viewstore.format.chunks import chunk_key
from viewstore.format.listing import NAME as LISTING
from viewstore.format.listing import ROLE
from viewstore.format.manifest import BlobRecord, Commit, Index, ViewSetEntry
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import Plan
from viewstore.format.records import COMMIT_BYTES, LARGE_BYTES
from viewstore.format.store_files import BLOB_FILE
from viewstore.images.codec import Codec, codec_from_plan
from viewstore.images.colours import Pixels
from viewstore.sources.again import located, moved_source
from viewstore.sources.reader import SourceReader
from viewstore.sources.record import read_sources
from viewstore.store import advice
from viewstore.store.committed import (
    committed_shards,
    known_view_sets,
    no_view_set,
    read_commit,
    read_plan,
    usable_commits,
    view_sets,
)
from viewstore.store.faults import Fault, fault_of
from viewstore.store.lineage import is_stale
from viewstore.store.published import linked, published_view_sets
from viewstore.store.record_faults import record_faults
from viewstore.store.shard_content import chunk_facts, content_faults
from viewstore.store.view_set import ViewSet

Level = Literal["quick", "deep", "content"]


def verify(root: Path, *, level: Level = "deep", only: str | None = None) -> Iterator[Fault]:
    """Yield every fault of a store; none means it is whole.

    Args:
        root: The store.
        level: "quick" looks at sizes and records; "deep" (also) at every hash, tar, member and
            params row; "content" also decodes every view.
        only: A view set, or None for all.
    """
    paths = StorePaths(root)
    if only is not None and not _is_known(paths, only):
        raise no_view_set(only, view_sets(paths), root)
    manifest, sources_id = yield from record_faults(paths)
    published = _readable(paths)
    for name in view_sets(paths):
        if only in (None, name):
            entry = None if manifest is None else manifest.view_sets.get(name)
            yield from _view_set(paths.view_set(name), name, entry, level, sources_id, published)
    if manifest is not None:
        for name in sorted(set(manifest.view_sets) - set(view_sets(paths))):
            view_set = paths.view_set(name)
            if only in (None, name):
                what, fix = "its plan is gone from disk", advice.same_again(view_set)
                yield fault_of(name, None, "gone", view_set.plan, what, fix)


def _is_known(paths: StorePaths, name: str) -> bool:
    with contextlib.suppress(FormatError):  # a damaged manifest is a fault of its own
        return name in known_view_sets(paths)
    return name in view_sets(paths)


def _view_set(
    paths: ViewSetPaths,
    name: str,
    entry: ViewSetEntry | None,
    level: Level,
    sources_id: str | None,
    published: Mapping[str, ViewSet],
) -> Iterator[Fault]:
    try:
        plan = read_plan(paths)
        codec = codec_from_plan(plan.codec)
    except UnavailableError:  # what would read it is not here: that is no fault of the store
        raise
    except ViewStoreError as error:
        yield fault_of(name, None, "plan", paths.plan, str(error), advice.plan_again(paths))
        return
    if sources_id not in (None, plan.sources_id):
        what = "it was made of another sources.json"
        yield fault_of(name, None, "source", paths.plan, what, advice.taking_out(paths))
    if entry is not None and plan.id != entry.plan_id:
        if _has_commits_of(paths, entry):
            what = "the manifest and its shards name another plan"
            yield fault_of(name, None, "plan", paths.plan, what, advice.plan_again(paths))
        else:  # it was taken away, and is built anew
            entry = None
    yield from _links(paths, plan)
    commits = yield from _commits(paths, plan)
    expected = _expected(paths, plan) if entry is not None else set()
    render = published[name].__getitem__ if name in published and plan.kind == "recipe" else None
    for shard in range(plan.shards):
        commit = commits.get(shard)
        if commit is not None:
            yield from shard_faults(paths, plan, codec, commit, level, render)
        elif shard in expected and not paths.commit(shard).exists():
            yield fault_of(name, shard, "missing", paths.commit(shard), "its commit is missing")
    yield from _listing(paths, plan, level)
    yield from _stale(paths, plan, commits, linked(plan, published))
    yield from _orphans(paths, name, commits)
    if entry is not None:
        yield from _derived(paths, name, entry)
        yield from _chunks(paths, plan, {k: commits[k] for k in expected & set(commits)})
    elif commits:
        what = f"{len(commits)} of {plan.shards} shards are committed, and no manifest names it"
        fix = advice.unpublished(paths)
        yield fault_of(name, None, "unpublished", paths.plan, what, fix)


def _has_commits_of(paths: ViewSetPaths, entry: ViewSetEntry) -> bool:
    """Whether a shard is committed that belongs to the plan which the manifest names."""
    for shard in committed_shards(paths):
        with contextlib.suppress(FormatError):  # a damaged commit is a fault of its own
            commit = read_commit(paths, shard)
            if commit is not None and commit.plan_id == entry.plan_id:
                return True
    return False


def _links(paths: ViewSetPaths, plan: Plan) -> Iterator[Fault]:
    """The view sets that this one was made from are still those."""
    for role, link in plan.links.items():
        name = link["view_set"]
        other = StorePaths(paths.root.parents[1]).view_set(name)
        with contextlib.suppress(ViewStoreError):  # a damaged plan is a fault of its own set
            found = read_plan(other).id if other.plan.is_file() else None
            if found != link["plan_id"]:
                what = f"{name} is not the one that it was made from"
                if found is None:
                    what = f"{name}, which it was made from, is gone"
                if role != "parent":
                    what += f" (its {role})"
                fix = advice.parent_again(paths, name, is_gone=found is None)
                yield fault_of(plan.view_set, None, "parent", paths.plan, what, fix)


def _readable(paths: StorePaths) -> dict[str, ViewSet]:
    """Return the view sets that readers see by name; none where records are damaged, a fault."""
    with contextlib.suppress(ViewStoreError, OSError):
        table, place = read_sources(paths)[0], moved_source()
        with contextlib.suppress(
            ViewStoreError
        ):  # where recipes are rendered, they say what is wrong
            table = table if place is None else located(table, place)
        return published_view_sets(paths, SourceReader(table))
    return {}


def _stale(
    paths: ViewSetPaths,
    plan: Plan,
    commits: Mapping[int, Commit],
    inputs: Mapping[str, ViewSet] | None,
) -> Iterator[Fault]:
    """Shards that were made from other bytes of another view set than it has now."""
    if inputs is None:  # one is gone, or is another: a fault of its own
        return
    made_from = " and ".join(link["view_set"] for link in plan.links.values())
    for shard, commit in commits.items():
        with contextlib.suppress(FormatError):  # a damaged index is a fault of its own set
            if is_stale(plan, commit.entry, inputs):
                what = f"it was made from other bytes of {made_from} than are there now"
                yield fault_of(plan.view_set, shard, "stale", paths.commit(shard), what)


def _expected(paths: ViewSetPaths, plan: Plan) -> set[int]:
    """Return the shards that readers of the manifest expect: all, unless it is partial."""
    try:
        index = Index.unpack(disk.read_limited(paths.index, LARGE_BYTES))
    except (FormatError, FileNotFoundError):
        return set(range(plan.shards))
    return {entry.shard for entry in index.shards}


def _commits(paths: ViewSetPaths, plan: Plan) -> Generator[Fault, None, dict[int, Commit]]:
    """Check the commit records; return the good ones by shard."""
    commits, unusable = usable_commits(paths, plan)
    for shard, error in unusable.items():
        yield fault_of(plan.view_set, shard, "commit", paths.commit(shard), str(error))
    return commits


def shard_faults(
    paths: ViewSetPaths,
    plan: Plan,
    codec: Codec,
    commit: Commit,
    level: Level,
    render: Callable[[int], Pixels] | None = None,
) -> Iterator[Fault]:
    """Yield the faults of one committed shard; `render` makes the views of a row of a recipe."""
    whole = True
    for blob in commit.entry.files:
        for fault in _blob_faults(paths, commit, blob, level):
            whole = False
            yield fault
    if not whole or level == "quick":
        return
    first = paths.root / commit.entry.file("views" if plan.kind == "pixels" else "params").name

    def read(blob: BlobRecord) -> memoryview:
        with (paths.root / blob.name).open("rb") as file:
            return map_file(file.fileno()).data

    found = content_faults(
        plan, codec, commit.entry, read, decode=level == "content", render=render
    )
    for kind, what in found:
        yield fault_of(plan.view_set, commit.entry.shard, kind, first, what, advice.by_kind(kind))


def _blob_faults(
    paths: ViewSetPaths, commit: Commit, blob: BlobRecord, level: Level
) -> Iterator[Fault]:
    path = paths.root / blob.name
    if not path.is_file():
        yield fault_of(
            commit.view_set, commit.entry.shard, "missing", path, f"its {blob.role} are missing"
        )
        return
    size = path.stat().st_size
    if size != blob.bytes:
        what = f"{size} bytes, its commit says {blob.bytes}"
        yield fault_of(commit.view_set, commit.entry.shard, "size", path, what)
    elif level != "quick" and (found := disk.sha256_of(path)) != blob.sha256:
        what = f"sha256 {found[:16]}..., its commit says {blob.sha256[:16]}..."
        yield fault_of(commit.view_set, commit.entry.shard, "hash", path, what)


def _listing(paths: ViewSetPaths, plan: Plan, level: Level) -> Iterator[Fault]:
    """The listing of an import is there: only a repair or the rest of its build reads it."""
    for weights in plan.weights:
        path = paths.root / weights.name
        if weights.role != ROLE or not LISTING.fullmatch(weights.name):
            continue
        if not path.is_file():
            what = "its listing is gone"
        elif path.stat().st_size != weights.bytes or (
            level != "quick" and disk.sha256_of(path) != weights.sha256
        ):
            what = "its listing differs from the plan"
        else:
            continue
        yield fault_of(plan.view_set, None, "listing", path, what)


def _orphans(paths: ViewSetPaths, name: str, commits: Mapping[int, Commit]) -> Iterator[Fault]:
    """Blobs that nothing names, and left-over temporary files."""
    named = named_files(paths, commits)
    blobs = [path for path in paths.root.iterdir() if is_orphan(path.name, named)]
    scratch = [path for path in paths.tmp.glob("*") if not path.is_dir()]
    for path in sorted([*blobs, *scratch]):
        yield fault_of(name, None, "orphan", path, "no commit names it; viewstore gc drops it")


def is_orphan(name: str, named: Collection[str]) -> bool:
    """Whether a file in the folder of a view set is a blob or a listing that nothing names."""
    is_content = is_blob(name) or LISTING.fullmatch(name) is not None
    return is_content and name not in named


def is_blob(name: str) -> bool:
    """Whether a file in the folder of a view set has the name of a blob, which its bytes decide."""
    return BLOB_FILE.fullmatch(name) is not None


def named_files(paths: ViewSetPaths, commits: Mapping[int, Commit]) -> set[str]:
    """Return the names of the blobs and listings of a view set that something names.

    Commits name blobs, and so do withdrawn ones, and the index that readers of the manifest use
    while a repair has withdrawn some; the plan names the listing of an import.
    """
    named = {blob.name for commit in commits.values() for blob in commit.entry.files}
    for path in paths.quarantine.glob("*.json"):
        with contextlib.suppress(FormatError):
            withdrawn = Commit.unpack(disk.read_limited(path, COMMIT_BYTES))
            named |= {blob.name for blob in withdrawn.entry.files}
    with contextlib.suppress(FormatError, FileNotFoundError):
        index = Index.unpack(disk.read_limited(paths.index, LARGE_BYTES))
        named |= {blob.name for entry in index.shards for blob in entry.files}
    with contextlib.suppress(ViewStoreError):
        named |= {weights.name for weights in read_plan(paths).weights}
    return named


def _derived(paths: ViewSetPaths, name: str, entry: ViewSetEntry) -> Iterator[Fault]:
    for file, (size, sha256) in entry.derived.items():
        path = paths.root / file
        if not path.is_file():
            yield fault_of(name, None, "derived", path, f"{file} is missing")
        elif path.stat().st_size != size or disk.sha256_of(path) != sha256:
            yield fault_of(name, None, "derived", path, f"{file} differs from the manifest")


def _chunks(paths: ViewSetPaths, plan: Plan, commits: Mapping[int, Commit]) -> Iterator[Fault]:
    """Every params row of every committed shard is in the zarr arrays as it is in its pack."""
    for shard, commit in commits.items():
        for column in plan.columns:
            path = paths.params / column.name / chunk_key(column, shard)
            _, expected = chunk_facts(commit.entry, column.name)
            if not path.is_file():
                what = f"chunk {shard} of {column.name} is missing"
            elif disk.sha256_of(path) != expected:
                what = f"chunk {shard} of {column.name} differs from its commit"
            else:
                continue
            yield fault_of(plan.view_set, None, "derived", path, what)
