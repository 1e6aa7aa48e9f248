"""Embeddings: what an encoder says of views, in two dimensions, and which samples are near."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from viewstore.errors import ConfigError
from viewstore.format.plan import SOURCE
from viewstore.inspect.embedding_chart import (
    Cell,
    Ends,
    Marks,
    Pin,
    embedding_map,
    sample_mark,
)
from viewstore.inspect.embedding_groups import Group, groups_of
from viewstore.inspect.embeddings import (
    Area,
    Components,
    Embedding,
    Map,
    colour_columns,
    edges_of,
    embedding_named,
    embeddings_of,
    grid_counts,
    neighbours,
    rows_in,
)
from viewstore.inspect.origin import origin_facts, origin_words
from viewstore.inspect.pages.among import kept_map, kept_outliers, view_number
from viewstore.inspect.pages.page import Csv, Facts, PageRequest, Tab, opening
from viewstore.inspect.pictures import LOSSLESS_SIDE, PageImage
from viewstore.inspect.summary import label_text
from viewstore.inspect.thumbnails import SIDES
from viewstore.store.store import Store

POINTS, CELLS = 2000, 12  # points that are drawn; cells of a side that are links
FINEST = 60  # cells of a side of the density
SHOWN, NEAREST, FARTHEST = 12, 12, 12  # samples as pictures
AXES = ("x0", "x1", "y0", "y1")
NEAR_VIEW, ASKED = "near_view", "asked"


def _facts(request: PageRequest) -> Facts:
    store = request.store
    names = [each.name for each in embeddings_of(store)]
    embedding = embedding_named(store, request.query.get("of") or _first(request))
    view = view_number(request.query.get("view", ""))
    if view is not None and view >= embedding.view_set.num_views:
        raise ConfigError(f"{embedding.name} has {embedding.view_set.num_views} views, not {view}")
    whole = kept_map(request.site.facts, embedding)
    found = whole.of_view(view)
    colour, points = request.query.get("colour") or "label", found.first(POINTS)
    groups, said = groups_of(store, embedding, points, colour)
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
        "shares": list(whole.components.shares),
        "x_edges": x_edges.tolist(),
        "y_edges": y_edges.tolist(),
        "counts": grid_counts(found.xy, x_edges, y_edges).tolist(),
        "colour": colour,
        "colours": colour_columns(store, embedding),
        "one_colour": said,
        "groups": [_group(each, points) for each in groups if each.mine.any()],
        "selection": _selection(request, embedding, found),
        "near": _near(request, embedding, whole.components),
        "outliers": _outliers(request, embedding, view),
    }


def _first(request: PageRequest) -> str:
    """Return the embedding of what is shown, or else the first."""
    found = embeddings_of(request.store)
    shown = None if request.view_set is None else request.view_set.name
    about = [each for each in found if shown in (each.view_set.of, each.view_set.name)]
    return (about or found)[0].name


def _group(group: Group, points: Map) -> Facts:
    mine = group.mine
    return {
        "label": group.label,
        "colour": group.look[0],
        "shape": group.look[1],
        "count": int(mine.sum()),
        "mean": points.xy[mine].mean(0).tolist(),
        "points": [
            [int(row), int(view), *point]
            for row, view, point in zip(
                points.rows[mine], points.views[mine], points.xy[mine].tolist(), strict=True
            )
        ],
    }


def _selection(request: PageRequest, embedding: Embedding, found: Map) -> Facts | None:
    """Return the samples in the part of the map that the address names; None: it names none."""
    texts = [request.query.get(axis) for axis in AXES]
    if not any(texts):
        return None
    area = Area.parse(",".join(text or "" for text in texts))
    rows = rows_in(found, area)
    view = _part(view_number(request.query.get("view", "")))
    return {
        "area": [area.x0, area.x1, area.y0, area.y1],
        "rows": len(rows),
        "among": f"map/{embedding.name}{view}/{area}",
        "first": [_sample(request.store, int(row)) for row in rows[:SHOWN]],
    }


def _part(view: int | None) -> str:
    """Return the part of the name of some rows that says which view's points are meant."""
    return "" if view is None else f"/{view}"


def _near(request: PageRequest, embedding: Embedding, components: Components) -> Facts | None:
    """Return the samples nearest to the one that the address names; None: it names none.

    "near_view" of the address says by which of its views; without it, by any of them.
    """
    key = request.query.get("near")
    if not key:
        return None
    store = request.store
    row, view = store.keys.find(key), view_number(request.query.get(NEAR_VIEW, ""))
    found, searched = neighbours(embedding, row, view, NEAREST)
    shown = (found[0].to if found else 0) if view is None else view
    rows, views = [row, *(each.row for each in found)], [shown, *(each.view for each in found)]
    params = embedding.view_set.params
    places = components.place(params.cells(embedding.column.name, np.array(rows), np.array(views)))
    own, *others = (
        {**_sample(store, *of), "at": at.tolist()}
        for *of, at in zip(rows, views, places, strict=True)
    )
    return {
        **own,
        "by_view": view,
        "searched": searched,
        "samples": [
            {**each, "to": near.to, "cosine": near.cosine}
            for each, near in zip(others, found, strict=True)
        ],
    }


def _outliers(request: PageRequest, embedding: Embedding, view: int | None) -> Facts:
    """Return the samples that are farthest from their nearest ones."""
    found = kept_outliers(request.site.facts, embedding, view)
    first = zip(found.rows, found.views, found.distances, strict=True)
    return {
        "nearest": found.nearest,
        "asked": found.asked,
        "points": found.points,
        "rows": len(found.farthest),
        "among": f"outliers/{embedding.name}{_part(view)}",
        "samples": [
            {**_sample(request.store, int(row), int(view)), "distance": float(distance)}
            for row, view, distance in itertools.islice(first, FARTHEST)
        ],
    }


def _sample(store: Store, row: int, view: int | None = None) -> Facts:
    label = label_text(store.label_names, int(store.labels[row]), unlabelled="")
    of_view = {} if view is None else {"view": view}
    return {"key": store.keys[row], "row": row, "label": label, **of_view}


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
                _pins(facts),
                title=title,
            )
        ),
        "mark_of": lambda each: Markup(sample_mark(each["colour"], each["shape"])),
        "picture_of": lambda each: _picture(request, facts, each),
        "nearest": [] if facts["near"] is None else _nearest(facts),
        "outliers": [
            {**each, "said": f"{_view(facts, each)}{each['distance']:.3f}"}
            for each in facts["outliers"]["samples"]
        ],
        "browse": lambda each: request.link("browse", among=each["among"], view_set=_shown(facts)),
    }


def _view(facts: Facts, sample: Facts) -> str:
    return f"view {sample['view']}, " if facts["views"] > 1 else ""


def _nearest(facts: Facts) -> list[Facts]:
    """Return the sample that was asked for and its nearest ones, with what is said of each."""
    near, several = facts["near"], facts["views"] > 1
    own = {**near, "mark": ASKED, "said": f"view {near['view']}" if several else ""}
    return [
        own,
        *(
            {
                **each,
                "mark": n,
                "said": _view(facts, each)
                + (f"to view {each['to']}, " if several else "")
                + f"{each['cosine']:.3f}",
            }
            for n, each in enumerate(near["samples"], 1)
        ),
    ]


def _pins(facts: Facts) -> list[Pin]:
    """Return where the sample that was asked for lies, and by their numbers its nearest ones."""
    near = facts["near"]
    if near is None:
        return []
    nearest = [Pin(tuple(each["at"]), str(n)) for n, each in enumerate(near["samples"], 1)]
    return [*nearest, Pin(tuple(near["at"]), ASKED)]


def _cells(request: PageRequest, facts: Facts) -> list[Cell]:
    x, y = facts["x_edges"], facts["y_edges"]
    cells = []
    for row, counts in enumerate(facts["counts"]):
        for column, count in enumerate(counts):
            if count:
                ends = (x[column], x[column + 1], y[row], y[row + 1])
                fields = {axis: repr(end) for axis, end in zip(AXES, ends, strict=True)}
                cells.append(
                    Cell(
                        *ends,
                        count,
                        request.again(near=None, near_view=None, **fields) + "#selection",
                    )
                )
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
        of_view = view_number(request.query.get(NEAR_VIEW, ""))
        lines.append(f"near, searched = neighbours(embedding, row, {of_view}, {NEAREST})")
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
