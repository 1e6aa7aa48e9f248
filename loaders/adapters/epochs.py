"""The epochs of an iterable dataset, agreed on by worker processes that come and go."""

from __future__ import annotations

import hashlib
import os

import torch
from torch.utils.data import get_worker_info

MAX_WORKERS = 1024
# A claim is one number, which is written and read whole: epoch + 1, process, digest of a loop.
PROCESS_BITS = 22
LOOP_BITS = 21


class SharedEpochs:
    """Which epoch the next loop over an iterable dataset shows, in memory that workers share.

    Every worker of a loop shows the same epoch, and the next loop, with however many workers, the
    one after it. Only worker processes know that a loop began, so each claims what it began:
    whoever comes later to the same loop finds the claim, and whoever begins another loop takes
    the epoch after the newest.
    """

    def __init__(self) -> None:
        """Begin with epoch 0."""
        self._origin = torch.zeros(2, dtype=torch.int64)  # where the first loop begins
        self._claims = torch.zeros(MAX_WORKERS, dtype=torch.int64)  # of each worker; 0: none
        for shared in (self._origin, self._claims):
            shared.share_memory_()  # type: ignore[no-untyped-call]
        self._moved: tuple[int, int] | None = None  # by this worker process alone
        self._loops = 0  # that this process began

    @property
    def next(self) -> tuple[int, int]:
        """Epoch and step at which the next loop begins."""
        return self._moved or self._after(self._claims.tolist())

    @property
    def of_several_workers(self) -> bool:
        """Whether several worker processes have begun epochs."""
        return bool(self._claims[1:].any())

    def move(self, epoch: int, step: int) -> None:
        """Have the next loop begin there; in a worker process, for that worker alone."""
        if get_worker_info() is not None:  # the others move themselves
            self._moved = epoch, step
            return
        self._origin[:] = torch.tensor([epoch, step])
        self._claims.zero_()

    def begin(self) -> tuple[int, int]:
        """Return epoch and step at which this loop begins, the same for each of its workers."""
        self._loops += 1
        claims = self._claims.tolist()  # once: what is written from now on is of this loop
        place = self._moved or self._of_loop(claims) or self._after(claims)
        self._moved = None
        self.claim(place[0])
        return place

    def claim(self, epoch: int) -> None:
        """Say that this worker shows `epoch` in this loop."""
        if epoch < self.next[0] - 1:  # it was moved back: what was shown before is void
            self._claims.zero_()
        claimed = (epoch + 1 << PROCESS_BITS | os.getpid()) << LOOP_BITS | self._loop
        self._claims[this_worker()[0]] = claimed

    def _after(self, claims: list[int]) -> tuple[int, int]:
        """Return the place after all that was claimed."""
        newest = max(claims)
        if newest:
            return newest >> PROCESS_BITS + LOOP_BITS, 0
        epoch, step = self._origin.tolist()
        return int(epoch), int(step)

    def _of_loop(self, claims: list[int]) -> tuple[int, int] | None:
        """Return the place at which another worker of this loop began it; None: none did yet."""
        if get_worker_info() is None:
            return None
        for claim in filter(None, claims):
            process = claim >> LOOP_BITS & (1 << PROCESS_BITS) - 1
            if claim & (1 << LOOP_BITS) - 1 == self._loop and _is_alive(process):
                epoch = (claim >> PROCESS_BITS + LOOP_BITS) - 1
                origin, step = self._origin.tolist()
                return epoch, int(step) if epoch == origin else 0
        return None

    @property
    def _loop(self) -> int:
        """A digest of the loop that this worker process is in; 0 in the main process."""
        info = get_worker_info()
        if info is None:
            return 0
        # Workers of one loop have one base seed; those that persist count their loops. A caller
        # who seeds torch alike before each loop has equal digests, but of other processes.
        name = f"{info.seed - info.id} {self._loops}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") >> 11


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def this_worker() -> tuple[int, int]:
    """Return the number of this worker process and how many there are."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
