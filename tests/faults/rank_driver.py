"""One rank of a job that does nothing but load: it writes what it saw, and may die at a step.

python rank_driver.py STORE OUT STATE DIE_AFTER MEET, with RANK and WORLD_SIZE set: up to epoch 3
from STATE on, rank 1 kills itself after so many steps. With MEET 1 the ranks meet at each step.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

import viewstore
from viewstore.loaders import Batch, ViewLoader
from viewstore.store.store import Store

EPOCHS = 3


def make(store: Store) -> ViewLoader:
    """Return the loader of the job; its rank is that of the environment."""
    return ViewLoader(
        store, "hard,digits+crop,online:simclr", batch_size=12, num_threads=2, tail="pad"
    )


def digests(batch: Batch) -> list[str]:
    """Return a digest of each sample's pixels."""
    samples = (
        b"".join(view.pixels[place].numpy().tobytes() for view in batch.views)
        for place in range(len(batch))
    )
    return [hashlib.sha256(sample).hexdigest()[:16] for sample in samples]


def steps(loader: ViewLoader, state: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield for each step from a state on its digests and the state after it."""
    if state is not None:
        loader.load_state_dict(state)
    while loader.epoch < EPOCHS:
        for batch in loader:
            yield {"digests": digests(batch), "state": batch.state}


def main(root: str, out: str, start: str, die_after: str, meet: str) -> None:
    """Load, append a line for each step to the file of this rank, and die in time."""
    rank = os.environ["RANK"]
    if meet == "1":
        # Longer than the test allows: what ends the job in time is not this limit.
        torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=10))
    with make(viewstore.open(root)) as loader, Path(out, f"{rank}.jsonl").open("w") as file:
        for count, line in enumerate(steps(loader, json.loads(start)), 1):
            if meet == "1":  # as the gradients of a training step do
                torch.distributed.all_reduce(torch.ones(1))
            file.write(json.dumps(line) + "\n")
            file.flush()
            if rank == "1" and count == int(die_after):
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
