"""Marks: rows that a person has picked on Browse. They live in its address, as "3,17"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from viewstore.errors import ConfigError

MOST_MARKS = 100  # a filter that names them all has at most 2 KiB
MARKS = re.compile(r"\d{1,9}(,\d{1,9})*", re.ASCII)


def marked_rows(text: str, samples: int) -> list[int]:
    """Return the rows that marks name, ascending, each once.

    Raises:
        ConfigError: They are no row numbers of a store of so many samples, or too many.
    """
    if not text:
        return []
    if MARKS.fullmatch(text) is None:
        raise ConfigError(f"marks must be row numbers such as 3,17, got {text[:40]!r}")
    rows = sorted(set(map(int, text.split(","))))
    if len(rows) > MOST_MARKS or rows[-1] >= samples:
        raise ConfigError(
            f"marks must be at most {MOST_MARKS} rows below {samples}, got {len(rows)} up to "
            f"{rows[-1]}"
        )
    return rows


def with_mark(rows: Sequence[int], row: int) -> str:
    """Return the marks of `rows` as text with `row` among them, or without it where it was."""
    return ",".join(map(str, sorted(set(rows) ^ {row})))


def filter_of(rows: Sequence[int]) -> str:
    """Return the filter that finds the marked rows alone."""
    return f"index in [{', '.join(map(str, rows))}]"
