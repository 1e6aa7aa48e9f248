"""Trainings that take turns in one process, so that a busy machine slows all of them alike.

Each runs in a thread of its own, of which one works at a time: what is timed is the loop of the
package as it is, with its loader, logs and checkpoints. A turn begins with the batches that its
loader made ahead, and the CPU seconds of a turn count until as many are there again; those of the
clock end with the last step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import torch

from viewstore.errors import StoppedError

POLL_SECONDS = 0.02
QUIET_SECONDS = 0.001  # of CPU between two looks at a process that only waits
QUIET_LOOKS = 3  # in a row

Training = Callable[[Callable[[], bool]], object]  # it calls what it is given after each step


@dataclass(frozen=True)
class Turn:
    """What the steps of one turn took: by the clock, and of CPU in the whole process."""

    seconds: float
    cpu_seconds: float


class Turnstile:
    """Lets one of several trainings work at a time, `steps` steps each, `rounds` + 1 times.

    The first round warms up. Every other round goes through the trainings backwards.

    Attributes:
        turns: The measured turns of each training.
    """

    def __init__(self, names: Sequence[str], *, steps: int, rounds: int) -> None:
        ways = [names if number % 2 == 0 else names[::-1] for number in range(rounds + 1)]
        self._queue = [name for way in ways for name in way]
        self._first = set(range(len(names)))  # places in the queue that warm up
        self._place = 0
        self._steps = steps
        self._done = dict.fromkeys(names, 0)
        self._changed = threading.Condition()
        self._broken = False
        self.turns: dict[str, list[Turn]] = {name: [] for name in names}

    def enter(self, name: str) -> None:
        """Wait until it is the turn of `name`. Raises StoppedError: another one failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or self._now == name)
            if self._broken:
                raise StoppedError("another training failed")
        self._began = time.perf_counter(), time.process_time()

    @property
    def _now(self) -> str | None:
        return self._queue[self._place] if self._place < len(self._queue) else None

    def stepped(self, name: str) -> bool:
        """Count a step of `name`; at the end of its turn let others work. True: it was the last."""
        self._done[name] += 1
        if self._done[name] % self._steps:
            return False
        wall = time.perf_counter() - self._began[0]
        settle()
        cpu = time.process_time() - self._began[1]
        if self._place not in self._first:
            self.turns[name].append(Turn(wall, cpu))
        if name not in self._queue[self._place + 1 :]:
            return True  # `leave` passes the turn on, when the training has ended
        self._pass_on()
        self.enter(name)
        return False

    def leave(self, *, failed: bool) -> None:
        """Say that a training has ended."""
        self._broken |= failed
        self._pass_on()

    def _pass_on(self) -> None:
        with self._changed:
            self._place += 1
            self._changed.notify_all()


def settle() -> None:
    """Wait until no thread of this process works: loaders have made ahead what they may."""
    quiet = 0
    while quiet < QUIET_LOOKS:
        before = time.process_time()
        time.sleep(POLL_SECONDS)
        quiet = quiet + 1 if time.process_time() - before < QUIET_SECONDS else 0


def take_turns(
    trainings: Mapping[str, Training], *, steps: int, rounds: int
) -> dict[str, list[Turn]]:
    """Return the turns of each training, `rounds` of `steps` steps, after one that warms up.

    Raises whatever a training raises.
    """
    stile = Turnstile(list(trainings), steps=steps, rounds=rounds)
    threads = torch.get_num_threads()

    def work(name: str) -> None:
        torch.set_num_threads(threads)
        failed = True
        try:
            with suppress(StoppedError):  # it was told to stop
                stile.enter(name)
                trainings[name](lambda: stile.stepped(name))
            failed = False
        finally:
            stile.leave(failed=failed)

    with ThreadPoolExecutor(len(trainings)) as pool:
        for ended in [pool.submit(work, name) for name in trainings]:
            ended.result()
    return stile.turns
