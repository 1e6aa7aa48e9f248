"""Settings of the cache of downloads, given or read from the environment."""

from __future__ import annotations

import operator
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from viewstore.errors import ConfigError

Eviction = Literal["keep", "lru"]
DEFAULT_BYTES = 64 << 30
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {f"{unit}i": 1 << 10 * power for power, unit in enumerate("kmgt", 1)}


def default_directory() -> Path:
    """Return what VIEWSTORE_CACHE__DIRECTORY says, else viewstore in the user's caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VIEWSTORE_CACHE__DIRECTORY") or Path(base, "viewstore"))


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Directory, size and eviction of the cache of downloads.

    Attributes:
        directory: The cache, a path; may be shared by any number of processes. "~" is the home.
            By default what the environment says.
        limit_bytes: Most bytes it ever takes, downloads under way included; 0 keeps nothing.
        eviction: "keep" leaves the first shards where they are and lets the others take turns
            in the rest, so that every epoch finds some; "lru" drops what was opened longest ago.
    """

    directory: Path = field(default_factory=default_directory)
    limit_bytes: int = DEFAULT_BYTES
    eviction: Eviction = "keep"

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "directory", Path(self.directory).expanduser())
            object.__setattr__(self, "limit_bytes", operator.index(self.limit_bytes))
        except (TypeError, RuntimeError) as error:  # the latter: there is no such user
            raise ConfigError(
                "cache needs a path as directory and whole bytes as limit, "
                f"got {self.directory!r} and {self.limit_bytes!r}",
                why=str(error),
            ) from error
        if self.limit_bytes < 0:
            raise ConfigError(f"cache limit must be at least 0 bytes, got {self.limit_bytes}")
        if self.eviction not in ("keep", "lru"):
            raise ConfigError(f"cache eviction must be keep or lru, got {self.eviction!r}")

    @classmethod
    def from_environment(cls) -> CacheSettings:
        """Return what VIEWSTORE_CACHE__DIRECTORY, __LIMIT and __EVICTION say, or the defaults."""
        limit = os.environ.get("VIEWSTORE_CACHE__LIMIT")
        eviction = os.environ.get("VIEWSTORE_CACHE__EVICTION") or "keep"
        return cls(
            limit_bytes=DEFAULT_BYTES if limit is None else parse_bytes(limit),
            eviction=eviction,  # type: ignore[arg-type]  # checked when made
        )


def parse_bytes(text: str) -> int:
    """Return the bytes that "500GB", "64GiB" or "1000" name."""
    match = re.fullmatch(r"(\d{1,18})\s*([kmgt]?i?)b?", text.strip().lower())
    if match is None or match[2] not in UNITS:
        raise ConfigError(f"cache limit must be a size such as 64GiB, got {text[:100]!r}")
    return int(match[1]) * UNITS[match[2]]
