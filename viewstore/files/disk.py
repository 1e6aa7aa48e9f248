"""Every write, fsync, rename and link of the package; fault tests replace these functions.

A file is written under a temporary name on the same file system, synced, and only then given
its name, so that a crash at any instant leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from viewstore.errors import FormatError, StoppedError, UnavailableError, ViewStoreError

FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # what file systems without them say
FREE_SPACE = "free some space"
RIGHTS = "give this user the right to read and write there, or run it as one who has it"
WRITABLE = "mount it for writing, or use a copy of it elsewhere"
MORE_FILES = "allow more open files: ulimit -n 4096, and run it again in that shell"
NAMES_LOCK = ".names.lock"  # held by who names a file where there are no links


def explain(error: OSError, where: Path | None = None) -> ViewStoreError:
    """Return the error to show for an OSError: a StoppedError where the disk is full."""
    if error.errno in FULL:
        path = where or error.filename
        return StoppedError(
            f"the disk is full: {error.strerror}",
            code="VS302",
            where=None if path is None else str(path),
            why="every committed shard is kept; what was unfinished was dropped",
            fix=f"{FREE_SPACE} and run the same command again",
        )
    path = error.filename or where
    return UnavailableError(
        f"the system refused: {error.strerror or error}",
        code="VS302",
        where=None if path is None else str(path),
        fix=_remedy(error.errno),
    )


def _remedy(number: int | None) -> str | None:
    """Return what to do about a refusal of the system, if that is known."""
    if number == errno.EROFS:
        return WRITABLE
    if number in TOO_MANY_OPEN:
        return MORE_FILES
    return RIGHTS if number in (errno.EACCES, errno.EPERM) else None


@contextlib.contextmanager
def explained(where: Path) -> Iterator[None]:
    """Raise what `explain` returns for an OSError in the block."""
    try:
        yield
    except BrokenPipeError:  # the terminal is gone; nothing of the store is at fault
        raise
    except OSError as error:
        raise explain(error, where) from error


def fsync_directory(path: Path) -> None:
    """Fsync the directory `path`, so that the names in it survive a crash."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, each durable in its own parent."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    fsync_directory(path.parent)


def write_temporary(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Create `path`, which must not exist, with `data`, and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def stream_temporary(path: Path, *, mode: int = 0o444) -> Iterator[BinaryIO]:
    """Create `path`, which must not exist, for writing piece by piece; sync it at the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def reserve(path: Path, size: int) -> int:
    """Create `path`, which must not exist, with `size` bytes of disk; return its descriptor.

    Raises:
        OSError: The disk is full; nothing is left.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        unlink(path)
        raise
    return descriptor


def sync(descriptor: int) -> None:
    """Fsync an open file."""
    os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give `source` the name `target`, replacing what had it."""
    source.rename(target)


def link(source: Path, target: Path, *, scratch: Path) -> bool:
    """Give the file `source` the second name `target`; false if that name is taken.

    Where the file system has no hard links, the name is given to a copy, which is written in
    `scratch`, a directory on the same file system.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        # NFS may report an error for a link that succeeded: two names mean it is ours.
        return source.stat().st_nlink == 2 and source.samefile(target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _copy(source, target, scratch)
    return True


def _copy(source: Path, target: Path, scratch: Path) -> bool:
    """Copy a file to a name that is free; a crash at any instant leaves no file or the whole one.

    A rename would replace what has the name, so those that give names in one directory take turns.
    """
    temporary = scratch / f"{uuid.uuid4().hex}.copy"
    try:
        with source.open("rb") as file, stream_temporary(temporary) as stream:
            shutil.copyfileobj(file, stream)
        with file_lock(target.parent / NAMES_LOCK):
            if os.path.lexists(target):
                return False
            rename(temporary, target)
    finally:
        unlink(temporary)
    return True


def touch(path: Path, when: float | None = None) -> None:
    """Set the mtime of `path`, if this user may: to `when` in seconds since 1970, by default now.

    What is not old no garbage collection drops.
    """
    with contextlib.suppress(PermissionError):
        os.utime(path, None if when is None else (when, when))


def unlink(path: Path) -> None:
    """Remove the name `path` if it is there."""
    path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove the folder `path` and all that is in it."""
    shutil.rmtree(path)


def write_atomic(
    path: Path, data: bytes, *, mode: int = 0o644, scratch: Path | None = None
) -> None:
    """Replace the file `path` by `data`: a crash leaves the old file or the new one, synced.

    A crash may also leave a temporary file: in `scratch`, a directory on the same file system,
    or beside `path` if there is none.
    """
    with _named(path, scratch) as temporary:
        write_temporary(temporary, data, mode=mode)
    fsync_directory(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add `data` to the end of the file `path`, made where it is missing, and sync it.

    A crash may leave a part of it, so readers need an end that they know.
    """
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        fsync_directory(path.parent)


def write_atomic_with(
    path: Path, write: Callable[[Path], None], *, scratch: Path | None = None
) -> None:
    """Replace the file `path` by what `write` puts into the temporary path it is given.

    For writers of other libraries, which take a path: the result is synced before it is named.
    """
    with _named(path, scratch) as temporary:
        write(temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    fsync_directory(path.parent)


@contextlib.contextmanager
def _named(path: Path, scratch: Path | None) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` after the block, or remove it on an error."""
    temporary = (scratch or path.parent) / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        rename(temporary, path)
    except BaseException:
        unlink(temporary)
        raise


class DirectorySyncs:
    """New names of which the directories are synced together: many names cost few syncs."""

    def __init__(self) -> None:
        """Begin without names."""
        self._folders: set[Path] = set()

    def make_directory(self, path: Path) -> None:
        """Create `path` and its missing parents."""
        if path.is_dir():
            return
        self.make_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        self.add(path)

    def write(self, path: Path, data: bytes, *, mode: int = 0o644, scratch: Path) -> None:
        """Replace the file `path` by `data`, synced; `scratch` is on the same file system."""
        with _named(path, scratch) as temporary:
            write_temporary(temporary, data, mode=mode)
        self.add(path)

    def add(self, path: Path) -> None:
        """Also fsync the directory of `path`: another process named it and may not have synced."""
        self._folders.add(path.parent)

    def sync(self) -> None:
        """Fsync the directories, except those that this user may not open."""
        for folder in sorted(self._folders):
            with contextlib.suppress(PermissionError):
                fsync_directory(folder)
        self._folders.clear()


def read_limited(path: Path, limit: int) -> bytes:
    """Return the bytes of `path`. Raises FormatError: there are more than `limit`, or a folder."""
    try:
        with path.open("rb") as file:
            # A read of `limit` bytes would allocate them all, however short the file is.
            data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    except IsADirectoryError as error:
        raise FormatError(f"{path.name} is a folder", where=str(path)) from error
    if len(data) > limit:
        raise FormatError(f"{path.name} must be at most {limit} bytes", where=str(path))
    return data


def put_if_absent(path: Path, data: bytes, *, scratch: Path, durable: bool = True) -> bool:
    """Give the new file `path` the content `data`; false if the name is taken already.

    A crash leaves no file or the whole one, and what has the name is never replaced. `scratch`
    is a directory on the same file system. A name that is not `durable` waits for another sync.
    """
    temporary = scratch / f"{uuid.uuid4().hex}.record"
    try:
        write_temporary(temporary, data, mode=0o444)
        linked = link(temporary, path, scratch=scratch)
        if durable:
            fsync_directory(path.parent)  # its linker may have been killed before it could
    finally:
        unlink(temporary)
    return linked


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def file_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on the file `path`, made where it is missing; wait for whoever holds it.

    Any number of processes, and threads, may hold it `shared`, or one alone. It ends with the
    process that holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed_stream(path: Path) -> Iterator[BinaryIO]:
    """Create `path` for writing as `stream_temporary` does, locked meanwhile."""
    with stream_temporary(path, mode=0o644) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def drop_leftovers(path: Path, *, companions: tuple[str, ...] = ()) -> None:
    """Remove the temporary files of `write_atomic_with(path, ...)` that no process writes.

    Args:
        path: What was to be written; its writer used `claimed_stream`.
        companions: Suffixes of files that the writer had beside its temporary file.
    """
    for temporary in path.absolute().parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            drop_unlocked(temporary, companions=companions)


def drop_unlocked(path: Path, *, companions: tuple[str, ...] = ()) -> None:
    """Remove the file `path`, and its companions before it, unless a process has it locked.

    Raises:
        OSError: There is no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for suffix in companions:
            unlink(path.with_name(path.name + suffix))
        unlink(path)
