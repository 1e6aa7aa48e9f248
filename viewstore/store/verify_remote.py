"""Checks all files of a remote store that its manifest leads to, and yields the faults it finds.

Not every server lists its files, so files that nothing names are not found. Commit records serve
builders alone, and are read of a bucket, into which they write. Zarr arrays are checked where the
server has the record at their root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from viewstore.errors import FormatError, RemoteError
from viewstore.files.blob_cache import is_missing
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.files.local import whole_file
from viewstore.files.maps import map_file
from viewstore.files.remedy import built_again, is_bucket
from viewstore.files.remote import RemoteFiles
from viewstore.files.transport import BUCKET_SCHEMES
from viewstore.format.chunks import chunk_key
from viewstore.format.manifest import BlobRecord, Commit, ShardEntry, ViewSetEntry
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.records import COMMIT_BYTES
from viewstore.sources.record import read_sources
from viewstore.store.committed import no_view_set, remote_manifest
from viewstore.store.faults import Fault
from viewstore.store.shard_content import chunk_facts, content_faults
from viewstore.store.verify import Level
from viewstore.store.view_set import ViewSet

# A cached file proves nothing about the server: this cache holds nothing and keeps nothing.
NO_CACHE = CacheSettings(directory=Path(os.devnull), limit_bytes=0)
ZARR_RECORD = "zarr.json"

Value = TypeVar("Value")


@dataclass(frozen=True)
class FileFault:
    """Kind and description of a fault of one file."""

    kind: str
    what: str


def verify_remote(
    url: str, *, level: Level = "deep", only: str | None = None, retry: Retry | None = None
) -> Iterator[Fault]:
    """Yield every fault of the store at `url`; none means that it reads as it was built.

    Args:
        url: The store.
        level: "quick" asks for the size of each shard; "deep" fetches all, a shard at a time, and
            looks at every hash, tar, member and params row; "content" also decodes every view.
        only: A view set, or None for all.
        retry: How often and how long it tries.

    Raises:
        ConfigError: There is no store, or no such view set.
        RemoteError: The server did not answer.
    """
    files = RemoteFiles(url, cache=NO_CACHE, retry=retry or Retry())
    paths = StorePaths(Path())
    manifest = _attempt(lambda: remote_manifest(paths, files))
    if isinstance(manifest, FileFault):
        yield _fault(files, "manifest", None, paths.manifest, manifest, kind="record")
        return
    names = list(manifest.view_sets)
    if only is not None and only not in names:
        raise no_view_set(only, names, url)
    sources = _attempt(lambda: read_sources(paths, files))
    if isinstance(sources, FileFault):
        yield _fault(files, "source", None, paths.sources_record, sources, kind="record")
    for name, entry in manifest.view_sets.items():
        if only in (None, name):
            yield from _view_set(files, paths.view_set(name), entry, level)


def _view_set(
    files: RemoteFiles, paths: ViewSetPaths, entry: ViewSetEntry, level: Level
) -> Iterator[Fault]:
    name = paths.root.name
    view_set = _attempt(lambda: ViewSet(paths, entry, files))
    if isinstance(view_set, FileFault):
        yield _fault(files, name, None, paths.plan, view_set, kind="plan")
        return
    codec = _attempt(lambda: view_set.codec)
    if isinstance(codec, FileFault):
        yield _fault(files, name, None, paths.plan, codec, kind="plan")
        return
    arrays = _arrays(entry) if _serves_arrays(files, paths, entry) else ()
    for file, (size, sha256) in entry.derived.items():
        if file in _arrays(entry) and not arrays:
            continue
        path = paths.root / file
        found = _attempt(partial(whole_file, files, path, size, sha256))
        if isinstance(found, FileFault):
            yield _fault(files, name, None, path, found, kind="derived")
            if path == paths.index:  # which alone says what the shards are
                return
    index = _attempt(lambda: view_set.index)
    if isinstance(index, FileFault):  # the manifest names it, and it does not fit the plan
        yield _fault(files, name, None, paths.index, index, kind="derived")
        return
    for shard in index.shards:
        if urlsplit(files.url).scheme in BUCKET_SCHEMES:
            yield from _commit(files, view_set, shard)
        yield from _shard(files, view_set, shard, level)
        if level != "quick" and arrays:
            yield from _chunks(files, view_set, shard)


def _arrays(entry: ViewSetEntry) -> tuple[str, ...]:
    """Return the names of what the manifest lists of the zarr arrays."""
    return tuple(file for file in entry.derived if file.startswith("params.zarr/"))


def _serves_arrays(files: RemoteFiles, paths: ViewSetPaths, entry: ViewSetEntry) -> bool:
    """Whether the server has the zarr arrays: `viewstore serve` leaves all of them out.

    Readers of a URL take params from the packs. The record at the root of the arrays, without
    which nobody reads any, says whether they are there.
    """
    path = paths.params / ZARR_RECORD
    return path.relative_to(paths.root).as_posix() in entry.derived and files.offers(path)


def _shard(
    files: RemoteFiles, view_set: ViewSet, shard: ShardEntry, level: Level
) -> Iterator[Fault]:
    fetched: dict[str, memoryview] = {}
    fix = _fix(files, view_set, shard.shard)
    for blob in shard.files:
        path = view_set.paths.root / blob.name
        if level == "quick":
            wrong: object = _attempt(partial(files.check_size, path, blob.bytes), kind="size")
        else:
            wrong = _attempt(partial(_fetch, files, path, blob, fetched))
        if isinstance(wrong, FileFault):
            yield _fault(files, view_set.name, shard.shard, path, wrong, fix=fix)
    if len(fetched) < len(shard.files):
        return
    role = "views" if view_set.kind == "pixels" else "params"
    first = view_set.paths.root / shard.file(role).name
    for kind, what in content_faults(
        view_set.plan,
        view_set.codec,
        shard,
        lambda blob: fetched[blob.role],
        decode=level == "content",
    ):
        yield _fault(files, view_set.name, shard.shard, first, FileFault(kind, what), fix=fix)


def _fix(files: RemoteFiles, view_set: ViewSet, shard: int) -> str | None:
    """Return the commands that mend a shard where it lies; None where a copy must be mended."""
    if not is_bucket(files.url):
        return None
    return built_again(files.url, view_set.name, shard, view_set.plan.generator["name"])


def _commit(files: RemoteFiles, view_set: ViewSet, shard: ShardEntry) -> Iterator[Fault]:
    """Compare the record of a shard with its plan, and with the index that readers use."""
    path = view_set.paths.commit(shard.shard)

    def check(raw: bytes) -> None:
        commit = Commit.unpack(raw)
        commit.check(view_set.plan)
        if (commit.entry.shard, commit.entry.files) != (shard.shard, shard.files):
            raise FormatError("it names other files than index.json")

    found = _attempt(lambda: files.record(path, COMMIT_BYTES, check), kind="commit")
    if isinstance(found, FileFault):
        yield _fault(files, view_set.name, shard.shard, path, found)


def _fetch(
    files: RemoteFiles, path: Path, blob: BlobRecord, fetched: dict[str, memoryview]
) -> None:
    descriptor = files.open(path, blob.bytes, blob.sha256)
    try:
        fetched[blob.role] = map_file(descriptor).data
    finally:
        os.close(descriptor)


def _chunks(files: RemoteFiles, view_set: ViewSet, shard: ShardEntry) -> Iterator[Fault]:
    """Compare what a shard has in the zarr arrays with what its index entry says."""
    for column in view_set.plan.columns:
        path = view_set.paths.params / column.name / chunk_key(column, shard.shard)
        found = _attempt(partial(whole_file, files, path, *chunk_facts(shard, column.name)))
        if isinstance(found, FileFault):
            yield _fault(files, view_set.name, None, path, found, kind="derived")


def _attempt(read: Callable[[], Value], *, kind: str = "hash") -> Value | FileFault:
    """Return what `read` returns, or what is wrong with the file that it reads."""
    try:
        return read()
    except FormatError as error:
        return FileFault(kind, str(error))
    except RemoteError as error:
        if not is_missing(error):
            raise
        return FileFault("missing", str(error))


def _fault(
    files: RemoteFiles,
    view_set: str,
    shard: int | None,
    path: Path,
    fault: FileFault,
    *,
    kind: str | None = None,
    fix: str | None = None,
) -> Fault:
    return Fault(
        view_set=view_set,
        shard=shard,
        kind=kind or fault.kind,
        path=files.where(path),
        what=fault.what,
        fix=fix,
    )
