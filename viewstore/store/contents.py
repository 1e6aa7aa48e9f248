"""The files that readers of a store fetch, as its records name them.

What serves a store makes its table of names from these. Names are checked: none leads elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from viewstore.errors import FormatError
from viewstore.files.local import Files
from viewstore.format.manifest import Manifest
from viewstore.format.paths import StorePaths
from viewstore.sources.record import column_files, read_sources_record
from viewstore.store.view_set import ViewSet


class Content(NamedTuple):
    """A file below the folder or URL of a store, its size in bytes and its sha256 in hex."""

    name: str
    size: int
    sha256: str


def derived_files(manifest: Manifest, name: str) -> Iterator[Content]:
    """Yield what a manifest says of a view set: index, members and statistics, no params.zarr.

    The next generation may have others under the same names.
    """
    for path, (size, sha256) in manifest.view_sets[name].derived.items():
        if not path.startswith("params.zarr/"):
            yield Content(f"views/{name}/{path}", size, sha256)


def blobs(
    paths: StorePaths, manifest: Manifest, names: Iterable[str], files: Files
) -> Iterator[Content]:
    """Yield the files whose names hold their digest: columns of the sources, files of shards.

    The records that list them, sources.json and plan and index of the view sets `names`, are read
    through `files` and checked.

    Raises:
        FormatError: A record is damaged, or not the one that the manifest names.
        RemoteError: The remote store did not answer.
    """
    sources = read_sources_record(paths, files)
    if sources["digest"] != manifest.sources_id:
        raise FormatError(
            "sources are not the ones the manifest names", where=files.where(paths.sources_record)
        )
    for file, size, sha256 in column_files(sources).values():
        yield Content(f"sources/{file}", size, sha256)
    for name in names:
        view_set = ViewSet(paths.view_set(name), manifest.view_sets[name], files)
        for entry in view_set.index.shards:
            for blob in entry.files:
                yield Content(f"views/{name}/{blob.name}", blob.bytes, blob.sha256)
