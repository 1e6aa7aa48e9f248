"""Checks the records of a store that belong to no view set: sources, manifest, generations."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from pathlib import Path

from viewstore.errors import FormatError, ViewStoreError
from viewstore.files import disk
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths
from viewstore.format.records import LARGE_BYTES
from viewstore.sources.record import RECORD_AGAIN, read_first_sources, read_sources
from viewstore.store import advice
from viewstore.store.committed import last_generation, read_manifest, view_sets
from viewstore.store.faults import Fault, fault_of


def record_faults(paths: StorePaths) -> Generator[Fault, None, tuple[Manifest | None, str | None]]:
    """Check sources and manifest; return the manifest, and the sources_id.

    Where the manifest is lost or damaged, its newest generation says the same.
    """
    sources_id = yield from _sources(paths)
    manifest = yield from _manifest(paths, sources_id)
    if manifest is not None:
        yield from _generations(paths, manifest)
    return manifest, sources_id


def _manifest(paths: StorePaths, sources_id: str | None) -> Generator[Fault, None, Manifest | None]:
    kind, fix = "record", None
    try:
        manifest = read_manifest(paths)
        if manifest is not None and sources_id in (None, manifest.sources_id):
            return manifest
        what = "it names another sources.json"
        fix = None if view_sets(paths) else advice.unfinished(paths)[1]
    except ViewStoreError as error:
        manifest, what = None, str(error)
    newest = _newest_generation(paths)
    if not paths.manifest.exists():
        kind, what = "missing", "it is gone, its generations are there"
        if newest is None:
            what = "no build has ended"
            fix = advice.unfinished(paths)[1]
    yield fault_of("manifest", None, kind, paths.manifest, what, fix)
    return newest or manifest


def _newest_generation(paths: StorePaths) -> Manifest | None:
    for number in range(last_generation(paths), 0, -1):
        with contextlib.suppress(FormatError, FileNotFoundError):
            return Manifest.unpack(disk.read_limited(paths.generation(number), LARGE_BYTES))
    return None


def _sources(paths: StorePaths) -> Generator[Fault, None, str | None]:
    """Check the rows, and where they lie now; return the sources_id, None if it is not known."""
    try:
        sources_id = read_first_sources(paths)
    except (ViewStoreError, OSError) as error:
        path, fix = _where(error, paths.sources_record), getattr(error, "fix", None)
        yield fault_of("source", None, "record", path, str(error), fix or RECORD_AGAIN)
        return None
    try:
        read_sources(paths)
    except (ViewStoreError, OSError) as error:
        yield fault_of("source", None, "located", paths.sources_located, str(error))
    return sources_id


def _where(error: Exception, path: Path) -> Path:
    """Return the file that an error names, or else `path`."""
    named = error.where if isinstance(error, ViewStoreError) else None
    return path if named is None else Path(named)


def _generations(paths: StorePaths, manifest: Manifest) -> Iterator[Fault]:
    """The newest generation is there; the others, if they are, are what their successors say."""
    expected = {manifest.generation: hashlib.sha256(manifest.pack()).hexdigest()}
    for number in range(max(manifest.generation, last_generation(paths)), 0, -1):
        path = paths.generation(number)
        if not path.is_file():
            if number == manifest.generation:
                yield fault_of("manifest", None, "record", path, "its generation is missing")
            continue
        raw = path.read_bytes()
        try:
            generation = Manifest.unpack(raw)
        except FormatError as error:
            yield fault_of("manifest", None, "record", path, str(error))
            continue
        if expected.get(number) not in (None, hashlib.sha256(raw).hexdigest()):
            yield fault_of("manifest", None, "record", path, "it is not what its successor names")
        if generation.previous is not None:
            expected.setdefault(number - 1, generation.previous)
