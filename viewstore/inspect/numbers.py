"""Numbers as people read them: in tables, on the axes of charts, as shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from viewstore.images.colours import NOT_APPLIED, SOLARIZE_OFF
from viewstore.images.operators.spaces import NO_MORE

# What a column holds where its operation was not applied, and what people read there.
OFF: Mapping[str, int] = {
    "jitter_order": NOT_APPLIED,
    "ops": NO_MORE,
    "solarize": SOLARIZE_OFF,
}
OFF_WORD = "off"
# What a column of numbers of others holds where there is no other, and what people read there.
NONE: Mapping[str, int] = {"twin": 254, "duplicate": -1}
NONE_WORD = "none"
LONG_LIST, SHOWN = 16, 3  # from how many items on a list is long, and how many of it are shown


def number(value: float | None) -> str:
    """Return a number for a table: whole, or of four digits; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def axis_number(value: float) -> str:
    """Return a number for an axis: of three digits, or whole with commas from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """Return a share of 1 in percent, "no" for None."""
    return "no" if share is None else f"{100 * share:.1f} %"


def brief(value: Any) -> str:  # noqa: ANN401
    """Return a setting or a param on one line: numbers short, of long lists the first ones."""
    if isinstance(value, float):
        return number(value) if math.isfinite(value) else "-"
    if isinstance(value, list | tuple):
        return _listed([brief(each) for each in value])
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} {brief(each)}" for name, each in value.items()) + "}"
    return str(value)


def no_number(column: str) -> tuple[int, str] | None:
    """Return the value of a column that says "off" or "none", and that word; None: it has none."""
    if column in OFF:
        return OFF[column], OFF_WORD
    return (NONE[column], NONE_WORD) if column in NONE else None


def _listed(words: Sequence[str]) -> str:
    """Return words with commas between them; of many the first, and how many there are."""
    more = f",... ({len(words)})" if len(words) >= LONG_LIST else ""
    return ",".join(words[: SHOWN if more else None]) + more


def is_off(column: str, value: object) -> bool:
    """Return whether a value of a params column says that nothing was done."""
    return column in OFF and value == OFF[column]


def brief_param(column: str, value: Any) -> str:  # noqa: ANN401
    """Return a param on one line, as `brief`, with the word "off" where nothing was done."""
    if isinstance(value, list):
        words = [brief_param(column, each) for each in value]
        return OFF_WORD if words and set(words) == {OFF_WORD} else _listed(words)
    if column in NONE and value == NONE[column]:
        return NONE_WORD
    return OFF_WORD if is_off(column, value) else brief(value)
