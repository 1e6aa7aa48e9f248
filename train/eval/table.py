"""Looks a preset up in the table of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from viewstore.errors import ConfigError

Preset = TypeVar("Preset")


def preset_of(table: Mapping[str, Preset], name: str, what: str) -> Preset:
    """Return a row of a table of presets. Raises ConfigError: there is none of this name."""
    if name not in table:
        raise ConfigError(
            f"preset of {what} must be one of {', '.join(table)}, got {name!r}", code="VS102"
        )
    return table[name]
