"""The plan of 1,024 ranks over the rows of ImageNet: cover, cut, shards, memory, resume."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from viewstore.loaders.plan.ahead import SamplePlan, StepPlanner
from viewstore.loaders.plan.cut import Cut, Tail
from viewstore.loaders.plan.order import Order
from viewstore.loaders.plan.state import State

ROWS = 1_281_167
WORLD, HOST = 1024, 8  # ranks of the job, and of a host
BATCH = 8192
SEED, EPOCH = 3, 5
SLOTS = 2
MIB = 1 << 20

Rows = NDArray[np.int64]


def order_of(shuffle: str, *, num_rows: int = ROWS, shard_rows: int = 1024) -> Order:
    return Order(shuffle=shuffle, num_rows=num_rows, seed=SEED, shard_rows=shard_rows)


def cut_of(rank: int, *, world: int = WORLD, num_rows: int = ROWS, batch: int = BATCH) -> Cut:
    return Cut(num_rows=num_rows, global_batch=batch, rank=rank, world_size=world, uneven=True)


def rows_alone(rows: Rows, epoch: int) -> SamplePlan:
    return SamplePlan(rows=rows, views=[], online=[], then=[])


def planner_of(order: Order, cut: Cut) -> StepPlanner:
    return StepPlanner(order, cut, None, rows_alone, drawn_slots=SLOTS)


def rank_rows(order: Order, cut: Cut, steps: range) -> Rows:
    """Return the rows that a rank reads in some steps, planned as the loader does, [B]."""
    planner = planner_of(order, cut)
    return np.concatenate([planner.steps(EPOCH, range(s, s + 1)).rows for s in steps])


def host_shards(order: Order, steps: range) -> set[int]:
    """Return the shards that the ranks of the 65th host read from in some steps."""
    ranks = range(64 * HOST, 65 * HOST)
    rows = [rank_rows(order, cut_of(rank), steps) for rank in ranks]
    return set(np.unique(np.concatenate(rows) // order.shard_rows).tolist())


@pytest.mark.parametrize("shard_rows", [256, 1024, 8192])
@pytest.mark.parametrize("shuffle", ["global", "block:8", "none"])
def test_an_epoch_has_every_row_once_and_ranks_read_what_it_says(
    shuffle: str, shard_rows: int
) -> None:
    order = order_of(shuffle, shard_rows=shard_rows)
    rows = order.rows(np.arange(ROWS), EPOCH)
    assert np.array_equal(np.sort(rows), np.arange(ROWS))
    for rank in (0, 517, WORLD - 1):
        cut = cut_of(rank)
        positions = np.concatenate([cut.positions(step)[0] for step in range(cut.steps)])
        assert np.array_equal(rank_rows(order, cut, range(cut.steps)), rows[positions])


@pytest.mark.parametrize("batch", [BATCH, 10_000])
@pytest.mark.parametrize("tail", ["drop", "pad", "keep"])
def test_ranks_cut_an_epoch_into_parts_that_meet(tail: Tail, batch: int) -> None:
    """Each begins where the one before ends; sizes differ by one sample where they must."""
    cuts = [
        Cut(
            num_rows=ROWS,
            global_batch=batch,
            tail=tail,
            rank=rank,
            world_size=WORLD,
            uneven=True,
        )
        for rank in range(WORLD)
    ]
    steps = ROWS // batch + (tail != "drop")
    assert {cut.steps for cut in cuts} == {steps}
    begin = 0
    for step in range(steps):
        spans = [cut.span(step) for cut in cuts]
        for span in spans:
            assert span.start == begin
            begin = span.stop
        sizes = {len(span) for span in spans}
        assert max(sizes) - min(sizes) <= 1
        assert sum(cut.weight(step) for cut in cuts) == pytest.approx(WORLD)
    assert begin == {"drop": steps * batch, "pad": steps * batch, "keep": ROWS}[tail]


def test_a_host_of_many_reads_from_every_shard_in_an_epoch() -> None:
    """The cut is by sample, so that batches are those of any world: no host owns a shard."""
    steps = range(ROWS // BATCH)
    for shuffle in ("global", "block:8"):
        assert len(host_shards(order_of(shuffle), steps)) > 0.99 * ROWS / 1024


def test_a_window_of_batches_reads_from_few_shards_where_they_are_shuffled_in_blocks() -> None:
    """Ten batches of 8,192 are ten windows of 8 shards, and two that they begin or end in."""
    steps = range(40, 50)
    assert len(host_shards(order_of("none"), steps)) <= 82
    assert len(host_shards(order_of("block:8"), steps)) <= 8 * 12
    assert len(host_shards(order_of("global"), steps)) > 400  # of 640 rows, nearly one each


@pytest.mark.parametrize("num_rows", [ROWS, 100 * ROWS])
@pytest.mark.parametrize("shuffle", ["global", "block:8", "none"])
def test_the_plan_of_a_rank_holds_no_row_of_the_others(shuffle: str, num_rows: int) -> None:
    """An order that is an array has 10 MB here, and a hundred times as many there."""
    order, cut = order_of(shuffle, num_rows=num_rows), cut_of(517, num_rows=num_rows)
    planner = planner_of(order, cut)
    planner.steps(EPOCH, range(1))  # what is made once: constants, a compiled module
    tracemalloc.start()
    try:
        for step in range(0, cut.steps, 64):
            planner.steps(EPOCH, range(step, step + 1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    shards = num_rows / order.shard_rows
    assert peak < 4 * MIB + (64 * shards if shuffle.startswith("block") else 0)


def test_a_job_goes_on_in_mid_epoch_on_fewer_hosts() -> None:
    """1,024 ranks stop after 60 steps, 512 take 40 more, and 96 the rest, unevenly cut."""
    order = order_of("block:8")
    state = State(
        store="0" * 32,
        order=order.name,
        seed=SEED,
        epoch=EPOCH,
        step=0,
        G=BATCH,
        tail="drop",
        rows=None,
        views="0" * 16,
    )
    steps = cut_of(0).steps
    seen: list[Rows] = []
    for world, many in ((1024, 60), (512, 40), (96, steps - 100)):
        state = State.from_json(json.loads(json.dumps(state.to_json())))
        first = state.step
        cuts = [cut_of(rank, world=world) for rank in range(world)]
        for step in range(first, first + many):
            positions = np.concatenate([cut.positions(step)[0] for cut in cuts])
            seen.append(order.rows(positions, EPOCH))
        state = state.at(EPOCH, first + many, steps=steps)
    assert (state.epoch, state.step) == (EPOCH + 1, 0)
    expected = order.rows(np.arange(steps * BATCH), EPOCH)
    assert np.array_equal(np.concatenate(seen), expected)
