"""Builds a recipe set, heavy views of it and columns of those, in children that are killed.

Usage: family_driver.py FOLDER SOURCE KILLS BUILDERS SEED. Prints of how many stores. Each build is
begun when the one before it is complete; a kill may land in any of them.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.kills import Build, kill_builds
from viewstore.build.request import BuildRequest
from viewstore.build.run import build

SPAN = 0.3  # of an undisturbed build of all: several kills before the last is complete
SIDE = {"height": 32, "width": 32}
FAMILY: tuple[dict[str, Any], ...] = (
    {"generator": "simclr", "settings": {"views": 3, **SIDE}, "codec": "params"},
    {"generator": "heavy", "settings": {"of": "simclr", "views": 4}, "codec": "raw"},
    {
        "generator": "heavy",
        "view_set": "tiles",
        "settings": {"of": "heavy", "views": 2, "chain": "jigsaw"},
        "codec": "params",
    },
    {"generator": "quality", "view_set": "seen", "settings": {"of": "tiles"}},
)


def build_family(store: Path, source: str) -> None:
    """Build each view set, or go on with it."""
    for each in FAMILY:
        build(BuildRequest(out=store, source=source, shard_rows=8, workers=1, **each))


def begin(source: str, store: str) -> Build:
    return partial(build_family, Path(store), source)


def main() -> None:
    folder, source, kills, builders, seed = sys.argv[1:]
    numbers = {"kills": int(kills), "builders": int(builders), "seed": int(seed)}
    print(kill_builds(partial(begin, source), folder, **numbers, span=SPAN))


if __name__ == "__main__":
    main()
