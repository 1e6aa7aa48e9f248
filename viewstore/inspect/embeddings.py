"""Features of views in two dimensions: principal components, and which samples lie where.

A map is made of rows that a key chooses, the same ones for ever; at a million rows a page would
read gigabytes otherwise. Pure apart from reading columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, nearest
from viewstore.format.columns import MADE, Column
from viewstore.format.plan import SOURCE
from viewstore.randomness import Stream
from viewstore.store.matching import is_single
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

MOST_POINTS = 20_000  # rows x views of a map
MOST_WORK = 20e9  # points x numbers^2: about a second of one core
LEAST_NUMBERS = 4  # of a feature
SEARCHED_BYTES = 512 << 20  # of features among which neighbours are looked for
BLOCK_ROWS = 1 << 12
SEED = 0  # of the choice of rows

Rows = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Embedding:
    """A column of features of views.

    Attributes:
        view_set: The columns set.
        column: Its column, f2 or f4, [V, D] a row.
    """

    view_set: ViewSet
    column: Column

    @property
    def name(self) -> str:
        """Its name in forms and addresses: "teacher.feature"."""
        return f"{self.view_set.name}.{self.column.name}"

    @property
    def size(self) -> int:
        """Numbers of a feature, D."""
        return self.column.shape[1]


@dataclass(frozen=True, eq=False)
class Components:
    """The first two principal components of some features.

    Attributes:
        centre: Their mean, [D].
        axes: The directions, [D, 2].
        shares: How much of the variance the two have, of 1.
    """

    centre: Values
    axes: Values
    shares: tuple[float, float]

    def place(self, features: NDArray[np.floating]) -> Values:
        """Return the places of features [M, D], [M, 2]."""
        return np.asarray((features.astype(np.float64) - self.centre) @ self.axes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """Features of some rows in two dimensions.

    Attributes:
        rows, views: Row and view of each point, [M]; rows in the order of their keyed words.
        xy: The point, [M, 2]; equal features lie together.
        components: What places features on it.
        chosen: Rows that were read, of all.
    """

    rows: Rows
    views: Rows
    xy: Values
    components: Components
    chosen: int

    def of_view(self, view: int | None) -> Map:
        """Return the points of one view; None: all."""
        if view is None:
            return self
        return self._of(self.views == view)

    def first(self, count: int) -> Map:
        """Return the first `count` points."""
        return self._of(slice(count))

    def _of(self, mine: NDArray[np.bool_] | slice) -> Map:
        return replace(self, rows=self.rows[mine], views=self.views[mine], xy=self.xy[mine])


@dataclass(frozen=True)
class Area:
    """A part of a map: from x0 and y0 on, below x1 and y1."""

    x0: float
    x1: float
    y0: float
    y1: float

    @classmethod
    def parse(cls, text: str) -> Area:
        """Return the area "X0,X1,Y0,Y1". Raises ConfigError: it is none."""
        try:
            ends = [float(each) for each in text.split(",")]
        except ValueError:
            ends = []
        if len(ends) != 4 or not np.isfinite(ends).all():
            raise ConfigError(f"an area must be four numbers X0,X1,Y0,Y1, got {text[:80]!r}")
        return cls(*ends)

    def __str__(self) -> str:
        return ",".join(repr(end) for end in (self.x0, self.x1, self.y0, self.y1))

    def holds(self, xy: Values) -> NDArray[np.bool_]:
        """Return which points [M, 2] lie in it."""
        low, high = np.array([self.x0, self.y0]), np.array([self.x1, self.y1])
        return np.asarray(((xy >= low) & (xy < high)).all(1))


def embeddings_of(store: Store) -> list[Embedding]:
    """Return the columns of features that a store has, by name of their set."""
    return [
        Embedding(view_set, column)
        for view_set in store.view_sets.values()
        for column in view_set.plan.columns
        if column.per == "view"
        and column.dtype in ("f2", "f4")
        and (column.name == "feature" or not column.pack)
        and len(column.shape) == 2
        and column.shape[1] >= LEAST_NUMBERS
    ]


def embedding_named(store: Store, name: str) -> Embedding:
    """Return the embedding SET.COLUMN. Raises ConfigError: there is none."""
    found = embeddings_of(store)
    names = [each.name for each in found]
    if name not in names:
        hint = nearest(name, names) if names else "there are none"
        raise ConfigError(f"there is no embedding {name[:80]!r}; {hint}", code="VS102")
    return found[names.index(name)]


def keyed_rows(count: int, most: int) -> Rows:
    """Return the `most` rows of `count` to which a fixed stream gives the least words, by word."""
    words = Stream(SEED).seed_word(np.arange(count, dtype=np.uint64), 0)
    return np.argsort(words, kind="stable")[:most].astype(np.int64)


def map_of(embedding: Embedding, most: int = MOST_POINTS) -> Map:
    """Return the map of an embedding, by the features of at most `most` views.

    Raises:
        FormatError: The params are damaged.
    """
    views, size = embedding.column.shape
    most = min(most, max(2, int(MOST_WORK / size**2)))
    chosen = keyed_rows(len(embedding.view_set), max(1, most // views))
    parts = list(_features(embedding, chosen))
    rows, numbers, features = (np.concatenate(each) for each in zip(*parts, strict=True))
    components = principal(features)
    return Map(
        rows=rows,
        views=numbers,
        xy=components.place(features),
        components=components,
        chosen=len(chosen),
    )


def _features(
    embedding: Embedding, rows: Rows, block: int = BLOCK_ROWS
) -> Iterator[tuple[Rows, Rows, NDArray[np.float32]]]:
    """Yield rows, views and features of the views that were made, in the order of `rows`."""
    params = embedding.view_set.params
    for begin in range(0, len(rows), block):
        some = rows[begin : begin + block]
        features = params.rows(embedding.column.name, some).astype(np.float32)
        made = np.isin(params.take("status", some), MADE) & np.isfinite(features).all(-1)
        place, view = np.nonzero(made)
        yield some[place], view, features[made]


def principal(features: NDArray[np.floating]) -> Components:
    """Return the first two principal components of features [M, D].

    The sign of an axis is that in which its direction's largest number, the first of equals, is
    above 0, so that the same features give the same map.
    """
    if len(features) < 2:
        size = features.shape[1]
        return Components(np.zeros(size), np.zeros((size, 2)), (0.0, 0.0))
    centred = features.astype(np.float64)
    centre = centred.mean(0)
    centred -= centre
    variances, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, :-3:-1]
    largest = np.abs(axes).argmax(0)
    axes = axes * np.where(axes[largest, range(axes.shape[1])] < 0, -1, 1)
    whole = float(variances.sum())
    first, second = (max(0.0, float(each)) for each in variances[:-3:-1])
    shares = (first / whole, second / whole) if whole > 0 else (0.0, 0.0)
    return Components(centre, axes, shares)


def rows_in(found: Map, area: Area) -> Rows:
    """Return the rows with a point of a map in an area, ascending."""
    return np.unique(found.rows[area.holds(found.xy)])


def edges_of(values: Values, cells: int) -> Values:
    """Return the edges of `cells` equal parts that hold all values, [cells + 1], of few digits."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    pad = (high - low) * 1e-3 or 0.5
    edges = np.linspace(low - pad, high + pad, cells + 1)
    digits = 3 - int(np.floor(np.log10(edges[-1] - edges[0])))
    return np.round(edges, digits)


def grid_counts(xy: Values, x_edges: Values, y_edges: Values) -> NDArray[np.int64]:
    """Return how many points lie in each cell, [rows from the lowest, columns]."""
    column = np.searchsorted(x_edges, xy[:, 0], "right") - 1
    row = np.searchsorted(y_edges, xy[:, 1], "right") - 1
    shape = (len(y_edges) - 1, len(x_edges) - 1)
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    flat = row[inside] * shape[1] + column[inside]
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)


@dataclass(frozen=True)
class Neighbour:
    """A sample near another one.

    Attributes:
        row: Its row.
        view: Its most similar view.
        to: The view of the other sample to which that is.
        cosine: Of the features of both.
    """

    row: int
    view: int
    to: int
    cosine: float


def neighbours(
    embedding: Embedding, row: int, view: int | None, count: int
) -> tuple[list[Neighbour], int]:
    """Return the `count` samples nearest to a view by cosine, and among how many was looked.

    `view` None means any view of the sample: that which is nearest. A sample comes once, by its
    nearest view. The sample itself is left out.

    Raises:
        ConfigError: The view has no feature; or the sample has none.
        FormatError: The params are damaged.
    """
    ((_, numbers, own),) = _features(embedding, np.array([row]))
    mine = np.ones(len(numbers), np.bool_) if view is None else numbers == view
    if not mine.any():
        what = f"row {row}" if view is None else f"view {view} of row {row}"
        raise ConfigError(f"{what} has no {embedding.name}", code="VS202")
    numbers, wanted = numbers[mine], unit(own[mine]).T
    most = max(1, SEARCHED_BYTES // embedding.column.row_bytes)
    searched = np.sort(keyed_rows(len(embedding.view_set), most))
    best: list[Neighbour] = []
    for rows, views, features in _features(embedding, searched):
        cosines = unit(features) @ wanted
        cosine, to = cosines.max(1), numbers[cosines.argmax(1)]
        order = np.lexsort((views, rows, -cosine))
        order = order[rows[order] != row]
        _, first = np.unique(rows[order], return_index=True)
        for place in order[np.sort(first)[:count]]:
            near = int(rows[place]), int(views[place]), int(to[place])
            best.append(Neighbour(*near, float(cosine[place])))
    best.sort(key=lambda each: (-each.cosine, each.row))
    return best[:count], len(searched)


def unit(features: NDArray[np.floating]) -> Values:
    """Return features [M, D] of length 1; zeros stay zeros."""
    wide = features.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(length == 0, 1, length))


def colour_columns(store: Store, embedding: Embedding) -> list[str]:
    """Return by which columns points can be coloured: label, and numbers of what is described."""
    return ["label", *(f"{each.name}.{name}" for each, name in _numbers(store, embedding))]


def colour_values(store: Store, embedding: Embedding, name: str, found: Map) -> Values:
    """Return what a column says of the points of a map, [M]; NaN where nothing.

    Raises:
        ConfigError: There is no such column.
    """
    if name == "label":
        labels = store.labels[found.rows].astype(np.float64)
        return np.where(labels < 0, np.nan, labels)
    for each, column_name in _numbers(store, embedding):
        if name == f"{each.name}.{column_name}":
            column = each.plan.column(column_name)
            values = each.params.take(column_name, found.rows)
            missing = column.missing(values)
            if column.per == "view" and each.num_views > 1:
                at = np.arange(len(values)), found.views
                values, missing = values[at], missing[at]
            numbers = values.reshape(len(values)).astype(np.float64)
            return np.where(missing.reshape(-1), np.nan, numbers)
    hint = nearest(name, colour_columns(store, embedding))
    raise ConfigError(f"points cannot be coloured by {name[:80]!r}; {hint}", code="VS102")


def _numbers(store: Store, embedding: Embedding) -> Sequence[tuple[ViewSet, str]]:
    """Return the columns of single numbers of what is described, and of what is told of it."""
    of = embedding.view_set.of or embedding.view_set.name
    sets = [store.view_sets[of]] if of in store.view_sets else []
    if of == SOURCE or of in store.view_sets:
        sets += [store.view_sets[name] for name in store.columns_of(of)]
    return [
        (each, column.name)
        for each in sets
        for column in each.plan.columns
        if column.pack and is_single(each, column.name) and column.name != "dhash"
    ]
