"""The driver's side of a contender's process."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from contest.workloads import Workload

BENCHMARKS = Path(__file__).parents[1]
START_SECONDS = 400.0  # ffcv compiles for more than a minute
EPOCH_SECONDS = 120.0
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


class ContenderFailedError(Exception):
    """A contender's process ended or went silent; the message is its last words."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a process is started with.

    Attributes:
        settings: What differs from the contender's default.
        data: Folder of all data.
        check: File for the pixels that are compared; None measures.
        warm_up_seconds: Whole epochs before anything counts.
        list_variants: Only say which settings are worth trying.
        least_seconds: A measured epoch is whole epochs for at least so long.
    """

    contender: str
    workload: Workload
    data: Path
    settings: dict[str, Any]
    cores: int
    warm_up_seconds: float = 2.0
    least_seconds: float = 1.0
    check: Path | None = None
    list_variants: bool = False

    def to_json(self) -> str:
        crops = ("crops",)  # of the table: a test changes sizes, not crops
        workload = {k: v for k, v in asdict(self.workload).items() if k not in crops}
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        paths = {"data": str(self.data), "check": str(self.check) if self.check else None}
        return json.dumps(fields | paths | {"workload": workload})


class Process:
    """A contender's process, from its start to its end."""

    def __init__(self, python: str, order: Order, *, benchmarks: Path = BENCHMARKS) -> None:
        """Start it. The clock of the first batch runs from here.

        Args:
            python: The interpreter that has the contender's packages.
            order: What it measures.
            benchmarks: The folder whose worker is run; that of another checkout measures its code.
        """
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [python, "-m", "contest.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,  # what a select waits for must not lie in a buffer already
            cwd=benchmarks,
            env=environment(benchmarks),
        )
        self._tell(order.to_json())

    def first_batch(self) -> float:
        """Return the seconds from the start of the process to its first batch."""
        self.hear(START_SECONDS)
        return time.perf_counter() - self.began

    def measure(self) -> dict[str, Any]:
        """Return the facts of one more measured epoch."""
        self._tell("go")
        return self.hear(EPOCH_SECONDS)

    def hear(self, seconds: float) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            ContenderFailedError: There was none in time.
        """
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = selector.select(seconds)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise ContenderFailedError(self._last_words() if ready else f"silent for {seconds} s")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its last words are heard next
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def _last_words(self) -> str:
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"exit {self.process.returncode}: {lines[-1] if lines else 'no message'}"


def environment(benchmarks: Path) -> dict[str, str]:
    """Return the environment of a contender: all of them start from bytecode.

    What was installed has it. Ours, which runs from its checkout, would else be compiled anew in
    each process where Python is told not to write any.
    """
    kept = {name: value for name, value in os.environ.items() if name != NO_BYTECODE}
    return kept | {"PYTHONPATH": str(benchmarks)}
