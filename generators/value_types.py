"""Whether the values of settings are of the types that the class of the settings says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from viewstore.errors import ConfigError

WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    tuple: "a list",
    dict: "a table",
    Mapping: "a table",
    NoneType: "left out",
}


def check_types(generator: str, kind: type, values: Mapping[str, Any]) -> None:
    """Raise ConfigError unless values are of the types of the fields of a dataclass, by name.

    A whole number is a number too; true and false are none. Which words, which numbers and how
    many of them may be is for the class to say, and so is all about a type that is not made of
    those of `WORDS`, or that not even the default of its field is of.
    """
    try:
        hints = get_type_hints(kind)
    except (AttributeError, NameError, SyntaxError, TypeError):  # written for type checkers alone
        return
    for item in fields(kind):
        if item.name not in values:
            continue
        hint, value = hints[item.name], values[item.name]
        if not _is(hint, value) and (item.default is MISSING or _is(hint, item.default)):
            raise ConfigError(
                f"{item.name} must be {_words(hint)}, got {value!r}",
                where=f"a setting of generator {generator}",
                fix=f"viewstore build --generator {generator} --help-settings",
            )


def _is(kind: Any, value: Any) -> bool:  # noqa: ANN401
    """Return whether a value is of a type, as far as that is known here."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(part, value) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) for part in parts)
    if origin is tuple:
        return isinstance(value, list | tuple) and _are(parts, value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and _are((*parts[1:], ...), list(value.values()))
    if origin is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return origin not in (bool, str, NoneType) or isinstance(value, origin)


def _are(parts: tuple[Any, ...], values: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether values are of the types of a tuple, in which ... stands for any number."""
    if not parts:
        return True
    kinds = parts[:1] * len(values) if parts[-1] is ... else parts
    return len(kinds) == len(values) and all(map(_is, kinds, values))


def _words(kind: Any) -> str:  # noqa: ANN401
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_words(part) for part in parts if part is not NoneType)
    return " or ".join(map(str, parts)) if origin is Literal else WORDS[origin]
