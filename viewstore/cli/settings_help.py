"""What `viewstore build --help-settings` prints: the generators, or each setting of one."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from viewstore.inspect.text import wrapped

NAMES = re.compile(r"(\w+(?:, \w+)*): (.*)")
MEANING = 6  # columns before the meaning of a setting


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
            "meaning": meanings[field.name],
        }
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    lines = [f"Settings of {generator}, given as --set NAME=VALUE. What is automatic is chosen to"]
    lines.append("fit the source and the networks, and is written into the plan.")
    for name, fact in facts.items():
        lines += ["", f"  {name}  [default: {_shown(fact['default'])}]"]
        lines += wrapped(" " * MEANING + fact["meaning"], indent=MEANING)
    return {"generator": generator, "settings": facts}, "\n".join(lines)


def attribute_docs(kind: type) -> dict[str, str]:
    """Return what the section "Attributes:" of a class's docstring says of each attribute."""
    lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
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


def _shown(value: Any) -> str:  # noqa: ANN401
    """Return a default as it would be written after `--set NAME=`."""
    if value is None:
        return "automatic"
    return str(value).lower() if isinstance(value, bool) else str(value)
