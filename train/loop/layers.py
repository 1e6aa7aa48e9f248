"""Settings in layers, a preset, a file and the command line: a later one counts over earlier ones.

Their values are flat, "method.temperature" for the setting temperature of the table method.
"""

from __future__ import annotations

import codecs
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from viewstore.errors import ConfigError, FormatError
from viewstore.files.disk import read_limited
from viewstore.format.records import parse
from viewstore.train.loop.checkpoint import LENGTHS
from viewstore.train.nets.network import PARTICULAR

METHOD, STRATEGY, OPTIMIZER, BACKBONE = (
    "method.name",
    "strategy.name",
    "optim.name",
    "network.backbone",
)
DEFAULT_NAMES = {METHOD: "simclr", STRATEGY: "standard", OPTIMIZER: "sgd", BACKBONE: "resnet18"}
NAMED_BY = {"--method": METHOD, "--strategy": STRATEGY}
MAX_BYTES = 1 << 20
ADVICE = "give a file that ends in .toml, or a run's config.json"


class Layer(NamedTuple):
    """Flat settings, what messages call them, and the file that they are of, if of one."""

    name: str
    values: Mapping[str, Any]
    file: Path | None = None


def flat(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by their dotted names.

    Raises:
        ConfigError: A name stands twice: dotted, and in a table.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = {f"{prefix}{key}": value}
        if isinstance(value, Mapping):
            inner = flat(value, prefix=f"{prefix}{key}.")
        if twice := sorted(inner.keys() & found.keys()):
            raise ConfigError(f"{twice[0]} is given twice")
        found |= inner
    return found


def read_layer(path: Path) -> Layer:
    """Return the settings of a TOML file, or of the JSON file that a run wrote.

    Raises:
        ConfigError: There is no such file, or it is neither.
    """
    readers: dict[str, Callable[[bytes], dict[str, Any]]] = {
        ".toml": lambda raw: tomllib.loads(raw.decode()),
        ".json": parse,
    }
    if path.suffix not in readers:
        raise ConfigError(f"{path.name} is no file of settings", where=str(path), fix=ADVICE)
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
            raise ValueError("it is no regular file")
        raw = read_limited(path, MAX_BYTES).removeprefix(codecs.BOM_UTF8)
        return Layer(str(path), flat(readers[path.suffix](raw)), file=path)
    except (OSError, ValueError, FormatError, RecursionError) as error:
        raise ConfigError(
            f"settings cannot be read from {path.name}",
            where=str(path),
            why=str(error) or type(error).__name__,
            fix=ADVICE,
        ) from error


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """Return the values that count, flat.

    A layer with another strategy begins the settings of strategies and the views anew; one with
    another optimizer, those of optimizers; one with another backbone, what not every backbone
    takes. Of epochs and steps, the one given last counts.

    Raises:
        ConfigError: Two layers name different methods.
    """
    values: dict[str, Any] = {}
    method_of = ""
    for layer in layers:
        if METHOD in values and _changed(METHOD, values, layer.values):
            raise _other_method(method_of, values[METHOD], layer)
        method_of = layer.name if METHOD in layer.values else method_of
        left = _left(values, layer.values)
        values = {key: value for key, value in values.items() if key in left}
        values |= layer.values
    return values


def located(error: ConfigError, layers: Sequence[Layer]) -> ConfigError:
    """Return the error of a setting with its file where that gave it, not the command line."""
    option, _, rest = (error.where or "").partition(" ")
    key = NAMED_BY.get(option, rest if option == "--set" else "").partition("=")[0]
    givers = [(layer, each) for layer in layers for each in layer.values if _same(key, each)]
    if not key or not givers or givers[-1][0].file is None:
        return error
    layer, each = givers[-1]
    where = f"{layer.name}: {each}"
    return ConfigError(str(error), code=error.code, where=where, why=error.why, fix=error.fix)


def _other_method(before: str, method: str, layer: Layer) -> ConfigError:
    named = layer.values[METHOD]
    return ConfigError(
        f"{before} is for method {method}, and {layer.name} names {named}",
        where=f"--method {named}",
        why=f"its other settings were chosen for {method}",
        fix="leave out one of the two",
    )


def _left(values: Mapping[str, Any], later: Mapping[str, Any]) -> set[str]:
    """Return the keys whose values count still beside those of a later layer."""
    left = {key for key in values if not any(_same(key, other) for other in later)}
    if _changed(STRATEGY, values, later):
        left = {key for key in left if key != "views" and not key.startswith("strategy.")}
    if _changed(OPTIMIZER, values, later):
        left = {key for key in left if not key.startswith("optim.")}
    if _changed(BACKBONE, values, later):
        left -= {f"network.{name}" for name in PARTICULAR}
    if any(later.get(name) is not None for name in LENGTHS):
        left -= set(LENGTHS)
    return left


def _changed(key: str, values: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    return key in later and _named(later[key]) != _named(values.get(key, DEFAULT_NAMES[key]))


def _named(value: object) -> set[str]:
    """Return the names in "standard,a2", of which standard is also meant where it is left out."""
    return {name.strip() for name in str(value).split(",")} - {DEFAULT_NAMES[STRATEGY]}


def _same(key: str, other: str) -> bool:
    """Return whether two keys name one setting: of a strategy, with or without its part."""
    (table, *parts), (other_table, *others) = key.split("."), other.split(".")
    if key == other or not table == other_table == "strategy":
        return key == other
    return parts[-1] == others[-1] and 1 in (len(parts), len(others))
