"""Near duplicates among the images of a store: groups of those whose hashes differ in few bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE, Column
from viewstore.format.plan import SOURCE
from viewstore.generators.contract import PARENT, Context, Input, Reach, Rendered, Sample
from viewstore.generators.scored.described import Described, Describes, status_of
from viewstore.store.view_set import ViewSet

HASHED_BY = "quality"  # the generator of what is read, and its view set unless another is named
MOST_BITS = 8  # more would pair what does not look alike, and compare nearly all pairs
ALONE = -1
HASH_BITS = 64

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Duplicates(Describes):
    """Which images are nearly the same as others; read from the view set `quality` of the source.

    Attributes:
        of: The view set that measured the images; `quality` is built first if it is missing.
        bits: Images whose hashes differ in so many bits at most, of 64, are alike; those that are
            alike through others are one group too.
        described: Roles of the images; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 1

    of: str = HASHED_BY
    bits: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= MOST_BITS:
            raise ConfigError(f"duplicates.bits must be in [0, {MOST_BITS}], got {self.bits}")
        if self.of == SOURCE:
            raise ConfigError(
                "duplicates.of must be a view set that measured the images",
                fix=f"leave it out: {HASHED_BY} is built first if it is missing",
            )

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set that has the hashes of the images."""
        return {PARENT: Input(self.of, {"of": SOURCE} if self.of == HASHED_BY else None)}

    def reach(self) -> Reach:
        """Return "set": any row may be the like of another."""
        return "set"

    def resolve(self, context: Context) -> ResolvedDuplicates:
        """Return the settings. Raises ConfigError: the parent does not hash the images."""
        return ResolvedDuplicates(of=self.of, bits=self.bits, described=hashed(context).roles)


@dataclass(frozen=True, kw_only=True)
class ResolvedDuplicates(Described):
    """What `Duplicates` resolves to."""

    bits: int

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        return (
            Column(name="duplicate", dtype="i8", shape=(), per="sample"),
            Column(name="status", dtype="u1", shape=(self.views,)),
            Column(name="x_extra", dtype="u1", shape=(), per="sample"),
        )

    def make(self, context: Context) -> DuplicatesGenerator:
        """Return the generator. Raises ConfigError: the parent does not hash the images."""
        return DuplicatesGenerator(self, hashed(context))


def hashed(context: Context) -> ViewSet:
    """Return the view set that has the hashes of the images. Raises ConfigError: it has none."""
    parent = context.parent
    if parent is not None and parent.of == SOURCE and "dhash" in parent.params:
        return parent
    name = "nothing" if parent is None else parent.name
    raise ConfigError(
        f"duplicates are found by hashes of the images, which {name} does not have",
        code="VS103",
        fix="build --generator quality --of source --view-set NAME, and give --of NAME",
    )


class DuplicatesGenerator:
    """Says of each sample to which group it belongs; groups are found at the first one."""

    def __init__(self, settings: ResolvedDuplicates, parent: ViewSet) -> None:
        self._bits = settings.bits
        self._parent = parent

    @cached_property
    def _made(self) -> NDArray[np.bool_]:
        made: NDArray[np.bool_] = np.isin(self._parent.params["status"][:, 0], MADE)
        return made

    @cached_property
    def _groups(self) -> Numbers:
        """The group of each row, of the hashes of all: fill where an image could not be read."""
        found = Column(name="duplicate", dtype="i8", shape=()).empty(len(self._made))
        rows = np.flatnonzero(self._made)
        lowest = lowest_alike(self._parent.params["dhash"][rows, 0], self._bits)
        found[rows] = np.where(lowest == ALONE, ALONE, rows[lowest])
        return found

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the columns of each sample, in the order of the samples."""
        for sample in samples:
            row = slice(sample.index, sample.index + 1)
            duplicate = self._groups[sample.index]
            status = status_of(self._made[row])
            extra = np.uint8(duplicate not in (ALONE, sample.index) and self._made[sample.index])
            params = {"duplicate": duplicate, "status": status, "x_extra": extra}
            yield Rendered(sample.index, None, params)


def lowest_alike(hashes: Hashes, bits: int) -> Numbers:
    """Return for each hash [N] the lowest place in its group, ALONE where it is the only one.

    A group is a connected component of the hashes that differ in `bits` at most. Memory is that
    of a few columns, whatever the hashes are. Equal ones are one before any pair is looked at.
    """
    _, first, of_unique = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)  # so that the lowest number among unique hashes is the lowest place
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    first, number = first[order], place[of_unique]
    lowest = np.arange(len(first))
    for one, other in near_pairs(hashes[first], bits):
        unite(lowest, one, other)
    group = roots(lowest, number)
    size = np.bincount(group, minlength=len(first))
    return np.where(size[group] > 1, first[group], ALONE)


def near_pairs(hashes: Hashes, bits: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield the places of all pairs of different hashes [N] that differ in `bits` at most.

    A pair comes once or more. Only hashes that agree in one of the `bands` are compared.
    """
    for mask in bands(bits):
        order = np.argsort(hashes & mask, kind="stable")
        ordered = hashes[order]
        keys = ordered & mask
        left = np.arange(len(hashes))
        for step in range(1, len(hashes)):
            left = left[left < len(hashes) - step]
            left = left[keys[left] == keys[left + step]]  # those of one key lie together
            if not len(left):
                break
            near = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= bits]
            if len(near):
                yield order[near], order[near + step]


def bands(bits: int) -> Iterator[np.uint64]:
    """Yield masks, of which one at least covers no bit that two hashes differ in.

    They differ in `bits` at most, so they agree in one of bits + 1 parts of the 64 bits, and in
    one of bits + 1 parts of the others: both together are a mask. Parts are spread over the
    picture, since signs of neighbours are alike.
    """
    parts = bits + 1
    for first in range(parts):
        rest = [bit for bit in range(HASH_BITS) if bit % parts != first]
        for second in range(parts if rest else 1):
            both = [*range(first, HASH_BITS, parts), *rest[second::parts]]
            yield np.uint64(sum(1 << bit for bit in both))


def unite(lowest: Numbers, one: Numbers, other: Numbers) -> None:
    """Join the components of pairs, in `lowest` [N]: of each number a lower one, or itself."""
    while True:
        one, other = roots(lowest, one), roots(lowest, other)
        differ = one != other
        if not differ.any():
            return
        one, other = one[differ], other[differ]
        np.minimum.at(lowest, np.maximum(one, other), np.minimum(one, other))


def roots(lowest: Numbers, numbers: Numbers) -> Numbers:
    """Return the lowest of the component of each number."""
    while True:
        up = lowest[numbers]
        if (up == numbers).all():
            return up
        lowest[numbers] = lowest[up]
        numbers = up
