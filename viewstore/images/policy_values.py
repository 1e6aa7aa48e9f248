"""Policies as values: of a TOML file, of a plan, of a run's settings; checked, and never evaluated.

A policy is a table of the fields of `Policy`, and `operators`, the name of a chain of operators
that is applied to its views. Where two policies take turns, a table `second` in it has what differs
in the other.
"""

from __future__ import annotations

import codecs
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from viewstore.errors import ConfigError, nearest
from viewstore.format.plan import VIEW_SET_NAME
from viewstore.images.operated import WHOLE, Operated
from viewstore.images.policies import POLICIES, policies
from viewstore.images.policy import Policy, ViewPolicy

Values = Mapping[str, Any]
PolicySetting = str | Values  # what a setting of a policy may be
ROLES = ("expert", "global", "local", "heavy")
OPERATORS, SECOND = "operators", "second"
ELSEWHERE = {  # what a view has besides its policy, and where that is set
    "size": "--size PX",
    "views": "--views V",
    "filter": "--set filter=linear",
}
MOST = 1e9  # of a number; NaN is not below it
MAX_BYTES = 1 << 20


def policies_of(setting: PolicySetting) -> tuple[ViewPolicy, ...]:
    """Return the policies that a setting names or spells out; views take them in turns.

    Raises:
        ConfigError: There is no such policy; or a value is unknown, of another type, or out of
            range.
    """
    if isinstance(setting, str):
        return policies(setting)
    if not isinstance(setting, Mapping):
        raise ConfigError(f"a policy must be a name or a table of values, got {setting!r}")
    first = {key: value for key, value in setting.items() if key != SECOND}
    if SECOND not in setting:
        return (_policy(first),)
    second = setting[SECOND]
    if not isinstance(second, Mapping) or not second.keys().isdisjoint({"name", OPERATORS, SECOND}):
        raise _wrong(SECOND, "a table of the numbers that differ in every other view", second)
    return (_policy(first), _policy({**first, **second}))


def spelled_out(setting: PolicySetting) -> str | dict[str, Any]:
    """Return a setting that says the same wherever it is read: the name of one of ours, or values.

    Raises:
        ConfigError: As `policies_of`; or a package's policy is more than a table can say.
    """
    found = policies_of(setting)
    if isinstance(setting, str) and all(part in POLICIES.own for part in setting.split("+")):
        return setting
    first, last = _values(found[0]), _values(found[-1])
    differs = {key: value for key, value in last.items() if value != first[key]}
    return {**first, SECOND: differs} if differs else first


def name_of(setting: PolicySetting) -> str:
    """Return the name of a policy by a setting of it, as a plan holds it."""
    return setting if isinstance(setting, str) else str(setting["name"])


def read_policy(path: Path) -> PolicySetting:
    """Return the values of the policy in a TOML file, complete.

    Raises:
        ConfigError: There is no such file, it is no TOML, or says no policy; the key is named.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        table = tomllib.loads(raw.removeprefix(codecs.BOM_UTF8).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"no policy can be read from {path.name}",
            where=f"--policy {path}",
            why=str(error),
            fix="give a TOML file with a policy, as docs/plugins.md shows one",
        ) from error
    try:
        return spelled_out(table)
    except ConfigError as error:
        raise error.located(f"--policy {path}") from error


def _policy(values: Values) -> ViewPolicy:
    known = [*(item.name for item in fields(Policy)), OPERATORS, SECOND]
    for key in values:
        if key in ELSEWHERE and key not in known:
            raise ConfigError(
                f"a policy has no {key}", code="VS102", fix=f"give {ELSEWHERE[key]} beside it"
            )
        if key not in known:
            raise ConfigError(f"a policy has no {key!r}; {nearest(key, known)}", code="VS102")
    if "name" not in values:
        raise ConfigError("a policy must have a name", fix='write name = "mine" in its first line')
    defaults = asdict(Policy(name=""))
    given = {
        key: _typed(key, defaults[key], value) for key, value in values.items() if key != OPERATORS
    }
    _check_name(given["name"], values.get(OPERATORS, ""))
    if (role := given.get("role", "expert")) not in ROLES:
        raise ConfigError(f"policy role must be one of {', '.join(ROLES)}, got {role!r}")
    base = Policy(**given)
    chain = values.get(OPERATORS, "")
    return base if chain == "" else _with_operators(base, chain)


def _with_operators(base: Policy, name: object) -> Operated:
    chains = _chains()
    if not isinstance(name, str) or name not in chains:
        hint = nearest(str(name), list(chains))
        raise ConfigError(f"policy operators: there is no chain {name!r}; {hint}", code="VS102")
    return Operated(name=base.name, chain=chains[str(name)].chain, base=base)


def _chains() -> dict[str, Operated]:
    """Return our chains of operators by name."""
    return {
        name: each
        for name, (each, *_) in POLICIES.own.items()
        if isinstance(each, Operated) and each.base is WHOLE
    }


def _values(policy: ViewPolicy) -> dict[str, Any]:
    """Return a policy as values. Raises ConfigError: it has more than they can say."""
    base, chain = policy, ""
    if isinstance(policy, Operated):
        base = policy.base
        same = [name for name, each in _chains().items() if each.chain == policy.chain]
        chain = same[0] if same and not policy.before else "?"
    if type(base) is not Policy or chain == "?":
        raise ConfigError(
            f"policy {policy.name} cannot be stored in a plan",
            why="a plan holds the fields of Policy, and the name of a chain of operators",
            fix="make its views online, or write a generator for them",
        )
    return {**asdict(base), "name": policy.name, OPERATORS: chain}


def _check_name(name: str, operators: object) -> None:
    word, plus, chain = name.partition("+")  # as of a package's policy with operators of ours
    if not VIEW_SET_NAME.fullmatch(word) or (plus and chain != operators):
        raise ConfigError(f"policy name must match {VIEW_SET_NAME.pattern}, got {name!r}")
    if name in POLICIES.own:
        raise ConfigError(
            f"policy name {name} is that of a policy of ours", fix="give it another name"
        )


def _typed(key: str, default: Any, value: Any) -> Any:  # noqa: ANN401
    """Return a value as the field has it, of the type of `default`. Raises ConfigError."""
    if isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(default)
        if not fits or not all(map(_is_number, value)):
            raise _wrong(key, f"{len(default)} numbers", value)
        return tuple(map(float, value))
    if isinstance(default, float):
        if not _is_number(value):
            raise _wrong(key, "a number", value)
        return float(value)
    if type(value) is not type(default):
        kinds = {bool: "true or false", int: "a whole number", str: "text"}
        raise _wrong(key, kinds[type(default)], value)
    return value


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < MOST  # type: ignore[arg-type]


def _wrong(key: str, kind: str, value: object) -> ConfigError:
    return ConfigError(f"policy {key} must be {kind}, got {value!r}")
