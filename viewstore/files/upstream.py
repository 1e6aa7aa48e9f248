"""Where the files of a store are published: the folder they are written in, or a bucket.

Builders write below a folder, and say here what others are to see. On a disk the folder is the
store itself; of a store in a bucket it is a working copy (`viewstore.files.working_copy`), with
the records and the packs of params, and without pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol

from viewstore.files import disk
from viewstore.files.local import LOCAL, Files
from viewstore.format.manifest import BlobRecord
from viewstore.format.paths import StorePaths


class Upstream(Protocol):
    """Publishes files that were written below a folder, and brings there what others published.

    All paths are below that folder. Can be sent to a process.
    """

    def here(self, root: Path) -> tuple[Path, Upstream]:
        """Return the folder on this machine, and its upstream: `root` may be another machine's."""

    def place(self, root: Path) -> Path | str:
        """Return the folder or URL at which is published what is written below `root`."""

    def reading(self, paths: StorePaths) -> tuple[StorePaths, Files]:
        """Return how finished view sets are read, pixels and all."""

    def check_writers(self) -> None:
        """Raise ConfigError where one writer could replace the records of another."""

    def pull(self) -> None:
        """Bring all records that others published."""

    def fetch(self, path: Path) -> None:
        """Bring the record `path`, if it is published and not here."""

    def current(self, path: Path, limit: int) -> bytes | None:
        """Return a record as it is published at this moment; None: there is none.

        Raises:
            FormatError: It has more than `limit` bytes.
        """

    def fetch_blobs(self, root: Path, blobs: Iterable[BlobRecord]) -> None:
        """Bring blobs of the view set at `root` that are not here.

        Raises:
            FormatError: One is missing, or has other bytes.
        """

    def size(self, path: Path) -> int:
        """Return the bytes of a published file, as of the last `pull`; -1: there is none."""

    def holds(self, path: Path, size: int, sha256: str | None = None) -> bool:
        """Whether a derived file is published, of this size, and with these bytes if that shows."""

    def name_blob(self, temporary: Path, target: Path, blob: BlobRecord) -> None:
        """Give a blob its content name; a file of that name stays if its bytes are right."""

    def keep_blob(self, temporary: Path, target: Path, blob: BlobRecord) -> None:
        """Give a blob that a commit names now its name again, should garbage collection have it."""

    def lacks(self, root: Path, blobs: Iterable[BlobRecord]) -> bool:
        """Whether one of the blobs of the view set at `root` is gone, which a builder mends.

        What a disk lost is found by `viewstore verify`.
        """

    def put_if_absent(
        self, path: Path, data: bytes, *, scratch: Path, durable: bool = True
    ) -> bool:
        """Publish a record under a new name; false if the name is taken, by what is here then.

        `scratch` and `durable` are those of `disk.put_if_absent`.
        """

    def push(self, path: Path) -> None:
        """Publish a file that was written at `path`, in place of what had its name."""

    def ages(self, paths: StorePaths, folders: Collection[Path]) -> dict[Path, float]:
        """Return the seconds since each file in `folders` was written, on the store's clock."""

    def remove(self, path: Path) -> None:
        """Remove a published file, if it is there."""

    def discard(self, path: Path, is_named: Callable[[], bool]) -> bool:
        """Remove a blob, unless a record names it meanwhile, which `is_named` asks; return whether.

        Raises:
            ViewStoreError: That cannot be asked; the blob is there, or `restore` brings it back.
        """

    def restore(self, path: Path) -> None:
        """Bring a blob that a record names back, if a `discard` of it was killed."""


class Folder:
    """A store on a disk: what is written there is published."""

    def here(self, root: Path) -> tuple[Path, Upstream]:
        return root, self

    def place(self, root: Path) -> Path:
        return root

    def reading(self, paths: StorePaths) -> tuple[StorePaths, Files]:
        return paths, LOCAL

    def check_writers(self) -> None:
        pass

    def pull(self) -> None:
        pass

    def fetch(self, path: Path) -> None:
        pass

    def current(self, path: Path, limit: int) -> bytes | None:
        try:
            return disk.read_limited(path, limit)
        except FileNotFoundError:
            return None

    def fetch_blobs(self, root: Path, blobs: Iterable[BlobRecord]) -> None:
        pass

    def size(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return -1

    def holds(self, path: Path, size: int, sha256: str | None = None) -> bool:
        if not path.is_file() or path.stat().st_size != size:
            return False
        return sha256 is None or disk.sha256_of(path) == sha256

    def name_blob(self, temporary: Path, target: Path, blob: BlobRecord) -> None:
        if self.holds(target, blob.bytes, blob.sha256):
            disk.touch(target)  # an old file that nothing names yet, should the commit not succeed
            disk.unlink(temporary)
        else:
            disk.rename(temporary, target)

    def keep_blob(self, temporary: Path, target: Path, blob: BlobRecord) -> None:
        pass  # who names blobs holds a lock that garbage collection waits for

    def lacks(self, root: Path, blobs: Iterable[BlobRecord]) -> bool:
        return False

    def put_if_absent(
        self, path: Path, data: bytes, *, scratch: Path, durable: bool = True
    ) -> bool:
        return disk.put_if_absent(path, data, scratch=scratch, durable=durable)

    def push(self, path: Path) -> None:
        pass

    def ages(self, paths: StorePaths, folders: Collection[Path]) -> dict[Path, float]:
        probe = paths.tmp / "clock"
        disk.write_atomic(probe, b"")
        now = probe.stat().st_mtime
        disk.unlink(probe)
        found = {}
        for path in (each for folder in folders for each in folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # its builder has just removed it
                found[path] = now - path.stat().st_mtime
        return found

    def remove(self, path: Path) -> None:
        if path.is_dir():  # a view set that was being taken out
            disk.remove_tree(path)
        else:
            disk.unlink(path)

    def discard(self, path: Path, is_named: Callable[[], bool]) -> bool:
        disk.unlink(path)
        return True

    def restore(self, path: Path) -> None:
        pass


FOLDER = Folder()
