"""How far long work is: one protocol, which those who work tell and those who show it implement."""

from __future__ import annotations

from typing import Protocol

Fact = float | int | str


class Progress(Protocol):
    """Told how work goes. One piece of work at a time: `begin`, any number of `advance`, `end`."""

    def begin(self, label: str, total: int, unit: str) -> None:
        """Begin work of `total` units, such as "views"."""

    def advance(self, count: int = 1, **facts: Fact) -> None:
        """Count `count` more units as done; `facts` replace those that were shown before."""

    def end(self) -> None:
        """End the work begun last, whether all of it was done or not."""

    def note(self, text: str) -> None:
        """Take a line about what is going on."""

    def warn(self, text: str) -> None:
        """Take a line that the user should act on."""


class Silent:
    """Shows nothing."""

    def begin(self, label: str, total: int, unit: str) -> None:
        """Show nothing."""

    def advance(self, count: int = 1, **facts: Fact) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Show nothing."""
