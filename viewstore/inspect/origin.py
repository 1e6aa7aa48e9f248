"""Which networks made a view set, which round it is, and whether it is stale: facts and words."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from viewstore.errors import FormatError, counted
from viewstore.store.lineage import stale_shards
from viewstore.store.published import linked
from viewstore.store.rounds import newest_round
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

SHA256_DIGITS = 12  # of a digest, where people read it


def origin_facts(store: Store, view_set: ViewSet) -> dict[str, Any]:
    """Return where the views of a set come from.

    Returns:
        "weights": the files that made it, the fields of Weights. "model_step": the greatest step of
        training that is recorded of them, or None. "round": its number. "newest": name of the
        newest complete round. "made_from": names of the view sets that it was made from.
        "stale": how many of its shards were made from other bytes than those have now; None
        where one of those is gone, or is another one.
    """
    plan = view_set.plan
    return {
        "weights": [asdict(each) for each in view_set.weights],
        "model_step": _model_step(view_set),
        "round": view_set.round,
        "newest": newest_round(store, plan.base).name,
        "made_from": [link["view_set"] for link in plan.links.values()],
        "stale": _stale(store, view_set),
    }


def _model_step(view_set: ViewSet) -> int | None:
    found = view_set.stats.get("model_step")
    return None if found is None or found.max is None else int(found.max)


def _stale(store: Store, view_set: ViewSet) -> int | None:
    with contextlib.suppress(FormatError):  # a damaged index is a fault of its own
        inputs = linked(view_set.plan, store.view_sets)
        return None if inputs is None else len(stale_shards(view_set, inputs))
    return None


def origin_words(name: str, facts: Mapping[str, Any]) -> list[str]:
    """Return `origin_facts` of view set `name` in words; nothing where there is nothing to tell."""
    return [*made_words(name, facts), *outdated_words(name, facts)]


def made_words(name: str, facts: Mapping[str, Any]) -> list[str]:
    """Return by which files a view set was made, a phrase each, and which round it is."""
    words = [
        f"by the {each['role']} {each['name']} {each['sha256'][:SHA256_DIGITS]}"
        for each in facts["weights"]
    ]
    if facts["model_step"] is not None:
        words.append(f"of training step {facts['model_step']}")
    if facts["newest"] == name and facts["round"] > 1:
        words.append(f"round {facts['round']}, the newest")
    return words


def outdated_words(name: str, facts: Mapping[str, Any]) -> list[str]:
    """Return in words that a view set has a newer round or is stale; nothing where it is not."""
    made_from = " and ".join(facts["made_from"])
    words = []
    if facts["newest"] != name:
        words.append(f"round {facts['round']}, the newest is {facts['newest']}")
    if facts["stale"] is None:
        words.append(f"{made_from} is not what it was made from: it was taken out, or built anew")
    elif facts["stale"]:
        are = "is" if facts["stale"] == 1 else "are"
        shards = counted(facts["stale"], "shard")
        words.append(f"{shards} {are} stale, made from other bytes of {made_from}")
    return words
