"""Builds one set of columns over and over in children that are killed at random moments.

Usage: columns_driver.py STORE ENCODER KILLS BUILDERS SEED. The store has the view set that the
columns describe. Prints how many children were killed.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
from pathlib import Path

from tests.faults.kill_driver import SPAN, kill_loop, seconds_of
from viewstore.build import run as building
from viewstore.generators.checkpoints import exported  # noqa: F401  # before the first fork
from viewstore.generators.scored import embed  # noqa: F401


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
    store, encoder = map(Path, sys.argv[1:3])
    kills, builders, seed = map(int, sys.argv[3:])
    undisturbed = store.with_name(f"{store.name}-undisturbed")
    with contextlib.suppress(FileExistsError):
        shutil.copytree(store, undisturbed)
    span = SPAN * seconds_of(lambda: build(undisturbed, encoder))
    done = kill_loop(lambda: build(store, encoder), kills, builders, random.Random(seed), span)
    build(store, encoder)
    print(done)


if __name__ == "__main__":
    main()
