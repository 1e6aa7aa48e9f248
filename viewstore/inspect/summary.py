"""What is in a store, as facts for programs and as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from viewstore.errors import ConfigError, nearest
from viewstore.format.stats import ColumnStats, column_stats
from viewstore.inspect.charts import bars_of
from viewstore.store.constraints import Constraints, Tally, constraints_of, tally
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

# Components that mean different things: their statistics are not mixed.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "crop_box": ("top", "left", "height", "width"),
    "jitter": ("brightness", "contrast", "saturation", "hue"),
}
BAR_WIDTH, BLOCKS = 40, " ▁▂▃▄▅▆▇█"
LABELS_SHOWN = 12


def column_summaries(view_set: ViewSet) -> dict[str, ColumnStats]:
    """Return the statistics of each column, of `crop_box` and `jitter` each component."""
    summaries = {}
    for name, stats in view_set.stats.items():
        if name not in COMPONENTS:
            summaries[name] = stats
            continue
        column = view_set.params.columns[name]
        values = view_set.params[name]
        for place, component in enumerate(COMPONENTS[name]):
            summaries[f"{name}.{component}"] = column_stats(column, values[..., place])
    return summaries


def view_set_facts(view_set: ViewSet) -> dict[str, Any]:
    """Return what a view set is and how it keeps its constraints."""
    plan = view_set.plan
    facts = {
        "views": plan.views,
        "roles": dict(Counter(plan.roles)),
        "height": plan.height,
        "width": plan.width,
        "channels": plan.channels,
        "codec": dict(plan.codec),
        "shards": len(view_set.shards),
        "shards_planned": plan.shards,
        "bytes": view_set.num_bytes,
        "seed": plan.seed,
        "generator": dict(plan.generator),
        "weights": [asdict(each) for each in plan.weights],
        "columns": {name: asdict(stats) for name, stats in column_summaries(view_set).items()},
    }
    wanted = constraints_of(view_set)
    if wanted is not None:
        counted = tally(view_set, wanted)
        facts["constraints"] = {
            **asdict(wanted),
            "unreachable": wanted.unreachable,
            **asdict(counted),
            "share_within": counted.share_within,
            "share_converged": counted.share_converged,
        }
    return facts


def label_counts(store: Store) -> dict[str, int]:
    """Return how many samples have each label, by name where labels have names."""
    labels, counts = np.unique(store.labels, return_counts=True)
    names = store.label_names
    return {
        "none" if label < 0 else names[label] if label < len(names) else str(label): count
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
    }


def store_facts(store: Store, view_sets: Sequence[ViewSet]) -> dict[str, Any]:
    """Return what a store holds."""
    return {
        "samples": store.num_samples,
        "labels": label_counts(store),
        "store_id": store.store_id,
        "view_sets": {view_set.name: view_set_facts(view_set) for view_set in view_sets},
    }


def store_text(store: Store, view_sets: Sequence[ViewSet]) -> str:
    """Return the summary of a store for people."""
    labels = label_counts(store)
    shown = ", ".join(f"{name} {count}" for name, count in list(labels.items())[:LABELS_SHOWN])
    more = f", and {len(labels) - LABELS_SHOWN} more" if len(labels) > LABELS_SHOWN else ""
    lines = [
        f"samples   {store.num_samples}",
        f"labels    {shown}{more}",
        f"store id  {store.store_id}",
    ]
    for view_set in view_sets:
        lines += ["", *_view_set_lines(view_set)]
    return "\n".join(lines)


def _view_set_lines(view_set: ViewSet) -> list[str]:
    plan = view_set.plan
    roles = ", ".join(f"{count} {role}" for role, count in Counter(plan.roles).items())
    generator = plan.generator
    args = ", ".join(f"{name} {_brief(value)}" for name, value in generator["args"].items())
    partial = "" if view_set.complete else f" of {plan.shards}"
    lines = [
        f"view set {view_set.name}",
        f"  views      {plan.views} ({roles}), {plan.height} x {plan.width} x {plan.channels} px",
        f"  stored     {plan.codec['name']}, {len(view_set.shards)}{partial} shards, "
        f"{view_set.num_bytes / 2**20:.1f} MiB",
        f"  generator  {generator['name']} {generator['version']}: {args}",
    ]
    wanted = constraints_of(view_set)
    if wanted is not None:
        lines += constraint_lines(wanted, tally(view_set, wanted))
    return [*lines, *("  " + line for line in stats_table(column_summaries(view_set)))]


def constraint_lines(wanted: Constraints, counted: Tally) -> list[str]:
    """Return how a view set keeps its constraints, in a few lines."""
    sign = "or more, -" if wanted.hinge else "+-"
    lines = [
        f"  distance   {_percent(counted.share_within)} of views within "
        f"{wanted.eps1:.3f} {sign}{wanted.tolerance:g} "
        f"({counted.too_close} too close, {counted.too_far} too far)"
    ]
    if counted.share_converged is not None:
        lines.append(f"  converged  {_percent(counted.share_converged)} of samples")
    if wanted.eps2 is not None and counted.below_eps2 is not None:
        share = counted.below_eps2 / max(counted.samples, 1)
        bound = "" if wanted.bound is None else f"; geometry allows {wanted.bound:.3f}"
        unreachable = ", so it is unreachable" if wanted.unreachable else ""
        lines.append(
            f"  pairs      mean below eps2 {wanted.eps2:.3f} in {_percent(share)} of samples"
            f"{bound}{unreachable}"
        )
    return lines


def stats_table(summaries: Mapping[str, ColumnStats]) -> list[str]:
    """Return the lines of a table of column statistics, with a small histogram each."""
    head = ["column", "values", "missing", "min", "p5", "p50", "p95", "max", "mean", "std", ""]
    rows = []
    for name, stats in summaries.items():
        counts = [str(stats.count), str(stats.fill)]
        if stats.count:
            _, p5, _, p50, _, p95, _ = stats.percentiles
            numbers = [stats.min, p5, p50, p95, stats.max, stats.mean, stats.std]
            rows.append([name, *counts, *map(_number, numbers), spark(stats.histogram)])
        else:
            rows.append([name, *counts, *["-"] * 7, ""])
    return table(head, rows)


def text_histogram(stats: ColumnStats) -> list[str]:
    """Return a histogram as lines of bars: one per whole number, or 16."""
    bars = bars_of(stats.min, stats.max, stats.histogram)
    if not all(bar.label for bar in bars):
        bars = bars_of(stats.min, stats.max, _merged(stats.histogram, 16))
    most = max((bar.count for bar in bars), default=1)
    lines = []
    for bar in bars:
        line = f"{bar.label or _number(bar.low):>12}  {bar.count:>10}  " + "█" * round(
            BAR_WIDTH * bar.count / most
        )
        lines.append(line.rstrip())
    return lines


def spark(counts: Sequence[int]) -> str:
    """Return counts as 16 blocks of one character."""
    merged = _merged(counts, 16)
    most = max(merged) or 1
    return "".join(BLOCKS[-(-8 * count // most)] for count in merged)


def sample_facts(store: Store, row: int, view_sets: Sequence[ViewSet]) -> dict[str, Any]:
    """Return what is known of a sample: its params by view set, column and view."""
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


def sample_text(facts: Mapping[str, Any], view_sets: Sequence[ViewSet]) -> str:
    """Return `sample_facts` for people: a table per view set, a line per view."""
    label = facts["label_name"] or ("none" if facts["label"] < 0 else facts["label"])
    lines = [
        f"key    {facts['key']}",
        f"row    {facts['row']}",
        f"label  {label}",
        f"size   {facts['height']} x {facts['width']} px",
    ]
    for view_set in view_sets:
        params = facts["view_sets"][view_set.name]
        per_view = {n: v for n, v in params.items() if view_set.params.columns[n].shape}
        head = ["view", "role", *per_view]
        rows = [
            [str(view), view_set.roles[view], *(_brief(v[view]) for v in per_view.values())]
            for view in range(view_set.num_views)
        ]
        whole = [f"  {name} {_brief(v)}" for name, v in params.items() if name not in per_view]
        lines += ["", f"view set {view_set.name}", *whole]
        lines += ["  " + line for line in table(head, rows)]
    return "\n".join(lines)


def choose_column(view_set: ViewSet, name: str) -> dict[str, ColumnStats]:
    """Return the summaries of one column. Raises ConfigError naming the nearest."""
    found = {
        each: stats
        for each, stats in column_summaries(view_set).items()
        if name in (each, each.partition(".")[0])
    }
    if not found:
        raise ConfigError(
            f"there is no column {name!r} in view set {view_set.name!r}; "
            f"{nearest(name, list(view_set.stats))}",
            code="VS102",
        )
    return found


def without_histograms(facts: dict[str, Any]) -> dict[str, Any]:
    """Return `store_facts` with columns as numbers only, for an answer that stays short."""
    for each in facts["view_sets"].values():
        for stats in each["columns"].values():
            del stats["histogram"]
    return facts


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines; the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 or not head[place] else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


def _merged(counts: Sequence[int], bins: int) -> list[int]:
    size = -(-len(counts) // bins)
    return [sum(counts[i : i + size]) for i in range(0, len(counts), size)]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "no" if share is None else f"{100 * share:.1f} %"


def _brief(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, float):
        return _number(value) if np.isfinite(value) else "-"
    if isinstance(value, list | tuple):
        return ",".join(map(_brief, value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} {_brief(each)}" for name, each in value.items()) + "}"
    return str(value)
