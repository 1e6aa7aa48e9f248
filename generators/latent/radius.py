"""The point of a ray at which the features are a set distance from those of the anchor.

Along a ray the distance grows continuously, from that at its origin: a bracketed regula falsi
finds the place where it is right, with a bisection at every third evaluation, because one end of
the bracket may stay for ever.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRIES = 8  # evaluations of each ray
BISECT_EVERY = 3
GROW_LEAST, GROW_MOST = 1.1, 1.8  # factors of a ray that does not reach far enough yet


class Rays:
    """Brackets of several rays: at which length of each to look next, and the best so far.

    Attributes:
        best: Lengths [k] at which the distance was nearest to the right one; all float64.
        features: Those there, [k, E]; NaN of rays that were finite nowhere.
        tries: Evaluations of each, [k].
    """

    def __init__(self, rays: int, *, width: int, at_origin: float, radius: float) -> None:
        """Begin at length 1.

        Args:
            rays: How many, k.
            width: Of features, E.
            at_origin: The distance at length 0.
            radius: The right distance.
        """
        self._radius = radius
        self._low = torch.zeros(rays, dtype=torch.float64)
        self._off_low = torch.full_like(self._low, at_origin - radius)
        self._high = torch.full_like(self._low, torch.inf)
        self._off_high = torch.full_like(self._low, torch.inf)
        self._off_best = torch.full_like(self._low, torch.inf)
        self.length = torch.ones_like(self._low)
        self.best = torch.ones_like(self._low)
        self.features = torch.full((rays, width), torch.nan, dtype=torch.float64)
        self.tries = torch.zeros(rays, dtype=torch.int32)

    def open(self, tol: float) -> Tensor:
        """Return the numbers of rays that are to be looked at once more."""
        return (self._off_best.gt(tol) & self.tries.lt(TRIES)).nonzero()[:, 0]

    def tell(self, rays: Tensor, features: Tensor, distance: Tensor) -> None:
        """Take features [a, E] and distances [a] of `rays` at their lengths."""
        off = torch.where(distance.isfinite(), distance - self._radius, torch.inf)
        length = self.length[rays]
        self.tries[rays] += 1
        better = off.abs() < self._off_best[rays]
        self._off_best[rays[better]] = off[better].abs()
        self.best[rays[better]] = length[better]
        self.features[rays[better]] = features[better]
        far = off > 0
        self._high[rays[far]], self._off_high[rays[far]] = length[far], off[far]
        self._low[rays[~far]], self._off_low[rays[~far]] = length[~far], off[~far]
        self.length[rays] = self._next(rays)

    def _next(self, rays: Tensor) -> Tensor:
        low, off_low = self._low[rays], self._off_low[rays]
        high, off_high = self._high[rays], self._off_high[rays]
        share = -off_low / (off_high - off_low)  # 0 where what is too far is not finite
        half = (self.tries[rays] % BISECT_EVERY == BISECT_EVERY - 1) | off_high.isinf()
        inside = low + torch.where(half, 0.5, share) * (high - low)
        reached = (off_low + self._radius).clamp(min=1e-9)
        grown = self.length[rays] * (self._radius / reached).clamp(GROW_LEAST, GROW_MOST)
        return torch.where(high.isinf(), grown, inside)
