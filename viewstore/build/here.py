"""What a worker checks of its own machine before its first unit, and before networks are loaded.

Weights and source images are not in the store: each machine has its own, at places that must hold
the same. What differs is refused; `made_builder` adds the host to the error.
"""

from __future__ import annotations

import importlib.metadata
import socket

import numpy as np

from viewstore.errors import FormatError
from viewstore.format.plan import Plan
from viewstore.shards.builder import NEVER_SKIPPED, unreadable_image
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import OnError

MOST_PARTS = 16


def check_source(reader: SourceReader, on_error: OnError) -> None:
    """Read one image of every part of the source, of at most 16 that are evenly spread.

    Raises:
        FormatError: One cannot be reached; or, unless `on_error` is "skip", is another one than
            the row was fixed with.
    """
    _, first = np.unique(reader.table.part, return_index=True)
    spread = np.linspace(0, len(first) - 1, min(MOST_PARTS, len(first))).astype(np.int64)
    for row in first[spread].tolist():
        try:
            reader.read(row)
        except FormatError as error:
            if error.code in NEVER_SKIPPED:
                raise
            if on_error == "fail":
                raise unreadable_image(error) from error


def warnings_here(plan: Plan) -> tuple[str, ...]:
    """Return what a user should know of this machine: whether it has another torch."""
    planned = plan.libraries.get("torch")
    found = None if planned is None else importlib.metadata.version("torch")
    if found == planned:
        return ()
    return (
        f"host {socket.gethostname()} has torch {found}, and {plan.view_set} was planned with "
        f"{planned}: its pixels may differ in the last bits",
    )
