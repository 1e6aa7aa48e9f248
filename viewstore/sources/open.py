"""Opens a source by its spelling: finds its kind and returns the table of its rows."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from viewstore.errors import ConfigError, near
from viewstore.files.local import is_url, local_path
from viewstore.files.spelling import absolute_path
from viewstore.sources.braces import brace_list
from viewstore.sources.kinds import KINDS, kind_of
from viewstore.sources.table import OnError, Source, SourceKind, no_source


def open_source(spec: str, *, limit: int | None = None, on_error: OnError = "fail") -> Source:
    """Open a source and fix its rows, ordered by key bytes.

    Args:
        spec: A folder of class folders, WebDataset tars (one, a folder or a pattern of them), an
            `.npz`, a `.beton`, or "digits"; a folder of that name is "./digits". A path may be a
            file:// URL.
        limit: Keep the first rows only.
        on_error: "fail" ends at an image whose header cannot be read; "skip" leaves it out.

    Raises:
        ConfigError: There is nothing at `spec`, or no image in it, or a key twice; or the limit
            is below 1.
        FormatError: An image or archive cannot be read; it is named.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    try:
        if not spec:
            raise ConfigError("a source must be named, got an empty text", code="VS104")
        if is_url(spec):
            raise no_source(spec, "it is a URL, and a source is read from a disk")
        if spec.startswith("file://"):
            spec = str(local_path(spec))
        kind = _kind(spec)
        if kind is None:
            exists = Path(spec).exists()
            raise no_source(spec, "it is of no known kind" if exists else _nothing_at(spec))
        source = kind.scan(spec, limit=limit, on_error=on_error)
        if not source.table.keys:
            raise no_source(spec, "; ".join(["it holds no image that can be read", *source.notes]))
    except ConfigError as error:
        spellings = [each.spelling for each in KINDS]
        fix = f"give {', '.join(spellings[:-1])} or {spellings[-1]}"
        raise error.located(spec, fix=fix) from error
    return replace(source, table=replace(source.table, spelling=absolute(spec, kind)))


def absolute(spec: str, kind: SourceKind) -> str:
    """Return a spelling that names the same source from any working folder.

    It is that of its files, unless odd letters in their names are read as a pattern.
    """
    files = kind.files(spec)
    listed = brace_list(files)
    return listed if kind.files(listed) == files else str(absolute_path(spec))


def _nothing_at(spec: str) -> str:
    """Return that nothing is at a path, and what of its folder has nearly its name."""
    path, meant = Path(spec), None
    with contextlib.suppress(OSError, ValueError):
        meant = near(path.name, [each.name for each in path.parent.iterdir()])
    return "nothing is there" + (f"; did you mean {path.with_name(meant)}?" if meant else "")


def _kind(spec: str) -> SourceKind | None:
    try:
        return kind_of(spec)
    except (OSError, UnicodeError) as error:  # too long a name, a folder that may not be searched
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise no_source(spec, why or str(error)) from error
