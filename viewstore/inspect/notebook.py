"""A store or a view set as a notebook shows it: HTML that asks for nothing, and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from viewstore.errors import ViewStoreError
from viewstore.format.stats import ColumnStats
from viewstore.inspect.chosen_rows import first_shown, spread_rows
from viewstore.inspect.drawn_rows import DrawnRow, DrawnView, drawn_row
from viewstore.inspect.numbers import number
from viewstore.inspect.pictures import page_image
from viewstore.inspect.shown_rows import Cell, Row, Samples, read_row
from viewstore.inspect.summary import label_counts
from viewstore.inspect.template import environment, style
from viewstore.inspect.told import looked_at, with_told
from viewstore.store.store import Store
from viewstore.store.verdict import verdict_of
from viewstore.store.view_set import ViewSet

MAX_BYTES = 200_000
ROWS = 3
MOST_VIEWS = 12  # of a view set; more of them say nothing at a look
DETAILS = ((256, 160, 80), (160, 112, 70), (112, 80, 50), (64, 48, 40))  # sides and JPEG quality


def notebook_html(shown: object) -> str:
    """Return a store or a view set as HTML: a summary, 3 rows with pictures, statistics.

    It has at most 200 kB: pictures shrink first. What cannot be read is said in it, for it is
    shown after an answer that was right.
    """
    assert isinstance(shown, Store | ViewSet)
    try:
        facts, rows, view_sets = _of_store(shown) if isinstance(shown, Store) else _of_set(shown)
    except ViewStoreError as error:
        facts, rows, view_sets = {"fault": str(error)}, [], []
    template = environment().get_template("notebook.html")
    css = style("row.css", "notebook.css")
    common = {"text": repr(shown), "css": css, "number": number, "fault": None, "verdict": None}
    for original, side, quality in DETAILS:
        samples = [_drawn(row, view_sets, original, side, quality) for row in rows]
        html = template.render(**common | facts, samples=samples)
        if len(html.encode()) <= MAX_BYTES:
            return html
    return template.render(**common | facts, samples=[])


@dataclass(frozen=True)
class _Source:
    """What a view set alone knows of its samples: what reads its source images has their table."""

    source: Any

    @property
    def table(self) -> Any:  # noqa: ANN401
        return self.source.table


def _of_store(store: Store) -> tuple[dict[str, Any], list[Row], list[ViewSet]]:
    first = first_shown(store)
    picked = [] if first is None else [first]
    shown = looked_at(store, picked)
    rows = [with_told(store, row, shown) for row in _rows(store, store.num_samples, shown)]
    facts = {
        "title": store.name,
        "id": store.store_id,
        "labels": len(label_counts(store)),
        "verdict": verdict_of(store, store.view_sets.values()) if store.view_sets else None,
        "view_sets": _told(list(store.view_sets.values())),
    }
    return facts, rows, shown


def _of_set(view_set: ViewSet) -> tuple[dict[str, Any], list[Row], list[ViewSet]]:
    shown = [view_set] if view_set.kind != "columns" and view_set.source is not None else []
    rows = _rows(_Source(view_set.source), len(view_set), shown)
    told = {"title": view_set.name, "id": view_set.plan.id, "view_sets": _told([view_set])}
    return told, rows, shown


def _told(view_sets: Sequence[ViewSet]) -> list[tuple[ViewSet, int, Mapping[str, ColumnStats]]]:
    """Return view sets, how many shards are there, and statistics.

    Raises:
        FormatError: A record is damaged.
    """
    return [(each, len(each.index.shards), each.stats) for each in view_sets]


def _rows(samples: Samples, count: int, view_sets: Sequence[ViewSet]) -> list[Row]:
    chosen = spread_rows(count, ROWS) if view_sets else []
    return [read_row(samples, row, view_sets) for row in chosen]


def _drawn(
    row: Row, view_sets: Sequence[ViewSet], original: int, side: int, quality: int
) -> DrawnRow:
    def draw(_: ViewSet, cell: Cell) -> DrawnView:
        return DrawnView(cell=cell, image=page_image(cell.pixels, side, quality))

    first = {name: cells[:MOST_VIEWS] for name, cells in row.cells.items()}
    shown = replace(row, cells=first)
    image = page_image(row.original, original, quality)
    return drawn_row(shown, view_sets, original=image, draw=draw, within=(160, 220))
