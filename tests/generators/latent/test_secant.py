"""The plan of a secant search, on features that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from viewstore.generators.latent.goal import Goal, distances
from viewstore.generators.latent.lanes import Lanes, Points
from viewstore.generators.latent.probes import probe_directions, simplex_rotation
from viewstore.generators.latent.radius import TRIES, Rays
from viewstore.generators.latent.secant import Probing, SecantSearch, simplex
from viewstore.randomness import Stream
from viewstore.store.constraints import pair_bound

CODES, WIDTH, FEATURES, TOL = 2, 8, 12, 0.015


def goal(views: int = 4, *, eps1: float = 0.3, lam: float = 0.1) -> Goal:
    pairs = views > 1
    return Goal(
        views=views,
        eps1=eps1,
        eps2=0.95 * pair_bound(eps1, views) if pairs else 0.0,
        eps_min=eps1 / 2 if pairs else 0.0,
        lam=lam,
        delta="l2",
        spread="per-view",
        stop="distances",
        loss_stop=1e-3,
        tol=0.02,
    )


def on_sphere(latents: Tensor, *, rank: int = FEATURES) -> Tensor:
    """Features of latents [k, L, D]: a bent map onto the unit sphere, of a rank."""
    matrix = torch.randn(CODES * WIDTH, FEATURES, generator=torch.Generator().manual_seed(2))
    matrix[:, rank:] = 0
    moved = torch.tanh(0.3 * latents.flatten(1) @ matrix)
    moved = moved + 0.2 * moved.square()
    return torch.nn.functional.normalize(torch.cat([torch.ones(len(moved), 1), moved], 1), dim=1)


def begin(wanted: Goal, *, rank: int = FEATURES, probes: int = 8, row: int = 0) -> SecantSearch:
    stream = Stream(5)
    latent0 = torch.zeros(CODES, WIDTH)
    anchor = on_sphere(latent0[None], rank=rank)[0]
    probing = Probing(
        latent0=latent0,
        anchor=anchor,
        recon=anchor,
        directions=probe_directions(stream, row, (2, probes, CODES, WIDTH), 1.0),
        rotation=simplex_rotation(stream, row, wanted.views),
    )
    return SecantSearch(wanted, probing)


def run(search: SecantSearch, tol: float = TOL, *, rank: int = FEATURES) -> bool:
    """Answer a search until it ends; return whether it says that it got there."""
    return answered(search, tol, rank=rank)[0]


def answered(search: SecantSearch, tol: float = TOL, *, rank: int = FEATURES) -> tuple[bool, int]:
    """Answer a search until it ends; return what it says, and how many points it asked for."""
    asking, answer, looks = search.search(tol), None, 0
    try:
        while True:
            points = next(asking) if answer is None else asking.send(answer)
            looks += len(points)
            answer = on_sphere(points, rank=rank)
    except StopIteration as end:
        return bool(end.value), looks


@pytest.mark.parametrize("views", [2, 3, 8, 16])
def test_the_corners_of_the_simplex_are_equally_far_from_each_other(views: int) -> None:
    corners = simplex(views)
    assert corners.shape == (views, views - 1)
    assert torch.allclose(corners.norm(dim=1), torch.ones(views, dtype=torch.float64))
    pairs = torch.cdist(corners, corners)[~torch.eye(views, dtype=torch.bool)]
    assert torch.allclose(pairs, torch.full_like(pairs, math.sqrt(2 * views / (views - 1))))
    # On the sphere at eps1 of the anchor they are as far apart as geometry allows.
    angle = 2 * math.asin(0.15)
    assert math.sin(angle) * float(pairs[0]) == pytest.approx(pair_bound(0.3, views))


@pytest.mark.parametrize("views", [1, 2, 5, 8])
def test_views_get_to_their_radius_and_apart(views: int) -> None:
    wanted = goal(views, lam=0.1 if views > 1 else 0.0)
    search = begin(wanted)
    assert run(search)
    features = on_sphere(search.latents).double()
    assert torch.allclose(features, search.features, atol=1e-6)
    found = distances(features, on_sphere(torch.zeros(1, CODES, WIDTH))[0].double())
    assert (found.anchor - 0.3).abs().max() <= TOL
    assert found.mean_pair.mean() >= wanted.mean_pair_target
    assert found.least_pair.min() >= wanted.eps_min


def test_forwards_of_views_and_probes_are_counted() -> None:
    search = begin(goal(3))
    _, looks = answered(search)
    assert int(search.forwards.sum()) == looks
    assert int(search.forwards.min()) >= 8 // 3 + 1


def test_a_refused_candidate_moves_on_and_may_be_refused_again() -> None:
    search = begin(goal())
    assert run(search)
    before = search.latents
    assert run(search, TOL / 2)
    assert not torch.equal(search.latents, before)
    away = distances(search.features, on_sphere(torch.zeros(1, CODES, WIDTH))[0].double()).anchor
    assert (away - 0.3).abs().max() <= TOL / 2


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_features_that_move_in_too_few_directions_are_told(rank: int) -> None:
    search = begin(goal(4))
    assert not run(search, rank=rank)
    assert not search.aimed
    assert torch.equal(search.latents, torch.zeros(4, CODES, WIDTH))
    assert search.features.isfinite().all()


def test_three_directions_are_enough_for_four_views() -> None:
    search = begin(goal(4), rank=3)
    run(search, rank=3)
    assert search.aimed
    assert search.features.isfinite().all()


def test_features_that_are_no_numbers_end_the_search() -> None:
    search = begin(goal())
    asking = search.search(TOL)
    probes = next(asking)
    with pytest.raises(StopIteration) as end:
        asking.send(on_sphere(probes) * torch.nan)
    assert not end.value.value
    assert search.features.isnan().all()


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_rays_end_at_the_radius(scale: float) -> None:
    """The distance along ray i is a bent function that is known."""
    rays = Rays(3, width=2, at_origin=0.0, radius=0.3)
    power = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    while len(look := rays.open(0.01)):
        distance = (scale * rays.length[look]) ** power[look]
        rays.tell(look, distance[:, None].expand(-1, 2), distance)
    assert rays.tries.max() <= TRIES
    assert ((scale * rays.best) ** power - 0.3).abs().max() <= 0.01
    assert torch.allclose(rays.features[:, 0], (scale * rays.best) ** power)


def test_a_ray_comes_back_from_where_nothing_is_finite() -> None:
    rays = Rays(1, width=1, at_origin=0.0, radius=0.3)
    while len(look := rays.open(0.01)):
        distance = torch.where(rays.length[look] < 0.9, rays.length[look], torch.nan)
        rays.tell(look, distance[:, None], distance)
    assert abs(float(rays.best[0]) - 0.3) <= 0.01


def test_draws_depend_on_the_row_and_begin_alike() -> None:
    stream, shape = Stream(1), (2, 4, CODES, WIDTH)
    first = probe_directions(stream, 3, shape, 2.0)
    assert torch.equal(first[0], probe_directions(stream, 3, (1, 4, CODES, WIDTH), 2.0)[0])
    assert not torch.equal(first, probe_directions(stream, 4, shape, 2.0))
    many = probe_directions(stream, 0, (1, 500, CODES, WIDTH), 2.0)
    assert float(many.flatten(2).norm(dim=-1).mean()) == pytest.approx(2.0, rel=0.05)
    turn = simplex_rotation(stream, 3, 8)
    assert torch.allclose(turn @ turn.T, torch.eye(7, dtype=torch.float64), atol=1e-12)
    assert simplex_rotation(stream, 3, 1).abs().item() == 1.0


def walk(start: int) -> Points[tuple[int, float]]:
    """Ask `start` times for `start` points; return what the values add up to."""
    total = 0.0
    for number in range(start):
        values = yield torch.full((start, 2), float(start + number))
        assert values.shape == (start, 1)
        total += float(values.sum())
    return start, total


def lanes(shapes: set[torch.Size]) -> Lanes[int, tuple[int, float]]:
    def evaluate(points: Tensor) -> Tensor:
        shapes.add(points.shape)
        return points.sum(1, keepdim=True)

    return Lanes(lanes=4, evaluate=evaluate, begin=walk)


@pytest.mark.parametrize("starts", [[3, 0, 7, 1, 5], [5, 1, 7, 0, 3], [2], [0]])
def test_every_sample_gets_its_own_values_at_one_shape(starts: list[int]) -> None:
    shapes: set[torch.Size] = set()
    pool, queue, ended = lanes(shapes), iter(starts), {}
    while True:
        pool.fill(queue)
        if not pool.busy:
            break
        ended |= dict(pool.step())
    assert ended == {n: sum(n * 2.0 * (n + i) for i in range(n)) for n in starts}
    assert shapes <= {torch.Size([4, 2])}


def test_lanes_are_filled_before_more_samples_are_pulled() -> None:
    pool = lanes(set())
    queue = iter([3, 3, 3])
    pool.fill(queue)
    assert pool.busy == 2
    assert pool.free == 0
    assert list(queue) == [3]


def test_a_sum_over_rows_of_a_batch_would_depend_on_company() -> None:
    """The naive pool: values that see the whole batch."""

    def evaluate(points: Tensor) -> Tensor:
        return points.sum().expand(len(points), 1)

    def alone(starts: list[int]) -> float:
        pool = Lanes(lanes=4, evaluate=evaluate, begin=walk)
        pool.fill(iter(starts))
        ended: dict[int, float] = {}
        while pool.busy:
            ended |= dict(pool.step())
        return ended[1]

    assert not np.isclose(alone([1]), alone([1, 2]))
