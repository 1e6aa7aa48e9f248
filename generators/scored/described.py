"""What generators of columns share: whose views they describe, and which of those are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import MADE, Column, Status
from viewstore.format.plan import SOURCE
from viewstore.generators.contract import PARENT, Context, Input, Sample
from viewstore.images.colours import Pixels

Values = Mapping[str, NDArray[Any]]


def inputs_of(described: str) -> Mapping[str, Input]:
    """Return the view set that is described as the parent; the images are no view set."""
    return {} if described == SOURCE else {PARENT: Input(described)}


def roles_of(context: Context) -> tuple[str, ...]:
    """Return the roles of the described views; the images are one view of role "source"."""
    return (SOURCE,) if context.parent is None else context.parent.roles


def columns_per_view(columns: tuple[Column, ...], views: int) -> tuple[Column, ...]:
    """Return columns that each view of a set has, and its status, by name."""
    status = Column(name="status", dtype="u1", shape=())
    found = (replace(each, shape=(views, *each.shape)) for each in (*columns, status))
    return tuple(sorted(found, key=lambda column: column.name))


def seen_views(sample: Sample) -> tuple[Pixels | list[Pixels], NDArray[np.bool_]]:
    """Return the described views as a reader sees them, [V], and which of them were made."""
    if sample.parent is None:
        return [sample.image], np.ones(1, np.bool_)
    made = np.isin(sample.parent.status, MADE)
    return (sample.parent.pixels() if made.any() else []), made


def status_of(made: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the status of what was computed of views, of which some were never made."""
    return np.where(made, Status.OK, Status.UNREADABLE).astype(np.uint8)
