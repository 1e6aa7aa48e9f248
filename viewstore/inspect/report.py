"""The report of `viewstore inspect --html`: one HTML file that asks for nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from viewstore.errors import ConfigError, counted
from viewstore.format.columns import Status
from viewstore.format.plan import SOURCE
from viewstore.format.records import jsonable
from viewstore.inspect.chosen_rows import worst_rows
from viewstore.inspect.drawn_rows import DrawnRow, DrawnView, drawn_row
from viewstore.inspect.figures import figure
from viewstore.inspect.numbers import brief_param
from viewstore.inspect.origin import origin_facts, origin_words, outdated_words
from viewstore.inspect.pictures import page_image, shrink
from viewstore.inspect.shown_rows import Cell, Row, read_row
from viewstore.inspect.summary import column_facts, label_counts, view_set_facts
from viewstore.inspect.template import environment, style
from viewstore.inspect.told import Chosen, about_images, described, with_told
from viewstore.inspect.view_set_charts import (
    HASHES,
    column_chart,
    constraint_charts,
    telling,
)
from viewstore.store.constraints import NEAR_DUPLICATE, constraints_of
from viewstore.store.store import Store
from viewstore.store.verdict import goal_text, verdict_of
from viewstore.store.view_set import ViewSet

MAX_BYTES = 5_000_000
WORST = 5  # rows of a view set that are shown as its worst


@dataclass(frozen=True)
class Detail:
    """How large pictures are: longer side of originals and of views, and JPEG quality."""

    original: int
    view: int
    quality: int


DETAILS = (
    Detail(384, 224, 82),
    Detail(256, 160, 82),
    Detail(192, 128, 72),
    Detail(144, 96, 60),
    Detail(112, 64, 50),
)


def write_report(
    store: Store,
    rows: Sequence[int],
    view_sets: Sequence[ViewSet],
    *,
    chosen: Chosen | None = None,
) -> bytes:
    """Return the report as HTML: pictures of `rows`, statistics and charts of all rows.

    Without view sets originals stand alone, with what columns sets say of them. Views that were
    `chosen` are framed. Pictures get smaller where many of them would make a large
    file.

    Raises:
        ConfigError: Even the smallest pictures give more than 5 MB.
    """
    template = environment().get_template("report.html")
    subjects = view_sets or about_images(store)
    facts = {
        "store": store,
        "name": store.name,
        "labels": label_counts(store),
        "verdict": verdict_of(store, subjects),
        "pictured": bool(view_sets),
        "css": style("report.css", "row.css"),
        "chosen": chosen,
        "mixed": any("mix_box" in each.params for each in view_sets),
    }
    sections = [_section(store, view_set) for view_set in subjects]
    # Read once at the largest size: a store's originals may not fit into memory together.
    read = [_shown(store, row, view_sets, chosen) for row in rows]
    worst = [
        [_shown(store, row, _with_views(each), chosen) for row in worst_rows(each, WORST)]
        for each in subjects
    ]
    for detail in DETAILS:
        shown = [
            section | {"worst": [_drawn(row, _with_views(each), detail) for row in bad]}
            for section, each, bad in zip(sections, subjects, worst, strict=True)
        ]
        samples = [_drawn(row, view_sets, detail) for row in read]
        page = template.render(**facts, sections=shown, samples=samples).encode()
        if len(page) <= MAX_BYTES:
            return page
    raise ConfigError(
        f"a report must have at most {MAX_BYTES // 10**6} MB, and {counted(len(rows), 'sample')} "
        "would make a larger one",
        fix="show fewer samples with -n, or one --view-set",
    )


def _with_views(view_set: ViewSet) -> list[ViewSet]:
    """Return what is shown of a view set's rows: it, or nothing where it is columns of images."""
    return [] if view_set.kind == "columns" else [view_set]


def _shown(store: Store, row: int, view_sets: Sequence[ViewSet], chosen: Chosen | None) -> Row:
    """Return a sample as it is shown, its original no larger than the largest detail."""
    found = with_told(store, read_row(store, row, view_sets), view_sets, chosen)
    if found.original is None:
        return found
    return replace(found, original=shrink(found.original, DETAILS[0].original))


def _drawn(row: Row, view_sets: Sequence[ViewSet], detail: Detail) -> DrawnRow:
    def draw(_: ViewSet, cell: Cell) -> DrawnView:
        return DrawnView(cell=cell, image=page_image(cell.pixels, detail.view, detail.quality))

    original = page_image(row.original, detail.original, detail.quality)
    return drawn_row(row, view_sets, original=original, draw=draw)


def _section(store: Store, view_set: ViewSet) -> dict[str, Any]:
    """Return what the template needs of a view set, and of the columns sets that describe it."""
    facts = view_set_facts(store, view_set)
    constraints = constraints_of(view_set)
    charts = {} if constraints is None else constraint_charts(view_set, constraints)
    return {
        "name": view_set.name,
        "said": _described(view_set) if view_set.kind == "columns" else _said(view_set),
        "facts": facts,
        "origin": _origin(view_set.name, facts),
        "args": {name: json.dumps(value) for name, value in facts["generator"]["args"].items()},
        "plan": json.dumps(jsonable(view_set.plan.to_json()), indent=1, sort_keys=True),
        "near_duplicate": NEAR_DUPLICATE,
        "constraint_charts": {caption: Markup(chart) for caption, chart in charts.items()},
        "params": [{"name": "Params", "said": "", "origin": None, **_columns(facts["columns"])}]
        + [
            {
                "name": f"{each.name}: columns",
                "said": _described(each),
                "origin": _origin(each.name, origin_facts(store, each)),
                **_columns(column_facts(each)),
            }
            for each in described(store, view_set)
        ],
        "telling": {each.caption: figure(each.panel()).chart for each in telling(view_set)},
    }


def _columns(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template needs of columns: their statistics, and charts of those that vary.

    A chart of hashes would say nothing.
    """
    constant = {name: each["min"] for name, each in facts.items() if each["min"] == each["max"]}
    return {
        "columns": facts,
        "charts": {
            name: Markup(column_chart(name, each))
            for name, each in facts.items()
            if name not in constant and name not in HASHES
        },
        "constant": [f"{name} {brief_param(name, value)}" for name, value in constant.items()],
    }


def _origin(name: str, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a view set was made with in words, and whether they are an alarm; None: none."""
    said = "; ".join(origin_words(name, facts))
    return {"said": said, "alarm": bool(outdated_words(name, facts))} if said else None


def _described(columns_set: ViewSet) -> str:
    """Return in a sentence what a columns set describes."""
    views = f"{counted(columns_set.num_views, 'view')} of {columns_set.of} for each sample"
    described = "the images" if columns_set.roles == (SOURCE,) else views
    return (
        f"What {columns_set.plan.generator['name']} says of {described}; stored are "
        f"{columns_set.num_bytes / 2**20:.1f} MiB."
    )


def _said(view_set: ViewSet) -> str:
    """Return in a sentence what a view set holds, and what became of its views."""
    status = view_set.params["status"]
    counts = {
        what: int(np.isin(status, values).sum())
        for what, values in (
            ("off goal", [Status.GOAL_NOT_MET]),
            ("failed", [Status.FAILED, Status.UNREADABLE]),
            ("not built", [Status.NEVER_WRITTEN]),
        )
    }
    wrong = [f"{count:,} {what}" for what, count in counts.items() if count]
    goal = goal_text(view_set)
    return (
        f"{counted(view_set.num_views, 'view')} of {view_set.height} x {view_set.width} px for "
        f"each sample, made by {view_set.plan.generator['name']}"
        + (f"; goal: {goal}" if goal else "")
        + f". Of {counted(status.size, 'view')} {', '.join(wrong) or 'none failed'}."
    )
