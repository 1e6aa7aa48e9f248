"""Spaces of operators: which there are, how far their values go, and how some are drawn.

A space draws a fixed number of operators with replacement. Its magnitude, of 0 to 30, says how
far along its range each value lies; without one, values are uniform and each operator is applied
with a probability of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.images.operators.table import NUMBERS, OPERATORS
from viewstore.randomness import Integers, Op, Stream, integers

NO_MORE = 255  # in "ops": the list ends here
LEVELS = 30  # the greatest magnitude, of 31
MAX_OPERATORS = 16
ARGUMENTS = 3  # of an operator: signed value, centre x, centre y
_WORDS = 8  # of an operator: two blocks
_WHICH, _SIGN, _MAGNITUDE, _PROBABILITY, _X, _Y, _APPLIED = range(7)
Size = tuple[Integers, Integers]  # height, width; of each view, or of all


@dataclass(frozen=True)
class Choice:
    """One operator of a space: its value is middle +- (low + level * (high - low)).

    Attributes:
        name: In the table of operators.
        low, high: At levels 0 and 1.
        signed: Whether half of the values are taken with a minus.
        middle: What is added to the signed value.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    signed: bool = False
    middle: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in NUMBERS:
            raise ConfigError(f"there is no operator {self.name!r}; there are {', '.join(NUMBERS)}")


@dataclass(frozen=True)
class Space:
    """Operators, and how many of them are drawn.

    Attributes:
        choices: The operators, equally likely.
        count: How many are drawn, with replacement.
        magnitude: The level times 30. None: the level is uniform, and an operator is applied with
            a probability that is uniform too.
    """

    choices: tuple[Choice, ...]
    count: int
    magnitude: float | None

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MAX_OPERATORS or self.count != int(self.count):
            raise ConfigError(
                f"the number of operators must be whole and in [0, {MAX_OPERATORS}], "
                f"got {self.count}"
            )
        if self.magnitude is not None and not 0 <= self.magnitude <= LEVELS:
            raise ConfigError(f"the magnitude must be in [0, {LEVELS}], got {self.magnitude}")

    def with_numbers(self, count: int | None, magnitude: float | None) -> Space:
        """Return a space with another count and magnitude, None for the same.

        One without a magnitude stays as it is.
        """
        if self.magnitude is None:
            return self
        return Space(
            self.choices,
            self.count if count is None else count,
            self.magnitude if magnitude is None else magnitude,
        )

    def draw(
        self, stream: Stream, index: Integers, view: Integers, size: Size, *, first: int = 0
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return numbers uint8 [..., count] and arguments float32 [..., count, 3] of operators.

        The arguments are the signed value and the centre of a cutout, x and y in pixels; NaN is
        what an operator does not use. One that is not applied has number NO_MORE.

        Args:
            stream: Gives the words.
            index: Rows, [...].
            view: Numbers of the views; they broadcast against `index`.
            size: Height and width of what they are applied to; they broadcast likewise.
            first: How many operators of the same view were drawn before these.
        """
        blocks = {"blocks": 2 * self.count, "first_block": 2 * first}
        u = stream.uniform(Op.OP_LIST, index, view, **blocks)
        u = u.reshape(*u.shape[:-1], self.count, _WORDS)
        which = integers(u[..., _WHICH], len(self.choices))
        numbers = np.array([NUMBERS[each.name] for each in self.choices], np.uint8)[which]
        arguments = np.stack([self._values(u, which), *_centres(u, numbers, size)], axis=-1)
        if self.magnitude is None:
            off = u[..., _APPLIED] >= u[..., _PROBABILITY]
            numbers[off] = NO_MORE
            arguments[off] = np.nan
        return numbers, arguments.astype(np.float32)

    def _values(self, u: NDArray[np.float64], which: NDArray[np.int64]) -> NDArray[np.float64]:
        low, high, middle = np.array([(c.low, c.high, c.middle) for c in self.choices]).T
        signed = np.array([choice.signed for choice in self.choices])
        level = u[..., _MAGNITUDE] if self.magnitude is None else self.magnitude / LEVELS
        value = level * (high - low)[which] + low[which]
        minus = signed[which] & (u[..., _SIGN] < 0.5)
        unused = ~np.array([OPERATORS[NUMBERS[each.name]].has_value for each in self.choices])
        return np.where(unused[which], np.nan, middle[which] + np.where(minus, -value, value))


def _centres(
    u: NDArray[np.float64], numbers: NDArray[np.uint8], size: Size
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of cutouts: uniform between 1 and the side, as DSSL's code has them."""
    cuts = np.array([bool(operator.cuts) for operator in OPERATORS])[numbers]
    height, width = (np.asarray(side)[..., None] for side in size)
    x = width + u[..., _X] * (1 - width)
    y = height + u[..., _Y] * (1 - height)
    return np.where(cuts, x, np.nan), np.where(cuts, y, np.nan)


_ENHANCED = ("Color", "Contrast", "Brightness", "Sharpness")
_DSSL = (
    Choice("AutoContrast"),
    Choice("Equalize"),
    Choice("Invert"),
    Choice("Rotate", 0, 30, signed=True),
    Choice("Posterize", 0, 4),
    Choice("Solarize", 0, 256),
    Choice("SolarizeAdd", 0, 110),
    *(Choice(name, 0.1, 1.9) for name in _ENHANCED),
    Choice("ShearX", 0, 0.3, signed=True),
    Choice("ShearY", 0, 0.3, signed=True),
    Choice("CutoutAbs", 0, 40),
    Choice("TranslateXabs", 0, 100, signed=True),
    Choice("TranslateYabs", 0, 100, signed=True),
)
_STANDARD = (
    Choice("Identity"),
    Choice("ShearX", 0, 0.3, signed=True),
    Choice("ShearY", 0, 0.3, signed=True),
    Choice("TranslateX", 0, 150 / 331, signed=True),
    Choice("TranslateY", 0, 150 / 331, signed=True),
    Choice("Rotate", 0, 30, signed=True),
    *(Choice(name, 0, 0.9, signed=True, middle=1) for name in _ENHANCED),
    Choice("Posterize", 8, 4),
    Choice("Solarize", 256, 0),
    Choice("AutoContrast"),
    Choice("Equalize"),
)
_UNIFORM = (
    Choice("ShearX", 0, 0.3, signed=True),
    Choice("ShearY", 0, 0.3, signed=True),
    Choice("TranslateX", 0, 0.45, signed=True),
    Choice("TranslateY", 0, 0.45, signed=True),
    Choice("Rotate", 0, 30, signed=True),
    Choice("AutoContrast"),
    Choice("Invert"),
    Choice("Equalize"),
    Choice("Solarize", 0, 256),
    Choice("Posterize", 4, 8),
    *(Choice(name, 0.1, 1.9) for name in ("Contrast", "Color", "Brightness", "Sharpness")),
    Choice("Cutout", 0, 0.2),
)


def ra16(n: int = 2, m: float = 5) -> Space:
    """Return DSSL's RandAugment: n of 16 operators at magnitude m.

    Ranges are absolute and not monotone: a low magnitude is heavy for Solarize, Posterize and the
    four that enhance. Source: DSSL (arXiv:2110.13555) and its public code.
    """
    return Space(_DSSL, n, m)


def randaugment(n: int = 2, m: float = 9) -> Space:
    """Return the standard RandAugment: n of 14 operators, of which a greater m is always heavier.

    Ranges at m = 30: shear .3, shift 150/331 of the side, 30 degrees, factors 1 +- .9, 4 bits,
    solarized from 0; at m = 0 only AutoContrast and Equalize change anything. Source:
    arXiv:1909.13719, with the ranges of torchvision.
    """
    return Space(_STANDARD, n, m)


def uniform() -> Space:
    """Return UniformAugment: 2 of 15 operators. Source: arXiv:2003.14348."""
    return Space(_UNIFORM, 2, None)
