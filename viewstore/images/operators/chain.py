"""Chains of operators: what makes a heavy view of a standard one, and the table of their names.

Source: DSSL (arXiv:2110.13555), sections 3 and 4, and its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images.operators import jigsaw
from viewstore.images.operators.spaces import (
    ARGUMENTS,
    NO_MORE,
    Size,
    Space,
    ra16,
    randaugment,
    uniform,
)
from viewstore.randomness import Integers, Op, Stream

INSTEAD = 0.1  # how often `either` shows the jigsaw


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Operators of one space after another, then a jigsaw.

    Attributes:
        spaces: Where the operators are drawn.
        grid: Tiles a side of the jigsaw; 0 is none.
        instead: Probability of the jigsaw in place of the operators. None: both, always.
    """

    spaces: tuple[Space, ...] = ()
    grid: int = 0
    instead: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.grid <= jigsaw.MAX_GRID:
            raise ConfigError(f"grid must be in [1, {jigsaw.MAX_GRID}], got {self.grid}")
        if self.instead is not None and not (0 <= self.instead <= 1 and self.grid):
            raise ConfigError(f"instead must be in [0, 1] beside a grid, got {self.instead}")

    @property
    def operators(self) -> int:
        """The most operators that a view has."""
        return sum(space.count for space in self.spaces)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The params of one view, by name."""
        found = []
        if self.grid:
            found.append(Column(name="jigsaw", dtype="u1", shape=(self.grid**2,)))
        if self.operators:
            found.append(Column(name="ops", dtype="u1", shape=(self.operators,)))
            found.append(Column(name="ops_args", dtype="f4", shape=(self.operators, ARGUMENTS)))
        return tuple(found)

    def with_numbers(
        self, *, n: int | None = None, m: float | None = None, grid: int | None = None
    ) -> Chain:
        """Return the chain with n operators of magnitude m and another grid; None changes nothing.

        What it has not may be 0.

        Raises:
            ConfigError: It has no operators that are drawn at a magnitude, or no jigsaw.
        """
        for name, given in (("n", n), ("m", m)):
            if given and all(space.magnitude is None for space in self.spaces):
                raise ConfigError(
                    f"this chain has no {name}: its operators are not drawn at a magnitude"
                )
        if grid and not self.grid:
            raise ConfigError("this chain has no grid: it has no jigsaw")
        if grid == 0 and self.grid:
            raise ConfigError(f"grid must be in [1, {jigsaw.MAX_GRID}], got 0")
        spaces = tuple(space.with_numbers(n, m) for space in self.spaces)
        return replace(self, spaces=spaces, grid=self.grid if grid is None else grid)

    def instead_of_operators(
        self, stream: Stream, index: Integers, view: Integers
    ) -> NDArray[np.bool_]:
        """Return which views show the jigsaw in place of all else, bool [...]."""
        u = stream.uniform(Op.JIGSAW, index, view)[..., 0]
        return np.asarray(u < (0 if self.instead is None else self.instead))

    def draw(
        self,
        stream: Stream,
        index: Integers,
        view: Integers,
        size: jigsaw.Size,
        operators_on: Size | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return params by column, [..., *shape] in the stored dtypes.

        Operators that are not applied are left out, the others close up.

        Args:
            stream: Gives the words.
            index: Rows of the store; they broadcast against `view`.
            view: Numbers of views or slots.
            size: Height and width of the views.
            operators_on: Height and width of what the operators are applied to; they broadcast
                likewise. None: the views.
        """
        drawn: dict[str, NDArray[Any]] = {}
        if self.grid:
            drawn["jigsaw"] = jigsaw.draw_permutation(stream, index, view, size, self.grid)
        if self.operators:
            drawn["ops"], drawn["ops_args"] = self._draw_operators(
                stream, index, view, operators_on or size
            )
        if self.instead is not None:
            moved = self.instead_of_operators(stream, index, view)
            drawn["jigsaw"][~moved] = jigsaw.identity(self.grid)
            if self.operators:
                drawn["ops"][moved] = NO_MORE
                drawn["ops_args"][moved] = np.nan
        return drawn

    def _draw_operators(
        self, stream: Stream, index: Integers, view: Integers, size: Size
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        numbers, arguments, first = [], [], 0
        for space in (each for each in self.spaces if each.count):
            some, their = space.draw(stream, index, view, size, first=first)
            numbers.append(some)
            arguments.append(their)
            first += space.count
        every, of_every = np.concatenate(numbers, axis=-1), np.concatenate(arguments, axis=-2)
        order = np.argsort(every == NO_MORE, axis=-1, kind="stable")
        return (
            np.take_along_axis(every, order, axis=-1),
            np.take_along_axis(of_every, order[..., None], axis=-2),
        )


CHAINS: Mapping[str, Chain] = {
    "ra16": Chain(spaces=(ra16(),)),
    "paper": Chain(spaces=(ra16(),), grid=4),
    "paper3": Chain(spaces=(ra16(), uniform()), grid=4),
    "either": Chain(spaces=(ra16(),), grid=4, instead=INSTEAD),
    "randaugment": Chain(spaces=(randaugment(),)),
    "ua": Chain(spaces=(uniform(),)),
    "jigsaw": Chain(grid=4),
}
