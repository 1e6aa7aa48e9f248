"""Values of settings, as files and command lines give them, checked against types of fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from viewstore.errors import ConfigError, nearest

NONE = "none"  # how a command line and a TOML file say None
KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
}
LISTS: Mapping[type, str] = {int: "whole numbers", float: "finite numbers", str: "names"}


def typed_settings(prefix: str, kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Return the values of fields of a dataclass `kind`, each of the type of its field.

    `prefix` is what messages put before a name, "optim." of optim.lr. A field lambda_ is named
    lambda: see `shown`.

    Raises:
        ConfigError: There is no such field, which the nearest one is named for; or a value is of
            another type.
    """
    hints = get_type_hints(kind)
    known = {shown(item.name): item.name for item in fields(kind)}
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{prefix[:-1]} has no setting {key!r}; {nearest(key, list(known))}",
                code="VS102",
                where=f"--set {prefix}{key}",
            )
    return {
        known[key]: typed(f"{prefix}{key}", hints[known[key]], value)
        for key, value in given.items()
    }


def shown(field: str) -> str:
    """Return how users name a field: without the _ that a word of Python's has behind it."""
    return field.removesuffix("_")


def typed(name: str, kind: Any, value: Any) -> Any:  # noqa: ANN401
    """Return a value as the type `kind` has it: a float for an integer, a tuple for a list.

    A tuple may also be one value, or text with commas; where a field may be None, "none" says so.

    Raises:
        ConfigError: The value is of another type; `name` is what the message calls it.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None or value == NONE:
            return None
        (kind,) = (part for part in parts if part is not NoneType)
        return typed(name, kind, value)
    if origin is Literal:
        if not any(value == word and type(value) is type(word) for word in parts):
            raise _wrong(name, " or ".join(map(str, parts)), value)
        return value
    if origin is tuple:
        return _typed_tuple(name, parts, value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _wrong(name, KINDS[kind], value)
    return value


def _typed_tuple(name: str, parts: tuple[Any, ...], value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Return a value as a tuple of these types, or of any length where they are (T, ...)."""
    if isinstance(value, str):
        value = [_read(parts[0], word.strip()) for word in value.split(",")]
    items = list(value) if isinstance(value, list | tuple) else [value]
    kinds = parts[:1] * len(items) if parts[-1] is ... else parts
    try:
        return tuple(typed(name, kind, item) for kind, item in zip(kinds, items, strict=True))
    except ValueError:  # a ConfigError is one too
        count = "" if parts[-1] is ... else f"{len(parts)} "
        given = ",".join(map(str, items))
        raise _wrong(name, f"{count}{LISTS[parts[0]]}, separated by commas", given) from None


def _read(kind: type, word: str) -> Any:  # noqa: ANN401
    """Return what a word of a list means, or the word if it is no such thing."""
    try:
        return kind(word) if kind in (int, float) else word
    except ValueError:
        return word


def _wrong(name: str, kind: str, value: Any) -> ConfigError:  # noqa: ANN401
    return ConfigError(f"{name} must be {kind}, got {value!r}", where=f"--set {name}")
