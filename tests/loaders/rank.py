"""A rank of a host: a process that reads a store and says what it read.

Run as `python -m tests.loaders.rank STORE RANK WORLD_SIZE [STUCK]`; it does what the lines of its
standard input ask for. If STUCK it never gets further than the first rows of a copy.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import viewstore
from viewstore.loaders import ViewLoader
from viewstore.loaders.read.resident import Resident
from viewstore.store.store import Store

VIEWS = "hard+flip,hard,digits+flip"


def rank_loader(store: Store, rank: int, world_size: int, **settings: Any) -> ViewLoader:  # noqa: ANN401
    """Return the loader of a rank."""
    return ViewLoader(
        store,
        VIEWS,
        batch_size=16,
        rank=rank,
        world_size=world_size,
        num_threads=2,
        prefetch=1,
        **settings,
    )


def epoch_digest(loader: ViewLoader) -> str:
    """Return a hash of all pixels of epoch 0."""
    found = hashlib.sha256()
    loader.seek(0)
    for batch in loader:
        for view in batch.views:
            found.update(view.pixels.permute(0, 2, 3, 1).contiguous().numpy())
    return found.hexdigest()


def shared_maps() -> dict[str, dict[str, int]]:
    """Return for each shared file that is mapped whole, by its name, kB of it that count for us.

    One that is still being filled is mapped for writing.
    """
    found: dict[str, dict[str, int]] = {}
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            whole = "/host/" in words[-1] and words[1].startswith("r-")
            name = Path(words[-1]).name if whole else ""
        elif name and words[0] in ("Rss:", "Pss:"):
            found.setdefault(name, {})[words[0]] = int(words[1])
    return found


def get_stuck() -> None:
    """Have every copy of this process stop after its first rows."""
    copy_some = Resident.copy_some

    def stuck(resident: Resident) -> bool:
        copy_some(resident)
        time.sleep(600)
        return True

    Resident.copy_some = stuck  # type: ignore[method-assign]


def main(root: str, rank: str, world_size: str, *stuck: str) -> None:
    """Do what is asked, until the end of the standard input."""
    if stuck:
        get_stuck()
    with rank_loader(viewstore.open(root), int(rank), int(world_size)) as loader:
        for line in sys.stdin:
            asked = {"epoch": lambda: epoch_digest(loader), "maps": shared_maps}[line.strip()]
            print(json.dumps(asked()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
