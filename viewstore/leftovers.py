"""What killed writers left behind, told by a lock from what running ones are writing."""

from __future__ import annotations

import contextlib
import fcntl
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from viewstore import disk


@contextlib.contextmanager
def claimed_stream(path: Path) -> Iterator[BinaryIO]:
    """Create `path` for writing as `disk.stream_temporary` does, locked meanwhile."""
    with disk.stream_temporary(path, mode=0o644) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def drop_leftovers(path: Path, *, companions: tuple[str, ...] = ()) -> None:
    """Remove the temporary files of `disk.write_atomic_with(path, ...)` that nobody writes.

    Args:
        path: What was to be written; its writer used `claimed_stream`.
        companions: Suffixes of what the writer kept beside its temporary file.
    """
    for temporary in path.absolute().parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            drop_unlocked(temporary, companions=companions)


def drop_unlocked(path: Path, *, companions: tuple[str, ...] = ()) -> None:
    """Remove the file `path`, and first what lies beside it, unless a process has it locked.

    Raises:
        OSError: There is no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for suffix in companions:
            disk.unlink(path.with_name(path.name + suffix))
        disk.unlink(path)
