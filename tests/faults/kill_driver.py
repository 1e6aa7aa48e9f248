"""Builds one store over and over in children that are killed at random moments.

Usage: kill_driver.py STORE SOURCE KILLS BUILDERS WRITER SEED. Forks from a process that has
imported everything, so that a kill lands in the work and not in an import. WRITER "naive" is the
negative control: it writes a shard under its final name, and skips a shard that has one.
"""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from viewstore.build import run as building
from viewstore.errors import FormatError
from viewstore.files import disk
from viewstore.files.upstream import Folder
from viewstore.format.manifest import BlobRecord

GENERATOR = "simclr"
SPAN = 0.4  # of an undisturbed build: several kills before a store is complete


def naive_name_blob(folder: Folder, temporary: Path, target: Path, blob: BlobRecord) -> None:
    """Write under the final name, piece by piece as they come, unless something has it."""
    if not target.exists():
        data = temporary.read_bytes()
        with target.open("wb") as file:
            for begin in range(0, len(data), 4096):
                file.write(data[begin : begin + 4096])
                file.flush()
                os.fsync(file.fileno())
    disk.unlink(temporary)


def build(store: Path, source: str) -> None:
    request = building.BuildRequest(
        generator=GENERATOR,
        out=store,
        source=source,
        settings={"views": 4, "height": 32, "width": 32},
        shard_rows=8,
        workers=1,
    )
    building.build(request)


def seconds_of(run: Callable[[], None], builders: int) -> float:
    """Return how long so many children take together, undisturbed, on the machine as it is."""
    started = time.monotonic()
    for child in [fork(run) for _ in range(builders)]:
        os.waitpid(child, 0)
    return time.monotonic() - started


def kill_loop(
    run: Callable[[], None], kills: int, builders: int, rng: random.Random, span: float
) -> int:
    """Run `run` in children and kill them within `span` seconds, until `kills` were killed."""
    done = 0
    while done < kills:
        children = [fork(run) for _ in range(builders)]
        time.sleep(rng.uniform(0.0, span))
        for child in children:
            os.kill(child, signal.SIGKILL)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        done += sum(os.WIFSIGNALED(status) for status in statuses)
        if not any(os.WIFSIGNALED(status) for status in statuses):
            return done  # the build is complete: nothing is left to kill
    return done


def fork(run: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    return child


def main() -> None:
    store, source, kills, builders, writer, seed = sys.argv[1:]
    if writer == "naive":
        Folder.name_blob = naive_name_blob  # type: ignore[method-assign]
    rng = random.Random(int(seed))
    together = int(builders)
    span = SPAN * seconds_of(lambda: build(Path(f"{store}-undisturbed"), source), together)
    done = kill_loop(lambda: build(Path(store), source), int(kills), together, rng, span)
    with contextlib.suppress(FormatError):  # of a naive writer's torn shard; verify names it
        build(Path(store), source)
    print(done)


if __name__ == "__main__":
    main()
