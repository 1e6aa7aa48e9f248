"""Which samples are unlike all others: those whose features are far from their nearest ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewstore.inspect.embeddings import Embedding, Map, Rows, Values, unit

NEAREST = 10  # points of other samples to which the distance is taken
MOST_ASKED = 4096  # points of which it is taken
MOST_WORK = 20e9  # points asked x points x numbers: about a second of one core
LEAST, SHARE = 12, 0.01  # of the samples asked, how many are called outliers
BLOCK = 256  # points


@dataclass(frozen=True, kw_only=True, eq=False)
class Outliers:
    """Samples by how far they are from their nearest ones, the farthest first.

    Attributes:
        rows, views: Their rows, and the view of each that is farthest, [M].
        distances: Mean of 1 less the cosine to the nearest points of other samples, [M].
        nearest: How many nearest points that is.
        asked: Of how many points it was taken.
        points: Among how many points nearest ones were looked for.
    """

    rows: Rows
    views: Rows
    distances: Values
    nearest: int
    asked: int
    points: int

    @property
    def farthest(self) -> Rows:
        """The rows that are called outliers, ascending: a hundredth of those asked, or 12."""
        return np.sort(self.rows[: max(LEAST, int(SHARE * len(self.rows)))])


def outliers_of(embedding: Embedding, found: Map) -> Outliers:
    """Return the outliers among the points of a map; the first of its points are asked.

    Raises:
        FormatError: The params are damaged.
    """
    features = embedding.view_set.params.cells(embedding.column.name, found.rows, found.views)
    units = unit(features).astype(np.float32)
    asked = min(len(units), MOST_ASKED, int(MOST_WORK / max(units.size, 1)))
    distances = np.full(asked, np.nan)
    for begin in range(0, asked, BLOCK):
        part = slice(begin, min(asked, begin + BLOCK))
        cosine = units[part] @ units.T
        cosine[found.rows[part, None] == found.rows] = -np.inf
        distances[part] = _mean_distance(cosine)
    order = np.lexsort((found.views[:asked], found.rows[:asked], -distances))
    order = order[np.isfinite(distances[order])]
    _, first = np.unique(found.rows[order], return_index=True)
    order = order[np.sort(first)]
    return Outliers(
        rows=found.rows[order],
        views=found.views[order],
        distances=distances[order],
        nearest=NEAREST,
        asked=asked,
        points=len(units),
    )


def _mean_distance(cosine: NDArray[np.float32]) -> Values:
    """Return the mean distance to the nearest points by cosines [B, M]; -inf of none; NaN: none."""
    count = min(NEAREST, cosine.shape[1])
    best = np.partition(cosine, -count, axis=1)[:, -count:].astype(np.float64)
    known = np.isfinite(best)
    there = known.sum(1)
    distance = np.where(known, 1 - best, 0).sum(1)
    return np.where(there > 0, distance / np.maximum(there, 1), np.nan)
