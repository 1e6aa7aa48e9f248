"""Builds stores in children that are killed, and prints how many stores.

Usage: kill_driver.py FOLDER SOURCE KILLS BUILDERS SEED. Forks from a process that has imported
everything, so that a kill lands in the work and not in an import. With KILLS "naive" it is the
negative control: one builder writes its first shard under the final name and is killed halfway;
the next skips a shard that has a name.
"""

import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

from tests.faults.kills import Build, check_ended, fork, kill_builds
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import FormatError
from viewstore.files import disk
from viewstore.files.upstream import Folder
from viewstore.format.manifest import BlobRecord


def begin(source: str, store: str) -> Build:
    """Return a build of twenty shards."""
    request = BuildRequest(
        generator="simclr",
        out=Path(store),
        source=source,
        settings={"views": 4, "height": 32, "width": 32},
        shard_rows=8,
        workers=1,
    )
    return partial(build, request)


def torn(folder: Folder, temporary: Path, target: Path, blob: BlobRecord) -> None:
    """Write half of a shard under its final name, and be killed."""
    data = temporary.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def skipped(folder: Folder, temporary: Path, target: Path, blob: BlobRecord) -> None:
    """Give a shard its name, unless something has it."""
    if target.exists():
        disk.unlink(temporary)
    else:
        temporary.rename(target)


def build_naively(run: Build) -> None:
    """Leave a store of which nobody looked at what a killed builder had written."""
    Folder.name_blob = torn  # type: ignore[method-assign]
    assert not check_ended(fork(run))
    Folder.name_blob = skipped  # type: ignore[method-assign]
    with contextlib.suppress(FormatError):  # of the torn shard; verify names it
        run()


def main() -> None:
    folder, source, kills, builders, seed = sys.argv[1:]
    if kills == "naive":
        build_naively(begin(source, f"{folder}/0"))
        return
    numbers = {"kills": int(kills), "builders": int(builders), "seed": int(seed)}
    print(kill_builds(partial(begin, source), folder, **numbers))


if __name__ == "__main__":
    main()
