"""What a command says: results to stdout, everything else to stderr, progress in between.

No colour or markup of a store's text ever reaches the terminal: control characters are escaped.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TextIO

from viewstore.errors import ViewStoreError
from viewstore.format.records import jsonable

ProgressForm = Literal["auto", "bar", "plain", "json", "off"]
PLAIN_SECONDS = 30.0
RATE_SECONDS = 60.0  # time constant of the moving average behind views/s and the time left


class Progress(Protocol):
    """Told about finished work; shows how far it is and how long it still takes."""

    def advance(self, count: int = 1, **facts: float | int | str) -> None:
        """Count `count` more units as done; `facts` replace those shown before."""


def escape(text: str) -> str:
    """Return `text` with its control characters escaped, so that stored text stays text."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    """Return `seconds` as 1:02:03, 2:03 or 4 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass(kw_only=True)
class Rate:
    """Units per second, averaged exponentially over RATE_SECONDS, and the time left."""

    total: int
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    per_second: float = 0.0
    last: float = field(default_factory=time.monotonic)

    def advance(self, count: int) -> None:
        now = time.monotonic()
        elapsed = max(now - self.last, 1e-9)
        self.done += count
        self.last = now
        seen = max(now - self.started, 1e-9)
        keep = math.exp(-elapsed / min(RATE_SECONDS, seen))
        self.per_second = keep * self.per_second + (1 - keep) * count / elapsed

    def left(self) -> float:
        """Seconds until `total`, at the present rate; infinite before the first unit."""
        return (self.total - self.done) / self.per_second if self.per_second else math.inf


class _Lines:
    """Progress as lines of text or JSON: for files, logs and other programs."""

    def __init__(self, stream: TextIO, rate: Rate, label: str, unit: str, as_json: bool) -> None:
        self.stream, self.rate, self.label, self.unit = stream, rate, label, unit
        self.as_json = as_json
        self.facts: dict[str, float | int | str] = {}
        self.shown = -math.inf

    def advance(self, count: int = 1, **facts: float | int | str) -> None:
        self.rate.advance(count)
        self.facts |= facts
        now = time.monotonic()
        if now - self.shown >= PLAIN_SECONDS or self.rate.done >= self.rate.total:
            self.shown = now
            self.stream.write(self.line() + "\n")
            self.stream.flush()

    def line(self) -> str:
        rate, left = self.rate, self.rate.left()
        if self.as_json:
            numbers = {"done": rate.done, "total": rate.total, "per_second": rate.per_second}
            return json.dumps(
                jsonable({"progress": self.label, "unit": self.unit, **numbers, "left": left})
                | jsonable(self.facts)
            )
        facts = "".join(f"  {name} {_short(value)}" for name, value in self.facts.items())
        rest = f"  {duration(left)} left" if math.isfinite(left) and left > 0 else ""
        return (
            f"{self.label}: {rate.done}/{rate.total} {self.unit}"
            f"  {rate.per_second:.1f} {self.unit}/s{facts}{rest}"
        )


class _Bar:
    """Progress as one moving line on a terminal."""

    def __init__(self, lines: _Lines) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self.lines = lines
        self.bar = RichProgress(
            BarColumn(bar_width=24), TextColumn("{task.description}", markup=False), transient=True
        )
        self.task = self.bar.add_task(lines.label, total=lines.rate.total)
        self.bar.start()

    def advance(self, count: int = 1, **facts: float | int | str) -> None:
        self.lines.rate.advance(count)
        self.lines.facts |= facts
        self.bar.update(
            self.task, completed=self.lines.rate.done, description=escape(self.lines.line())
        )

    def stop(self) -> None:
        self.bar.stop()


class _Silent:
    def advance(self, count: int = 1, **facts: float | int | str) -> None:
        """Show nothing."""


@dataclass(kw_only=True)
class Terminal:
    """The one place from which commands write.

    Attributes:
        command: Name of the running command, for the JSON result.
        json: Print exactly one JSON object on stdout, also on failure.
        verbosity: -1 quiet (errors only), 0, 1 verbose, 2 with tracebacks.
        progress_form: How `progress` shows itself; `auto` is a bar on a terminal, else lines.
        warnings: What `warn` was told, in order.
    """

    command: str = ""
    json: bool = False
    verbosity: int = 0
    progress_form: ProgressForm = "auto"
    warnings: list[str] = field(default_factory=list)
    store_id: str | None = None

    def result(self, result: Mapping[str, Any], text: str, *, ok: bool = True) -> None:
        """Print the command's answer: `text` for people, or `result` inside the JSON object."""
        if self.json:
            self._print_json({"ok": ok, "result": jsonable(result)})
        elif text:
            write_stdout(escape(text) + "\n")

    def note(self, line: str) -> None:
        """Say something on stderr that is not an answer."""
        if self.verbosity >= 0:
            self._say(line)

    def warn(self, message: str) -> None:
        """Warn on stderr; the JSON object lists it too."""
        self.warnings.append(message)
        self._say(f"warning: {message}")

    def error(self, error: ViewStoreError) -> None:
        """Print an error in its four lines, or inside the JSON object."""
        facts = {"where": error.where, "why": error.why, "fix": error.fix}
        if self.json:
            self._print_json(
                {"ok": False, "error": {"code": error.code, "message": str(error), **facts}}
            )
        lines = [f"error[{error.code}]: {error}"]
        lines += [f"  {name + ':':6} {fact}" for name, fact in facts.items() if fact]
        self._say("\n".join(lines))

    @contextmanager
    def progress(self, total: int, *, unit: str, label: str) -> Iterator[Progress]:
        """Show progress towards `total` units while the block runs."""
        form = self.progress_form
        if form == "auto":
            form = "bar" if sys.stderr.isatty() and not self.json else "plain"
        if form == "off" or self.verbosity < 0:
            yield _Silent()
            return
        lines = _Lines(sys.stderr, Rate(total=total), label, unit, form == "json")
        if form != "bar":
            yield lines
            return
        bar = _Bar(lines)
        try:
            yield bar
        finally:
            bar.stop()

    def _print_json(self, fields: dict[str, Any]) -> None:
        head = {"schema_version": 1, "command": self.command, "store_id": self.store_id}
        write_stdout(json.dumps(head | fields | {"warnings": self.warnings}) + "\n")

    def _say(self, text: str) -> None:
        sys.stderr.write(escape(text) + "\n")
        sys.stderr.flush()


def write_stdout(text: str) -> None:
    """Write `text` to stdout; if its reader has gone away, exit 141 as other Unix tools do."""
    if sys.stdout is None:  # closed by whoever started us
        raise SystemExit(141)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
