"""Looks a preset up in the table of its kind."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from viewstore.errors import ConfigError

Preset = TypeVar("Preset")


def preset_of(table: Mapping[str, Preset], name: str, what: str) -> Preset:
    """Return a row of a table of presets.

    Raises:
        ConfigError: There is none of this name; the nearest one is named.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"preset of {what} must be one of {', '.join(table)}, got {name!r}{meant}",
            code="VS102",
            where=f"--preset {name}",
        )
    return table[name]
