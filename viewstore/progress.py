"""How far long work is: the one protocol between what works and what shows it to a user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

Fact = float | int | str


class Progress(Protocol):
    """Shows one piece of work at a time: `begin`, any number of `advance`, `end`.

    The command line shows it on a terminal or as lines; `Silent` shows nothing.
    """

    def begin(self, label: str, total: int, unit: str, *, settle: int = 0) -> None:
        """Begin work of `total` units; `unit` is their plural, such as "views".

        Before more than `settle` of them are done, their rate tells nothing of the time left.
        """

    def advance(self, count: int = 1, **facts: Fact) -> None:
        """Count `count` more units as done; `facts` replace those given before."""

    def end(self) -> None:
        """End the work begun last, whether all of it was done or not."""

    def note(self, text: str) -> None:
        """Show a line that informs the user."""

    def warn(self, text: str) -> None:
        """Show a line that the user should act on."""


class Silent:
    """A Progress that shows nothing; the base of those that need only some of the methods."""

    def begin(self, label: str, total: int, unit: str, *, settle: int = 0) -> None:
        """Show nothing."""

    def advance(self, count: int = 1, **facts: Fact) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Show nothing."""


@contextmanager
def tracked(
    progress: Progress, label: str, total: int, unit: str, *, settle: int = 0
) -> Iterator[Progress]:
    """Begin work on `progress`, and end it with the block, also if that raises."""
    progress.begin(label, total, unit, settle=settle)
    try:
        yield progress
    finally:
        progress.end()
