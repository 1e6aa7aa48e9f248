"""How far to go along rays until features are a set distance from those of the anchor.

Along a ray the distance goes continuously from that at its origin, so once it was too large the
right place is bracketed, and a regula falsi finds it. An end of the bracket that stays counts half
(the Illinois rule: Dowell and Jarratt, BIT 11, 1971, 168-174), or it could stay for ever.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRIES = 8  # evaluations of each ray
GROW_LEAST, GROW_MOST = 1.1, 1.8  # factors of a ray that does not reach far enough yet


class Rays:
    """Several rays: at which length of each to look next, and the best so far. All in float64.

    Attributes:
        length: Where to look next, [k].
        best: Where the distance was nearest to the right one, [k].
        features: Those there, [k, E]; NaN on rays that were finite nowhere.
        tries: How often each was looked at, [k].
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
        self._ends = torch.zeros(rays, 2, dtype=torch.float64)  # lengths too near and too far
        self._ends[:, 1] = torch.inf
        self._off = torch.full_like(self._ends, at_origin - radius)
        self._off[:, 1] = torch.inf
        self._off_best = torch.full((rays,), torch.inf, dtype=torch.float64)
        self._last = torch.full((rays,), -1)  # which end was found last
        self.length = torch.ones_like(self._off_best)
        self.best = torch.ones_like(self._off_best)
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
        taken = rays[better]
        self._off_best[taken] = off[better].abs()
        self.best[taken], self.features[taken] = length[better], features[better]
        end = off.gt(0).long()
        stays = self._last[rays] == end
        self._off[rays[stays], 1 - end[stays]] /= 2
        self._last[rays] = end
        self._ends[rays, end], self._off[rays, end] = length, off
        self.length[rays] = self._next(rays)

    def _next(self, rays: Tensor) -> Tensor:
        near, far = self._ends[rays].unbind(1)
        off_near, off_far = self._off[rays].unbind(1)
        share = torch.where(off_far.isinf(), 0.5, off_near / (off_near - off_far))
        reached = (off_near + self._radius).clamp(min=1e-9)
        grown = near * (self._radius / reached).clamp(GROW_LEAST, GROW_MOST)
        return torch.where(far.isinf(), grown, near + share * (far - near))
