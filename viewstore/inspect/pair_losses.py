"""Losses of pairs of views, and the pairs that were chosen by them: numbers of all samples.

A sample has G groups of candidates, and P pairs in each. Columns are read in blocks; a pair whose
loss is not finite was never scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from viewstore.store.view_set import ViewSet

BLOCK_ROWS = 1 << 15
BINS, CELLS = 32, 24  # of histograms; of each side of a density
CHOICES = ("selected", "easiest", "random", "min_iou")
NO_VIEW, NO_PAIR = 255, -1
MOST_DECIMALS = 6  # of a loss in a table: float32 has no more

Pairs = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """The pairs of B samples.

    Attributes:
        loss: Of each pair, [B, G, P].
        iou: Overlap of its crop boxes, [B, G, P]; None: the views have none.
        chosen: Number of the pair of each choice by name, [B, G]; NO_PAIR where there is none.
    """

    loss: Values
    iou: Values | None
    chosen: Mapping[str, Pairs]


@dataclass(frozen=True, eq=False)
class PairTable:
    """Where the losses of pairs lie in a columns set.

    Attributes:
        view_set: The columns set.
        pairs: Views of each pair of group 0, student first where that matters, [P, 2].
        groups: Number of groups, G.
        candidates: Views of a group, C; slots of a training.
        directed: Whether a pair and its reverse are two.
        choices: Names of the choices.
    """

    view_set: ViewSet
    pairs: Pairs
    groups: int
    candidates: int
    directed: bool
    choices: tuple[str, ...]

    @property
    def has_margin(self) -> bool:
        """Whether the set says by how much each selected pair leads the second."""
        return "selected" in self.choices and "margin" in self.view_set.params

    @property
    def logged(self) -> bool:
        """Whether a training logged them, of slots; else they are of the views of a set."""
        return "x_losses" in self.view_set.params

    def block(self, rows: Pairs) -> Block:
        """Return the pairs of `rows` [B]."""
        params = self.view_set.params
        if self.logged:
            iou = params.take("x_iou", rows) if "x_iou" in params else None
            pair = params.take("x_pair", rows).astype(np.int64)
            written = np.isfinite(params.take("x_losses", rows)).any(-1)
            chosen = np.where(written & (pair < len(self.pairs)), pair, NO_PAIR)
            loss = params.take("x_losses", rows).astype(np.float64)
            overlap = None if iou is None else iou.astype(np.float64)[:, None]
            return Block(loss[:, None], overlap, {"selected": chosen[:, None]})
        loss = self._of_pairs(params.take("pair_loss", rows), mean=not self.directed)
        iou = None
        if "pair_iou" in params:
            iou = self._of_pairs(params.take("pair_iou", rows), mean=False)
        return Block(loss, iou, {name: self._numbers(name, rows) for name in self.choices})

    def square(self, row: int, group: int) -> Values:
        """Return the losses of one group of a row, student by target, [C, C]; NaN: not scored."""
        params, at = self.view_set.params, np.array([row])
        if self.logged:
            found = np.full((self.candidates, self.candidates), np.nan)
            first, second = self.pairs.T
            found[first, second] = found[second, first] = params.take("x_losses", at)[0]
            return found
        views = slice(group * self.candidates, (group + 1) * self.candidates)
        losses = params.take("pair_loss", at)[0, views].astype(np.float64)
        return np.where(np.isfinite(losses), losses, np.nan)

    def _of_pairs(self, table: NDArray[np.float32], *, mean: bool) -> Values:
        """Return what a table [B, V, C] says of each pair, [B, G, P]."""
        each = table.reshape(len(table), self.groups, self.candidates, self.candidates)
        first, second = self.pairs.T
        found = each[..., first, second].astype(np.float64)
        if mean:
            found = (found + each[..., second, first]) / 2
        return np.where(np.isfinite(found), found, np.nan)

    def _numbers(self, name: str, rows: Pairs) -> Pairs:
        """Return the number of the pair that was chosen of each group, [B, G]."""
        number = np.full((self.candidates, self.candidates), NO_PAIR)
        first, second = self.pairs.T
        if not self.directed:
            number[second, first] = np.arange(len(self.pairs))
        number[first, second] = np.arange(len(self.pairs))
        choice = self.view_set.params.take(name, rows).astype(np.int64)
        place = choice - np.arange(self.groups)[:, None] * self.candidates
        known = np.asarray(((place >= 0) & (place < self.candidates)).all(-1))
        place = np.where(known[..., None], place, 0)
        return np.where(known, number[place[..., 0], place[..., 1]], NO_PAIR)


def pair_table(view_set: ViewSet) -> PairTable | None:
    """Return where the losses of pairs lie; None: the set has none, or of crops for other views."""
    params, args = view_set.params, view_set.plan.generator["args"]
    if {"x_losses", "x_pair"} <= set(params) and args.get("pairs"):
        pairs = np.array(args["pairs"], np.int64)
        return PairTable(view_set, pairs, 1, int(pairs.max()) + 1, False, ("selected",))
    if "pair_loss" not in params:
        return None
    views, targets = view_set.plan.column("pair_loss").shape
    names = tuple(
        name
        for name in CHOICES
        if name in params and view_set.plan.column(name).shape == (views // targets, 2)
    )
    if views % targets or args.get("globals") or not names:
        return None
    directed = any(_is_directed(view_set, name) for name in names)
    first, second = np.indices((targets, targets)).reshape(2, -1)
    kept = first != second if directed else first < second
    if "global" in view_set.roles:  # an even and an odd one, which different policies draw
        kept = (first % 2 == 0) & (second % 2 == 1)
        directed = False
    pairs = np.stack([first, second], axis=1)[kept]
    return PairTable(view_set, pairs, views // targets, targets, directed, names)


def _is_directed(view_set: ViewSet, name: str) -> bool:
    """Whether a choice has a later view first: methods with one order never do."""
    choice = view_set.params[name]
    turned = (choice[..., 0] > choice[..., 1]) & (choice != NO_VIEW).all(-1)
    return bool(turned.any())


@dataclass(frozen=True, kw_only=True)
class LeastOverlap:
    """How often a choice fell on the pair whose crops overlap least.

    Attributes:
        groups: Groups with a choice whose overlaps are known.
        least: Of them, those whose pair overlaps as little as any.
        chance: Of them, those that a choice by chance would hit on average: several pairs may
            overlap equally little.
    """

    groups: int
    least: int
    chance: float


@dataclass(kw_only=True, eq=False)
class PairNumbers:
    """What the pairs of all samples come to; counts are of groups of samples.

    Attributes:
        edges: Of the histograms of losses, [BINS + 1].
        counts: Histogram of losses by name of the choice, and of "all" pairs, [BINS] each.
        total, number: Sum of losses and how many, by the same names.
        scored: Groups with a finite loss.
        agree: Of them, those whose selected pair has the greatest loss.
        spread: Of each sample: greatest less least loss of a pair of one group, [N]; NaN.
        loss: Of each sample: greatest loss of a selected pair, [N]; NaN where none is.
        margin: Of each sample: greatest lead of a selected pair over the second, as it is stored,
            [N]; NaN where there is no second.
        overlaps: LeastOverlap by name of the choice.
        density: Pairs by overlap (rows) and loss (columns), [CELLS, CELLS].
        moments: Number, sums of overlap, loss, their squares, and their product.
        by_view: How often each view was chosen, by name of the choice, [V].
    """

    edges: Values
    counts: dict[str, NDArray[np.int64]]
    total: dict[str, float]
    number: dict[str, int]
    spread: NDArray[np.float32]
    loss: NDArray[np.float32]
    margin: NDArray[np.float32]
    by_view: dict[str, NDArray[np.int64]]
    density: NDArray[np.int64]
    scored: int = 0
    agree: int = 0
    overlaps: dict[str, LeastOverlap] = field(default_factory=dict)
    moments: Values = field(default_factory=lambda: np.zeros(6))

    @property
    def correlation(self) -> float | None:
        """Pearson's correlation of overlap and loss; None where one of them does not vary."""
        n, x, y, xx, yy, xy = self.moments.tolist()
        spread = (n * xx - x * x) * (n * yy - y * y)
        return (n * xy - x * y) / spread**0.5 if n and spread > 0 else None

    def mean(self, name: str) -> float | None:
        """Return the mean loss of the pairs of a choice, or of "all"."""
        return self.total[name] / self.number[name] if self.number[name] else None


def pair_numbers(table: PairTable) -> PairNumbers:
    """Return what the pairs of all samples come to, in one pass over the columns.

    Raises:
        FormatError: The params are damaged.
    """
    rows, names = len(table.view_set), ("all", *table.choices)
    stats = table.view_set.stats["x_losses" if table.logged else "pair_loss"]
    low, high = stats.min or 0.0, stats.max or 0.0
    found = PairNumbers(
        edges=np.linspace(low, high if high > low else low + 1, BINS + 1),
        counts={name: np.zeros(BINS, np.int64) for name in names},
        total=dict.fromkeys(names, 0.0),
        number=dict.fromkeys(names, 0),
        spread=np.full(rows, np.nan, np.float32),
        loss=np.full(rows, np.nan, np.float32),
        margin=np.full(rows, np.nan, np.float32),
        by_view={
            name: np.zeros(table.groups * table.candidates, np.int64) for name in table.choices
        },
        density=np.zeros((CELLS, CELLS), np.int64),
        overlaps={name: LeastOverlap(groups=0, least=0, chance=0.0) for name in table.choices},
    )
    for begin in range(0, rows, BLOCK_ROWS):
        block_rows = np.arange(begin, min(rows, begin + BLOCK_ROWS))
        block = table.block(block_rows)
        found.spread[block_rows] = spread_of(block.loss)
        if table.has_margin:
            margin = table.view_set.params.take("margin", block_rows)
            found.margin[block_rows] = _greatest(np.where(np.isfinite(margin), margin, np.nan))
        _add_losses(found, "all", block.loss)
        for name, chosen in block.chosen.items():
            loss = _chosen_loss(block.loss, chosen)
            if name == "selected":
                found.loss[block_rows] = _greatest(loss)
            _add_choice(found, table, name, block, chosen, loss)
        if block.iou is not None:
            _add_density(found, block.loss, block.iou)
    return found


def spread_of(loss: Values) -> NDArray[np.float32]:
    """Return the greatest less the least loss of a pair of one group, [B]; NaN without two."""
    known = np.isfinite(loss)
    high = np.where(known, loss, -np.inf).max(-1)
    low = np.where(known, loss, np.inf).min(-1)
    spread = np.where(known.any(-1), high, 0) - np.where(known.any(-1), low, 0)
    widest = np.where(known.any(-1), spread, -1).max(-1)
    return np.where(widest >= 0, widest, np.nan).astype(np.float32)


def _add_losses(found: PairNumbers, name: str, loss: Values) -> None:
    known = loss[np.isfinite(loss)]
    found.counts[name] += np.histogram(known, found.edges)[0]
    found.total[name] += float(known.sum())
    found.number[name] += len(known)


def _chosen_loss(loss: Values, chosen: Pairs) -> Values:
    """Return the loss of the chosen pair of each group, [B, G]; NaN where none was chosen."""
    made = chosen != NO_PAIR
    found = np.take_along_axis(loss, np.where(made, chosen, 0)[..., None], -1)[..., 0]
    return np.where(made, found, np.nan)


def _greatest(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the greatest of each row of [B, G] that is a number; NaN where none is."""
    found: NDArray[np.floating] = np.fmax.reduce(values, axis=1)
    return found


def _add_choice(
    found: PairNumbers, table: PairTable, name: str, block: Block, chosen: Pairs, loss: Values
) -> None:
    """Add the losses, overlaps and views of the pairs of a choice."""
    made = chosen != NO_PAIR
    at = np.where(made, chosen, 0)[..., None]
    _add_losses(found, name, loss)
    views = table.pairs[np.where(made, chosen, 0)]
    views = views + np.arange(table.groups)[:, None] * table.candidates
    found.by_view[name] += np.bincount(views[made].reshape(-1), minlength=len(found.by_view[name]))
    known = np.isfinite(block.loss)
    if name == "selected":
        best = np.where(known, block.loss, -np.inf).max(-1)
        found.scored += int(known.any(-1).sum())
        found.agree += int((made & (loss == best)).sum())
    if block.iou is None:
        return
    iou = np.where(known & np.isfinite(block.iou), block.iou, np.inf)
    least = iou.min(-1, keepdims=True)
    told = made & np.isfinite(least[..., 0])
    ties = (iou == least).sum(-1) / np.maximum(np.isfinite(iou).sum(-1), 1)
    hit = np.take_along_axis(iou, at, -1)[..., 0] == least[..., 0]
    before = found.overlaps[name]
    found.overlaps[name] = LeastOverlap(
        groups=before.groups + int(told.sum()),
        least=before.least + int((hit & told).sum()),
        chance=before.chance + float(ties[told].sum()),
    )


def _add_density(found: PairNumbers, loss: Values, iou: Values) -> None:
    known = np.isfinite(loss) & np.isfinite(iou)
    x, y = iou[known], loss[known]
    ends = [(0.0, 1.0), (float(found.edges[0]), float(found.edges[-1]))]
    found.density += np.histogram2d(x, y, CELLS, ends)[0].astype(np.int64)
    sums = [len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
    found.moments += np.array(sums, np.float64)


def ordered_rows(numbers: PairNumbers, order: str) -> Pairs:
    """Return the rows that have losses, in an order.

    "loss", "margin" and "spread" have the greatest first, and samples without one last; "-spread"
    has the least first; "row" is that of the store.
    """
    rows = np.flatnonzero(np.isfinite(numbers.spread))
    if order == "row":
        return rows
    by_name = {"loss": numbers.loss, "margin": numbers.margin, "spread": numbers.spread}
    keys = by_name[order.removeprefix("-")][rows]
    return rows[np.argsort(keys if order.startswith("-") else -keys, kind="stable")]


def decimals_of(values: Values) -> int:
    """Return how many decimals tell the values of a table apart: two digits of their spread."""
    known = values[np.isfinite(values)]
    spread = float(np.ptp(known)) if len(known) else 0.0
    return min(max(1 - math.floor(math.log10(spread)), 0), MOST_DECIMALS) if spread > 0 else 2


def shades(values: Values, edges: Values) -> list[list[int | None]]:
    """Return steps 0 to 5 of a table of values between the least and greatest edge; None: NaN."""
    span = float(edges[-1] - edges[0]) or 1.0
    steps = np.clip((values - edges[0]) / span * 6, 0, 5)
    return [[int(step) if np.isfinite(step) else None for step in row] for row in steps.tolist()]
