"""Facts about a store, its view sets and its samples, as `--json` prints them.

text.py and the report show these facts to people. Names of facts never change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, nearest
from viewstore.format.columns import Status
from viewstore.format.stats import COMPONENTS, ColumnStats, column_stats, component_stats
from viewstore.inspect.numbers import no_number
from viewstore.inspect.origin import origin_facts
from viewstore.store.constraints import constraints_of, tally
from viewstore.store.matching import numbers_of, page_of
from viewstore.store.store import Store
from viewstore.store.verdict import worst_status
from viewstore.store.view_set import ViewSet

Facts = dict[str, Any]
MOST_COUNTED = 1 << 20  # labels from here on are sorted, not counted into a table
MOST_VALUES = 500_000  # enough for the shape of a component that finalise wrote no statistics of


OUTCOMES: Mapping[str, Status] = {
    "as_wanted": Status.OK,
    "off_goal": Status.GOAL_NOT_MET,
    "failed": Status.FAILED,
    "source_unreadable": Status.UNREADABLE,
    "not_built": Status.NEVER_WRITTEN,
}


def column_facts(view_set: ViewSet, column: str | None = None) -> dict[str, Facts]:
    """Return the statistics of params columns by name: the fields of ColumnStats.

    Of `crop_box` and `jitter` each component has statistics of its own, "crop_box.top". A value
    that says "off" or "none" is no number: it is left out of all but `count`, unless there is no
    other, and "left_out" says which word it stands for and how many there are (None: none are).
    "summarised" says of how many values mean, std, percentiles and histogram are: of all finite
    ones, but in older stores of MOST_VALUES of a component, spread evenly.

    Args:
        view_set: Whose columns.
        column: Only this column, with all its components, or this component; None means all.

    Raises:
        ConfigError: There is no such column; it names the nearest.
    """
    found: dict[str, ColumnStats] = {}
    for name, stats in view_set.stats.items():
        of_component = "." in name  # told with its column
        if not of_component and (column is None or column.partition(".")[0] == name):
            found |= _components(view_set, name, stats)
    if column is not None and "." in column:
        found = {name: stats for name, stats in found.items() if name == column}
    if column is not None and not found:
        raise ConfigError(
            f"there is no column {column!r} in view set {view_set.name!r}; "
            f"{nearest(column, list(view_set.stats))}",
            code="VS102",
        )
    return {name: _of_numbers(view_set, name, stats) for name, stats in found.items()}


def _of_numbers(view_set: ViewSet, name: str, stats: ColumnStats) -> Facts:
    """Return the statistics of a column without the value that is no number."""
    summarised = {"summarised": sum(stats.histogram)}
    facts = {**asdict(stats), **summarised, "left_out": None}
    value, word = no_number(name) or (None, "")
    if value is None or stats.min == stats.max or value not in (stats.min, stats.max):
        return facts
    values = view_set.params[name]
    numbers = asdict(column_stats(view_set.plan.column(name), values[values != value]))
    kept = {"count": stats.count, "fill": stats.fill}
    left_out = {"word": word, "value": value, "count": int((values == value).sum())}
    summarised = {"summarised": sum(numbers["histogram"])}
    return {**numbers, **kept, **summarised, "left_out": left_out}


def unsummarised(view_set: ViewSet) -> list[Facts]:
    """Return the columns that have no statistics: name, how many numbers, which page shows them."""
    return [
        {
            "name": column.name,
            "numbers": numbers_of(view_set, column.name),
            "page": page_of(view_set, column.name),
        }
        for column in view_set.plan.columns
        if not column.pack
    ]


def _components(view_set: ViewSet, name: str, stats: ColumnStats) -> dict[str, ColumnStats]:
    """Return the statistics of the components of a column, of others its own.

    Stores of before lack those of components: they are computed here, of large ones by a sample.
    """
    named = [f"{name}.{component}" for component in COMPONENTS.get(name, ())]
    stored = {each: view_set.stats[each] for each in named if each in view_set.stats}
    if stored or not named:
        return stored or {name: stats}
    column, values = view_set.params.columns[name], view_set.params[name]
    return component_stats(column, values, MOST_VALUES) or {name: stats}


def made_facts(store: Store, view_set: ViewSet) -> Facts:
    """Return what a view set is, and how it was made: what its records say, no column is read."""
    plan = view_set.plan
    return {
        "views": plan.views,
        "roles": dict(Counter(plan.roles)),
        "height": plan.height,
        "width": plan.width,
        "channels": plan.channels,
        "kind": plan.kind,
        "of": view_set.of,
        "form": plan.form,
        "codec": None if plan.codec is None else dict(plan.codec),
        "recipe": None if plan.recipe is None else dict(plan.recipe),
        "shards": len(view_set.shards),
        "shards_planned": plan.shards,
        "bytes": view_set.num_bytes,
        "seed": plan.seed,
        "generator": dict(plan.generator),
        **origin_facts(store, view_set),
    }


def view_set_facts(store: Store, view_set: ViewSet) -> Facts:
    """Return what a view set is, its column statistics, and how it keeps its constraints.

    The key "constraints" is there only if the view set was searched for distances.
    """
    facts = {**made_facts(store, view_set), "columns": column_facts(view_set)}
    constraints = constraints_of(view_set)
    if constraints is not None:
        counts = tally(view_set, constraints)
        facts["constraints"] = {
            **asdict(constraints),
            "unreachable": constraints.unreachable,
            **asdict(counts),
            "share_within": counts.share_within,
            "share_converged": counts.share_converged,
        }
    return facts


def outcome_facts(view_set: ViewSet) -> dict[str, int]:
    """Return how many samples came to what, by their worst view: "failed", "off_goal", .."""
    counts = np.bincount(worst_status(view_set), minlength=max(OUTCOMES.values()) + 1)
    return {outcome: int(counts[status]) for outcome, status in OUTCOMES.items()}


def label_text(names: Sequence[str], label: int, *, unlabelled: str) -> str:
    """Return the name of a label, its number if it has no name, `unlabelled` if it is below 0."""
    if label < 0:
        return unlabelled
    return names[label] if label < len(names) else str(label)


def label_counts(store: Store) -> dict[str, int]:
    """Return how many samples have each label, by name where labels have names."""
    labels, counts = _counted(store.labels)
    return {
        label_text(store.label_names, label, unlabelled="none"): count
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
    }


def _counted(labels: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the labels that there are, ascending, and how many samples have each."""
    if labels.max(initial=-1) >= MOST_COUNTED:
        return np.unique(labels, return_counts=True)
    counts = np.bincount(labels.astype(np.int64) + 1)  # without sorting a million of them
    found = np.flatnonzero(counts)
    return found - 1, counts[found]


def store_facts(store: Store, view_sets: Sequence[ViewSet]) -> Facts:
    """Return what a store holds, with the facts of these of its view sets."""
    return {
        "samples": store.num_samples,
        "labels": label_counts(store),
        "store_id": store.store_id,
        "view_sets": {view_set.name: view_set_facts(store, view_set) for view_set in view_sets},
    }


def without_histograms(facts: Facts) -> Facts:
    """Return `store_facts` without the histograms of columns, for an answer that stays short."""
    view_sets = {}
    for name, each in facts["view_sets"].items():
        columns = {
            column: {fact: value for fact, value in stats.items() if fact != "histogram"}
            for column, stats in each["columns"].items()
        }
        view_sets[name] = each | {"columns": columns}
    return facts | {"view_sets": view_sets}


def sample_facts(store: Store, row: int, view_sets: Sequence[ViewSet]) -> Facts:
    """Return what is known of the sample in `row`: its params by view set, column and view."""
    label = int(store.labels[row])
    names = store.label_names
    return {
        "key": store.keys[row],
        "row": row,
        "label": label,
        "label_name": names[label] if 0 <= label < len(names) else None,
        "height": int(store.table.height[row]),
        "width": int(store.table.width[row]),
        "view_sets": {
            view_set.name: {
                name: view_set.params.rows(name, np.array([row]))[0].tolist()
                for name, column in view_set.params.columns.items()
                if column.pack  # a latent has thousands of numbers that say nothing to a reader
            }
            for view_set in view_sets
        },
    }
