"""Pairs of crops that overlap little: both are drawn anew until their IoU is at most a threshold.

Source: Pretraining with Hard Views (HVP), its control without a model: the threshold goes from one
number to another over the epochs, and may be passed over by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images.boxes import overlap
from viewstore.images.colours import Pixels
from viewstore.images.policies import as_policies
from viewstore.images.policy import Drawn, Policy
from viewstore.images.resize import Filter
from viewstore.randomness import Integers, Op, Stream

# Start and end of the threshold, as the paper has them.
IOU_RANGES = ((0.3, 0.35), (0.4, 0.6), (0.1, 0.8), (1.0, 0.1))
MOST_DRAWS = 512
_BLOCKS = 11  # of words that a draw has: ten attempts at a crop, and one that passes it
_COLUMNS = (
    Column(name="x_iou_accepted", dtype="u1", shape=()),
    Column(name="x_iou_draws", dtype="u2", shape=()),
    Column(name="x_iou_random", dtype="u1", shape=()),
)


@dataclass(frozen=True, kw_only=True)
class IouThreshold:
    """Which pairs of crops are kept, by epoch.

    In a loader over several stores a row's turn takes the place of the epoch, as in its draws.

    Attributes:
        start, end: Greatest IoU of a pair in the first epoch, and towards the last one.
        epochs: Of the run.
        schedule: How it goes from `start` to `end` over the epochs that are no warm-up.
        warmup_epochs: First epochs, in which every pair is kept.
        p_alt: Probability that a pair is kept whatever its IoU.
        alt_scope: Whether that is tossed for each "draw", as in the paper's code, where of a share
            a of pairs that overlap little p / (p + (1 - p) a) are kept by chance; or once a "pair".
    """

    start: float
    end: float
    epochs: int
    schedule: Literal["linear", "cosine"] = "linear"
    warmup_epochs: int = 0
    p_alt: float = 0.0
    alt_scope: Literal["draw", "pair"] = "draw"

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise ConfigError(
                f"IoU thresholds must be in [0, 1], got {self.start} and {self.end}",
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ConfigError(
                "warmup_epochs must be at least 0 and fewer than the epochs, got "
                f"{self.warmup_epochs} of {self.epochs}"
            )
        if not 0 <= self.p_alt <= 1:
            raise ConfigError(f"p_alt must be in [0, 1], got {self.p_alt}")
        for name, choices in (("schedule", ("linear", "cosine")), ("alt_scope", ("draw", "pair"))):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} must be {' or '.join(choices)}, got {getattr(self, name)!r}"
                )

    def at(self, epoch: int) -> float:
        """Return the greatest IoU of a pair in an epoch; 1 while it warms up."""
        if epoch < self.warmup_epochs:
            return 1.0
        done = min(1.0, (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs))
        if self.schedule == "cosine":
            done = (1 - cos(pi * done)) / 2
        return self.start + done * (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class IouPolicy:
    """One of two views of a sample whose crops overlap little; `iou_pair` makes both.

    The two draw the same pairs, each from its own place: their slots are next to each other. A
    pair that is kept at once, as all are while it warms up, is bit for bit that of `base`.

    Attributes:
        base: Draws and renders the view, but for which of its crops is kept.
        threshold: Which pairs are kept.
        second: Whether it is the second view, of the slot behind that of the first.
    """

    base: Policy
    threshold: IouThreshold
    second: bool

    @property
    def name(self) -> str:
        """Name of the policy below, and what was done to it."""
        return f"{self.base.name}-iou"

    @property
    def role(self) -> str:
        """Purpose of the view."""
        return self.base.role

    @property
    def columns(self) -> tuple[Column, ...]:
        """The params of one view.

        x_iou_draws says how many pairs were drawn, x_iou_random whether the one that was kept was
        kept by `p_alt`, and x_iou_accepted whether its IoU is at most the threshold. Where both are
        0 the 512 draws did not suffice, and the last pair was kept.
        """
        return tuple(sorted((*self.base.columns, *_COLUMNS), key=lambda column: column.name))

    @property
    def whole_pixels(self) -> bool:
        """Whether crop boxes begin and end between pixels: yes."""
        return True

    def for_size(self, height: int, width: int) -> IouPolicy:
        """Return the policy for views of this size."""
        return replace(self, base=self.base.for_size(height, width))

    def partner_of(self, slot: int) -> int:
        """Return the slot of the other view of the pair of which slot `slot` shows this one."""
        return slot - 1 if self.second else slot + 1

    def draw(
        self,
        stream: Stream,
        index: Integers,
        view: Integers,
        height: Integers,
        width: Integers,
    ) -> Drawn:
        """Return params by column; the image sizes `height`, `width` bound the crop box."""
        drawn = self.base.draw(stream, index, view, height, width)
        given = (np.asarray(each, np.int64) for each in (index, view, height, width))
        arrays = np.broadcast_arrays(*given)
        shape = arrays[0].shape
        box, draws, random, accepted = self._keep(stream, *(each.reshape(-1) for each in arrays))
        return {
            **drawn,
            "crop_box": box.reshape(*shape, 4),
            "x_iou_accepted": accepted.astype(np.uint8).reshape(shape),
            "x_iou_draws": draws.astype(np.uint16).reshape(shape),
            "x_iou_random": random.astype(np.uint8).reshape(shape),
        }

    def _keep(
        self,
        stream: Stream,
        index: NDArray[np.int64],
        view: NDArray[np.int64],
        height: NDArray[np.int64],
        width: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the boxes of this view [n, 4], how many were drawn, and why each was kept."""
        threshold = self.threshold.at(stream.epoch)
        second = view if self.second else view + 1
        found = np.empty((len(index), 4), np.float32)
        draws = np.zeros(len(index), np.int64)
        random, accepted = np.zeros((2, len(index)), np.bool_)
        left = np.arange(len(index))
        for draw in range(MOST_DRAWS):
            rows, behind = index[left], second[left]
            pair = [
                self._box(stream, draw, rows, views, height[left], width[left])
                for views in (behind - 1, behind)
            ]
            found[left] = pair[self.second]
            draws[left] = draw + 1
            random[left] = self._tossed(stream, draw, rows, behind)
            accepted[left] = overlap(*pair) <= threshold
            left = left[~(random[left] | accepted[left])]
            if not len(left):
                break
        return found, draws, random, accepted

    def _box(self, stream: Stream, draw: int, *place: NDArray[np.int64]) -> NDArray[np.float32]:
        if draw == 0:
            return self.base.box(stream, *place)
        return self.base.box(stream, *place, op=Op.CROP_AGAIN, first_block=_BLOCKS * draw)

    def _tossed(
        self, stream: Stream, draw: int, index: NDArray[np.int64], second: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return whether pairs are kept whatever their IoU, [n]."""
        p = self.threshold.p_alt
        if p == 0 or (draw > 0 and self.threshold.alt_scope == "pair"):
            return np.zeros(len(index), np.bool_)
        block = _BLOCKS * draw + _BLOCKS - 1
        u = stream.uniform(Op.CROP_AGAIN, index, second, first_block=block)
        return np.asarray(u[:, 0] < p)

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params, uint8 [height, width, 3]."""
        return self.base.render(image, params, size, filter, out)


def iou_pair(policy: str | Policy, threshold: IouThreshold) -> tuple[IouPolicy, IouPolicy]:
    """Return the policies of two views whose crops overlap little, for slots behind one another.

    `policy` draws and renders them, by name or with numbers of its own: `Online(first)` and
    `Online(second)` then show the pair.

    Raises:
        ConfigError: There is no such policy, or it is not one of crops alone: its views have
            operators, or show the whole image.
    """
    bases = as_policies(policy)
    if not all(type(each) is Policy and each.crop for each in bases):
        raise ConfigError(
            f"pairs by IoU are drawn by a policy that crops, {bases[0].name} is none",
            fix="name a standard one, such as simclr, moco or cifar",
        )
    first, second = cast("Policy", bases[0]), cast("Policy", bases[-1])
    return (
        IouPolicy(base=first, threshold=threshold, second=False),
        IouPolicy(base=second, threshold=threshold, second=True),
    )
