"""What --help-settings prints: the generators, the settings of one, or those of a training."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from viewstore.cli.train_options import SETTING_OF
from viewstore.inspect.text import wrapped

if TYPE_CHECKING:
    from viewstore.train.loop.config import PretrainConfig

NAMES = re.compile(r"(\w+(?:, \w+)*): (.*)")
MEANING = 6  # columns before the meaning of a setting
CHOSEN = ("method", "strategy", "backbone", "optimizer")  # options that decide what can be set


def generators_help() -> tuple[dict[str, Any], str]:
    """Return the generators, each with what it makes, as facts and as text."""
    from viewstore.generators import GENERATORS

    facts = {name: row.makes for name, row in GENERATORS.items()}
    width = max(map(len, facts))
    lines = ["Generators; --generator NAME --help-settings lists the settings of one.", ""]
    lines += [f"  {name.ljust(width)}  {makes}" for name, makes in facts.items()]
    return {"generators": facts}, "\n".join(lines)


def settings_help(generator: str) -> tuple[dict[str, Any], str]:
    """Return the settings of a generator, with default and meaning, as facts and as text.

    Raises:
        ConfigError: There is no such generator; the nearest is named.
    """
    from viewstore.generators import GENERATORS, settings_class

    kind = settings_class(generator)
    meanings = attribute_docs(kind)
    own = GENERATORS[generator].defaults
    facts = {
        field.name: {
            "default": own.get(field.name, field.default),
            "meaning": meanings.get(field.name, ""),
        }
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    lines = [f"Settings of {generator}, given as --set NAME=VALUE. What is automatic is chosen to"]
    lines.append("fit the source and the networks, and is written into the plan.")
    for name, fact in facts.items():
        lines += ["", f"  {name}  [default: {_shown(fact['default'])}]"]
        lines += wrapped(" " * MEANING + fact["meaning"], indent=MEANING)
    return {"generator": generator, "settings": facts}, "\n".join(lines)


def train_help(options: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the settings of a training, with default and meaning, as facts and as text.

    They are those of the preset, method, strategy, backbone and optimizer among the options of
    `viewstore train`; where a preset is given the defaults are its values.

    Raises:
        ConfigError: One of these is unknown, or they contradict each other.
    """
    from viewstore.train.loop.config import PretrainConfig
    from viewstore.train.loop.layers import Layer, flat, merged
    from viewstore.train.loop.presets import preset_layers

    layers = preset_layers(options["preset"]) if options["preset"] else []
    named = {SETTING_OF[name]: options[name] for name in CHOSEN if options[name] is not None}
    given = merged([*layers, Layer("the command line", named)])
    needed: dict[str, Any] = {"views": []} | ({} if "steps" in given else {"epochs": 1})
    config = PretrainConfig.of(needed | given)
    defaults = flat(config.to_json()) | dict.fromkeys(needed.keys() - given.keys())
    meanings = _meanings(config)
    keys = sorted(meanings.keys() & defaults.keys(), key=list(defaults).index)
    keys.sort(key=lambda key: "." in key)  # those of no table first
    facts = {key: {"default": defaults[key], "meaning": meanings[key]} for key in keys}
    method, strategy = config.method.TRAITS.name, config.strategy.name
    lines = [f"Settings of {method} with strategy {strategy}, given as --set NAME=VALUE, by the"]
    lines.append("option beside the name, or in a file for --config.")
    for key, fact in facts.items():
        option = "".join(
            f", --{name.replace('_', '-')}" for name in SETTING_OF if _names(name, key)
        )
        lines += ["", f"  {key}{option}  [default: {_shown(fact['default'], none='none')}]"]
        lines += wrapped(" " * MEANING + fact["meaning"], indent=MEANING)
    return {"method": method, "strategy": strategy, "settings": facts}, "\n".join(lines)


def _names(option: str, key: str) -> bool:
    """Return whether an option names a setting, with or without the part of the strategy."""
    words = SETTING_OF[option].split(".")
    return key.split(".") in (words, [words[0], words[-1]])


def _meanings(config: PretrainConfig) -> dict[str, str]:
    """Return what each setting means, by its dotted name, of strategies with the part and without.

    The tables themselves, and the names of method and strategy, are no settings that have one.
    """
    parts = [("", config), ("method.", config.method)]
    # The chooser `standard` is there beside stages too, but has settings where it is named alone.
    named = config.strategy.name.split(",")
    chosen = [part for part in config.strategy.parts if part.NAME in named]
    parts += [("strategy.", part) for part in chosen]
    parts += [(f"strategy.{part.NAME}.", part) for part in chosen]
    parts += [("network.", config.network), ("optim.", config.optim)]
    return {
        f"{table}{name.removesuffix('_')}": meaning
        for table, part in parts
        for kind in reversed(type(part).__mro__)
        if "Attributes:" in (kind.__doc__ or "")
        for name, meaning in attribute_docs(kind).items()
    }


def attribute_docs(kind: type) -> dict[str, str]:
    """Return what the section "Attributes:" of a class's docstring says of each attribute."""
    lines = [*inspect.cleandoc(kind.__doc__ or "").splitlines(), "Attributes:"]
    docs: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Attributes:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if (found := NAMES.fullmatch(line.strip())) and not line.startswith(" " * 5):
            names = found[1].split(", ")
            docs |= dict.fromkeys(names, found[2])
        elif line:
            docs |= {name: f"{docs[name]} {line.strip()}" for name in names}
    return docs


def _shown(value: Any, *, none: str = "automatic") -> str:  # noqa: ANN401
    """Return a default as it would be written after `--set NAME=`; `none` stands for None."""
    if value is None:
        return none
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
