"""Overview: what is in the store, how it was made, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from viewstore.errors import ConfigError
from viewstore.format.plan import SOURCE, checked_seed
from viewstore.format.records import jsonable
from viewstore.inspect.chosen_rows import choose_rows
from viewstore.inspect.figures import Panel, figure
from viewstore.inspect.origin import made_words, outdated_words
from viewstore.inspect.pages.building import progress_drawn
from viewstore.inspect.pages.page import Facts, PageRequest, Tab
from viewstore.inspect.pages.rows import linked_row
from viewstore.inspect.shown_rows import Row, read_row
from viewstore.inspect.summary import label_counts, made_facts, outcome_facts
from viewstore.inspect.told import looked_at, with_told
from viewstore.inspect.view_set_charts import overview_panels
from viewstore.store.progress import set_progress
from viewstore.store.store import Store
from viewstore.store.verdict import verdict_of
from viewstore.store.view_set import ViewSet

RANDOM_ROWS = 6
LONGEST_NAME = 100  # of a label in a filter, in characters
FILTERS = {  # what samples may come to that is shown, and the filter that finds them
    "off_goal": "status = 2",
    "failed": "status = 3",
    "source_unreadable": "status = 4",
    "not_built": "status is missing",
}


def _facts(request: PageRequest) -> Facts:
    store, kept = request.store, request.site.facts
    picked = [] if request.view_set is None else [request.view_set]
    names, seed = [each.name for each in picked], _seed(request)
    about = store.store_id
    return {
        "samples": store.num_samples,
        "store_id": store.store_id,
        "generation": store.manifest.generation,
        "labels": kept.get(("labels", about), lambda: label_counts(store)),
        "verdict": _verdict(request, list(store.view_sets.values())),
        "shown": names[0] if names else None,
        "shown_verdict": _verdict(request, picked) if picked else None,
        "view_sets": {name: _of_set(request, each) for name, each in store.view_sets.items()},
        "building": _building(store),
        "histograms": [panel for each in picked for panel in _panels(request, each)],
        "seed": seed,
        "rows": [row.to_json() for row in _rows(request, picked, seed)],
    }


def _verdict(request: PageRequest, view_sets: Sequence[ViewSet]) -> Facts:
    """Return what view sets, and those that they were made from, came to."""
    names = [each.name for each in view_sets]
    found: Facts = request.site.facts.get(
        ("verdict", request.store.location, request.store.store_id, *names),
        lambda: verdict_of(request.store, view_sets).to_json(),
    )
    return found


def _of_set(request: PageRequest, view_set: ViewSet) -> Facts:
    """Return what a view set is, and what its samples came to."""
    made = made_facts(request.store, view_set)
    outcome = request.site.facts.get(
        ("outcome", view_set.name, view_set.index.root), lambda: outcome_facts(view_set)
    )
    return {**made, "samples": outcome}


def _panels(request: PageRequest, view_set: ViewSet) -> list[Panel]:
    found: list[Panel] = request.site.facts.get(
        ("overview charts", view_set.name, view_set.index.root), lambda: overview_panels(view_set)
    )
    return found


def _building(store: Store) -> dict[str, Facts]:
    """Return how far the view sets are of which shards are missing; of a remote store nothing."""
    if store.remote:
        return {}
    partial = [each.name for each in store.view_sets.values() if not each.complete]
    names = sorted({*store.unfinished, *partial})
    return {name: set_progress(store.paths, name).to_json() for name in names}


def _seed(request: PageRequest) -> int:
    text = request.query.get("seed", "0")
    if not text.isdecimal() or len(text) > 16:
        raise ConfigError(f"seed must be a whole number from 0 on, got {text[:32]!r}")
    return checked_seed(int(text))


def _rows(request: PageRequest, picked: Sequence[ViewSet], seed: int) -> list[Row]:
    """Return the samples that a seed chooses, without their pixels."""
    store = request.store
    chosen = request.site.facts.get(
        ("random rows", store.manifest.sources_id, seed),
        lambda: choose_rows(store, count=RANDOM_ROWS, random=True, seed=seed),
    )
    shown = looked_at(store, picked)
    read = (read_row(store, row, shown, pixels=False) for row in chosen if picked)
    return [with_told(store, row, shown) for row in read]


def label_filter(store: Store, label: str) -> str:
    """Return the filter of the samples of a label, as `label_counts` names it.

    A name that a filter cannot hold, or that is long, is told by its number.
    """
    if label in store.label_names:
        plain = "'" not in label and len(label) <= LONGEST_NAME
        return f"label = '{label}'" if plain else f"label = {store.label_names.index(label)}"
    return "label is missing" if label == "none" else f"label = {label}"


def _drawn(request: PageRequest, facts: Facts) -> Facts:
    store, picked = request.store, [] if request.view_set is None else [request.view_set]
    shown = looked_at(store, picked)
    described = {name: store.columns_of(name) for name in facts["view_sets"]}
    of_images = store.columns_of(SOURCE)
    told = {name for names in (of_images, *described.values()) for name in names}
    columns = [each.name for each in store.view_sets.values() if each.kind == "columns"]
    return {
        "figures": [figure(panel) for panel in facts["histograms"]],
        "drawn_rows": [
            linked_row(request, row, shown) for row in _rows(request, picked, facts["seed"])
        ],
        "building": progress_drawn(facts["building"]),
        "filters": FILTERS,
        "label_filters": {each: label_filter(store, each) for each in facts["labels"]},
        "made": {
            name: {"by": made_words(name, each), "alarm": outdated_words(name, each)}
            for name, each in facts["view_sets"].items()
        },
        "described": described,
        "of_images": of_images,
        "stray": [name for name in columns if name not in told],
        "plan": "" if not picked else _plan(picked[0]),
        "args": {} if not picked else _args(picked[0]),
    }


def _plan(view_set: ViewSet) -> str:
    return json.dumps(jsonable(view_set.plan.to_json()), indent=1, sort_keys=True)


def _args(view_set: ViewSet) -> dict[str, Any]:
    args = view_set.plan.generator["args"]
    return {name: json.dumps(jsonable(value)) for name, value in args.items()}


TAB = Tab(name="overview", title="Overview", facts=_facts, drawn=_drawn)
