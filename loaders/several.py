"""Several stores as one: what part of each an epoch has, and how their batches become one.

Rows of several stores are counted through: those of the first store, then those of the second.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.loaders.batch import Batch, View
from viewstore.loaders.maker import BatchMaker, Clock, Draft, EpochRows
from viewstore.loaders.order import Cut, Order, Permutation
from viewstore.loaders.state import State
from viewstore.plan import Column

STORE_STREAM = 1 << 40  # of the permutations, beyond those of any block shuffle
SEED_BITS = 53


@dataclass(frozen=True)
class SeveralRows:
    """Which rows an epoch takes from several stores, and where they stand.

    An epoch has m = floor(rate * n) of the n rows of a store. The epochs go on through one
    permutation of the store after another, so its rows are used up evenly: without replacement
    over epochs, and over the turn of a permutation exactly once.

    Attributes:
        order: Order of the elements of an epoch, sum of m.
        rates: Rate of each store.
        kept: Rows of each store that are gone through; None: all.
        counts: Rows of each store.
    """

    order: Order
    rates: tuple[float, ...]
    kept: tuple[NDArray[np.int64] | None, ...]
    counts: tuple[int, ...]

    @property
    def per_epoch(self) -> list[int]:
        """Rows that an epoch takes from each store, m."""
        return [per_epoch(n, rate) for n, rate in zip(self.sizes, self.rates, strict=True)]

    @property
    def sizes(self) -> list[int]:
        """Rows of each store that are gone through, n."""
        pairs = zip(self.counts, self.kept, strict=True)
        return [count if kept is None else len(kept) for count, kept in pairs]

    def rows(self, positions: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Return for each position of an epoch turn * all rows + row, counted through."""
        elements = self.order.rows(positions, epoch)
        bounds = np.cumsum([0, *self.per_epoch])
        stores = np.searchsorted(bounds, elements, side="right") - 1
        found = np.empty(elements.shape, np.int64)
        for number, size in enumerate(self.sizes):
            here = stores == number
            passed = epoch * self.per_epoch[number] + elements[here] - bounds[number]
            found[here] = self._of_store(number, *divmod(passed, size))
        return found

    def _of_store(
        self, number: int, turns: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        rows = places.copy()
        if self.order.shuffle == "global":
            for turn in np.unique(turns).tolist():
                mine = turns == turn
                size, stream = self.sizes[number], STORE_STREAM + number
                rows[mine] = Permutation(size, self.order.seed, turn, stream)(places[mine])
        kept = self.kept[number]
        rows = rows if kept is None else kept[rows]
        return turns * sum(self.counts) + sum(self.counts[:number]) + rows


def per_epoch(size: int, rate: float) -> int:
    """Return how many of `size` rows an epoch has. Raises ConfigError: none, or no rate."""
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"rates must be above 0, got {rate}")
    count = math.floor(rate * size)
    if not count:
        raise ConfigError(f"rate {rate} leaves none of the {size} rows of a store in an epoch")
    return count


def check_rates(rates: Sequence[float] | None, stores: int, shuffle: str) -> tuple[float, ...]:
    """Return the rate of each of several stores; None: 1. Raises ConfigError."""
    rates = (1.0,) * stores if rates is None else tuple(rates)
    if len(rates) != stores:
        raise ConfigError(f"rates must be one for each of {stores} stores, got {len(rates)}")
    if shuffle.startswith("block"):
        raise ConfigError(f"several stores must be shuffled global or none, got {shuffle!r}")
    return rates


def store_seed(seed: int, number: int) -> int:
    """Return the seed of draws and schedules of a store: the loader's for the first one.

    Rows of the same number in two stores must not be augmented alike.
    """
    if number == 0:
        return seed
    text = b"viewstore/store/1" + seed.to_bytes(8, "little") + number.to_bytes(8, "little")
    word = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    return word % (1 << SEED_BITS)


@dataclass(kw_only=True)
class JoinedDraft:
    """A batch of several stores in the making.

    Attributes:
        rows: Rows counted through, [B].
        parts: For each store and turn that the batch meets its number, places and draft.
    """

    epoch: int
    step: int
    rows: NDArray[np.int64]
    parts: list[tuple[int, NDArray[np.int64], Draft]]


@dataclass(kw_only=True)
class SeveralMaker:
    """Makes batches of several stores, each store's part by a maker of its own.

    A row's draws and its place in the schedule go by its turn, that is how often it was used, in
    place of the epoch: it looks different each time, however often an epoch takes it.
    """

    rows: EpochRows
    cut: Cut
    makers: list[BatchMaker]
    counts: tuple[int, ...]
    state: State
    pin: bool
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        shapes = [maker.slot_shapes() for maker in self.makers]
        for number, found in enumerate(shapes):
            if found != shapes[0]:
                raise ConfigError(
                    f"the stores must show views of the same sizes, store 0 has {shapes[0]}, "
                    f"store {number} has {found}",
                    fix="give Online views a size, or cached ones a then=... and a size",
                )
            self.makers[number].clock = self.clock

    def slot_shapes(self) -> list[tuple[int, int, int]]:
        """Return height, width and channels of each slot's views."""
        return self.makers[0].slot_shapes()

    def plan(self, epoch: int, step: int) -> JoinedDraft:
        """Return the draft of a step."""
        turns, rows = np.divmod(self.rows.step(epoch, step), sum(self.counts))
        valid = self.cut.positions(step)[1]
        bounds = np.cumsum([0, *self.counts])
        stores = np.searchsorted(bounds, rows, side="right") - 1
        parts = []
        met = sorted({*zip(stores.tolist(), turns.tolist(), strict=True)}) or [(0, epoch)]
        for number, turn in met:
            places = np.flatnonzero((stores == number) & (turns == turn))
            mine = rows[places] - bounds[number]
            draft = self.makers[number].draft(turn, step, mine, valid[places])
            parts.append((number, places, draft))
        return JoinedDraft(epoch=epoch, step=step, rows=rows, parts=parts)

    def fill(self, draft: JoinedDraft, begin: int, end: int) -> None:
        """Read and render samples [begin, end), counted through the parts."""
        first = 0
        for number, places, part in draft.parts:
            low, high = max(begin - first, 0), min(end - first, len(places))
            if low < high:
                self.makers[number].fill(part, low, high)
            first += len(places)

    def finish(self, draft: JoinedDraft) -> Batch:
        """Return the batch of a filled draft."""
        parts = [(places, self.makers[number].finish(part)) for number, places, part in draft.parts]
        views = tuple(
            self._joined([(places, batch.views[slot]) for places, batch in parts], len(draft.rows))
            for slot in range(len(self.slot_shapes()))
        )
        return replace(
            parts[0][1],
            views=views,
            index=torch.from_numpy(draft.rows.copy()),
            label=_gathered([(places, batch.label) for places, batch in parts]),
            valid=_gathered([(places, batch.valid) for places, batch in parts]),
            weight=self.cut.weight(draft.step),
            epoch=draft.epoch,
            step=draft.step,
            state=self.state.at(draft.epoch, draft.step + 1, steps=self.cut.steps).to_json(),
        )

    def _joined(self, parts: list[tuple[NDArray[np.int64], View]], size: int) -> View:
        first = parts[0][1]
        names = sorted({name for _, view in parts for name in view.params})
        roles = sorted({view.role for _, view in parts})
        pixels = torch.empty(
            (size, *first.pixels.permute(0, 2, 3, 1).shape[1:]),
            dtype=torch.uint8,
            pin_memory=self.pin,
        )
        for places, view in parts:
            pixels[torch.from_numpy(places)] = view.pixels.permute(0, 2, 3, 1)
        return View(
            pixels=pixels.permute(0, 3, 1, 2),
            params={name: _column(name, parts, size) for name in names},
            status=_gathered([(places, view.status) for places, view in parts]),
            role=roles[0] if len(roles) == 1 else "mixed",
            parent=_gathered([(places, view.parent) for places, view in parts]),
            view=_gathered([(places, view.view) for places, view in parts]),
            source="|".join(sorted({view.source for _, view in parts})),
        )


def _gathered(parts: list[tuple[NDArray[np.int64], Tensor]]) -> Tensor:
    joined = torch.cat([values for _, values in parts])
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    return joined[torch.from_numpy(order)]


def _column(name: str, parts: list[tuple[NDArray[np.int64], View]], size: int) -> Tensor:
    """Return a column of the whole batch; rows of a store that has it not read as its fill."""
    having = [(p, view.params[name].numpy()) for p, view in parts if name in view.params]
    like = having[0][1]
    form = Column(name=name, dtype=like.dtype.str[1:], shape=like.shape[1:])
    column = form.empty(size)
    for places, values in having:
        column[places] = values
    return torch.from_numpy(column)
