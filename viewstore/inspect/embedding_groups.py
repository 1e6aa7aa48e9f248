"""Points of a map by colour and shape: the classes of labels, or the steps of a number."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from viewstore.inspect.embedding_chart import OTHER, SINGLE, class_look, step_look
from viewstore.inspect.embeddings import Embedding, Map, Values, colour_values
from viewstore.inspect.numbers import number
from viewstore.inspect.summary import label_text
from viewstore.store.store import Store

MOST_CLASSES = 20
LEAST_SHARE = 0.25  # of the points, that these classes must have for colours to say something
LEAST_SAMPLES = 2  # of a class on average, likewise
STEPS = 6


@dataclass(frozen=True, eq=False)
class Group:
    """Points that look the same.

    Attributes:
        label: What they have in common, in words.
        look: Colour, and number of a shape.
        mine: Which of the points they are, [M].
    """

    label: str
    look: tuple[str, int]
    mine: NDArray[np.bool_]


def groups_of(
    store: Store, embedding: Embedding, points: Map, colour: str
) -> tuple[list[Group], str]:
    """Return groups of the points of a map by a column, and why they are one; "" if they are not.

    Raises:
        ConfigError: There is no such column.
    """
    values = colour_values(store, embedding, colour, points)
    if colour != "label":
        return _steps(values), ""
    said = too_many(values, len(np.unique(points.rows)))
    if said:
        return [Group("all", (SINGLE, 0), np.ones(len(values), np.bool_))], said
    return _classes(store, values), ""


def too_many(labels: Values, samples: int) -> str:
    """Return in words that labels are too many to be told by colours; "" if they are not.

    Args:
        labels: Of points, [M]; NaN: none.
        samples: How many samples the points are of.
    """
    found, counts = np.unique(labels[np.isfinite(labels)], return_counts=True)
    shown = np.sort(counts)[-MOST_CLASSES:].sum()
    if len(found) < 2 or (
        LEAST_SAMPLES * len(found) <= samples and shown >= LEAST_SHARE * counts.sum()
    ):
        return ""
    return (
        f"{len(found):,} labels of {samples:,} samples are too many to tell by colour: "
        "all points have the same one"
    )


def _classes(store: Store, values: Values) -> list[Group]:
    """Return the most frequent labels, by number, then all others."""
    labels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    most = np.sort(labels[np.argsort(-counts, kind="stable")[:MOST_CLASSES]])
    groups = [
        Group(
            label_text(store.label_names, int(label), unlabelled="none"),
            class_look(place),
            values == label,
        )
        for place, label in enumerate(most)
    ]
    return [*groups, Group("others", (OTHER, 0), ~np.isin(values, most))]


def _steps(values: Values) -> list[Group]:
    """Return six steps of equal counts, from low to high, then the points without a number."""
    known = np.isfinite(values)
    ends = np.quantile(values[known], np.linspace(0, 1, STEPS + 1)) if known.any() else np.empty(0)
    cuts = np.unique(ends)
    groups: list[Group] = []
    for step, (low, high) in enumerate(pairwise(cuts)):
        last = step == len(cuts) - 2
        mine = (values >= low) & ((values <= high) if last else (values < high))
        label = f"{number(float(low))} to {number(float(high))}"
        groups.append(Group(label, step_look(step, len(cuts) - 1), mine))
    if len(cuts) == 1:
        groups.append(Group(number(float(cuts[0])), (SINGLE, 0), known))
    return [*groups, Group("none", (OTHER, 3), ~known)]
