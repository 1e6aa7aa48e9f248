"""Pairs: which views were chosen together by their losses, attacked, or mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from viewstore.errors import ConfigError, nearest
from viewstore.inspect.attacks import attack_numbers, mixture_numbers
from viewstore.inspect.distributions import Bar, Density
from viewstore.inspect.figures import density_panel, figure, histogram_panel, paired_panel
from viewstore.inspect.intervals import wilson
from viewstore.inspect.origin import origin_facts, origin_words
from viewstore.inspect.pages.page import Csv, Facts, PageRequest, Tab, opening
from viewstore.inspect.pages.rows import linked_row
from viewstore.inspect.pair_losses import (
    NO_PAIR,
    PairNumbers,
    PairTable,
    decimals_of,
    ordered_rows,
    pair_numbers,
    pair_table,
    shades,
)
from viewstore.inspect.shown_rows import Row, read_row
from viewstore.inspect.summary import label_text
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

ORDERS = {
    "loss": "greatest loss of the selected pair first",
    "margin": "greatest margin first",
    "spread": "most spread first",
    "-spread": "least spread first",
    "row": "by row",
}
MEANINGS = {  # of what samples are ordered by
    "loss": "the loss of the pair that was selected",
    "margin": "by how much it leads the second",
    "spread": "the greatest less the least loss of a pair of the sample",
}
PAGE, LONG, PAGE_LONG = 6, 16, 2  # samples of a page; views of a group from which fewer are shown
WORDS = {
    "selected": "the greatest loss",
    "easiest": "the least loss",
    "random": "a pair by chance",
    "min_iou": "the least overlap",
    "all": "all pairs",
}
LEVEL = 0.05  # of intervals
ROSE = 0.95  # share of attacked views whose loss is to rise


def pair_sets(store: Store) -> list[ViewSet]:
    """Return the view sets that hold losses of pairs, choices, attacks or mixtures."""
    return [each for each in store.view_sets.values() if _holds(each)]


def _holds(view_set: ViewSet) -> bool:
    names = set(view_set.params)
    choices = any(column.per == "choice" for column in view_set.plan.columns)
    return choices or _is_attack(names) or "mix_lambda" in names or "x_losses" in names


def _is_attack(names: set[str]) -> bool:
    return {"loss0", "loss", "delta_norm"} <= names


def _picked(request: PageRequest) -> tuple[list[ViewSet], ViewSet]:
    """Return the sets that the page can show, and the one that it shows.

    Raises:
        ConfigError: There is none of the name that is asked for.
    """
    sets = pair_sets(request.store)
    names = [each.name for each in sets]
    wanted = request.query.get("set")
    if wanted is not None:
        if wanted not in names:
            hint = nearest(wanted, names)
            raise ConfigError(f"no pairs are told by {wanted[:80]!r}; {hint}", code="VS102")
        return sets, sets[names.index(wanted)]
    shown = None if request.view_set is None else request.view_set.name
    about = [each for each in sets if shown in (each.name, each.of)]
    return sets, max(about or sets[:1], key=lambda each: each.round)


def _facts(request: PageRequest) -> Facts:
    sets, picked = _picked(request)
    names = set(picked.params)
    origin = origin_facts(request.store, picked)
    found: Facts = {
        "set": picked.name,
        "sets": [each.name for each in sets],
        "of": picked.of,
        "generator": picked.plan.generator["name"],
        "origin": origin,
        "words": origin_words(picked.name, origin),
        "choices": None,
        "pairs": None,
        "samples": None,
        "attack": None,
        "mixture": None,
    }
    table = pair_table(picked)
    if table is not None:
        numbers = _kept(request, picked, "pairs", lambda _: pair_numbers(table))
        found["pairs"] = _pair_facts(table, numbers)
        found["samples"] = _sample_facts(request, table, numbers)
    elif any(column.per == "choice" for column in picked.plan.columns):
        found["choices"] = _kept(request, picked, "choices", _choice_facts)
    if _is_attack(names):
        attack = _kept(request, picked, "attack", attack_numbers)
        share = _share(attack["rose"], attack["views"])
        found["attack"] = {**attack, **share, "wanted": ROSE}
    if "mix_lambda" in names:
        found["mixture"] = _kept(request, picked, "mixture", mixture_numbers)
    return found


def _kept(request: PageRequest, picked: ViewSet, what: str, make: Callable[[ViewSet], Any]) -> Any:  # noqa: ANN401
    """Return what `make` says of a view set, made once for its bytes; `what` names it."""
    key = (what, picked.plan.id, picked.index.root)
    return request.site.facts.get(key, lambda: make(picked))


def _share(hits: int, count: int) -> Facts:
    """Return a share with its 95 % interval; of none counted it is all of 0 to 1."""
    if not count:
        return {"share": None, "low": 0.0, "high": 1.0}
    low, high = wilson(hits, count, LEVEL)
    return {"share": hits / count, "low": low, "high": high}


def _pair_facts(table: PairTable, numbers: PairNumbers) -> Facts:
    edges = numbers.edges.tolist()
    names = ["all", *table.choices]
    return {
        "groups": table.groups,
        "candidates": table.candidates,
        "pairs": table.pairs.tolist(),
        "directed": table.directed,
        "logged": table.logged,
        "samples": int(np.isfinite(numbers.spread).sum()),
        "has_overlaps": any(each.groups for each in numbers.overlaps.values()),
        "scored": numbers.scored,
        "agree": numbers.agree,
        "beside": table.view_set.plan.generator["args"].get("locals") or None,
        "losses": {
            name: {
                "meaning": WORDS[name],
                "number": numbers.number[name],
                "mean": numbers.mean(name),
                "least_overlap": _overlap_facts(numbers, name),
            }
            for name in names
        },
        "by_view": {name: counts.tolist() for name, counts in numbers.by_view.items()},
        "correlation": numbers.correlation,
        "panels": [
            *(
                paired_panel(
                    f"loss of the {name} pairs (line) beside all pairs (bars)",
                    ("all", name),
                    (_bars(edges, numbers.counts["all"]), _bars(edges, numbers.counts[name])),
                )
                for name in table.choices
            ),
            *_view_panels(numbers),
            *_density_panels(numbers),
        ],
    }


def _bars(edges: Sequence[float], counts: Any) -> list[Bar]:  # noqa: ANN401
    ends = zip(edges, edges[1:], np.asarray(counts).tolist(), strict=False)
    return [Bar(low, high, count) for low, high, count in ends]


def _view_panels(numbers: PairNumbers) -> list[Facts]:
    if "selected" not in numbers.by_view:
        return []
    counts = numbers.by_view["selected"].tolist()
    bars = [Bar(v - 0.5, v + 0.5, count, str(v)) for v, count in enumerate(counts)]
    return [histogram_panel("how often each view number is in a selected pair", bars)]


def _density_panels(numbers: PairNumbers) -> list[Facts]:
    if not numbers.density.any():
        return []
    up = (float(numbers.edges[0]), float(numbers.edges[-1]))
    grid = Density((0.0, 1.0), up, tuple(map(tuple, numbers.density.T.tolist())))
    caption = "loss (up) over the overlap of crop boxes (across), all pairs"
    return [density_panel(caption, ("overlap", "loss"), grid)]


def _overlap_facts(numbers: PairNumbers, name: str) -> Facts | None:
    """Return how often the pair of a choice overlaps least, against chance; None: not known."""
    found = numbers.overlaps.get(name)
    if found is None or not found.groups:
        return None
    share = _share(found.least, found.groups)
    chance = found.chance / found.groups
    differs = "more often than" if share["low"] > chance else "less often than"
    word = "as often as" if share["low"] <= chance <= share["high"] else differs
    return {"groups": found.groups, "least": found.least, **share, "chance": chance, "word": word}


def _choice_facts(picked: ViewSet) -> Facts:
    """Return how often each view was chosen, of choices that are not of pairs with losses."""
    found = {}
    for column in picked.plan.columns:
        if column.per == "choice":
            views = picked.params[column.name].reshape(-1)
            counts = np.bincount(views[views < picked.num_views], minlength=picked.num_views)
            found[column.name] = counts.tolist()
    return {"by_view": found}


def _sample_facts(request: PageRequest, table: PairTable, numbers: PairNumbers) -> Facts:
    """Return the tables of losses of the samples of a page."""
    orders = _orders(table)
    order = request.query.get("order", next(iter(orders)))
    if order not in orders:
        raise ConfigError(f"order must be one of {', '.join(orders)}, got {order[:80]!r}")
    rows = _kept(request, table.view_set, f"order {order}", lambda _: ordered_rows(numbers, order))
    size = PAGE if table.candidates < LONG else PAGE_LONG
    pages = max(1, -(-len(rows) // size))
    page = _whole(request.query.get("page", "1"), pages)
    return {
        "order": order,
        "orders": orders,
        "meanings": {name: words for name, words in MEANINGS.items() if name in orders},
        "page": page,
        "pages": pages,
        "number": len(rows),
        "rows": [
            _one_sample(request.store, table, numbers, int(row))
            for row in rows[(page - 1) * size : page * size]
        ],
    }


def _orders(table: PairTable) -> dict[str, str]:
    """Return the orders that samples can have, in words; the first is that of the page."""
    absent = {"loss": "selected" not in table.choices, "margin": not table.has_margin}
    return {name: words for name, words in ORDERS.items() if not absent.get(name)}


def _whole(text: str, most: int) -> int:
    """Return a page number. Raises ConfigError: there is no such page."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise ConfigError(f"page must be a number from 1 to {most}, got {text[:20]!r}")
    return int(text)


def _one_sample(store: Store, table: PairTable, numbers: PairNumbers, row: int) -> Facts:
    block = table.block(np.array([row]))
    groups = []
    for group in range(table.groups):
        first = group * table.candidates
        losses = table.square(row, group)
        groups.append(
            {
                "views": list(range(first, first + table.candidates)),
                "losses": [[_finite(value) for value in line] for line in losses.tolist()],
                "shades": shades(losses, numbers.edges),
                "decimals": decimals_of(losses),
                "chosen": {
                    name: (table.pairs[pair[0, group]] + first).tolist()
                    for name, pair in block.chosen.items()
                    if pair[0, group] != NO_PAIR
                },
            }
        )
    return {
        "key": store.keys[row],
        "row": row,
        "label": label_text(store.label_names, int(store.labels[row]), unlabelled=""),
        "numbers": {
            name: _finite(float(getattr(numbers, name)[row]))
            for name in MEANINGS
            if name in _orders(table)
        },
        "groups": groups,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _drawn(request: PageRequest, facts: Facts) -> Facts:
    panels = list(facts["pairs"]["panels"]) if facts["pairs"] else []
    if facts["attack"]:
        attack = facts["attack"]
        bars = (_bars(attack["edges"], attack["before"]), _bars(attack["edges"], attack["after"]))
        caption = "loss before (bars) and after the attack (line)"
        panels.append(paired_panel(caption, ("before", "after"), bars))
    if facts["mixture"]:
        mixed = facts["mixture"]
        bars = (_bars(mixed["edges"], mixed["kept"]), _bars(mixed["edges"], mixed["drawn"]))
        caption = "share of own pixels: exact (bars), as drawn before the edge cut the box (line)"
        panels.append(paired_panel(caption, ("kept", "drawn"), bars))
    rows = facts["samples"]["rows"] if facts["samples"] else []
    return {
        "figures": [figure(panel) for panel in panels],
        "drawn_rows": {each["key"]: _pictures(request, facts, each) for each in rows},
    }


def _pictures(request: PageRequest, facts: Facts, sample: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the sample with the views of its selected pairs; None: no set of them is here."""
    store = request.store
    shown = store.view_sets.get(facts["of"] or "")
    if shown is None or facts["pairs"]["logged"]:
        return None
    chosen = [each["chosen"].get("selected") for each in sample["groups"]]
    views = {view for pair in chosen if pair for view in pair}
    row: Row = read_row(store, sample["row"], [shown], pixels=False)
    cells = tuple(
        replace(cell, params=(), told=()) for cell in row.cells[shown.name] if cell.view in views
    )
    return linked_row(request, replace(row, cells={shown.name: cells}), [shown])


def _csv(request: PageRequest, facts: Facts) -> Csv:
    del request
    rows = []
    for sample in (facts["samples"] or {"rows": []})["rows"]:
        for group in sample["groups"]:
            for view, line in zip(group["views"], group["losses"], strict=True):
                rows += [
                    [sample["key"], view, target, loss]
                    for target, loss in zip(group["views"], line, strict=True)
                ]
    return ("key", "student", "target", "loss"), rows


def _code(request: PageRequest) -> str:
    _, picked = _picked(request)
    column = "pair_loss" if "pair_loss" in picked.params else sorted(picked.params)[0]
    return (
        f"{opening(request)}\ncolumns = store.view_sets[{picked.name!r}].params\n"
        f"print(columns[{column!r}][:3])"
    )


TAB = Tab(
    name="pairs",
    title="Pairs",
    facts=_facts,
    has_data=lambda request: bool(pair_sets(request.store)),
    drawn=_drawn,
    csv=_csv,
    code=_code,
)
