"""Decides which raw view sets are copied into memory, within a share of the machine's."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from viewstore.errors import ConfigError
from viewstore.files.cache import Cache
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.host_file import HostFile
from viewstore.format.records import digest_of
from viewstore.loaders.read.resident import Resident, SharedResident, resident_bytes
from viewstore.loaders.read.set_reader import ViewSetReader

# Of the machine's memory, for all view sets and all ranks of the host together.
MEMORY_SHARE = 0.25
LAYOUT = 1  # of a shared copy: raise it with each change of where its bytes lie

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_bytes() -> int:
    """Return the bytes of memory of this machine, or of the container that the process runs in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _CGROUP_LIMITS:
        limit = Path(name)
        if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
            found.append(int(text))
    return min(found)


def keep_resident(
    readers: Sequence[tuple[ViewSetReader, bool]], wanted: bool | Literal["auto"], *, ranks: int
) -> None:
    """Set `resident` of readers, in turn, while there is memory for a copy; nothing is copied yet.

    Several ranks map one file in the cache; a single rank has huge pages, which are faster.

    Args:
        readers: What reads each view set, and whether a slot may flip its views.
        wanted: "auto" stays within MEMORY_SHARE; True does not, False copies none.
        ranks: Ranks on this host, which share the memory.

    Raises:
        ConfigError: `wanted` is True, and no view set can be copied.
    """
    if wanted is False:
        return
    budget = machine_bytes() * MEMORY_SHARE if wanted == "auto" else math.inf
    rank_budget = budget / ranks
    for reader, flipped in readers:
        whole = reader.view_set.complete and reader.verify != "always"
        if reader.strided is None or not whole or not reader.mapped:
            continue
        if wanted == "auto" and not reader.is_local:  # copying would wait for downloads
            continue
        alone = _mirrored_within(rank_budget, reader, flipped=flipped)
        if alone is not None:
            rank_budget -= resident_bytes(reader, mirrored=alone)
        if ranks == 1:
            reader.resident = None if alone is None else Resident(reader, mirrored=alone)
            continue
        shared = _mirrored_within(budget, reader, flipped=flipped)
        if shared is not None:
            budget -= resident_bytes(reader, mirrored=shared)
            reader.resident = _shared(reader, mirrored=shared, alone=alone)
    if wanted is True and all(reader.resident is None for reader, _ in readers):
        raise ConfigError(
            "resident=True needs a complete raw view set, and verify other than always",
            fix="pass resident='auto'",
        )


def _mirrored_within(budget: float, reader: ViewSetReader, *, flipped: bool) -> bool | None:
    """Return whether a copy within `budget` bytes can be mirrored too; None: it is too large."""
    if resident_bytes(reader, mirrored=False) > budget:
        return None
    return flipped and resident_bytes(reader, mirrored=True) <= budget


def _shared(reader: ViewSetReader, *, mirrored: bool, alone: bool | None) -> SharedResident:
    """Return a copy that the ranks of this host share.

    `alone` says whether a copy of this rank alone, should there be no file, is mirrored; None:
    there is no memory for one.
    """
    views = reader.view_set
    cache = views.files.cache
    settings = CacheSettings.from_environment() if cache is None else cache.disk.settings
    blobs = {number: shard.blob.sha256 for number, shard in views.shards.items()}
    key = digest_of(
        {
            "layout": LAYOUT,
            "mirrored": mirrored,
            "plan": views.plan.id,
            "verify": reader.verify,  # a rank that checks what it reads takes nothing unchecked
            "views": [blobs[number] for number in sorted(blobs)],
        }
    )
    size = resident_bytes(reader, mirrored=mirrored)
    raw = reader.raw  # not the reader, which holds the copy
    return SharedResident(
        HostFile(Cache(settings), key, size),
        over=lambda memory: Resident(raw, mirrored=mirrored, memory=memory),
        alone=None if alone is None else partial(Resident, raw, mirrored=alone),
    )
