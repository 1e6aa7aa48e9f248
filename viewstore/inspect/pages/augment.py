"""Augment: whether the recorded draws of augmentations are those of their policy."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np

from viewstore.format.columns import MADE
from viewstore.inspect.augmentation import (
    LEVEL,
    Check,
    Overlaps,
    Recorded,
    Replays,
    checks_of,
    headline,
)
from viewstore.inspect.figures import figure
from viewstore.inspect.pages.page import Facts, PageRequest, Tab, opening
from viewstore.inspect.pages.policies import kept_replays, policy_facts
from viewstore.inspect.told import described
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

OVERLAPS, BOX = "pair_iou", "crop_box"
TARGETS = "views"  # role of the view set whose views are the other ones of pairs


def _replays(request: PageRequest) -> Replays | None:
    """Return what draws the params of the picked view set anew; None: nothing does."""
    shown = request.view_set
    return None if shown is None else kept_replays(request.site, request.store, shown)


def _facts(request: PageRequest) -> Facts:
    shown, replays = request.shown, _replays(request)
    assert replays is not None, "the tab is absent without"
    overlaps = _overlaps(request.store, shown)
    roots = [shown.index.root, *(request.store.view_sets[name].index.root for name in overlaps)]
    found: Facts = request.site.facts.get(
        ("augment", *roots), lambda: _checked(request.store, shown, replays)
    )
    return found


def _overlaps(store: Store, shown: ViewSet) -> dict[str, Overlaps]:
    """Return the overlaps that columns sets stored of the boxes of a view set, by set."""
    found = {}
    for each in described(store, shown):
        link = each.plan.inputs.get(TARGETS)
        targets = shown if link is None else store.view_sets.get(link["view_set"])
        if targets is None or (link is not None and targets.plan.id != link["plan_id"]):
            continue
        if OVERLAPS in each.params and BOX in shown.params and BOX in targets.params:
            found[each.name] = Overlaps(
                stored=each.params[OVERLAPS],
                targets=targets.params[BOX],
                groups=int(each.plan.generator["args"].get("groups", 1)),
            )
    return found


def recorded_of(store: Store, shown: ViewSet) -> Recorded:
    """Return what a view set recorded of its draws, with what is needed to check it."""
    return Recorded(
        params=shown.params,
        made=np.isin(shown.params["status"], MADE),
        height=store.table.height,
        width=store.table.width,
        overlaps=_overlaps(store, shown),
    )


def _checked(store: Store, shown: ViewSet, replays: Replays) -> Facts:
    checks = checks_of(recorded_of(store, shown), replays)
    return {
        "view_set": shown.name,
        "generator": dict(shown.plan.generator),
        "seed": shown.plan.seed,
        "policies": policy_facts(replays),
        "headline": headline(checks),
        "disagree": sum(not check.agrees for check in checks),
        "level": LEVEL / max(len(checks), 1),
        "checks": [_check(check) for check in checks],
    }


def _check(check: Check) -> Facts:
    rows = ", ".join(map(str, check.rows))
    where = f"index in [{rows}]" if check.rows else ""
    off = check.off if math.isfinite(check.off) else None  # without chance there is no multiple
    return {**asdict(check), "off": off, "agrees": check.agrees, "where": where}


def _code(request: PageRequest) -> str:
    """Return Python that opens the store, draws the params anew and checks the recorded ones."""
    return (
        f"{opening(request)}\n"
        "from viewstore.build.draws import drawn_anew\n"
        "from viewstore.inspect.augmentation import checks_of\n"
        "from viewstore.inspect.pages.augment import recorded_of\n\n"
        "checks = checks_of(recorded_of(store, views), drawn_anew(store, views))\n"
        "disagree = [each.name for each in checks if not each.agrees]"
    )


TAB = Tab(
    name="augment",
    title="Augment",
    facts=_facts,
    has_data=lambda request: _replays(request) is not None,
    drawn=lambda request, facts: {
        "figures": [figure(each["panel"]) for each in facts["checks"] if each["panel"]]
    },
    code=_code,
)
