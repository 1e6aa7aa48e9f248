"""The output of a command: results to stdout; notes, warnings, errors and progress to stderr.

No colour or markup of a store's text ever reaches the terminal: control characters are escaped.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from viewstore.cli.lines import Lines, Rate
from viewstore.cli.text import escape
from viewstore.errors import UnavailableError, ViewStoreError
from viewstore.format.records import jsonable
from viewstore.progress import Fact

if TYPE_CHECKING:
    from viewstore.cli.bar import Bar

ProgressForm = Literal["auto", "bar", "plain", "json", "off"]


@dataclass(kw_only=True)
class Terminal:
    """The one place from which commands write; the Progress of whatever they run.

    Attributes:
        command: Name of the running command, for the JSON result.
        arguments: The command line behind `viewstore`.
        json: Print exactly one JSON object on stdout, also on failure.
        verbosity: -1 quiet (errors only), 0, 1 verbose, 2 with tracebacks.
        progress_form: How progress is shown; `auto` is a bar on a terminal, else lines.
        warnings: All warnings so far, in order.
        store_id: Of the store that the command works on, for the JSON result.
    """

    command: str = ""
    arguments: Sequence[str] = ()
    json: bool = False
    verbosity: int = 0
    progress_form: ProgressForm = "auto"
    warnings: list[str] = field(default_factory=list)
    store_id: str | None = None
    _display: Lines | Bar | None = field(default=None, init=False)

    def result(self, result: Mapping[str, Any], text: str, *, ok: bool = True) -> None:
        """Print the command's answer: `text` for people, or `result` inside the JSON object."""
        if self.json:
            self._print_json({"ok": ok, "result": jsonable(result)})
        elif text and self.verbosity >= 0:
            write_stdout(escape(text) + "\n")

    def note(self, text: str) -> None:
        """Write something on stderr that is not an answer."""
        if self.verbosity >= 0:
            self._write(text)

    def warn(self, text: str) -> None:
        """Warn on stderr; the JSON object lists it too."""
        self.warnings.append(text)
        self.note(f"warning: {text}")

    def error(self, error: ViewStoreError) -> None:
        """Print an error in its four lines, or inside the JSON object."""
        facts = {"where": error.where, "why": error.why, "fix": error.fix}
        if self.json:
            self._print_json(
                {"ok": False, "error": {"code": error.code, "message": str(error), **facts}}
            )
        lines = [f"error[{error.code}]: {error}"]
        if error.where is not None:  # what users and their environment named, on its one line
            facts["where"] = error.where.replace("\n", "\\n")
        lines += [f"  {name + ':':6} {fact}" for name, fact in facts.items() if fact]
        self._write("\n".join(lines))

    def begin(self, label: str, total: int, unit: str, *, settle: int = 0) -> None:
        """Show progress towards `total` units on stderr, until `end`.

        The time left is shown once more than `settle` of them are done.
        """
        form = self.progress_form
        if form == "auto":
            form = "bar" if sys.stderr.isatty() and not self.json else "plain"
        if form == "off" or self.verbosity < 0:
            return
        if form == "bar":
            from viewstore.cli.bar import Bar

            self._display = Bar(label, total, unit, settle=settle)
        else:
            rate = Rate(total=total, settle=settle)
            self._display = Lines(sys.stderr, label, rate, unit, as_json=form == "json")

    def advance(self, count: int = 1, **facts: Fact) -> None:
        """Count `count` more units as done; `facts` replace those shown before."""
        if self._display is not None:
            self._display.advance(count, facts)

    def end(self) -> None:
        """Show no more progress of the work begun last."""
        display, self._display = self._display, None
        if display is not None:
            display.end()

    def _print_json(self, fields: dict[str, Any]) -> None:
        head = {"schema_version": 1, "command": self.command, "store_id": self.store_id}
        write_stdout(json.dumps(head | fields | {"warnings": self.warnings}) + "\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody can be told; the exit code says it
            sys.stderr.write(escape(text) + "\n")
            sys.stderr.flush()


def write_stdout(text: str) -> None:
    """Write `text` to stdout; if its reader has gone away, exit 141 as other Unix tools do.

    Raises:
        UnavailableError: It cannot be written, as to a full disk.
    """
    if sys.stdout is None:  # closed by whoever started us
        raise SystemExit(141)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        raise SystemExit(141) from None
    except OSError as error:
        _drop_stdout()
        raise UnavailableError(
            f"the answer could not be written: {error.strerror}",
            code="VS302",
            where="stdout",
            why="what the command did is done",
            fix="let stdout name a file on a disk with room, or a terminal, and run it again",
        ) from error


def _drop_stdout() -> None:
    """Write no more to stdout: Python would complain again when it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
