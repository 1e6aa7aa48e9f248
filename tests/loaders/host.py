"""The ranks of one host, each a process of its own that reads a store and says what it read.

`python -m tests.loaders.host RANKS` imports torch once, starts the ranks, and has them answer: each
line of its standard input asks all of them for an epoch, or for a part of one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import viewstore
from viewstore.files.cache_settings import CacheSettings
from viewstore.loaders import ViewLoader

REPO = Path(__file__).parents[2]
RANKS = 8
VIEWS = "hard,hard"
PATIENCE_SECONDS = 120.0
SHARD_MAP = re.compile(r"^\S+ r--[ps] .* (\S+/(?:obj/[0-9a-f]{64}|\S+\.tar))$", re.MULTILINE)

Told = dict[str, Any]


class Host:
    """Ranks that read together: each is asked for the same at the same time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Ask the ranks that `process` started."""
        self._process = process

    def read(self, place: str | Path, *, world: int = RANKS, **asked: Any) -> list[Told]:  # noqa: ANN401
        """Return what each rank tells of an epoch of the store at `place`.

        The ranks of this host are the first ones of a `world`, or all of a small one. `asked` are
        the arguments of `answer`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"place": str(place), "world": world, **asked})
        print(line, file=self._process.stdin, flush=True)
        told: list[Told] = json.loads(self._process.stdout.readline())
        return told


@contextmanager
def host(ranks: int = RANKS) -> Iterator[Host]:
    """Run the ranks of a host."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.loaders.host", str(ranks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPO,
    )
    try:
        yield Host(process)
    finally:
        process.communicate(timeout=PATIENCE_SECONDS)  # the end of its input is its end
    assert process.returncode == 0


def open_files() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def mapped_shards() -> int:
    """Return how many shards this process maps, of a local store or of a cache."""
    return len(set(SHARD_MAP.findall(Path("/proc/self/maps").read_text())))


def read_epoch(loader: ViewLoader, steps: int | None) -> Told:
    """Read an epoch, or so many steps of one, and tell of it."""
    told: Told = {"rows": [], "valid": [], "pixels": [], "files": 0, "maps": 0}
    for batch in itertools.islice(loader, steps):
        told["rows"].append(batch.index.tolist())
        told["valid"].append(batch.valid.tolist())
        told["pixels"].append(
            [
                hashlib.sha256(
                    b"".join(view.pixels[i].numpy().tobytes() for view in batch.views)
                ).hexdigest()[:16]
                for i in range(len(batch))
            ]
        )
        told["files"] = max(told["files"], open_files())
        told["maps"] = max(told["maps"], mapped_shards())
        told["state"] = batch.state
    return told | {"stats": loader.stats()}


def answer(
    place: str,
    *,
    cache: str = "",
    limit: int = 1 << 30,
    epoch: int = 0,
    state: Told | None = None,
    steps: int | None = None,
    **settings: Any,  # noqa: ANN401
) -> Told:
    """Open a store and tell of an epoch of it, from its start or from a loader's state on.

    `cache` and `limit` are directory and bytes of the cache, `steps` is how many are read, and
    `settings` are those of the loader.
    """
    found = CacheSettings(directory=Path(cache), limit_bytes=limit) if cache else None
    store = viewstore.open(place, cache=found)
    before = open_files()
    settings = {"batch_size": 16, "num_threads": 1, "resident": False, **settings}
    with closing(ViewLoader(store, VIEWS, **settings)) as loader:
        if state is None:
            loader.seek(epoch)
        else:
            loader.load_state_dict(state)
        told = read_epoch(loader, steps)
    return told | {"files_before": before}


def rank_main(rank: int, ranks: int, asked: Connection) -> None:
    """Answer as a rank, with the environment that torchrun sets, until nobody asks any more."""
    torch.set_num_threads(1)
    while (line := asked.recv()) is not None:
        world = line.pop("world")
        launched = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": min(world, ranks),
        }
        os.environ.update({name: str(value) for name, value in launched.items()})
        asked.send(answer(**line))


def answered(rank: Connection) -> Told:
    """Return the answer of a rank. Raises TimeoutError: it has died, or hangs."""
    if not rank.poll(PATIENCE_SECONDS):
        raise TimeoutError("a rank does not answer")
    told: Told = rank.recv()
    return told


def main(ranks: int) -> None:
    """Start the ranks, and pass questions and answers on."""
    context = multiprocessing.get_context("fork")  # nothing was opened yet, and no thread runs
    ends = [context.Pipe() for _ in range(ranks)]
    processes = [
        context.Process(target=rank_main, args=(rank, ranks, theirs), daemon=True)
        for rank, (_, theirs) in enumerate(ends)
    ]
    for process in processes:
        process.start()
    for text in sys.stdin:
        line = json.loads(text)
        here = [ours for ours, _ in ends][: line["world"]]
        for ours in here:
            ours.send(line)
        print(json.dumps([answered(ours) for ours in here]), flush=True)
    for ours, _ in ends:
        ours.send(None)
    for process in processes:
        process.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
