"""Builds one set of columns over and over in children that are killed at random moments.

Usage: columns_driver.py WHAT STORE ENCODER KILLS BUILDERS SEED. The store has the view set that the
columns describe; where WHAT is "refresh" and not "embed" it has the columns too, by another
encoder, and their next round is built. Prints how many children were killed.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
from pathlib import Path

from tests.faults.kill_driver import SPAN, kill_loop, seconds_of
from viewstore.build import run as building
from viewstore.build.refresh import refresh
from viewstore.errors import ConfigError
from viewstore.generators.checkpoints import exported  # noqa: F401  # before the first fork
from viewstore.generators.scored import embed  # noqa: F401


def embed_again(store: Path, encoder: Path) -> None:
    try:
        refresh(store, "embed", {"encoder": encoder}, workers=1)
    except ConfigError as error:  # it was ended before, maybe by another child just now
        if not str(error).startswith("nothing to refresh: embed-r2"):
            raise


def build(store: Path, encoder: Path) -> None:
    request = building.BuildRequest(
        generator="embed",
        out=store,
        settings={"of": "simclr", "slots": 8},
        files={"encoder": encoder},
        workers=1,
    )
    building.build(request)


def main() -> None:
    work = {"embed": build, "refresh": embed_again}[sys.argv[1]]
    store, encoder = map(Path, sys.argv[2:4])
    kills, builders, seed = map(int, sys.argv[4:])
    undisturbed = store.with_name(f"{store.name}-undisturbed")
    with contextlib.suppress(FileExistsError):
        shutil.copytree(store, undisturbed)
    span = SPAN * seconds_of(lambda: work(undisturbed, encoder), builders)
    done = kill_loop(lambda: work(store, encoder), kills, builders, random.Random(seed), span)
    work(store, encoder)
    print(done)


if __name__ == "__main__":
    main()
