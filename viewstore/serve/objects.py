"""What a store serves: the files of one generation by name, and the headers they go with.

Names come from the records of the store. No text of a URL becomes a path: it is looked up here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from viewstore.store.store import Store

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATED = "no-cache"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file that a store serves.

    Attributes:
        name: Below the address of the store: "views/w-search/000017-9f31c2d4a1b0e577.tar".
        size: In bytes.
        sha256: Of its bytes, in hex.
        immutable: Whether its name holds the digest, so that it never changes under it.
    """

    name: str
    size: int
    sha256: str
    immutable: bool

    @property
    def etag(self) -> str:
        """Its strong ETag: every replica of a store gives the same one."""
        return f'"sha256-{self.sha256}"'

    @property
    def cache_control(self) -> str:
        """How long others may keep it."""
        return IMMUTABLE if self.immutable else REVALIDATED


class Generation(Protocol):
    """One generation of a store: what it lists, and the bytes of it.

    Attributes:
        number: Of its manifest.
        store_id: Of its manifest.
        files: What it serves, by name.
    """

    number: int
    store_id: str
    files: Mapping[str, Listed]

    def body(self, listed: Listed, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield bytes [start, stop) of a file.

        Raises:
            FormatError: It is not the file that the records name; nothing was yielded.
            RemoteError: The origin did not give it.
        """


class Served(Protocol):
    """A store that is served: `local` and `through` are two.

    Attributes:
        name: In addresses: the last part of its path or URL unless it was given one.
    """

    name: str

    async def generation(self, *, fresh: bool = False) -> Generation | None:
        """Return its newest generation; None: it has no manifest yet.

        `fresh`: The manifest itself is asked for, so look for a newer one now.

        Raises:
            ViewStoreError: Its records are damaged, or its origin does not answer.
        """

    def store(self) -> Store:
        """Return the store of the newest generation, opened, for its pages.

        Raises:
            ViewStoreError: There is none, or its records are damaged.
        """
