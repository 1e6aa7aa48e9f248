"""Which of its views a columns set chose for each sample, and which slots share a choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.loaders.plan.mixed import by_weight, check_weights
from viewstore.loaders.plan.rows import Rows
from viewstore.randomness import Op, Stream
from viewstore.store.described import chosen_column
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

SET_OR_CHOICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(\.[a-z][a-z0-9_]{0,30})?")

Weighted = tuple[tuple[str, float], ...]  # choices by name, and how often each is taken


@dataclass(frozen=True, eq=False)
class Choices:
    """Choices of views, of one columns set, or of several of which one is drawn for each sample.

    Attributes:
        name: As it was asked for, those of several joined by "|".
        view_sets: The columns sets.
        columns: The column of each.
        weights: How often each is taken, of 1.
        groups: Groups of candidates that a sample has, G.
        size: Views that are chosen of each, m.
        slots: Slots that share the choices, ascending: each shows the view of its place.
    """

    name: str
    view_sets: tuple[ViewSet, ...]
    columns: tuple[str, ...]
    weights: tuple[float, ...]
    groups: int
    size: int
    slots: tuple[int, ...] = ()

    @property
    def identity(self) -> list[list[object]]:
        """What decides the choices: plan, bytes and column of each, and its weight."""
        return [
            [each.plan.id, each.index.root, column, weight]
            for each, column, weight in zip(self.view_sets, self.columns, self.weights, strict=True)
        ]

    def taken(self, seed: int, epoch: int, rows: Rows) -> tuple[NDArray[np.uint8], Rows]:
        """Return the choices of `rows`, uint8 [B, G, m], and the number of who made them, [B]."""
        made_by = np.zeros(len(rows), np.int64)
        if len(self.view_sets) > 1:
            words = Stream(seed, epoch).uniform(Op.SET_CHOICE, rows, self.slots[0])
            made_by = by_weight(words[:, 0], self.weights)
        found = np.empty((len(rows), self.groups, self.size), np.uint8)
        for number, (view_set, column) in enumerate(zip(self.view_sets, self.columns, strict=True)):
            mine = made_by == number
            found[mine] = view_set.params.take(column, rows[mine])
        return found, made_by


def checked_pick(pick: object) -> str | Weighted:
    """Return what picks views: "schedule", "random", the name of a choice, or several by weight.

    Raises:
        ConfigError: It is none of them, or a weight is not above 0.
    """
    weighted = dict(pick) if isinstance(pick, Mapping | tuple) else None
    names = [pick] if weighted is None else [*weighted]
    if any(not isinstance(each, str) or not SET_OR_CHOICE.fullmatch(each) for each in names):
        raise ConfigError(
            f"Cached pick must be schedule, random, or a choice of a columns set, got {pick!r}",
            fix='pick="hard.selected", or pick={"hard-r1": 1, "hard-r2": 3}',
        )
    if weighted is None:
        return str(pick)
    check_weights(weighted, of="Cached pick")
    return tuple((name, float(weighted[name])) for name in sorted(weighted))


def choices_of(store: Store, shown: ViewSet, pick: str | Weighted) -> Choices | None:
    """Return the choices of views of `shown` that a checked pick names; None: it names none.

    Raises:
        ConfigError: There is no such choice, it is one of views of another set, or choices that
            are mixed have several forms.
    """
    if pick in ("schedule", "random"):
        return None
    weighted = ((pick, 1.0),) if isinstance(pick, str) else pick
    found = [chosen_column(store, shown, name) for name, _ in weighted]
    forms = {column.shape for _, column in found}
    names = [f"{view_set.name}.{column.name}" for view_set, column in found]
    if len(forms) > 1:
        shapes = ", ".join(
            f"{name} {list(column.shape)}" for name, (_, column) in zip(names, found, strict=True)
        )
        raise ConfigError(f"choices that are mixed must have one form, got {shapes}")
    ((groups, size),) = forms
    total = sum(weight for _, weight in weighted)
    return Choices(
        name="|".join(names),
        view_sets=tuple(view_set for view_set, _ in found),
        columns=tuple(column.name for _, column in found),
        weights=tuple(weight / total for _, weight in weighted),
        groups=groups,
        size=size,
    )


def check_size(choices: Choices, slots: Sequence[int]) -> None:
    """Raise ConfigError if more slots share choices than views are chosen."""
    if len(slots) > choices.size:
        raise ConfigError(
            f"pick {choices.name} chooses {choices.size} views, got {len(slots)} slots",
            fix=f"show at most {choices.size} views by it, or build it to choose more",
        )
