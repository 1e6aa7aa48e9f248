"""Views at a set distance of their anchor, apart from each other, by forward passes alone.

The goal of W-search asks for a set of points, not for a path to them. Probes tell how the features
of a sample move with its latents. The corners of a regular simplex, put into the directions that
are moved most easily, are the best places for its views; along the ray of each view the distance
is made right, and views that are still too near to each other are spread, by what was seen on the
way (Broyden's update: Mathematics of Computation 19, 1965, 577-593).

Everything here is about one sample, in float64, and draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.generators.latent.goal import Goal, distances, is_candidate, measure
from viewstore.generators.latent.radius import Rays

End = TypeVar("End")
Asking = Generator[Tensor, Tensor, End]  # asks for latents [k, L, D], is sent features [k, E]

REACH = 1.0  # of a probe along its direction, in lengths of eps1
DAMPING = 0.4  # of least squares, in means of the diagonal
FARTHER = 3  # most that a first step is made longer than least squares say
ROUNDS = 8  # of spreading in a span
SPREAD_VIEWS = 4  # of a sample short of its mean pair distance, in a round
NEAREST = 0.05  # views nearer than this are pushed apart as if they were this far
AWAY = 0.5  # weight of the way from the other views, against the way that a view has gone
STEP_SHARE = 0.5  # longest step of a view in a round, in lengths of its way
PAIR_MARGIN = 1.05  # of eps_min: views that near are spread too
RADIUS_SHARE = 0.9  # of tol_search
FLAT, STILL = 1e-4, 1e-5  # a singular value is 0 below this share of the largest, or this


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What a secant search has of a sample before it looks.

    Attributes:
        latent0: Of the anchor, [L, D].
        anchor: The features that distances are to, [E].
        recon: The features at `latent0`, [E]; they are the anchor's, or near to them.
        directions: What latents are moved along, [T, M, L, D]; each about sigma_w long. The first
            M are probed first, as many more where views do not get there in their span.
        rotation: Of the simplex, orthogonal [q, q] with q = max(1, n - 1).
    """

    latent0: Tensor
    anchor: Tensor
    recon: Tensor
    directions: Tensor
    rotation: Tensor


class SecantSearch:
    """The search of one sample, whose views move in the span of the probe directions.

    Attributes:
        features: Of the views where they stand, float64 [n, E].
        first: Those of their first points.
        forwards: Forward passes of each view, [n]; those of the probes are shared out evenly.
        aimed: Whether the probes told where to go. If not, all views stand on the anchor.
    """

    def __init__(self, goal: Goal, probing: Probing) -> None:
        self._goal = goal
        self._probing = probing
        self._anchor, self._recon = probing.anchor.double(), probing.recon.double()
        self._left = iter(probing.directions.double().flatten(2))
        self._span = probing.latent0.new_zeros(0, probing.latent0.numel(), dtype=torch.float64)
        self._secants = self._anchor.new_zeros(len(self._anchor), 0)
        self._at = self._span.new_zeros(goal.views, 0)
        self.features = self._recon.expand(goal.views, -1)
        self.first = self.features
        self.forwards = torch.zeros(goal.views, dtype=torch.int32)
        self.aimed = False

    @property
    def latents(self) -> Tensor:
        """Where the views stand, float32 [n, L, D]."""
        return self._to_latents(self._at @ self._span)

    def search(self, tol_search: float) -> Asking[bool]:
        """Search until the views are a candidate; return False if they do not become one.

        Called again, after a candidate was refused, it begins with a step of spreading.
        """
        if self.aimed:
            yield from self._spread(self._stray(tol_search, short=True), tol_search)
            if (yield from self._rounds(tol_search)):
                return True
        for more in self._left:
            self.aimed = yield from self._probe(more)
            if not self.aimed:
                return False
            yield from self._aim(tol_search)
            if (yield from self._rounds(tol_search)):
                return True
        return False

    def _rounds(self, tol_search: float) -> Asking[bool]:
        """Spread views until they are a candidate; return False if they do not become one."""
        for _ in range(ROUNDS):
            if self._is_candidate(tol_search) or not self.features.isfinite().all():
                break
            yield from self._spread(self._stray(tol_search, short=self._is_short()), tol_search)
        return self._is_candidate(tol_search)

    def _probe(self, more: Tensor) -> Asking[bool]:
        """Probe `more` directions [M, L * D], and find the q in which features move most easily.

        Returns False if there are not as many, or if a probe is not finite.
        """
        reach, probes, views = REACH * self._goal.eps1, len(more), self._goal.views
        seen = yield self._to_latents(reach * more)
        self.forwards += probes // views
        self.forwards[: probes % views] += 1
        if not seen.isfinite().all():
            self.features = self.features * torch.nan
            return False
        secants = self._tangent((seen.double() - self._recon) / reach).T
        self._span = torch.cat([self._span, more])
        self._at = self._span.new_zeros(views, len(self._span))
        self.features = self._recon.expand(views, -1)
        self._secants = torch.cat([self._secants, secants], dim=1)
        left, values, _ = torch.linalg.svd(self._secants, full_matrices=False)
        wanted = len(self._probing.rotation)
        if len(values) < wanted or values[wanted - 1] < max(FLAT * float(values[0]), STILL):
            return False
        self._easy = left[:, :wanted]
        self._jacobian = self._secants.repeat(views, 1, 1)
        return True

    def _aim(self, tol_search: float) -> Asking[None]:
        """Send each view to a corner of a simplex in the easy directions."""
        corners = simplex(self._goal.views) @ self._probing.rotation.double().T @ self._easy.T
        every = torch.arange(self._goal.views)
        wanted = self._targets(corners) - self._recon
        step = self._step(every, wanted)
        # Damping makes steps short: each goes on to where its features should be at the radius.
        seen = (self._jacobian @ step[..., None])[..., 0].norm(dim=-1)
        step *= (wanted.norm(dim=-1) / seen.clamp(min=1e-12)).clamp(max=FARTHER)[:, None]
        yield from self._go(every, step, tol_search)
        self.first = self.features

    def _spread(self, views: Tensor, tol_search: float) -> Asking[None]:
        """Move `views` away from the others, and to the radius again."""
        gone = F.normalize(self._tangent(self.features), dim=-1)
        pull = 1 / torch.cdist(gone, gone).clamp(min=NEAREST)
        away = -(pull.fill_diagonal_(0) @ gone)
        heading = gone + AWAY * F.normalize(away, dim=-1)
        heading = F.normalize(self._tangent(heading), dim=-1)
        wanted = self._targets(heading)[views] - self.features[views]
        step = self._step(views, wanted)
        longest = STEP_SHARE * self._at[views].norm(dim=-1, keepdim=True)
        length = step.norm(dim=-1, keepdim=True)
        step *= (longest / length.clamp(min=1e-12)).clamp(max=1)
        yield from self._go(views, self._at[views] + step, tol_search)

    def _go(self, views: Tensor, ends: Tensor, tol_search: float) -> Asking[None]:
        """Put `views` on the rays to `ends` [k, M], at the radius, and learn from their steps."""
        rays = Rays(
            len(views),
            width=len(self._anchor),
            at_origin=float((self._recon - self._anchor).norm()),
            radius=self._goal.eps1,
        )
        while len(look := rays.open(RADIUS_SHARE * tol_search)):
            seen = yield self._to_latents((ends[look] * rays.length[look, None]) @ self._span)
            features = seen.double()
            rays.tell(look, features, (features - self._anchor).norm(dim=-1))
        self.forwards[views] += rays.tries
        at, features = self._at.clone(), self.features.clone()
        at[views], features[views] = ends * rays.best[:, None], rays.features
        self._learn(views, at - self._at, features - self.features)
        self._at, self.features = at, features

    def _learn(self, views: Tensor, moved: Tensor, seen: Tensor) -> None:
        """Make the Jacobians of `views` right for the step that they took: Broyden's update."""
        step, found = moved[views], seen[views]
        jacobian = self._jacobian[views]
        missed = found - (jacobian @ step[..., None])[..., 0]
        square = step.square().sum(-1).clamp(min=1e-9)
        self._jacobian[views] = jacobian + missed[..., None] * (step / square[:, None])[:, None]

    def _step(self, views: Tensor, wanted: Tensor) -> Tensor:
        """Return coefficients [k, M] that move the features of `views` by `wanted` [k, E]."""
        jacobian = self._jacobian[views]
        normal = jacobian.mT @ jacobian
        damping = DAMPING * normal.diagonal(dim1=-2, dim2=-1).mean(-1)
        normal.diagonal(dim1=-2, dim2=-1).add_(damping[:, None])
        step: Tensor = torch.linalg.solve(normal, jacobian.mT @ wanted[..., None])
        return step[..., 0]

    def _targets(self, headings: Tensor) -> Tensor:
        """Return the features [k, E] at the radius in tangent directions [k, E] of the anchor."""
        angle = 2 * math.asin(self._goal.eps1 / 2)
        return math.cos(angle) * self._anchor + math.sin(angle) * headings

    def _tangent(self, features: Tensor) -> Tensor:
        """Return features [k, E] without their part along those of the anchor."""
        return features - (features @ self._anchor)[:, None] * self._anchor

    def _to_latents(self, away: Tensor) -> Tensor:
        """Return latents, float32 [k, L, D], that lie `away` [k, L * D] from the anchor's."""
        start = self._probing.latent0
        return start + away.float().reshape(-1, *start.shape)

    def _is_candidate(self, tol_search: float) -> bool:
        measured = measure(self._goal, self.features[None], self._anchor[None])[1][0]
        return is_candidate(self._goal, measured.float().numpy(), tol_search=tol_search)

    def _is_short(self) -> bool:
        """Whether the sample is short of its mean pair distance."""
        mean_pair = distances(self.features, self._anchor).mean_pair.mean()
        return bool(mean_pair < self._goal.mean_pair_target)

    def _stray(self, tol_search: float, *, short: bool) -> Tensor:
        """Return the views that must move: those off the radius or too near to another one.

        If the sample is `short` of its mean pair distance, also those with the least.
        """
        found = distances(self.features, self._anchor)
        stray = (found.anchor - self._goal.eps1).abs() > tol_search
        if self._goal.has_pairs:
            stray |= found.least_pair < PAIR_MARGIN * self._goal.eps_min
            if short:
                stray[found.mean_pair.argsort(stable=True)[:SPREAD_VIEWS]] = True
        return stray.nonzero()[:, 0]


def simplex(views: int) -> Tensor:
    """Return the corners of a regular simplex round 0, float64 [n, max(1, n - 1)] of length 1."""
    if views == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    centred = torch.eye(views, dtype=torch.float64) - 1 / views
    basis = torch.linalg.svd(centred)[2][: views - 1]
    return F.normalize(centred @ basis.T, dim=-1)
