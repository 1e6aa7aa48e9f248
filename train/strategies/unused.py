"""Settings that cannot have an effect beside others are refused, not passed over."""

from __future__ import annotations

from collections.abc import Iterable

from viewstore.errors import ConfigError
from viewstore.train.strategies.base import Chooser, Stage
from viewstore.train.values import shown


def refuse_unused(part: Chooser | Stage, names: Iterable[str], why: str) -> None:
    """Raise ConfigError where one of these settings is not at its default.

    `why`: what makes them idle, beside the other settings, the method and the views.
    """
    given = [name for name in names if getattr(part, name) != getattr(type(part), name)]
    if given:
        first = f"{shown(given[0])} {getattr(part, given[0])}"
        raise ConfigError(
            f"{first} has no effect in strategy {part.NAME}: {why}",
            where=f"--set strategy.{shown(given[0])}={getattr(part, given[0])}",
            why="a setting that changes nothing would be taken for one that does",
            fix="leave out " + " ".join(f"--set strategy.{shown(name)}=.." for name in given),
        )
