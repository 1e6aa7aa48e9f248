"""Settings by name: rows of a table, made of values that a user gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from viewstore.errors import ConfigError, nearest
from viewstore.train.values import shown, typed_settings


def settings_of(
    kind: str, table: Mapping[str, Any], names: Sequence[str], given: Mapping[str, Any]
) -> list[Any]:
    """Return the settings of each name: what a row of `table` makes of its share of `given`.

    A key of `given` belongs to the one name that has such a setting, or to NAME in "NAME.key".
    `kind` is what messages call a row, "method" or "strategy".

    Raises:
        ConfigError: A name or key is unknown, a name or setting stands twice, a key belongs to
            several, or a value is not of its field's type.
    """
    for name in names:
        if name not in table:
            raise ConfigError(
                f"there is no {kind} {name!r}; {nearest(name, list(table))}",
                code="VS102",
                where=f"--{kind} {name}",
                fix=f"choose one of {', '.join(table)}",
            )
        if names.count(name) > 1:
            raise ConfigError(f"{kind} {name} is given twice", where=f"--{kind} {','.join(names)}")
    values: dict[str, dict[str, Any]] = {name: {} for name in names}
    known = {name: [shown(item.name) for item in fields(table[name])] for name in names}
    for key, value in given.items():
        owner, setting = _owner(kind, key, known)
        if setting in values[owner]:
            raise ConfigError(f"setting {setting} of {owner} is given twice")
        values[owner][setting] = value
    return [table[name](**typed_settings(f"{kind}.", table[name], values[name])) for name in names]


def settings_named(part: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the values of a row's settings by the names that a user gives them."""
    return {shown(name): value for name, value in vars(part).items()}


def _owner(kind: str, key: str, known: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """Return the name that a key belongs to, and the setting that it names."""
    owner, dot, setting = key.rpartition(".")
    owners = [name for name in known if setting in known[name] and (not dot or name == owner)]
    if not owners:
        every = [each for names in known.values() for each in names]
        raise ConfigError(
            f"{kind} {','.join(known)} has no setting {key!r}; {nearest(setting, every)}",
            code="VS102",
            where=f"--set {kind}.{key}",
        )
    if len(owners) > 1:
        raise ConfigError(
            f"setting {key} belongs to {' and '.join(owners)}",
            where=f"--set {kind}.{key}",
            fix=f"name one of them: --set {kind}.{owners[0]}.{setting}=..",
        )
    return owners[0], setting
