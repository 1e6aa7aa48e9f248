"""Decides which files the cache gives up for a download. Pure: no file is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from viewstore.files.cache_settings import CacheSettings

AHEAD = 2  # shards that a rank downloads before it needs them
STALE_SECONDS = 7 * 86_400  # a file that no process opened for so long goes first

Reserved = tuple[str, int]  # sha256 and bytes of a download under way


@dataclass(frozen=True)
class CachedFile:
    """A file in the cache, named by its sha256. `added`, `opened`: seconds since the epoch."""

    path: Path
    bytes: int
    added: float
    opened: float


def needed_bytes(largest: int, ranks: int) -> int:
    """Return the least limit for shards of up to `largest` bytes and so many ranks here."""
    return (ranks * (AHEAD + 1) + 1) * largest


def total_bytes(reserved: Sequence[Reserved], files: Sequence[CachedFile]) -> int:
    """Return the bytes of both; a download that just got its name is counted once."""
    named = {file.path.name for file in files}
    downloading = sum(size for sha256, size in reserved if sha256 not in named)
    return downloading + sum(file.bytes for file in files)


@dataclass(frozen=True)
class Eviction:
    """The order in which a cache gives up files.

    Attributes:
        settings: Of the cache. Eviction "keep" leaves the first files as residents, as many as
            leave space for the shards in use; the others take turns in that space.
        ranks: Processes of this machine, each with shards in use.
    """

    settings: CacheSettings
    ranks: int

    def victims(
        self, reserved: Sequence[Reserved], files: Sequence[CachedFile], size: int, now: float
    ) -> list[CachedFile] | None:
        """Return what to evict before `size` bytes fit; None if all files are not enough."""
        excess = total_bytes(reserved, files) + size - self.settings.limit_bytes
        victims = []
        for file in self.order(files, size, now):
            if excess <= 0:
                break
            victims.append(file)
            excess -= file.bytes
        return victims if excess <= 0 else None

    def order(self, files: Sequence[CachedFile], size: int, now: float) -> list[CachedFile]:
        """Return the files in the order in which they go for a download of `size` bytes.

        `now`: Seconds since the epoch.
        """
        if self.settings.eviction == "lru":
            return sorted(files, key=lambda file: file.opened)
        in_use = needed_bytes(max([size, *(file.bytes for file in files)]), self.ranks)
        bytes_left = max(0, self.settings.limit_bytes - in_use)
        stale: list[CachedFile] = []
        residents: list[CachedFile] = []
        turning: list[CachedFile] = []
        for file in sorted(files, key=lambda file: file.added):
            if file.opened < now - STALE_SECONDS:
                stale.append(file)
            elif file.bytes <= bytes_left and not turning:
                bytes_left -= file.bytes
                residents.append(file)
            else:
                turning.append(file)
        return [*stale, *turning, *reversed(residents)]
