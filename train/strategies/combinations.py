"""Combinations of candidate views, by number in lexicographic order; nothing is read here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.randomness import CHOICE, Op, Stream
from viewstore.train.views import At

MOST_LOCALS = 64
MOST_COMBINATIONS = 2**63 - 1  # numbers are int64
MOST_DRAWN = 2 * 65536  # numbers of a list of some: each block of random words has two
MOST_LISTED = 1 << 22  # numbers of a list of all: bounds memory and time
LISTS = 1  # in the place of the view of a key: 0 is the choice of a sample
Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What is chosen among: a pair, and `taken` of the local crops beside it.

    A combination is [first, second, local, ...] of views, with local crops in their order; its
    number is pair * `subsets` + the number of the subset of local crops.

    Attributes:
        pairs: The pairs of views, in lexicographic order.
        locals: Views that are local crops, in their order; at most MOST_LOCALS.
        taken: How many of them a combination has.
    """

    pairs: tuple[tuple[int, int], ...]
    locals: tuple[int, ...] = ()
    taken: int = 0

    @property
    def subsets(self) -> int:
        """Number of subsets of the local crops."""
        return math.comb(len(self.locals), self.taken)

    @property
    def count(self) -> int:
        """Number of combinations: 51,480 of 4 global crops and 8 of 16 local ones."""
        return len(self.pairs) * self.subsets

    @property
    def views(self) -> tuple[int, ...]:
        """All views that a combination may have."""
        return tuple(sorted({*itertools.chain(*self.pairs), *self.locals}))

    @property
    def first(self) -> tuple[int, ...]:
        """The combination that trains where nothing is chosen."""
        return (*self.pairs[0], *self.locals[: self.taken])

    def at(self, numbers: Numbers) -> Tensor:
        """Return the combinations of these numbers, int64 [P, 2 + taken]."""
        pair, subset = np.divmod(numbers, self.subsets)
        places = subsets_at(subset, len(self.locals), self.taken)
        crops = np.array(self.locals, np.int64)[places]
        return torch.from_numpy(np.hstack([np.array(self.pairs, np.int64)[pair], crops]))


def expert_pairs(views: Sequence[int], *, directed: bool) -> Candidates:
    """Return all pairs of views; both orders of each where the order of a pair matters."""
    every = itertools.permutations(views, 2) if directed else itertools.combinations(views, 2)
    return Candidates(pairs=tuple(every))


def crop_combinations(
    global_views: Sequence[int], local_views: Sequence[int], taken: int
) -> Candidates:
    """Return the combinations of crops: an even and an odd global one, and `taken` local ones.

    The policies of even and odd global crops differ: what is trained on has one of each.
    """
    pairs = tuple(itertools.product(global_views[::2], global_views[1::2]))
    return Candidates(pairs=pairs, locals=tuple(local_views) if taken else (), taken=taken)


def subsets_at(numbers: Numbers, size: int, taken: int) -> Numbers:
    """Return the subsets of range(`size`) of these numbers, [P, taken], in lexicographic order."""
    places = np.zeros((len(numbers), taken), np.int64)
    rest, missing = numbers.copy(), np.full(len(numbers), taken)
    for element in range(size):
        # How many subsets go on with `element`, by how many elements are missing.
        with_it = [0] + [math.comb(size - element - 1, more) for more in range(taken)]
        count = np.array(with_it, np.int64)[missing]
        takes = rest < count
        places[takes, taken - missing[takes]] = element
        rest -= np.where(takes, 0, count)
        missing -= takes
    return places


def listed(count: int, limit: int, at: At) -> Numbers:
    """Return `limit` different numbers below `count`, ascending; all of them where 0.

    One list serves all samples of a step: it is keyed by seed, epoch and step. It is drawn with
    Floyd's method (Bentley and Floyd, Communications of the ACM 30, 1987), so that all subsets
    have one probability.
    """
    if limit == 0 or limit >= count:
        return np.arange(count)
    stream = Stream(at.seed, at.epoch, CHOICE)
    words = stream.words(Op.SET_CHOICE, at.step, LISTS, blocks=-(-limit // 2)).reshape(-1, 2)
    high, low = words[:limit].astype(np.int64).T
    fractions = ((high << 21) | (low >> 11)).astype(np.float64) * 2.0**-53
    found: set[int] = set()
    for last, fraction in zip(range(count - limit, count), fractions.tolist(), strict=True):
        number = int(fraction * (last + 1))
        found.add(last if number in found else number)
    return np.array(sorted(found), np.int64)


def random_numbers(count: int, sample: Tensor, at: At) -> Tensor:
    """Return a number below `count` of each sample, int64 [B], keyed by seed, epoch and sample."""
    stream = Stream(at.seed, at.epoch, CHOICE)
    uniform = stream.uniform(Op.SET_CHOICE, sample.cpu().numpy(), 0)[:, 0]
    return torch.from_numpy(np.floor(uniform * count).astype(np.int64)).to(sample.device)
