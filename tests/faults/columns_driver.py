"""Builds a set of columns in children that are killed, and prints of how many stores.

Usage: columns_driver.py FOLDER WHAT BEGUN ENCODER KILLS BUILDERS SEED. BEGUN is a store with the
view set that the columns describe; where WHAT is "refresh" and not "embed" it has the columns too,
by another encoder, and their next round is built. Each store begins as a copy of it.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from tests.faults.kills import Build, kill_builds
from viewstore.build.refresh import refresh
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.generators.checkpoints.exported import read_exported
from viewstore.generators.scored import embed  # noqa: F401  # before the first fork


def embed_again(store: Path, encoder: Path) -> None:
    try:
        refresh(store, "embed", {"encoder": encoder}, workers=1)
    except ConfigError as error:  # it was ended before, maybe by another child just now
        if not str(error).startswith("nothing to refresh: embed-r2"):
            raise


def embed_first(store: Path, encoder: Path) -> None:
    request = BuildRequest(
        generator="embed",
        out=store,
        settings={"of": "simclr", "slots": 8},
        files={"encoder": encoder},
        workers=1,
    )
    build(request)


WORK = {"embed": embed_first, "refresh": embed_again}


def begin(what: str, begun: str, encoder: str, store: str) -> Build:
    shutil.copytree(begun, store)
    return partial(WORK[what], Path(store), Path(encoder))


def main() -> None:
    folder, what, begun, encoder, kills, builders, seed = sys.argv[1:]
    read_exported(Path(encoder))  # which imports a thousand modules, once for all children
    numbers = {"kills": int(kills), "builders": int(builders), "seed": int(seed)}
    print(kill_builds(partial(begin, what, begun, encoder), folder, **numbers))


if __name__ == "__main__":
    main()
