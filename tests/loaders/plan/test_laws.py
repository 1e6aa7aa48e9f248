"""The laws of an epoch's plan: every row once, any world, any resume; naive plans break them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.loaders.plans import AddedSeed, OurPlan, PerWorker, Plan, ShuffleBuffer, Start
from viewstore.errors import ConfigError
from viewstore.loaders.plan.order import Order, Permutation
from viewstore.loaders.plan.state import State

SIZES = st.integers(1, 5000)
WORLDS = st.sampled_from([1, 2, 3, 4, 6, 8, 12])
SHUFFLES = st.sampled_from(["global", "none", "block:1", "block:3", "block:500"])
EPOCHS = st.integers(0, 10_000)
SEEDS = st.integers(0, 2**53 - 1)


@st.composite
def plans(draw: st.DrawFn, *, tails: tuple[str, ...] = ("keep", "pad", "drop")) -> OurPlan:
    """Draw a plan of at most 60 steps, filtered or not."""
    num_rows = draw(SIZES)
    tail = draw(st.sampled_from(tails))
    most = num_rows if tail == "drop" else 2 * num_rows
    selected = None
    if draw(st.booleans()):
        chosen = np.random.default_rng(num_rows).choice(3 * num_rows, num_rows, replace=False)
        selected = tuple(np.sort(chosen).tolist())
    return OurPlan(
        num_rows=num_rows,
        global_batch=draw(st.integers(-(-num_rows // 60), most)),
        shuffle=draw(SHUFFLES),
        tail=tail,  # type: ignore[arg-type]
        shard_rows=draw(st.integers(-(-num_rows // 40), 700)),
        selected=selected,
    )


def joined(plan: Plan, state: Start, world: int) -> list[list[int]]:
    """Return the rows of each step over all ranks, in the order of the ranks."""
    ranks = [[rows for _, rows in plan.run(state, rank, world)] for rank in range(world)]
    assert len({len(steps) for steps in ranks}) == 1, "ranks differ in their number of steps"
    return [[row for part in step for row in part] for step in zip(*ranks, strict=True)]


def check_every_row_once(plan: Plan, rows: list[int], seed: int, epoch: int, world: int) -> None:
    found = [row for step in joined(plan, plan.start(seed, epoch), world) for row in step]
    assert sorted(found) == rows


def check_worlds_agree(plan: Plan, seed: int, epoch: int, one: int, other: int) -> None:
    start = plan.start(seed, epoch)
    assert joined(plan, start, one) == joined(plan, start, other)


def check_resumes(plan: Plan, seed: int, epoch: int, stops: list[int], worlds: list[int]) -> None:
    """Stop after so many steps again and again, each time going on on another world."""
    state = plan.start(seed, epoch)
    whole = joined(plan, state, worlds[0])
    found: list[list[int]] = []
    for stop, world in zip(stops, worlds, strict=False):
        if stop >= len(whole) - len(found):
            break
        found += joined(plan, state, world)[:stop]
        taken = [state, *(after for after, _ in islice(plan.run(state, 0, world), stop))]
        state = json.loads(json.dumps(taken[-1]))
    assert found + joined(plan, state, worlds[-1]) == whole


def check_epochs_and_seeds_differ(plan: Plan) -> None:
    orders = [joined(plan, plan.start(s, e), 1) for s in range(4) for e in range(4)]
    assert len({json.dumps(order) for order in orders}) == 16


@settings(max_examples=60, deadline=None)
@given(plans(tails=("keep", "pad")), SEEDS, EPOCHS, WORLDS)
def test_an_epoch_has_every_row_once_over_all_ranks(
    plan: OurPlan, seed: int, epoch: int, world: int
) -> None:
    rows = list(range(plan.num_rows)) if plan.selected is None else list(plan.selected)
    check_every_row_once(plan, rows, seed, epoch, world)


@settings(max_examples=40, deadline=None)
@given(plans(tails=("drop",)), SEEDS, EPOCHS, WORLDS)
def test_a_dropped_tail_leaves_out_less_than_a_batch(
    plan: OurPlan, seed: int, epoch: int, world: int
) -> None:
    steps = joined(plan, plan.start(seed, epoch), world)
    assert {len(step) for step in steps} == {plan.global_batch}
    found = {row for step in steps for row in step}
    assert len(found) == plan.num_rows - plan.num_rows % plan.global_batch
    assert found <= set(range(plan.num_rows) if plan.selected is None else plan.selected)


@settings(max_examples=60, deadline=None)
@given(plans(), SEEDS, EPOCHS, WORLDS, WORLDS)
def test_any_two_worlds_have_the_same_global_batches(
    plan: OurPlan, seed: int, epoch: int, one: int, other: int
) -> None:
    check_worlds_agree(plan, seed, epoch, one, other)


@settings(max_examples=60, deadline=None)
@given(
    plans(),
    SEEDS,
    EPOCHS,
    st.lists(st.integers(0, 30), min_size=3, max_size=3),
    st.lists(WORLDS, min_size=4, max_size=4),
)
def test_stopping_again_and_again_on_other_worlds_gives_the_same_steps(
    plan: OurPlan, seed: int, epoch: int, stops: list[int], worlds: list[int]
) -> None:
    check_resumes(plan, seed, epoch, stops, worlds)


@settings(max_examples=8, deadline=None)
@given(st.integers(20, 5000), st.sampled_from(["global", "block:3"]))
def test_every_epoch_of_every_seed_has_its_own_order(num_rows: int, shuffle: str) -> None:
    check_epochs_and_seeds_differ(
        OurPlan(num_rows=num_rows, global_batch=num_rows, shuffle=shuffle, shard_rows=8)
    )


NAIVE: list[tuple[Callable[[], None], str]] = [
    (lambda: check_epochs_and_seeds_differ(AddedSeed(num_rows=40, global_batch=8)), "seed + epoch"),
    (
        lambda: check_resumes(ShuffleBuffer(num_rows=500, global_batch=8), 0, 0, [5], [1, 1]),
        "shuffle buffer",
    ),
    (
        lambda: check_worlds_agree(PerWorker(num_rows=500, global_batch=8), 0, 0, 1, 2),
        "part of a rank",
    ),
    (
        lambda: check_resumes(PerWorker(num_rows=500, global_batch=8), 0, 0, [5, 2], [1, 4, 2]),
        "state of a rank",
    ),
    (
        lambda: check_worlds_agree(PerWorker(num_rows=9, global_batch=4), 0, 0, 2, 4),
        "uneven steps",
    ),
]


@pytest.mark.parametrize("law", [law for law, _ in NAIVE], ids=[what for _, what in NAIVE])
def test_naive_plans_break_the_laws(law: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        law()


def test_naive_plans_keep_the_laws_that_they_do_not_break() -> None:
    """So that it is no accident that they fail the others."""
    check_every_row_once(ShuffleBuffer(num_rows=500, global_batch=8), list(range(500)), 0, 0, 1)
    check_resumes(AddedSeed(num_rows=500, global_batch=8), 0, 0, [5, 9], [1, 4, 2])
    check_resumes(PerWorker(num_rows=500, global_batch=8), 0, 0, [5, 9], [2, 2, 2])


def displacement(plan: Plan, num_rows: int) -> float:
    """Return the mean way of a row from its place, over the rows."""
    rows = [row for step in joined(plan, plan.start(0, 0), 1) for row in step]
    return float(np.abs(np.array(rows) - np.arange(num_rows)).mean() / num_rows)


def test_rows_move_a_third_of_the_epoch_but_not_through_a_buffer() -> None:
    ours = OurPlan(num_rows=100_000, global_batch=50_000)
    assert displacement(ours, 100_000) == pytest.approx(1 / 3, rel=0.01)
    assert displacement(ShuffleBuffer(num_rows=20_000, global_batch=5000), 20_000) < 0.01


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5000),
    st.sampled_from([1, 2, 3, 7, 16, 100, 512, 5000, 9000]),
    st.integers(1, 400),
    SEEDS,
    EPOCHS,
)
def test_a_block_order_is_a_permutation_whatever_the_shards(
    num_rows: int, shard_rows: int, window: int, seed: int, epoch: int
) -> None:
    """A ragged last shard included, and windows that hold more than all shards."""
    shard_rows = max(shard_rows, -(-num_rows // 300))
    order = Order(shuffle=f"block:{window}", num_rows=num_rows, seed=seed, shard_rows=shard_rows)
    assert np.array_equal(np.sort(order.rows(np.arange(num_rows), epoch)), np.arange(num_rows))


@pytest.mark.parametrize("size", [3, 4, 17, 100, 256, 257, 400, 600])
def test_every_pair_of_places_is_equally_likely_to_hold_any_pair(size: int) -> None:
    """Over keys, by chi-square of binned pairs; the first, middle and last places in turn."""
    bins = min(size, 6)
    keys = 2400
    places = np.array([0, 1, size // 2, size - 1])
    drawn = np.array([Permutation(size, 11, epoch)(places) for epoch in range(keys)])
    bin_of = np.arange(size) * bins // size
    widths = np.bincount(bin_of, minlength=bins)
    pairs = np.outer(widths, widths) - np.diag(widths)  # an element is not in two places
    expected = keys * pairs / (size * (size - 1))
    for first, second in [(0, 1), (0, 3), (1, 2)]:
        if places[first] == places[second]:
            continue
        counts = np.zeros((bins, bins))
        np.add.at(counts, (bin_of[drawn[:, first]], bin_of[drawn[:, second]]), 1)
        possible = expected > 0
        assert counts[~possible].sum() == 0
        assert stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-4


PROGRAM = """
import numpy as np
from viewstore.loaders.plan.schedule import choose_views
from viewstore.loaders.plan.mixed import ViewSetGroup
from viewstore.loaders.plan.order import Order
from viewstore.images.policies import policies
from viewstore.randomness import Stream
rows = Order(shuffle="block:3", num_rows=5000, seed=7, shard_rows=64).rows(np.arange(60), 2)
print(rows.tolist())
print(choose_views(7, 2, rows, cached=8, wanted=3, pick="schedule").tolist())
print(ViewSetGroup((), (0.5, 0.3, 0.2), True).chosen(7, 2, rows, [0, 1]).tolist())
(policy,) = policies("simclr")
size = np.full(60, 224)
drawn = policy.draw(Stream(7, 2), rows, 1, size, size)
print({name: drawn[name].tolist() for name in sorted(drawn)})
"""


def test_order_schedule_mix_and_draws_are_those_of_every_process() -> None:
    """Whatever the hash seed of Python, and whatever numpy's generator was seeded with."""

    def output(hash_seed: str, prologue: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", prologue + PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    first = output("1", "")
    assert len(first) > 2000
    assert output("77", "import random, numpy; random.seed(5); numpy.random.seed(5)\n") == first


@settings(max_examples=80, deadline=None)
@given(
    SEEDS,
    st.integers(0, 9999),
    st.integers(0, 99_999),
    st.integers(1, 99_999),
    st.sampled_from(["1:global", "1:none", "1:block:64"]),
    st.sampled_from(["drop", "pad", "keep"]),
    st.none() | st.just("0123456789abcdef"),
)
def test_every_state_fits_200_bytes_and_is_refused_by_every_other_run(
    seed: int,
    epoch: int,
    step: int,
    global_batch: int,
    order: str,
    tail: str,
    rows: str | None,
) -> None:
    state = State(
        store="0123456789abcdef" * 2,
        order=order,
        seed=seed,
        epoch=epoch,
        step=step,
        G=global_batch,
        tail=tail,
        rows=rows,
        views="0123456789abcdef",
    )
    text = json.dumps(state.to_json(), separators=(",", ":"))
    assert len(text) < 200
    assert State.from_json(json.loads(text)) == state
    foreign: dict[str, Any] = {
        "store": "f" * 32,
        "order": "1:block:2",
        "G": global_batch + 1,
        "tail": "pad" if tail == "keep" else "keep",
        "rows": "f" * 16,
    }
    state.check_resumes(state)
    for name, value in foreign.items():
        other = State.from_json({**state.to_json(), name: value})
        with pytest.raises(ConfigError, match=f"it was saved with {name} "):
            state.check_resumes(other)


def test_epochs_meet_no_order_twice_in_a_long_run() -> None:
    firsts = {
        tuple(Permutation(5000, seed, epoch)(np.arange(6)).tolist())
        for seed in (0, 1, 2)
        for epoch in range(300)
    }
    assert len(firsts) == 900
    diagonal = [Permutation(5000, s, 300 - s)(np.arange(6)).tolist() for s in range(300)]
    assert all(one != other for one, other in pairwise(diagonal))
