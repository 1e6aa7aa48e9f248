"""Files of lines that a run appends to, and cuts to the step of the checkpoint it goes on from.

So the file of a run that was interrupted has the lines of one that never was. A line of step s is
appended before the checkpoint of step s is written.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from viewstore.errors import FormatError
from viewstore.files.disk import append, make_directory, write_atomic
from viewstore.format.records import jsonable, parse

CURVE = "curve.jsonl"
METRICS = "metrics.csv"


class Curve:
    """The readings of a run, one JSON object a line, each with the step it was taken after."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Open `curve.jsonl` in `folder` for a run that goes on after `step` steps.

        Raises:
            FormatError: A line that is whole is no reading.
        """
        self.path = folder / CURVE
        make_directory(folder)
        cut_after(self.path, step, _step_of_reading)

    def append(self, reading: Mapping[str, Any]) -> None:
        """Add a reading, synced; `reading["step"]` says after how many steps it was taken.

        Numbers that are not finite become null.
        """
        append(self.path, json.dumps(jsonable(reading)).encode() + b"\n")


def _step_of_reading(line: bytes) -> int:
    return _checked_step(parse(line).get("step"))


class Table:
    """A CSV file with a row for each step that is written, and its columns in the first line."""

    def __init__(self, path: Path, columns: Sequence[str], *, step: int) -> None:
        """Open the file for a run that goes on after `step` steps.

        Raises:
            FormatError: It has other columns, or a row that is whole has no step.
        """
        self.path, self.columns = path, ("step", *columns)
        make_directory(path.parent)
        cut_after(path, step, self._step_of_row, header=_csv_line(self.columns))

    def append(self, step: int, values: Mapping[str, object]) -> None:
        """Add the row of a step, synced: the cells of columns that `values` lacks are empty."""
        cells = [values.get(name, "") for name in self.columns[1:]]
        append(self.path, _csv_line([step, *cells]))

    def _step_of_row(self, line: bytes) -> int:
        first = line.split(b",", 1)[0]
        return _checked_step(int(first) if first.isdigit() and len(first) < 18 else None)


def _csv_line(cells: Sequence[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _checked_step(step: object) -> int:
    if type(step) is not int or step < 0:
        raise FormatError(f"a line must say its step, got {step!r}")
    return step


def cut_after(
    path: Path, step: int, step_of: Callable[[bytes], int], *, header: bytes = b""
) -> None:
    """Drop the lines of steps after `step`, and a last one that a crash cut short.

    Args:
        path: The file, whose lines are in the order of their steps; made with `header` where it
            is missing.
        step: Of the checkpoint that the run goes on from; 0 for a new run.
        step_of: Returns the step of a line.
        header: What the file begins with.

    Raises:
        FormatError: The file begins otherwise, or `step_of` raises it.
    """
    data = path.read_bytes() if path.exists() else b""
    kept = data[: data.rfind(b"\n") + 1]
    if kept and not kept.startswith(header):
        raise FormatError(
            f"{path.name} must begin with {header.decode().strip()}",
            where=str(path),
            fix="move it away, or train into another --out",
        )
    try:
        lines = kept[len(header) :].splitlines(keepends=True)
        kept = header + b"".join(line for line in lines if step_of(line) <= step)
    except FormatError as error:
        raise error.located(str(path), fix="move it away, or train into another --out") from error
    if kept != data:
        write_atomic(path, kept)
