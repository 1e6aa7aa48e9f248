"""A cache of downloads on this disk: named by their sha256, shared by stores, jobs and ranks.

A file gets its name only when all its bytes were checked, and is evicted by unlink: a process that
has it open can go on reading it. Space is reserved before a byte is downloaded, so that the limit
is never passed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from viewstore.errors import UnavailableError
from viewstore.files import disk
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.disk import drop_unlocked
from viewstore.files.download import Download, write_download
from viewstore.files.eviction import (
    STALE_SECONDS,
    CachedFile,
    Eviction,
    Reserved,
    total_bytes,
)
from viewstore.files.locks import LockedError, is_locked, locked

Follow = Callable[[int], Iterator[bytes]]  # a download that is told the file it is written to

FULL_SECONDS = 60  # until a disk that was full is tried again
OBJECT = re.compile(r"[0-9a-f]{64}")
RESERVED = re.compile(r"([0-9a-f]{64})\.(\d+)\.")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HOST_FILES = "host"  # the folder of what processes of one host make and share
FOLDERS = ("obj", "tmp", "lock", "seen", HOST_FILES)


@dataclass
class Cache:
    """Opens downloads; safe to share between threads and processes.

    Attributes:
        settings: Directory, limit and eviction.
        ranks: Processes of this machine that read through it, each with shards ahead.
        hash_tries: Downloads of a file that is wrong each time.
    """

    settings: CacheSettings
    ranks: int = 1
    hash_tries: int = 3
    _checked: dict[str, int] = field(default_factory=dict)  # when what was checked was written
    _turns: dict[str, threading.Lock] = field(default_factory=dict)
    _warned: bool = False
    _full_until: float = 0.0

    def __reduce__(self) -> tuple[object, ...]:
        return (Cache, (self.settings, self.ranks, self.hash_tries))

    def open(self, sha256: str, size: int, download: Download, where: str) -> int:
        """Return a descriptor of the file with this sha256, downloaded if it is not here.

        Args:
            sha256: Of the file, in hex: what it is known by.
            size: Of the file, in bytes.
            download: Yields the bytes of the file, anew each time.
            where: Its URL, for messages.

        Raises:
            FormatError: Every download had other bytes.
            UnavailableError: The cache cannot be written.
        """
        descriptor = self.find(sha256, size)
        if descriptor is None:
            lock = locked(self._lock(sha256[:3]))
            descriptor = self._fill_from(sha256, size, lambda _: download(), where, lock)
        if descriptor is None:
            descriptor = self._stream(sha256, size, download, where)
        return descriptor

    def find(self, sha256: str, size: int) -> int | None:
        """Return a descriptor of a file that is here and right, else None. Raises as `open`."""
        with self._usable(self.path_of(sha256)):
            return self._open(sha256, size)

    def fill(self, sha256: str, size: int, follow: Follow, where: str) -> int | None:
        """Bring a file here while others read it: return a descriptor once it is right.

        Threads of this process wait for one another; another process is not waited for.

        Args:
            sha256: Of the file, in hex.
            size: Of the file, in bytes.
            follow: Yields the bytes of the file, anew each time. It is told a descriptor in which
                they stand: all that it yielded, once it is asked for more.
            where: Its URL, for messages.

        Returns:
            None: there is no room for it, or another process is bringing it.

        Raises:
            FormatError: Every download had other bytes.
            UnavailableError: The cache cannot be written.
        """
        with self._turns.setdefault(sha256[:3], threading.Lock()):
            try:
                return self._fill_from(sha256, size, follow, where, self._claimed(sha256[:3]))
            except LockedError:
                return None

    def drop_if_damaged(self, sha256: str) -> None:
        """Drop a file that has not the bytes of its name any more, whoever checked it before.

        Raises:
            UnavailableError: It is damaged, and this process may not remove it.
        """
        path = self.path_of(sha256)
        with self._usable(path):
            if self.holds(sha256) and not _is_right(path, sha256):
                with locked(self._lock(sha256[:3])):
                    if not _is_right(path, sha256):  # another process may have mended it
                        self._evict(path)

    def path_of(self, sha256: str) -> Path:
        """Return where the file lies if it is here."""
        return self._directory("obj") / sha256

    def holds(self, sha256: str) -> bool:
        """Whether the file is here now, and this process may look at it."""
        with contextlib.suppress(OSError):
            return self.path_of(sha256).exists()
        return False

    @property
    def keeps(self) -> bool:
        """Whether a download would fit, as far as is known without trying."""
        return self.settings.limit_bytes > 0 and time.monotonic() >= self._full_until

    @property
    def used_bytes(self) -> int:
        """Bytes of the files, of the downloads under way and of what processes share."""
        return total_bytes(*self._listed())

    @contextlib.contextmanager
    def space_left(self) -> Iterator[int]:
        """Give the bytes below the limit that are free; no process reserves any meanwhile."""
        self._make_folders()
        with locked(self._lock("space")):
            self._sweep("")
            yield self.settings.limit_bytes - self.used_bytes

    def _fill_from(
        self, sha256: str, size: int, follow: Follow, where: str, lock: AbstractContextManager[None]
    ) -> int | None:
        """Download into the cache; None if it does not fit there, or on the disk."""
        if size > self.settings.limit_bytes:
            return None
        try:
            with self._usable(None):
                self._make_folders()
                with lock:
                    descriptor = self._open(sha256, size)  # another process may be faster
                    if descriptor is not None:
                        return descriptor
                    reserved = self._reserve(sha256, size)
                    if reserved is None:
                        return None
                    return self._fill(*reserved, sha256, size, follow, where)
        except OSError as error:  # there is no space
            self._warn(str(error.strerror))
            return None

    @contextlib.contextmanager
    def _usable(self, path: Path | None) -> Iterator[None]:
        """Raise UnavailableError where the system refuses anything but space; it names `path`."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise
            raise UnavailableError(
                f"cache cannot be used: {error.strerror}",
                code="VS302",
                where=str(path or error.filename or self.settings.directory),
                fix="name another directory in VIEWSTORE_CACHE__DIRECTORY",
            ) from error

    def _open(self, sha256: str, size: int) -> int | None:
        """Open a file of the cache whose bytes were checked since this boot of the machine."""
        path = self.path_of(sha256)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if os.fstat(descriptor).st_size != size or not self._trusted(sha256, descriptor):
                self._evict(path)
                os.close(descriptor)
                return None
            with contextlib.suppress(OSError):  # evicted, or a cache that others own
                added = os.fstat(descriptor).st_mtime_ns
                os.utime(descriptor, ns=(time.time_ns(), added))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _trusted(self, sha256: str, descriptor: int) -> bool:
        """Whether the bytes are right: a crash may have left others, or somebody wrote them."""
        written = os.fstat(descriptor).st_mtime_ns
        if self._checked.get(sha256) == written:
            return True
        if not self._is_marked(sha256, written):
            with os.fdopen(os.dup(descriptor), "rb") as file:
                file.seek(0)
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return False
            with contextlib.suppress(OSError):  # a cache that others own: once a process
                self._trust(sha256)
        self._checked[sha256] = written
        return True

    def _is_marked(self, sha256: str, written: int) -> bool:
        """Whether a file was checked since this boot, and since it was written."""
        try:
            return self._mark(sha256).stat().st_mtime_ns >= written
        except FileNotFoundError:
            return False

    def _trust(self, sha256: str) -> None:
        mark = self._mark(sha256)
        if not mark.parent.exists():
            for old in self._directory("seen").glob(f"{socket.gethostname()}.*"):
                if old != mark.parent:  # another thread or process was faster to make it
                    shutil.rmtree(old, ignore_errors=True)
            mark.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another host of our name removed it: no harm
            mark.touch()

    def _reserve(self, sha256: str, size: int) -> tuple[Path, int] | None:
        """Return a file of `size` bytes to fill, None if it does not fit cache or disk."""
        name = f"{sha256}.{size}.{socket.gethostname()}.{boot_id()}.{os.getpid()}"
        path = self._directory("tmp") / name
        with locked(self._lock("space")):
            # The holder of a hash's lock is its only writer: what is left is of ended processes.
            for left in path.parent.glob(f"{sha256}.*"):
                disk.unlink(left)
            self._sweep(sha256[:3])
            victims = self._eviction.victims(*self._listed(), size, time.time())
            if victims is None:
                self._warn(f"no room for {size} bytes: others download into it")
                return None
            for victim in victims:
                self._evict(victim.path)
            while True:
                try:
                    return path, disk.reserve(path, size)
                except OSError as error:
                    if error.errno not in FULL:
                        raise
                    rest = self._eviction.order(self._listed()[1], size, time.time())
                    if not rest:
                        self._warn(f"{error.strerror}")
                        return None
                    self._evict(rest[0].path)

    def _fill(
        self, path: Path, descriptor: int, sha256: str, size: int, follow: Follow, where: str
    ) -> int:
        """Download into a reserved file; return a descriptor of it under its name."""
        try:
            self._write(descriptor, sha256, size, lambda: follow(descriptor), where)
            os.fchmod(descriptor, 0o444)
            disk.sync(descriptor)
            self._trust(sha256)
            found = os.open(path, os.O_RDONLY)
            disk.rename(path, self.path_of(sha256))
        except BaseException:
            disk.unlink(path)
            raise
        finally:
            os.close(descriptor)
        self._checked[sha256] = os.fstat(found).st_mtime_ns
        return found

    def _stream(self, sha256: str, size: int, download: Download, where: str) -> int:
        """Download into memory that ends with its last descriptor or map."""
        descriptor = os.memfd_create(f"viewstore-{sha256[:16]}", os.MFD_CLOEXEC)
        try:
            self._write(descriptor, sha256, size, download, where)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _write(
        self, descriptor: int, sha256: str, size: int, download: Download, where: str
    ) -> None:
        write_download(descriptor, sha256, size, download, where, tries=self.hash_tries)

    @property
    def _eviction(self) -> Eviction:
        return Eviction(self.settings, self.ranks)

    def _evict(self, path: Path) -> None:
        disk.unlink(path)
        self._checked.pop(path.name, None)

    def _listed(self) -> tuple[list[Reserved], list[CachedFile]]:
        """Return downloads under way, and files.

        They are listed in this order: downloads become files meanwhile, and must not be missed.
        """
        folders = map(self._directory, ("tmp", HOST_FILES))
        matches = (RESERVED.match(path.name) for each in folders for path in each.iterdir())
        reserved = [(match[1], int(match[2])) for match in matches if match]
        files = []
        for path in self._directory("obj").iterdir():
            if OBJECT.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    facts = path.stat()
                    times = facts.st_mtime, facts.st_atime
                    files.append(CachedFile(path, facts.st_size, *times))
        return reserved, files

    def _sweep(self, mine: str) -> None:
        """Drop what ended processes left: downloads and shared files whose lock nobody holds."""
        for path in self._directory("tmp").iterdir():
            if path.name[:3] != mine and not is_locked(self._lock(path.name[:3])):
                disk.unlink(path)
        stale_before = time.time() - STALE_SECONDS
        for path in self._directory(HOST_FILES).iterdir():
            with contextlib.suppress(OSError):  # removed meanwhile, or not ours to open
                # Not every file system says here what another host has locked.
                here = f".{socket.gethostname()}." in path.name
                if here or path.stat().st_mtime < stale_before:
                    drop_unlocked(path)

    @contextlib.contextmanager
    def _claimed(self, name: str) -> Iterator[None]:
        """Hold a lock. Raises LockedError: another process holds it."""
        with contextlib.ExitStack() as held:
            with locked(self._lock("space")):  # who sweeps tries locks, and is not to be met
                held.enter_context(locked(self._lock(name), wait=False))
            yield

    def _warn(self, why: str) -> None:
        self._full_until = time.monotonic() + FULL_SECONDS
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"cache {self.settings.directory} takes no more shards, they are not kept: {why}",
                stacklevel=2,
            )

    def _make_folders(self) -> None:
        for name in FOLDERS:
            disk.make_directory(self._directory(name))

    def _lock(self, name: str) -> Path:
        return self._directory("lock") / name

    def _directory(self, name: str) -> Path:
        return self.settings.directory / name

    def _mark(self, sha256: str) -> Path:
        """Return the file that exists once the bytes were checked since this boot."""
        return self._directory("seen") / f"{socket.gethostname()}.{boot_id()}" / sha256


def _is_right(path: Path, sha256: str) -> bool:
    """Whether a file has this sha256; one that is not there is not wrong."""
    try:
        return disk.sha256_of(path) == sha256
    except FileNotFoundError:
        return True


def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
