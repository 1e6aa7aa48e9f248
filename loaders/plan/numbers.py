"""Settings that count: whatever type of integer a user gives, they become a plain int."""

from __future__ import annotations

import operator

from viewstore.errors import ConfigError

PLACES = 1 << 53  # seeds and epochs stay below: every reader of JSON has such numbers


def whole_number(name: str, value: object, *, least: int) -> int:
    """Return a setting that counts, whatever type of integer it is, numpy's and torch's too.

    Raises:
        ConfigError: It is no integer, or less than `least`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ConfigError(f"{name} must be at least {least}, got {number}")
    return number


def check_seed(value: object) -> int:
    """Return a seed as a plain int. Raises ConfigError: it is no integer in [0, 2^53)."""
    try:
        seed = whole_number("seed", value, least=0)
    except ConfigError as error:
        raise ConfigError(f"seed must be in [0, 2^53), got {value!r}") from error
    if seed >= PLACES:
        raise ConfigError(f"seed must be in [0, 2^53), got {seed}")
    return seed
