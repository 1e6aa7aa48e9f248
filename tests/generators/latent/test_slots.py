"""The pool of a search: each slot steps as stock Adam, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.generators.latent.slots import Finished, SlotPool, Start

SHAPE = (2, 3, 4)  # views, codes, width


def bowl(latents: Tensor, targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """A bowl round each slot's target; its loss is what a judge sees."""
    away = (latents - targets[0]).square()
    loss = away.sum((1, 2, 3))
    return loss, loss[:, None]


def is_low(job: int, measured: NDArray[np.float32]) -> bool:
    return bool(measured[0] <= 0.05)


def pool(**changes: object) -> SlotPool[int]:
    options = {"slots": 3, "lr": 0.1, "max_steps": 400, "objective": bowl, "judge": is_low}
    return SlotPool(**{**options, **changes})  # type: ignore[arg-type]


def start(job: int) -> Start[int]:
    noise = torch.Generator().manual_seed(job)
    return Start(
        job=job,
        latents=torch.randn(SHAPE, generator=noise),
        target=(torch.randn(SHAPE, generator=noise),),
    )


def run(slots: SlotPool[int], starts: Iterable[Start[int]]) -> dict[int, Finished[int]]:
    queue, ended = iter(starts), {}
    while True:
        slots.fill(queue)
        if not slots.busy:
            return ended
        ended |= {done.start.job: done for done in slots.step()}


def test_a_slot_moves_as_stock_adam_moves_one_sample() -> None:
    jobs = [start(job) for job in range(7)]
    ended = run(pool(), jobs)
    assert len({done.state.steps for done in ended.values()}) > 1
    for one in jobs:
        latents = one.latents.clone().requires_grad_()
        adam = torch.optim.Adam([latents], lr=0.1)
        for _ in range(ended[one.job].state.steps):
            adam.zero_grad()
            bowl(latents[None], one.target)[0].sum().backward()
            adam.step()
        assert torch.allclose(latents, ended[one.job].latents, atol=1e-5)


def test_order_and_neighbours_change_no_bit() -> None:
    jobs = [start(job) for job in range(8)]
    ended = run(pool(), jobs)
    again = run(pool(), jobs[::-1]) | run(pool(), [jobs[5]])
    for job, done in ended.items():
        assert done.state.steps == again[job].state.steps
        assert torch.equal(done.latents, again[job].latents)


def test_a_stop_by_the_mean_of_the_batch_couples_slots() -> None:
    """The naive rule: what is judged of a sample depends on its neighbours."""

    def averaged(latents: Tensor, targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        loss, measured = bowl(latents, targets)
        return loss, measured.mean(0).expand(len(loss), 1)

    jobs = [start(job) for job in range(8)]
    ended = run(pool(objective=averaged), jobs)
    again = run(pool(objective=averaged), jobs[::-1])
    assert any(not torch.equal(done.latents, again[job].latents) for job, done in ended.items())


def test_the_accepted_point_is_the_one_that_was_evaluated() -> None:
    there = start(1)
    (done,) = run(pool(), [Start(job=1, latents=there.target[0], target=there.target)]).values()
    assert done.state.steps == 0
    assert torch.equal(done.latents, there.target[0])
    far = run(pool(), [there])[1]
    assert far.reached
    assert bowl(far.latents[None], far.start.target)[0].item() == far.last[0]


def test_max_steps_ends_a_sample_that_cannot_get_there() -> None:
    ended = run(pool(judge=lambda job, measured: False, max_steps=9), map(start, range(5)))
    assert {(done.state.steps, done.reached) for done in ended.values()} == {(9, False)}


def test_a_sample_that_is_not_finite_leaves_and_harms_nobody() -> None:
    jobs = [start(job) for job in range(4)]
    broken = Start(job=9, latents=jobs[0].latents * torch.nan, target=jobs[0].target)
    ended = run(pool(), [jobs[0], broken, *jobs[1:]])
    assert not ended[9].reached
    assert ended[9].state.steps == 0
    healthy = run(pool(), jobs)
    assert all(torch.equal(ended[job].latents, healthy[job].latents) for job in healthy)


def test_samples_are_pulled_only_as_slots_are_free() -> None:
    pulled = 0

    def counted() -> Iterator[Start[int]]:
        nonlocal pulled
        for job in range(10):
            pulled += 1
            yield start(job)

    slots, queue, ended = pool(), counted(), 0
    while slots.fill(queue) or slots.busy:
        assert pulled <= ended + 3
        ended += len(slots.step())
    assert ended == pulled == 10


def test_the_shape_never_changes() -> None:
    shapes = set()

    def watched(latents: Tensor, targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        shapes.add((latents.shape, targets[0].shape))
        return bowl(latents, targets)

    run(pool(objective=watched), map(start, range(5)))
    assert shapes == {((3, *SHAPE), (3, *SHAPE))}


@pytest.mark.parametrize("cut", [1, 7])
def test_going_on_in_another_pool_is_as_if_it_never_moved(cut: int) -> None:
    whole = run(pool(max_steps=20, judge=lambda job, measured: False), [start(0)])[0]
    part = run(pool(max_steps=cut, judge=lambda job, measured: False), [start(0)])[0]
    again = Start(job=0, latents=part.latents, target=part.start.target, state=part.state)
    rest = run(pool(max_steps=20, judge=lambda job, measured: False), [again])[0]
    assert rest.state.steps == 20
    assert torch.equal(rest.latents, whole.latents)
    assert np.array_equal(rest.state.first, whole.state.first)


def test_a_refused_point_is_updated_before_it_is_judged_again() -> None:
    content = pool(judge=lambda job, measured: True)
    first = run(content, [start(0)])[0]
    again = Start(job=0, latents=first.latents, target=first.start.target, state=first.state)
    assert run(content, [again])[0].state.steps == 1
