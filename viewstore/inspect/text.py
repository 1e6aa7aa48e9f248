"""The facts of summary.py as text for a terminal: lines, tables and small histograms."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from viewstore.errors import counted
from viewstore.inspect.distributions import Bar, bars_of, merged
from viewstore.inspect.numbers import NONE_WORD, OFF_WORD, brief, brief_param, number, percent
from viewstore.inspect.origin import origin_words

BAR_WIDTH, BLOCKS = 40, " ▁▂▃▄▅▆▇█"
BINS = 16  # of histograms in text
MOST_LABELS, FIRST_LABELS = 12, 5
LINE = 100  # characters of a line of text
UNBROKEN = "\N{NO-BREAK SPACE}"  # keeps the name of a setting and its value on one line

Facts = Mapping[str, Any]


def store_text(facts: Facts) -> str:
    """Return `summary.store_facts` as text."""
    lines = [
        f"samples   {facts['samples']}",
        *wrapped(f"labels    {_labels(facts['labels'])}", indent=10),
        f"store id  {facts['store_id']}",
    ]
    view_sets = facts["view_sets"]
    for name, describing in _paragraphs(view_sets).items():
        lines += ["", _heading(name, view_sets[name]), *_view_set_lines(name, view_sets[name])]
        for other in describing:
            lines += ["", f"  columns {other}"]
            lines += ["  " + line for line in _view_set_lines(other, view_sets[other])]
    return "\n".join(lines)


def _paragraphs(view_sets: Mapping[str, Facts]) -> dict[str, list[str]]:
    """Return the names of view sets, each with those of the columns sets that describe it.

    A columns set that describes none of them stands for itself.
    """
    found: dict[str, list[str]] = {
        name: []
        for name, each in view_sets.items()
        if each["kind"] != "columns" or each["of"] not in view_sets
    }
    for name, each in view_sets.items():
        if name not in found:
            above = each["of"]
            while above not in found:  # columns of columns stand below what these describe
                above = view_sets[above]["of"]
            found[above].append(name)
    return found


def _heading(name: str, facts: Facts) -> str:
    return f"columns {name}" if facts["kind"] == "columns" else f"view set {name}"


def wrapped(text: str, *, indent: int) -> list[str]:
    """Return `text` as lines of at most 100 characters; those after the first are indented."""
    return textwrap.wrap(
        text,
        LINE,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _labels(counts: Mapping[str, int]) -> str:
    """Return the labels with their counts; of many, how many there are and the first names."""
    if len(counts) <= MOST_LABELS:
        return ", ".join(f"{name} {count}" for name, count in counts.items())
    least, most = min(counts.values()), max(counts.values())
    each = counted(most, "sample") if least == most else f"{least} to {counted(most, 'sample')}"
    return f"{len(counts)}, of {each} each: {', '.join(list(counts)[:FIRST_LABELS])}, ..."


def _view_set_lines(name: str, facts: Facts) -> list[str]:
    roles = ", ".join(f"{count} {role}" for role, count in facts["roles"].items())
    generator = facts["generator"]
    settings = [f"{key} {brief(value)}" for key, value in generator["args"].items()]
    args = re.sub(r"(?<!,) ", UNBROKEN, ", ".join(settings))
    made_by = f"{generator['name']} {generator['version']}"
    size = f"{facts['height']} x {facts['width']} x {facts['channels']} px"
    shards, planned = facts["shards"], counted(facts["shards_planned"], "shard")
    stored = planned if shards == facts["shards_planned"] else f"{shards} of {planned}"
    lines = [
        f"  describes  {counted(facts['views'], 'view')} of {facts['of']} ({roles})"
        if facts["kind"] == "columns"
        else f"  views      {facts['views']} ({roles}), {size}",
        f"  stored     {facts['form']}, {stored}, {facts['bytes'] / 2**20:.1f} MiB",
        *(
            line.replace(UNBROKEN, " ")
            for line in wrapped(f"  generator  {made_by}: {args}", indent=13)
        ),
    ]
    for place, words in enumerate(origin_words(name, facts)):
        lines += wrapped(f"  {'' if place else 'origin':<9}  {words}", indent=13)
    if "constraints" in facts:
        lines += _constraint_lines(facts["constraints"])
    return [*lines, *("  " + line for line in stats_table(facts["columns"]))]


def _constraint_lines(facts: Facts) -> list[str]:
    sign = "or more, -" if facts["hinge"] else "+-"
    lines = [
        f"  distance   {percent(facts['share_within'])} of views within "
        f"{facts['eps1']:.3f} {sign}{facts['tolerance']:g} "
        f"({facts['too_close']} too close, {facts['too_far']} too far)"
    ]
    if facts["share_converged"] is not None:
        lines.append(f"  converged  {percent(facts['share_converged'])} of samples")
    if facts["eps2"] is not None and facts["below_eps2"] is not None:
        share = facts["below_eps2"] / max(facts["samples"], 1)
        bound = "" if facts["bound"] is None else f"; geometry allows {facts['bound']:.3f}"
        unreachable = ", so it is unreachable" if facts["unreachable"] else ""
        lines.append(
            f"  pairs      mean below eps2 {facts['eps2']:.3f} in {percent(share)} of samples"
            f"{bound}{unreachable}"
        )
    return lines


def sample_text(
    facts: Facts,
    roles: Mapping[str, Sequence[str]],
    of_sample: Mapping[str, Sequence[str]] = {},
    describing: Mapping[str, str] = {},
) -> str:
    """Return `summary.sample_facts` as text: a table per view set, a line per view.

    `roles` are those of the views of each view set, by its name; `of_sample` its columns that are
    about the sample; `describing` says of columns sets whose views they describe.
    """
    label = facts["label_name"] or ("none" if facts["label"] < 0 else facts["label"])
    lines = [
        f"key    {facts['key']}",
        f"row    {facts['row']}",
        f"label  {label}",
        f"size   {facts['height']} x {facts['width']} px",
    ]
    found = facts["view_sets"]
    # Those that describe others come after them.
    order = sorted(found, key=lambda name: (describing.get(name, name), name in describing))
    for view_set in order:
        params = found[view_set]
        by_view = {
            name: values
            for name, values in params.items()
            if isinstance(values, list) and name not in of_sample.get(view_set, ())
        }
        rows = [
            [
                str(view),
                role,
                *(brief_param(name, values[view]) for name, values in by_view.items()),
            ]
            for view, role in enumerate(roles[view_set])
        ]
        of = describing.get(view_set)
        lines += ["", f"view set {view_set}" if of is None else f"columns {view_set}, of {of}"]
        lines += [
            f"  {name} {brief_param(name, v)}" for name, v in params.items() if name not in by_view
        ]
        lines += ["  " + line for line in table(["view", "role", *by_view], rows)]
    return "\n".join(lines)


def rows_text(facts: Facts) -> str:
    """Return the rows of a query as text: key, row, label and the columns that it names."""
    told = [name for name in facts["columns"] if name not in ("key", "label", "index")]
    by_views = [each["by_view"] for each in facts["rows"]]
    decided = any(view is not None for view in by_views)
    rows = [
        [each["key"], str(each["row"]), each["label"] or "-"]
        + [_values(each["values"][name]) for name in told]
        + ["-" if view is None else str(view)] * decided
        for each, view in zip(facts["rows"], by_views, strict=True)
    ]
    head = ["key", "row", "label", *told, *["by view"] * decided]
    lines = table(head, rows) if rows else []
    if facts["ranked"]:
        lines.insert(0, facts["ranked"])
    query = f": {facts['understood']}" if facts["understood"] else ""
    shown, count = len(rows), counted(facts["count"], "sample")
    return "\n".join([*lines, f"{shown} of {count}, the store has {facts['samples']}{query}"])


def _values(found: Any) -> str:  # noqa: ANN401
    values = found if isinstance(found, list) else [found]
    return " ".join("missing" if each is None else number(each) for each in values)


def shard_text(facts: Facts) -> str:
    """Return `one_shard.shard_facts` as text."""
    first, count = facts["rows"]
    lines = [
        f"view set  {facts['view_set']}",
        f"shard     {facts['shard']}, rows {first} to {first + count - 1}",
    ]
    if facts["commit"] is not None:
        built = facts["commit"]
        lines.append(f"built     {built['created']} on {built['host']}, {built['seconds']:.1f} s")
    lines += [
        f"file      {each['name']} ({each['role']}), {each['bytes']} bytes, sha256 {each['sha256']}"
        for each in facts["files"]
    ]
    row = facts["row"]
    if row is not None:
        label = "" if row["label"] is None else f", label {row['label']}"
        key = "" if row["key"] is None else f", key {row['key']}"
        lines += ["", f"row       {row['row']}{key}{label}"]
        lines += [
            f"  {each['name']:<10} {each['size']} bytes at {each['offset']}, "
            + ("whole" if each["whole"] else "damaged")
            for each in row["members"]
        ]
        lines += [f"  {name} {brief(value)}" for name, value in row["params"].items()]
    faults = [f"! {each['kind']}: {each['what']} ({each['path']})" for each in facts["faults"]]
    return "\n".join([*lines, "", *(faults or ["every check of this shard passes"])])


def stats_table(columns: Mapping[str, Facts]) -> list[str]:
    """Return `summary.column_facts` as the lines of a table, with a small histogram each."""
    head = ["column", "values", "missing", "min", "p5", "p50", "p95", "max", "mean", "std", ""]
    rows = []
    for name, stats in columns.items():
        counts = [str(stats["count"]), str(stats["fill"])]
        if stats["count"]:
            _, p5, _, p50, _, p95, _ = stats["percentiles"]
            numbers = [stats["min"], p5, p50, p95, stats["max"]]
            words = [brief_param(name, each) for each in numbers]
            told = words[0] not in (OFF_WORD, NONE_WORD)
            moments = [number(stats[each]) if told else "-" for each in ("mean", "std")]
            left = stats["left_out"]
            remark = f" {left['count']} {left['word']} left out" if left else ""
            rows.append([name, *counts, *words, *moments, spark(stats["histogram"]) + remark])
        else:
            rows.append([name, *counts, *["-"] * 7, ""])
    return table(head, rows)


def unsummarised_lines(columns: Sequence[Facts]) -> list[str]:
    """Return what there is of columns without statistics, `summary.unsummarised`, as lines."""
    return [
        f"{each['name']} has {each['numbers']}"
        + (f": see {each['page']} of viewstore inspect STORE --web" if each["page"] else "")
        for each in columns
    ]


def histogram_lines(name: str, stats: Facts) -> list[str]:
    """Return the histogram of column `name` as lines of bars: one per whole number, or 16.

    What was left out of them has a bar of its own, the last.
    """
    bars = bars_of(stats["min"], stats["max"], stats["histogram"])
    if not all(bar.label for bar in bars):
        bars = bars_of(stats["min"], stats["max"], merged(stats["histogram"], BINS))
    labelled = [(_bar_label(name, bar), bar.count) for bar in bars]
    if left := stats["left_out"]:
        labelled.append((left["word"], left["count"]))
    most = max((count for _, count in labelled), default=1)
    return [
        f"{label:>12}  {count:>10}  {'█' * round(BAR_WIDTH * count / most)}".rstrip()
        for label, count in labelled
    ]


def _bar_label(name: str, bar: Bar) -> str:
    if not bar.label:
        return number(bar.low)
    word = brief_param(name, (bar.low + bar.high) / 2)
    return word if word in (OFF_WORD, NONE_WORD) else bar.label


def spark(counts: Sequence[int]) -> str:
    """Return counts as 16 blocks of one character."""
    bins = merged(counts, BINS)
    most = max(bins) or 1
    return "".join(BLOCKS[-(-8 * count // most)] for count in bins)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines; the first column and those without a head to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 or not head[index] else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
