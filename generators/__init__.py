"""Makers of views: the one table of their names; each row is a settings class in its module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from viewstore.errors import ConfigError, nearest

if TYPE_CHECKING:
    from viewstore.generators.contract import Settings


class Row(NamedTuple):
    """Where a generator lives, and the settings that its name stands for."""

    module: str
    settings: str
    values: Mapping[str, Any] = {}


GENERATORS: Mapping[str, Row] = {
    "simclr": Row("pixels.expert", "Expert", {"policy": "simclr"}),
    "simsiam": Row("pixels.expert", "Expert", {"policy": "simsiam"}),
    "moco": Row("pixels.expert", "Expert", {"policy": "moco"}),
    "dino": Row("pixels.expert", "Expert", {"policy": "dino", "views": 2}),
    "dino-local": Row("pixels.expert", "Expert", {"policy": "dino-local"}),
    "digits": Row("pixels.expert", "Expert", {"policy": "digits"}),
    "recon": Row("latent.inversion", "Inversion"),
    "w-search": Row("latent.search", "WSearch"),
    "w-perturb": Row("latent.perturb", "WPerturb"),
}


def settings_class(name: str) -> type[Settings]:
    """Return the settings class of a generator. Raises ConfigError naming the nearest name."""
    if name not in GENERATORS:
        raise ConfigError(
            f"there is no generator {name!r}; {nearest(name, list(GENERATORS))}", code="VS102"
        )
    row = GENERATORS[name]
    module = importlib.import_module(f"viewstore.generators.{row.module}")
    found: type[Settings] = getattr(module, row.settings)
    return found


def make_settings(name: str, values: Mapping[str, Any]) -> Settings:
    """Return the settings of generator `name` with `values` in place of its defaults.

    Lists, as JSON and TOML give them, become tuples.

    Raises:
        ConfigError: An unknown generator or setting (the nearest is named), or a bad value.
    """
    kind = settings_class(name)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(
                f"generator {name} has no setting {key!r}; {nearest(key, known)}", code="VS102"
            )
    merged = {**GENERATORS[name].values, **values}
    try:
        return kind(**{key: _tuples(value) for key, value in merged.items()})
    except TypeError as error:
        raise ConfigError(f"settings of generator {name}: {error}") from error


def _tuples(value: Any) -> Any:  # noqa: ANN401
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
