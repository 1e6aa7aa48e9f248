"""The presets: settings of whole runs by name, one TOML file each in the folder presets.

A preset may name another one as its `base`, whose settings its own count over.
"""

from __future__ import annotations

import importlib.resources
import tomllib
from importlib.resources.abc import Traversable

from viewstore.errors import ConfigError, nearest
from viewstore.train.loop.layers import Layer, flat

BASE = "base"


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(
        file.name.removesuffix(".toml")
        for file in _folder().iterdir()
        if file.name.endswith(".toml")
    )


def preset_layers(name: str) -> list[Layer]:
    """Return the settings of a preset behind those of its base.

    Raises:
        ConfigError: There is no such preset; the nearest one is named.
    """
    names = preset_names()
    if name not in names:
        raise ConfigError(
            f"there is no preset {name!r}; {nearest(name, names)}",
            code="VS102",
            where=f"--preset {name}",
            fix="docs/training.md lists the presets",
        )
    tree = tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    base = tree.pop(BASE, None)
    return [*([] if base is None else preset_layers(base)), Layer(f"preset {name}", flat(tree))]


def _folder() -> Traversable:
    return importlib.resources.files("viewstore.train") / "presets"
