"""Embeddings: what an encoder says of views, in two dimensions, and which samples are near."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.plan import SOURCE
from viewstore.inspect.embedding_chart import (
    OTHER,
    STEP_COLOURS,
    Cell,
    Ends,
    Marks,
    class_look,
    embedding_map,
    sample_mark,
)
from viewstore.inspect.embeddings import (
    Area,
    Embedding,
    Map,
    colour_columns,
    colour_values,
    edges_of,
    embedding_named,
    embeddings_of,
    grid_counts,
    neighbours,
    rows_in,
)
from viewstore.inspect.numbers import number
from viewstore.inspect.origin import origin_facts, origin_words
from viewstore.inspect.pages.among import kept_map, view_number
from viewstore.inspect.pages.page import Csv, Facts, PageRequest, Tab, opening
from viewstore.inspect.pictures import LOSSLESS_SIDE, PageImage
from viewstore.inspect.summary import label_text
from viewstore.inspect.thumbnails import SIDES
from viewstore.store.store import Store

POINTS, CELLS = 2000, 12  # points that are drawn; cells of a side that are links
FINEST = 60  # cells of a side of the density
MOST_CLASSES = 20
SHOWN, NEAREST = 12, 12  # samples as pictures
AXES = ("x0", "x1", "y0", "y1")


def _facts(request: PageRequest) -> Facts:
    store = request.store
    names = [each.name for each in embeddings_of(store)]
    embedding = embedding_named(store, request.query.get("of") or _first(request))
    view = view_number(request.query.get("view", ""))
    if view is not None and view >= embedding.view_set.num_views:
        raise ConfigError(f"{embedding.name} has {embedding.view_set.num_views} views, not {view}")
    whole = kept_map(request.site.facts, embedding)
    found = whole.of_view(view)
    colour = request.query.get("colour") or "label"
    x_edges, y_edges = (edges_of(whole.xy[:, axis], CELLS) for axis in (0, 1))
    origin = origin_facts(store, embedding.view_set)
    return {
        "of": embedding.name,
        "embeddings": names,
        "describes": embedding.view_set.of,
        "origin": origin,
        "words": origin_words(embedding.view_set.name, origin),
        "size": embedding.size,
        "view": view,
        "views": embedding.view_set.num_views,
        "points": len(found.xy),
        "rows_read": whole.chosen,
        "rows": len(embedding.view_set),
        "shares": list(whole.shares),
        "x_edges": x_edges.tolist(),
        "y_edges": y_edges.tolist(),
        "counts": grid_counts(found.xy, x_edges, y_edges).tolist(),
        "colour": colour,
        "colours": colour_columns(store, embedding),
        "groups": _groups(store, embedding, found, colour),
        "selection": _selection(request, embedding, found),
        "near": _near(request, embedding),
    }


def _first(request: PageRequest) -> str:
    """Return the embedding of what is shown, or else the first."""
    found = embeddings_of(request.store)
    shown = None if request.view_set is None else request.view_set.name
    about = [each for each in found if shown in (each.view_set.of, each.view_set.name)]
    return (about or found)[0].name


def _groups(store: Store, embedding: Embedding, found: Map, colour: str) -> list[Facts]:
    """Return the points that are drawn by class, or by step of a number."""
    some = Map(
        rows=found.rows[:POINTS],
        views=found.views[:POINTS],
        xy=found.xy[:POINTS],
        shares=found.shares,
        chosen=found.chosen,
    )
    values = colour_values(store, embedding, colour, some)
    parts = _classes(store, values) if colour == "label" else _steps(values)
    return [
        {
            "label": label,
            "colour": look[0],
            "shape": look[1],
            "count": int(mine.sum()),
            "mean": some.xy[mine].mean(0).tolist(),
            "points": [
                [int(row), int(view), *point]
                for row, view, point in zip(
                    some.rows[mine], some.views[mine], some.xy[mine].tolist(), strict=True
                )
            ],
        }
        for label, look, mine in parts
        if mine.any()
    ]


Part = tuple[str, tuple[str, int], NDArray[np.bool_]]


def _classes(store: Store, values: NDArray[np.float64]) -> list[Part]:
    """Return the most frequent labels, by number, then all others."""
    labels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    most = np.sort(labels[np.argsort(-counts, kind="stable")[:MOST_CLASSES]])
    parts: list[Part] = [
        (
            label_text(store.label_names, int(label), unlabelled="none"),
            class_look(place),
            values == label,
        )
        for place, label in enumerate(most)
    ]
    return [*parts, ("others", (OTHER, 0), ~np.isin(values, most))]


def _steps(values: NDArray[np.float64]) -> list[Part]:
    """Return six steps of equal counts, from low to high, then the points without a number."""
    known = np.isfinite(values)
    ends = np.quantile(values[known], np.linspace(0, 1, 7)) if known.any() else np.empty(0)
    cuts = np.unique(ends)
    parts: list[Part] = []
    for step, (low, high) in enumerate(pairwise(cuts)):
        last = step == len(cuts) - 2
        mine = (values >= low) & ((values <= high) if last else (values < high))
        label = f"{number(float(low))} to {number(float(high))}"
        parts.append((label, (STEP_COLOURS[step], 0), mine))
    if len(cuts) == 1:
        parts.append((number(float(cuts[0])), (STEP_COLOURS[0], 0), known))
    return [*parts, ("none", (OTHER, 3), ~known)]


def _selection(request: PageRequest, embedding: Embedding, found: Map) -> Facts | None:
    """Return the samples in the part of the map that the address names; None: it names none."""
    texts = [request.query.get(axis) for axis in AXES]
    if not any(texts):
        return None
    area = Area.parse(",".join(text or "" for text in texts))
    rows = rows_in(found, area)
    view = "" if (named := request.query.get("view", "")) == "" else f"{named}/"
    return {
        "area": [area.x0, area.x1, area.y0, area.y1],
        "rows": len(rows),
        "among": f"map/{embedding.name}/{view}{area}",
        "first": [_sample(request.store, int(row)) for row in rows[:SHOWN]],
    }


def _near(request: PageRequest, embedding: Embedding) -> Facts | None:
    """Return the samples nearest to the one that the address names; None: it names none."""
    key = request.query.get("near")
    if not key:
        return None
    store = request.store
    row, view = store.keys.find(key), view_number(request.query.get("view", "")) or 0
    found, searched = neighbours(embedding, row, view, NEAREST)
    return {
        **_sample(store, row),
        "view": view,
        "searched": searched,
        "samples": [
            {**_sample(store, each.row), "view": each.view, "cosine": each.cosine} for each in found
        ],
    }


def _sample(store: Store, row: int) -> Facts:
    label = label_text(store.label_names, int(store.labels[row]), unlabelled="")
    return {"key": store.keys[row], "row": row, "label": label}


def _drawn(request: PageRequest, facts: Facts) -> Facts:
    whole = kept_map(request.site.facts, embedding_named(request.store, facts["of"]))
    found = whole.of_view(facts["view"])
    x_edges, y_edges = np.array(facts["x_edges"]), np.array(facts["y_edges"])
    cells = min(FINEST, CELLS * max(1, round(len(found.xy) ** 0.5 / 25)))
    fine = [np.linspace(each[0], each[-1], cells + 1) for each in (x_edges, y_edges)]
    marks = [
        Marks(
            each["label"],
            each["colour"],
            each["shape"],
            np.array([point[2:] for point in each["points"]]),
        )
        for each in facts["groups"]
    ]
    title = f"map of {facts['of']}: {facts['points']:,} views by their first two components"
    return {
        "map": Markup(
            embedding_map(
                Ends(*x_edges[[0, -1]].tolist(), *y_edges[[0, -1]].tolist()),
                grid_counts(found.xy, *fine),
                marks,
                _cells(request, facts),
                title=title,
            )
        ),
        "mark_of": lambda each: Markup(sample_mark(each["colour"], each["shape"])),
        "picture_of": lambda each: _picture(request, facts, each),
        "browse": None
        if facts["selection"] is None
        else request.link("browse", among=facts["selection"]["among"], view_set=_shown(facts)),
    }


def _cells(request: PageRequest, facts: Facts) -> list[Cell]:
    x, y = facts["x_edges"], facts["y_edges"]
    cells = []
    for row, counts in enumerate(facts["counts"]):
        for column, count in enumerate(counts):
            if count:
                ends = (x[column], x[column + 1], y[row], y[row + 1])
                fields = {axis: repr(end) for axis, end in zip(AXES, ends, strict=True)}
                cells.append(Cell(*ends, count, request.again(near=None, **fields) + "#selection"))
    return cells


def _shown(facts: Facts) -> str | None:
    """Return the view set whose views are described; None: those are the images."""
    return None if facts["describes"] == SOURCE else facts["describes"]


def _picture(request: PageRequest, facts: Facts, sample: Facts) -> PageImage | None:
    """Return a picture of what is described; None: it cannot be had."""
    described = request.store.view_sets.get(_shown(facts) or "")
    if described is None:
        anything = request.view_set
        return None if anything is None else _original(request, sample)
    view = sample.get("view", facts["view"]) or 0
    address = request.picture(sample["key"], view, SIDES[0], described)
    return PageImage(address, small=max(described.height, described.width) <= LOSSLESS_SIDE)


def _original(request: PageRequest, sample: Facts) -> PageImage:
    table, row = request.store.table, sample["row"]
    longer = max(int(table.height[row]), int(table.width[row]))
    address = request.picture(sample["key"], None, SIDES[0])
    return PageImage(address, small=longer <= LOSSLESS_SIDE)


def _csv(request: PageRequest, facts: Facts) -> Csv:
    keys = request.store.keys
    rows: list[Sequence[object]] = [
        [keys[row], view, x, y, group["label"]]
        for group in facts["groups"]
        for row, view, x, y in group["points"]
    ]
    return ("key", "view", "x", "y", facts["colour"]), rows


def _code(request: PageRequest) -> str:
    """Return Python that makes the map, and finds what is selected and what is nearest, if any."""
    embedding = request.query.get("of") or _first(request)
    view = view_number(request.query.get("view", ""))
    lines = [
        opening(request),
        "from viewstore.inspect.embeddings import Area, embedding_named, map_of",
        "from viewstore.inspect.embeddings import neighbours, rows_in",
        "",
        f"embedding = embedding_named(store, {embedding!r})",
        f"found = map_of(embedding).of_view({view})",
    ]
    if all(request.query.get(axis) for axis in AXES):
        area = Area.parse(",".join(request.query[axis] for axis in AXES))
        lines.append(f"rows = rows_in(found, {area!r})")
    if key := request.query.get("near"):
        lines.append(f"row = store.keys.find({key!r})")
        lines.append(f"near, searched = neighbours(embedding, row, {view or 0}, {NEAREST})")
    return "\n".join(lines)


TAB = Tab(
    name="embeddings",
    title="Embeddings",
    facts=_facts,
    has_data=lambda request: bool(embeddings_of(request.store)),
    drawn=_drawn,
    csv=_csv,
    code=_code,
)
