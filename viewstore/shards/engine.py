"""What an executor is given and what it gives back: a Job in, the outcomes of its units out.

An executor decides where units run, never what they do. Only the commit gives exactly-once, so a
unit may run twice, or at once in two places, and no harm is done.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from viewstore.errors import StoppedError
from viewstore.progress import Progress
from viewstore.shards.builder import BuilderFactory
from viewstore.shards.place import CPU
from viewstore.shards.signals import StopRequest
from viewstore.shards.unit import Outcome, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often a unit is tried.

    Attributes:
        app_attempts: Tries of a unit whose builder failed in a way that may pass.
        infra_attempts: Tries of a unit whose worker was lost.
    """

    app_attempts: int = 3
    infra_attempts: int = 20


@dataclass
class Queue:
    """The units that are left, and how often each was tried. An executor takes from it."""

    policy: Policy
    todo: list[Unit]
    tries: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)

    def take(self) -> Unit | None:
        """Return the next unit, or None if none is left."""
        return self.todo.pop(0) if self.todo else None

    def settle(self, unit: Unit, outcome: Outcome) -> bool:
        """Count a try; return whether it was the last. If not, the unit is queued again."""
        self.tries[unit.shard] = self.tries.get(unit.shard, 0) + 1
        if outcome.retryable and self.tries[unit.shard] < self.policy.app_attempts:
            self.todo.append(unit)
            return False
        return True

    def lost(self, unit: Unit) -> None:
        """Put back a unit whose worker is gone. Raises StoppedError after too many losses."""
        self.losses[unit.shard] = self.losses.get(unit.shard, 0) + 1
        if self.losses[unit.shard] >= self.policy.infra_attempts:
            raise StoppedError(
                f"workers were lost {self.losses[unit.shard]} times at shard {unit.shard}",
                why="the system may be killing them for memory",
                fix="use fewer --workers and run the same command again",
            )
        self.todo.insert(0, unit)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Units to run, and what an executor needs to run them.

    Attributes:
        make: Called once in each worker for its builder; picklable.
        stop: Once requested, no unit is taken any more; running ones may go on to its deadline.
        progress: Advanced by one for each sample that was rendered. It stays in this process.
        workers: Number of workers that the user wants; 0 lets the executor choose.
        device: Torch devices that the user wants: "cuda:0,cuda:1", "auto" or one.
        networks: Whether builders load networks: torch is theirs, and one thread each.
        check_room: Called before the first unit, with the number of workers and whether they may
            run on other hosts; raises UnavailableError where a shard of each has no room.
    """

    make: BuilderFactory
    queue: Queue
    stop: StopRequest
    progress: Progress
    workers: int = 0
    device: str = CPU
    networks: bool = False
    check_room: Callable[[int, bool], None] = lambda workers, elsewhere: None


# Runs units until the queue is empty or a stop was requested; yields the last outcome of each.
Executor = Callable[[Job], Generator[Outcome]]


def raise_failure(outcomes: Sequence[Outcome]) -> None:
    """Raise the error of the first outcome that failed or, if none did, that was stopped."""
    for status in ("failed", "stopped"):
        for outcome in outcomes:
            if outcome.status == status and outcome.error is not None:
                raise outcome.error
