"""Stores of which a view set is said to be made from another one, with any table of parents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import viewstore
from tests.loaders.stores import NUM_DIGITS, SHARD_ROWS
from tests.viewstore.small_stores import round_before
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.columns import Column
from viewstore.store.store import Store

SIDE = 8


def family_store(out: Path, counts: dict[str, int], *, source: str = "digits") -> Store:
    """Return 70 images, or fewer, with a view set of so many 8 px simclr views by each name."""
    for name, count in counts.items():
        build(
            BuildRequest(
                generator="simclr",
                view_set=name,
                after=round_before(out, name),
                out=out,
                source=source,
                limit=NUM_DIGITS,
                shard_rows=SHARD_ROWS,
                settings={"height": SIDE, "width": SIDE, "views": count},
                workers=1,
            )
        )
    return viewstore.open(out)


def say_parents(store: Store, child: str, parent: str | None, numbers: Any) -> None:  # noqa: ANN401
    """Say in memory which views of `parent`, or of itself, those of `child` were made from.

    `numbers` is a table [N, K], or one row of it for all.
    """
    views = store.view_sets[child]
    above = None if parent is None else store.view_sets[parent].plan.id
    assert views.index.rows == views.plan.rows  # read while the plan is its own
    column = Column(name="parent", dtype="i4", shape=(views.num_views,))
    columns = (*(each for each in views.plan.columns if each.name != "parent"), column)
    views.plan = replace(
        views.plan,
        parent=None if above is None else {"view_set": parent, "plan_id": above},
        columns=tuple(sorted(columns, key=lambda each: each.name)),
    )
    views.params.columns["parent"] = column
    put(store, child, "parent", np.broadcast_to(numbers, (len(views), views.num_views)), np.int32)


def put(store: Store, name: str, column: str, values: Any, dtype: Any) -> None:  # noqa: ANN401
    """Put other values of a column of a view set in the place of those that are stored."""
    views = store.view_sets[name]
    views.params._whole[column] = np.array(values, dtype)
    views.__dict__["stats"] = {key: each for key, each in views.stats.items() if key != column}


def parents_of(store: Store, name: str) -> NDArray[np.int32]:
    """Return the parent of each view, [N, K]."""
    return np.asarray(store.view_sets[name].params["parent"])
