"""Progress as lines of text or JSON: for files, logs and other programs."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import dataclass, field
from typing import TextIO

from viewstore.cli.text import duration, escape, facts_text
from viewstore.format.records import jsonable
from viewstore.progress import Fact

PLAIN_SECONDS = 30.0  # between two lines
RATE_SECONDS = 60.0  # time constant of the moving average behind the rate and the time left


@dataclass(kw_only=True)
class Rate:
    """Units per second, averaged exponentially over RATE_SECONDS, and the time left.

    Attributes:
        total: Units of the work.
        settle: Units that come before the rate tells anything of the time left: those of a pool
            that is worked on together end in a burst after a long wait.
    """

    total: int
    settle: int = 0
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    per_second: float = 0.0
    last: float = field(default_factory=time.monotonic)

    def advance(self, count: int) -> None:
        """Count `count` more units as done now."""
        now = time.monotonic()
        elapsed = max(now - self.last, 1e-9)
        self.done += count
        self.last = now
        since_start = max(now - self.started, 1e-9)
        old_share = math.exp(-elapsed / min(RATE_SECONDS, since_start))
        self.per_second = old_share * self.per_second + (1 - old_share) * count / elapsed

    @property
    def seconds_left(self) -> float:
        """Seconds until `total`, at the present rate; infinite while that tells nothing."""
        if self.done >= self.total:
            return 0.0
        if self.done <= self.settle or not self.per_second:
            return math.inf
        return (self.total - self.done) / self.per_second


class Lines:
    """Writes a line at the first unit, then one every PLAIN_SECONDS, and one at the last unit."""

    def __init__(self, stream: TextIO, label: str, rate: Rate, unit: str, *, as_json: bool) -> None:
        """Begin; each line is JSON if `as_json`, else text."""
        self.stream, self.label, self.unit, self.as_json = stream, label, unit, as_json
        self.rate = rate
        self.facts: dict[str, Fact] = {}
        self.written = -math.inf

    def advance(self, count: int, facts: dict[str, Fact]) -> None:
        """Count units, and write a line if one is due."""
        self.rate.advance(count)
        self.facts |= facts
        now = time.monotonic()
        if now - self.written >= PLAIN_SECONDS or self.rate.done >= self.rate.total:
            self.written = now
            with contextlib.suppress(OSError):  # a full disk of logs does not end the work
                self.stream.write((self._json() if self.as_json else self._text()) + "\n")
                self.stream.flush()

    def end(self) -> None:
        """Write nothing more."""

    def _json(self) -> str:
        rate = self.rate
        numbers = {"done": rate.done, "total": rate.total, "per_second": rate.per_second}
        record = {"progress": self.label, "unit": self.unit, **numbers, "left": rate.seconds_left}
        return json.dumps(jsonable(record) | jsonable(self.facts))

    def _text(self) -> str:
        rate, left = self.rate, self.rate.seconds_left
        rest = f"  {duration(left)} left" if math.isfinite(left) and left > 0 else ""
        return escape(
            f"{self.label}: {rate.done}/{rate.total} {self.unit}"
            f"  {rate.per_second:.1f} {self.unit}/s{facts_text(self.facts)}{rest}"
        )
