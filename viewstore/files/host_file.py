"""A file in the cache that one process of a host fills and all map; ranks share a copy in it.

The last process that uses it removes it, and what killed processes left is filled anew: no process
reads bytes of another boot, or a file that is not whole.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
from contextlib import suppress
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.files import disk
from viewstore.files.cache import HOST_FILES, Cache, boot_id
from viewstore.files.maps import map_file

MARK = b"viewstore: every byte is in place"

State = Literal["ready", "fill", "wait"]


class HostFile:
    """The part of one process in a file that several share; a lock on the file says how.

    The process that fills it holds an exclusive lock; those that use it when it is whole hold a
    shared one. A file without a lock is new or left over. No process waits for a lock.
    """

    def __init__(self, cache: Cache, key: str, size: int) -> None:
        """Name a file of `size` bytes; nothing is opened yet.

        Args:
            cache: Where it lies, and whose limit it counts for.
            key: sha256, in hex, of what decides its bytes.
            size: Its bytes.
        """
        self._cache = cache
        self._size = size
        self._stored = size + len(MARK)
        name = f"{key}.{self._stored}.{socket.gethostname()}.{boot_id()}"
        self.path = cache.settings.directory / HOST_FILES / name
        self._descriptor: int | None = None
        self._pid = os.getpid()

    def try_acquire(self) -> State:
        """Lock the file for this process if that can be done now.

        Returns:
            "ready": every byte is in place; "fill": this process is to fill it; "wait": another
            process fills it, and this one tries again later.

        Raises:
            OSError: It fits neither cache nor disk, or cannot be written.
        """
        self._descriptor = self._open()
        try:
            state = self._take(self._descriptor)
        except BaseException:
            self.close()
            raise
        if state == "wait":
            self._release()
        return state

    def to_fill(self) -> NDArray[np.uint8]:
        """Return the bytes of a file that this process is to fill, uint8 [size]."""
        assert self._descriptor is not None
        return np.frombuffer(mmap.mmap(self._descriptor, self._size), np.uint8)

    def sync(self) -> None:
        """Write what was filled in to the disk: where that fails, pages would be lost later."""
        assert self._descriptor is not None
        disk.sync(self._descriptor)

    def publish(self) -> State:
        """Mark the file that this process filled as whole; return "ready" or "wait"."""
        assert self._descriptor is not None
        self.sync()
        os.pwrite(self._descriptor, MARK, self._size)
        # The system gives up one lock before it gives the other: another may come between.
        if not _locked(self._descriptor, fcntl.LOCK_SH):
            self._release()
            return "wait"
        return "ready"

    def map(self) -> NDArray[np.uint8]:
        """Return the bytes of a file that is "ready", read-only, uint8 [size]."""
        assert self._descriptor is not None
        return map_file(self._descriptor)[: self._size]

    def close(self) -> None:
        """Give up the lock; the last process that holds one removes the file."""
        if self._descriptor is None:
            return
        try:
            if os.getpid() == self._pid:  # the lock of a forked child is that of its parent
                if _locked(self._descriptor, fcntl.LOCK_EX) and self._is_named(self._descriptor):
                    disk.unlink(self.path)
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._release()

    def _release(self) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None

    def _open(self) -> int:
        with suppress(FileNotFoundError):
            return os.open(self.path, os.O_RDWR)
        with self._cache.space_left() as space_left:
            with suppress(FileNotFoundError):  # another process was faster
                return os.open(self.path, os.O_RDWR)
            if self._stored > space_left:
                left = max(0, space_left)
                raise OSError(errno.ENOSPC, f"its limit leaves room for {left} bytes")
            descriptor = disk.reserve(self.path, 0)  # its name says how much it will take
            _locked(descriptor, fcntl.LOCK_EX)  # or the next process takes it for left over
            return descriptor

    def _take(self, descriptor: int) -> State:
        if _locked(descriptor, fcntl.LOCK_EX):
            if not self._is_named(descriptor):  # its last user has just removed it
                return "wait"
            os.pwrite(descriptor, bytes(len(MARK)), self._size)
            os.ftruncate(descriptor, self._stored)
            # On a full disk, writing to a map of the file would end the process.
            os.posix_fallocate(descriptor, 0, self._stored)
            return "fill"
        # Who filled it may have been killed meanwhile: the lock alone does not say it is whole.
        shared = _locked(descriptor, fcntl.LOCK_SH) and self._is_named(descriptor)
        return "ready" if shared and self._is_whole(descriptor) else "wait"

    def _is_named(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _is_whole(self, descriptor: int) -> bool:
        right_size = os.fstat(descriptor).st_size == self._stored
        return right_size and os.pread(descriptor, len(MARK), self._size) == MARK


def _locked(descriptor: int, kind: int) -> bool:
    """Lock an open file, alone or shared, if that can be done at once; else it is not locked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
