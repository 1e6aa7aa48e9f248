"""The tables of methods and strategies: name -> settings class, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from viewstore.errors import ConfigError, nearest
from viewstore.train.methods.base import MethodSettings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.strategies.a2 import A2
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.standard import Standard

METHODS: Mapping[str, type[MethodSettings]] = {"simclr": SimCLRSettings}
STRATEGIES: Mapping[str, type[Strategy]] = {"standard": Standard, "a2": A2}


def method_settings(name: str, given: Mapping[str, Any]) -> MethodSettings:
    """Return the settings of a method. Raises ConfigError: unknown name or setting."""
    settings: MethodSettings = _settings("method", METHODS, name, given)
    return settings


def strategy_of(name: str, given: Mapping[str, Any]) -> Strategy:
    """Return a strategy with its settings. Raises ConfigError: unknown name or setting."""
    if name == "a1":
        raise ConfigError(
            "a1 is no strategy: it is the standard one of an expert and a cropped generated view",
            code="VS102",
            where="--strategy a1",
            fix="write --views simclr,w-search+smallcrop --strategy standard",
        )
    strategy: Strategy = _settings("strategy", STRATEGIES, name, given)
    return strategy


def _settings(
    kind: str,
    table: Mapping[str, Any],
    name: str,
    given: Mapping[str, Any],
) -> Any:  # noqa: ANN401
    if name not in table:
        raise ConfigError(
            f"there is no {kind} {name!r}; {nearest(name, list(table))}",
            code="VS102",
            where=f"--{kind} {name}",
            fix=f"choose one of {', '.join(table)}",
        )
    known = [item.name for item in fields(table[name])]
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{kind} {name} has no setting {key!r}; {nearest(key, known)}", code="VS102"
            )
    return table[name](**given)
