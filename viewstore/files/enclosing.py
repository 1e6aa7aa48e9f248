"""Where a store can begin: in a place that is empty, neither in another store nor around one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from viewstore.errors import ConfigError, FormatError, RemoteError
from viewstore.files.bucket import Bucket
from viewstore.files.disk import read_limited
from viewstore.files.local import is_url, local_path
from viewstore.format.paths import StorePaths
from viewstore.format.records import LARGE_BYTES, has_its_digest
from viewstore.format.store_files import is_of_a_store

RECORDS = (StorePaths(Path()).manifest, StorePaths(Path()).sources_record)  # either makes a store
WHY = "a store never shares its folder"


def check_place(place: Path | str) -> None:
    """Raise ConfigError unless a store is at `place`, or nothing but what a killed build left.

    Of a store, all that is not its own is left alone.

    Args:
        place: A folder, or the URL of a bucket without a slash at its end.

    Raises:
        RemoteError: The bucket did not answer.
    """
    if _has_store(place):
        return
    foreign = _foreign(place)
    if foreign is None:
        return
    _check_around(place, foreign)
    raise ConfigError(
        f"{place} is not empty and not a store: it has {foreign.partition('/')[0]}",
        where=str(place),
        why=WHY,
        fix="name another folder of the bucket"
        if is_url(place)
        else "name a new folder with --out",
    )


def check_alone(place: Path | str) -> None:
    """Raise ConfigError if `place` lies in a store, or another store in it.

    What may not be read above it counts as no store: rights often end at a folder.

    Raises:
        RemoteError: The bucket did not answer.
    """
    outer = _nearest_store(_above(place))
    if outer is not None:
        raise ConfigError(
            f"{place} lies in the store {outer}",
            where=str(place),
            why=WHY,
            fix=f"name an --out that is not below {outer}",
        )
    foreign = _foreign(place)
    if foreign is not None:
        _check_around(place, foreign)


def _check_around(place: Path | str, name: str) -> None:
    """Raise ConfigError if the file `name` below `place` lies in a store that is below it too."""
    inner = _nearest_store(f"{place}/{folder}" for folder in PurePosixPath(name).parents[:-1])
    if inner is not None:
        raise ConfigError(
            f"{place} holds the store {inner}",
            where=str(place),
            why=WHY,
            fix=f"give {inner} if that store is meant; a new one needs a folder without another",
        )


def _nearest_store(places: Iterable[str]) -> str | None:
    for place in places:
        with contextlib.suppress(OSError, FormatError, RemoteError):
            if _has_store(place):
                return place
    return None


def _above(place: Path | str) -> Iterator[str]:
    """Yield the folders above one, or the URLs up to that of the bucket, the nearest first."""
    if not is_url(place):
        yield from map(str, local_path(place).resolve().parents)
        return
    scheme, _, path = str(place).partition("://")
    while "/" in path:
        path = path.rpartition("/")[0]
        yield f"{scheme}://{path}"


def _has_store(place: Path | str) -> bool:
    return any(_is_whole(place, str(record)) for record in RECORDS)


def _is_whole(place: Path | str, record: str) -> bool:
    """Whether there is a record with its digest. Raises RemoteError, or OSError of no file."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, FormatError):
        if is_url(place):
            return has_its_digest(Bucket(str(place)).get(record, LARGE_BYTES, has_its_digest))
        return has_its_digest(read_limited(local_path(place) / record, LARGE_BYTES))
    return False


def _foreign(place: Path | str) -> str | None:
    """Return the first name of a file below `place` that none of a store there could have."""
    if is_url(place):
        return Bucket(str(place)).first(lambda name: not is_of_a_store(name))
    return next((name for name in _files(local_path(place)) if not is_of_a_store(name)), None)


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            yield (Path(parent) / name).relative_to(folder).as_posix()
