"""A process that fills or reads a shared file, over and over, and says what it read.

Run as `python -m tests.viewstore.files.host_file_user KIND CACHE SEED`: it prints a line per read.
KIND "naive" takes a file that has its name and size for whole: it knows no mark and no lock. Where
it is to fill the file, it is killed halfway.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewstore.files.cache import Cache
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.host_file import HostFile, State

SIZE = 1 << 20
PARTS = 16
CONTENT = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)


class NaiveFile(HostFile):
    """Creates the file and fills it, or takes what has the name and the size."""

    def _take(self, descriptor: int) -> State:
        if os.fstat(descriptor).st_size == self._stored:
            return "ready"
        os.posix_fallocate(descriptor, 0, self._stored)
        return "fill"

    def to_fill(self) -> NDArray[np.uint8]:
        half = SIZE // 2
        super().to_fill()[:half] = CONTENT[:half]
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it was killed")


def read_once(file: HostFile, dice: random.Random) -> bool | None:
    """Return whether the bytes of the file are right, or None if another fills it."""
    state = file.try_acquire()
    if state == "fill":
        memory = file.to_fill()
        for part in np.split(np.arange(SIZE), PARTS):
            memory[part] = CONTENT[part]
            time.sleep(dice.random() * 0.002)
        state = file.publish()
    if state == "wait":
        time.sleep(0.001)
        return None
    right = True
    for _ in range(dice.randrange(1, 6)):
        right = right and bool((file.map() == CONTENT).all())
        time.sleep(dice.random() * 0.002)
    file.close()
    return right


def main(kind: str, cache: str, seed: str) -> None:
    """Read for ever."""
    dice = random.Random(int(seed))
    make = {"ours": HostFile, "naive": NaiveFile}[kind]
    while True:
        file = make(Cache(CacheSettings(directory=Path(cache))), "5" * 64, SIZE)
        right = read_once(file, dice)
        if right is not None:
            print("right" if right else "wrong", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
