"""What differs between two plans of a view set, in the words in which a user gave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from viewstore.format.plan import Plan
from viewstore.format.records import canonical, differences

# What follows from the settings, and would only repeat them.
DERIVED = ("members", "json_bytes", "roles", "columns", "resample", "sources_id")


def plan_differences(stored: Plan, wanted: Plan) -> list[str]:
    """Return sentences such as "views was 4, is 6"; at least one where two plans differ.

    What a user set comes first; what follows from it is left out, unless nothing else differs.
    """
    found = [] if stored.sources_id == wanted.sources_id else ["the source was another one"]
    found += _of_settings(stored, wanted) or _of_plans(stored, wanted, but=DERIVED)
    return found or _of_plans(stored, wanted, but=())


def _of_settings(stored: Plan, wanted: Plan) -> list[str]:
    before, after = _settings(stored), _settings(wanted)
    if before["generator"] != after["generator"]:
        return [_was("generator", before["generator"], after["generator"])]
    keys = [
        key
        for key in {**before, **after}
        if canonical(before.get(key)) != canonical(after.get(key))  # a tuple is stored as a list
    ]
    return [_was(key, before.get(key), after.get(key)) for key in keys]


def _settings(plan: Plan) -> dict[str, Any]:
    """Return what decides a plan, by the names that options and --set have."""
    size = (plan.height, plan.width)
    args: dict[str, Any] = {}
    for name, value in plan.generator["args"].items():
        if isinstance(value, Mapping):
            args |= {f"{name}.{key}": each for key, each in value.items()}
        elif name not in ("views", "height", "width"):
            args[name] = value
    return {
        "generator": plan.generator["name"],
        "views": plan.views,
        "size": size[0] if size[0] == size[1] else size,
        "codec": plan.form,
        "seed": plan.seed,
        **{f"the file of {each.role}": f"{each.name} ({each.sha256[:8]})" for each in plan.weights},
        **args,
    }


def _was(name: str, before: object, after: object) -> str:
    said = ("not given" if value is None else value for value in (before, after))
    return "{} was {}, is {}".format(name, *said)


def _of_plans(stored: Plan, wanted: Plan, *, but: tuple[str, ...]) -> list[str]:
    """Return what differs in two plans of equal settings, but some keys: versions, the parent."""
    before, after = (
        {key: value for key, value in plan.to_json().items() if key not in but}
        for plan in (stored, wanted)
    )
    return [_was(key.replace(".", " "), *each) for key, *each in differences(before, after)]
