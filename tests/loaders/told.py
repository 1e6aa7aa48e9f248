"""A generator of columns for tests: what it says of each view follows from row and view alone.

`registered` puts it into the table of generators as "told"; `tell` builds a columns set by it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import viewstore
from tests.viewstore.small_stores import round_before
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.columns import Column, Status
from viewstore.format.plan import SOURCE
from viewstore.generators import GENERATORS, Row
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.scored.described import (
    Described,
    Describes,
    columns_per_view,
)
from viewstore.store.store import Store

NONE = 255
MODULE = "viewstore.generators.told"


def feature(row: int, view: int, width: int) -> NDArray[np.float16]:
    """Return what is told of a view, exact in half precision."""
    numbers = (row * 31 + view * 7 + np.arange(width)) % 1024
    return (numbers / 8).astype(np.float16)


def choices(row: int, views: int, groups: int, choose: int, salt: int) -> NDArray[np.uint8]:
    """Return the choices of a row, [G, m]; every 7th row has none in group 0."""
    rng = np.random.Generator(np.random.Philox(1000 * row + salt))
    size = views // groups
    found = np.stack([rng.permutation(size)[:choose] + size * each for each in range(groups)])
    if row % 7 == 3:
        found[0] = NONE
    return found.astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Told(Describes):
    """What is told of the views of `of`: features of `dim` numbers, choices of `groups` groups."""

    VERSION: ClassVar[int] = 1

    dim: int = 5
    groups: int = 1
    choose: int = 1
    salt: int = 0

    def resolve(self, context: Context) -> ResolvedTold:
        """Take on the roles of the views."""
        roles = (SOURCE,) if context.parent is None else context.parent.roles  # of columns too
        values = {**vars(self), "described": roles}
        return ResolvedTold(**values)

    def reads_source(self) -> bool:
        """Return that no image is looked at."""
        return False


@dataclass(frozen=True, kw_only=True)
class ResolvedTold(Described):
    """What `Told` resolves to."""

    dim: int
    groups: int
    choose: int
    salt: int

    def columns(self) -> tuple[Column, ...]:
        """Return the columns, by name."""
        of_views = (
            Column(name="feature", dtype="f2", shape=(self.dim,), pack=False),
            Column(name="score", dtype="f4", shape=()),
        )
        form = (self.groups, self.choose)
        others = (
            Column(name="easiest", dtype="u1", shape=form, per="choice"),
            Column(name="margin", dtype="f4", shape=(self.groups,), per="sample"),
            Column(name="selected", dtype="u1", shape=form, per="choice"),
        )
        every = (*columns_per_view(of_views, self.views), *others)
        return tuple(sorted(every, key=lambda column: column.name))

    def make(self, context: Context) -> ToldGenerator:
        """Return the generator."""
        del context
        return ToldGenerator(self)


class ToldGenerator:
    """Tells of one sample after the other."""

    def __init__(self, settings: ResolvedTold) -> None:
        self._settings = settings

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the columns of each sample."""
        s = self._settings
        for sample in samples:
            row, views = sample.index, range(s.views)
            status = np.ones(s.views, np.uint8)
            if row % 7 == 3:  # as the generators of choices say it, of views they cannot score
                status[: s.views // s.groups] = Status.FAILED
            yield Rendered(
                row,
                None,
                {
                    "feature": np.stack([feature(row, view + s.salt, s.dim) for view in views]),
                    "score": np.array([100 * row + view + s.salt for view in views], np.float32),
                    "margin": np.full(s.groups, row + s.salt, np.float32),
                    "selected": choices(row, s.views, s.groups, s.choose, s.salt),
                    "easiest": choices(row, s.views, s.groups, s.choose, s.salt + 500),
                    "status": status,
                },
            )


@contextmanager
def registered() -> Iterator[None]:
    """Have a generator "told" in a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, MODULE, sys.modules[__name__])
        patch.setitem(GENERATORS, "told", Row("told", "Told", "what a test says"))
        yield


def tell(out: Path, name: str, of: str, **settings: Any) -> Store:  # noqa: ANN401
    """Build columns set `name` about `of` into a store, and return the store."""
    with registered():
        request = BuildRequest(
            generator="told",
            view_set=name,
            after=round_before(out, name),
            out=out,
            settings={"of": of, **settings},
            workers=1,
        )
        build(request)
    return viewstore.open(out)


def say_choices(store: Store, name: str, column: str, table: NDArray[Any]) -> None:
    """Put choices [N, G, m] in the place of those that are stored, in memory."""
    views = store.view_sets[name]
    assert views.index.rows == views.plan.rows  # read while the plan is its own
    other = replace(views.plan.column(column), shape=table.shape[1:])
    columns = [other if each.name == column else each for each in views.plan.columns]
    stored_id = views.plan.id
    views.plan = replace(views.plan, columns=tuple(columns))
    object.__setattr__(views.plan, "_stored_id", stored_id)
    views.params.columns[column] = other
    views.params._whole[column] = table.astype(np.uint8)
