"""Locks between processes: files that are locked, and left where they are."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class LockedError(Exception):
    """Another one holds a lock that is not waited for."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock `path`, which excludes threads of this process too.

    Raises:
        LockedError: Another one holds it, and it is not to be waited for.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise LockedError from error
        try:
            yield
        finally:  # closing is not enough: a forked child may have the descriptor too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether another one holds the lock `path`; it is tried, which others may notice."""
    try:
        with locked(path, wait=False):
            return False
    except LockedError:
        return True
