"""A choice of two views of each image, as a columns set: drawn by chance, keyed by the row.

It stands for the choice of a model where only the cost of showing a choice counts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar
from unittest.mock import patch

import numpy as np

from trials.world import with_views
from viewstore.format.columns import Column, Status
from viewstore.generators import GENERATORS, Row
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.scored.described import Described, Describes, columns_per_view, roles_of
from viewstore.randomness import Op, Stream
from viewstore.store.store import Store

MODULE = "viewstore.generators.picked"


@dataclass(frozen=True, kw_only=True)
class Picked(Describes):
    """Picks two different views of `of`."""

    VERSION: ClassVar[int] = 1

    def resolve(self, context: Context) -> ResolvedPicked:
        """Take on the roles of the views."""
        return ResolvedPicked(of=self.of, described=roles_of(context))


@dataclass(frozen=True, kw_only=True)
class ResolvedPicked(Described):
    """What `Picked` resolves to."""

    def columns(self) -> tuple[Column, ...]:
        """Return the columns, by name."""
        selected = Column(name="selected", dtype="u1", shape=(1, 2), per="choice")
        return (selected, *columns_per_view((), self.views))

    def make(self, context: Context) -> ResolvedPicked:
        """Return what picks: it needs nothing else."""
        del context
        return self

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the choice for each sample."""
        for sample in samples:
            words = Stream(0).words(Op.SET_CHOICE, sample.index, 0, blocks=-(-self.views // 4))
            order = np.argsort(words[: self.views], kind="stable").astype(np.uint8)
            status = np.full(self.views, Status.OK, np.uint8)
            yield Rendered(sample.index, None, {"selected": order[None, :2], "status": status})


def pick(store: Store, of: str, name: str) -> Store:
    """Build a columns set that picks two views of the set `of`; return the store."""
    row = Row("picked", "Picked", "two views by chance")
    with (
        patch.dict(GENERATORS.data, {"picked": row}),
        patch.dict(sys.modules, {MODULE: sys.modules[__name__]}),
    ):
        return with_views(store.root, "picked", name, codec=None, of=of)
