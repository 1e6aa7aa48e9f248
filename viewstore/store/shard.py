"""A committed shard of a view set: its file of views, opened here or through the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from viewstore.errors import FormatError, quoted
from viewstore.files.local import LOCAL, Files
from viewstore.files.remedy import on_a_disk
from viewstore.format.manifest import BlobRecord, ShardEntry


@dataclass(frozen=True)
class Shard:
    """A committed shard, whose file of views can be opened.

    Attributes:
        entry: What index.json lists of it.
        rows: Its rows in the store.
        folder: That of its view set.
        files: Reads its files.
    """

    entry: ShardEntry
    rows: range
    folder: Path
    files: Files = LOCAL

    def open(self) -> int:
        """Return a descriptor of the file; a remote one is downloaded first, and checked.

        Raises:
            FormatError: The file is missing, or not as long as its commit says: reading a map
                of it would end the process.
            RemoteError: The remote store did not give it.
        """
        with self._named():
            return self.files.open(self.path, self.blob.bytes, self.blob.sha256)

    def reopen(self) -> int | None:
        """Return a descriptor of the file whose bytes were found wrong, as `Files.reopen`."""
        with self._named():
            return self.files.reopen(self.path, self.blob.bytes, self.blob.sha256)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Raise the FormatError of a block as one of this shard."""
        try:
            yield
        except FormatError as error:
            raise FormatError(
                f"shard {self.entry.shard} of {self.folder.name} {error}",
                code="VS203",
                where=f"{self.where}: expected {self.blob.bytes} bytes",
                why=error.why or "it was changed after it was written; its sha256 cannot match",
                fix=self.repair,
            ) from error

    @cached_property
    def blob(self) -> BlobRecord:
        """The file of its views: what is downloaded, and what it must hold.

        Of a set that stores no pixels it is that of its params.
        """
        return self.entry.file("views" if self.entry.has_views else "params")

    @property
    def path(self) -> Path:
        """Where the file of its views lies."""
        return self.folder / self.blob.name

    @property
    def where(self) -> str:
        """Path or URL of that file."""
        return self.files.where(self.path)

    @property
    def origin(self) -> str:
        """Path or URL of that file, and its copy in the cache if that was read."""
        return self.files.origin(self.path, self.blob.sha256)

    @property
    def repair(self) -> str:
        """The command that rebuilds the shard, or where to run it."""
        options = f"--view-set {self.folder.name} --only {self.entry.shard}"
        if self.files.cache is None:
            return f"viewstore verify {quoted(self.folder.parents[1])} --repair {options}"
        return on_a_disk(f"viewstore verify STORE --repair {options}")
