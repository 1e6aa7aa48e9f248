"""Compares the distances of a view set with the settings of the search that made it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.store.over_views import over_views
from viewstore.store.view_set import ViewSet

DEFAULT_TOLERANCE = 0.02
NEAR_DUPLICATE = 0.05  # a mean pair distance hides two views that are almost the same


def pair_bound(eps1: float, views: int) -> float:
    """Return the greatest mean distance between `views` >= 2 unit vectors `eps1` off an anchor.

    They lie on a sphere of radius r = eps1 sqrt(1 - eps1^2 / 4) and are farthest apart as a
    simplex: r sqrt(2n / (n - 1)).
    """
    return eps1 * math.sqrt(1 - eps1 * eps1 / 4) * math.sqrt(2 * views / (views - 1))


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What a view set was searched for.

    Attributes:
        eps1: Wanted distance of each view to the anchor.
        eps2: Mean distance of a view to the others below which they are pushed apart, or None.
        tolerance: How far a distance may be from eps1.
        hinge: Whether only a distance below eps1 counts against a view.
        bound: Greatest mean pair distance that geometry allows; None for a single view.
    """

    eps1: float
    eps2: float | None
    tolerance: float
    hinge: bool
    bound: float | None

    @property
    def band(self) -> tuple[float, float]:
        """The distances that are within tolerance, ends inclusive."""
        high = math.inf if self.hinge else self.eps1 + self.tolerance
        return self.eps1 - self.tolerance, high

    @property
    def unreachable(self) -> bool:
        """Whether no views can have the mean pair distance eps2."""
        return self.eps2 is not None and self.bound is not None and self.eps2 > self.bound

    def off(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far distances are from eps1, of a hinge below it; NaN stays NaN."""
        short = self.eps1 - distance
        return np.maximum(short, 0) if self.hinge else np.abs(short)

    def verdict(self, distance: float) -> str:
        """Return "" for a distance within tolerance, else what it is."""
        low, high = self.band
        if math.isnan(distance):
            return "not measured"
        if distance < low:
            return "too close"
        return "too far" if distance > high else ""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many views and samples keep the constraints.

    Attributes:
        within, too_close, too_far: Views with a distance, by where it lies.
        not_measured: Views without one: not built, or failed.
        not_converged, samples: Samples that were built, and those whose search gave up; None
            if the view set does not say.
        below_eps2: Samples whose views are nearer to each other on average than eps2.
        near_duplicates: Views with another one nearer than NEAR_DUPLICATE.
        error_p50, error_p95, error_max: Of |distance - eps1|; None if nothing was measured.
    """

    within: int
    too_close: int
    too_far: int
    not_measured: int
    samples: int
    not_converged: int | None
    below_eps2: int | None
    near_duplicates: int | None
    error_p50: float | None
    error_p95: float | None
    error_max: float | None

    @property
    def share_within(self) -> float | None:
        """Share of the measured views within tolerance."""
        measured = self.within + self.too_close + self.too_far
        return self.within / measured if measured else None

    @property
    def share_converged(self) -> float | None:
        """Share of the built samples that converged."""
        if self.not_converged is None or not self.samples:
            return None
        return 1 - self.not_converged / self.samples


def constraints_of(view_set: ViewSet) -> Constraints | None:
    """Return what a view set was searched for, or None if it was not searched for distances."""
    args = view_set.plan.generator["args"]
    eps1 = args.get("eps1")
    if "distance" not in view_set.params or eps1 is None:
        return None
    views = view_set.num_views
    return Constraints(
        eps1=float(eps1),
        eps2=None if args.get("eps2") is None or views < 2 else float(args["eps2"]),
        tolerance=float(args.get("tol", DEFAULT_TOLERANCE)),
        hinge=args.get("delta") == "hinge",
        bound=pair_bound(float(eps1), views) if views > 1 else None,
    )


def tally(view_set: ViewSet, wanted: Constraints) -> Tally:
    """Count the views and samples of a view set that keep the constraints."""
    distance = view_set.params["distance"].astype(np.float64)
    low, high = wanted.band
    measured = distance[~np.isnan(distance)]
    built = ~over_views(np.logical_and, np.isnan(distance))
    error = np.abs(measured - wanted.eps1)
    p50, p95, worst = np.percentile(error, (50, 95, 100)).tolist() if len(error) else [None] * 3
    converged = _column(view_set, "converged")
    mean_pair = _column(view_set, "mean_pair_distance")
    least_pair = _column(view_set, "min_pair_distance")
    return Tally(
        within=int(((measured >= low) & (measured <= high)).sum()),
        too_close=int((measured < low).sum()),
        too_far=int((measured > high).sum()),
        not_measured=int(np.isnan(distance).sum()),
        samples=int(built.sum()),
        not_converged=None
        if converged is None
        else int(over_views(np.logical_or, converged[built] != 1).sum()),
        below_eps2=None
        if mean_pair is None or wanted.eps2 is None
        else int((_mean(mean_pair[built]) < wanted.eps2).sum()),
        near_duplicates=None if least_pair is None else int((least_pair < NEAR_DUPLICATE).sum()),
        error_p50=p50,
        error_p95=p95,
        error_max=worst,
    )


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over views of values [N, V], [N]."""
    return np.asarray(over_views(np.add, values, np.float64) / values.shape[1])


def _column(view_set: ViewSet, name: str) -> NDArray[Any] | None:
    if name not in view_set.params:
        return None
    return view_set.params[name]
