"""The order of an epoch: frozen values, permutation laws, fairness, and the cut into ranks."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from viewstore.errors import ConfigError
from viewstore.loaders import ViewLoader
from viewstore.loaders.plan.cut import Cut, Tail
from viewstore.loaders.plan.order import Order, Permutation
from viewstore.store.store import Store

SIZES = st.integers(1, 5000)
WORLDS = st.sampled_from([1, 2, 3, 4, 6, 8, 12])
TAILS = st.sampled_from(["drop", "pad", "keep"])


def order(shuffle: str, num_rows: int, *, seed: int = 0, shard_rows: int = 64) -> Order:
    return Order(shuffle=shuffle, num_rows=num_rows, seed=seed, shard_rows=shard_rows)


@pytest.mark.parametrize(
    ("size", "seed", "epoch", "expected"),
    [
        (10, 0, 0, [7, 5, 3, 9, 4, 0, 1, 8, 2, 6]),
        (10, 0, 1, [1, 9, 8, 6, 7, 4, 3, 5, 2, 0]),
        (10, 1, 0, [9, 4, 2, 0, 7, 6, 5, 3, 1, 8]),
        (1000, 0, 0, [325, 644, 760, 7, 55, 297]),
        (10**7 + 19, 2**53 - 1, 9, [6392494, 5449991, 9331336, 6949284]),
        (1, 5, 5, [0]),
    ],
)
def test_permutation_is_frozen(size: int, seed: int, epoch: int, expected: list[int]) -> None:
    """Saved loader states name this order by its version."""
    positions = np.arange(len(expected))
    assert Permutation(size, seed, epoch)(positions).tolist() == expected


def test_the_order_of_cifar_is_frozen() -> None:
    rows = Permutation(50_000, 0, 0)(np.arange(50_000))
    digest = hashlib.sha256(rows.astype("<u8").tobytes()).hexdigest()
    assert digest == "8f3695b8b90746c416763abd1e96f00beb33627a5267da54792030070f763d52"


def test_block_shuffle_is_frozen() -> None:
    rows = order("block:2", 12, shard_rows=3).rows(np.arange(12), 0)
    assert rows.tolist() == [10, 2, 0, 11, 9, 1, 4, 3, 8, 7, 6, 5]


@settings(deadline=None)
@given(SIZES, st.integers(0, 2**53 - 1), st.integers(0, 1000), st.integers(0, 2**40))
def test_permutation_has_every_element_once(size: int, seed: int, epoch: int, stream: int) -> None:
    shuffled = Permutation(size, seed, epoch, stream)
    elements = shuffled(np.arange(size))
    assert np.array_equal(np.sort(elements), np.arange(size))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1000), st.integers(5, 100), st.integers(1, 12), st.integers(0, 50))
def test_block_shuffle_has_every_row_once_in_its_window(
    size: int, shard_rows: int, window: int, epoch: int
) -> None:
    blocks = order(f"block:{window}", size, shard_rows=shard_rows)
    rows = blocks.rows(np.arange(size), epoch)
    assert np.array_equal(np.sort(rows), np.arange(size))
    shards = list(dict.fromkeys((rows // shard_rows).tolist()))
    shard_count = -(-size // shard_rows)
    # A window reads at most B shards before the next one begins.
    open_windows = [set(shards[i : i + window]) for i in range(0, shard_count, window)]
    place = 0
    for shard_numbers in open_windows:
        count = sum(min(shard_rows, size - shard * shard_rows) for shard in shard_numbers)
        seen = set((rows[place : place + count] // shard_rows).tolist())
        assert seen == shard_numbers
        place += count


def test_rows_of_any_positions_are_those_of_the_whole_epoch() -> None:
    blocks = order("block:3", 1000, shard_rows=16)
    whole = blocks.rows(np.arange(1000), 4)
    some = np.array([999, 0, 500, 501, 17])
    assert np.array_equal(blocks.rows(some, 4), whole[some])


def test_no_shuffle_keeps_the_rows() -> None:
    assert np.array_equal(order("none", 9).rows(np.arange(9), 3), np.arange(9))


def test_epochs_and_seeds_give_other_orders() -> None:
    orders = {
        tuple(Permutation(100, seed, epoch)(np.arange(100)).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


@pytest.mark.parametrize("size", [3, 5, 8, 10, 37, 256, 257, 600])
def test_every_element_is_equally_likely_at_every_place(size: int) -> None:
    """Over keys, element 0 .. size-1 at the first place and at the last one, by chi-square."""
    bins = min(size, 20)
    keys = 80 * bins
    ends = np.array([0, size - 1])
    drawn = np.array([Permutation(size, 3, epoch)(ends) for epoch in range(keys)])
    for place in (0, 1):
        counts = np.bincount(drawn[:, place] * bins // size, minlength=bins)
        widths = np.bincount(np.arange(size) * bins // size, minlength=bins)
        assert stats.chisquare(counts, keys * widths / size).pvalue > 1e-4


@pytest.mark.parametrize("size", [3, 5, 10])
def test_pairs_of_neighbours_are_equally_likely(size: int) -> None:
    keys = 3000
    drawn = np.array([Permutation(size, 8, epoch)(np.arange(2)) for epoch in range(keys)])
    pairs = np.bincount(drawn[:, 0] * size + drawn[:, 1], minlength=size * size)
    possible = pairs[~np.eye(size, dtype=bool).ravel()]
    assert pairs.sum() == possible.sum()
    assert stats.chisquare(possible).pvalue > 1e-4


def test_eight_rounds_on_few_elements_would_be_biased() -> None:
    """Why small permutations take 24 rounds: 8 give fewer distinct ones than chance does."""

    class Hasty(Permutation):
        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "_keys", self._keys[:8])

    def distinct(kind: type[Permutation]) -> int:
        return len({tuple(kind(8, 3, epoch)(np.arange(8)).tolist()) for epoch in range(3000)})

    expected = 40320 * (1 - np.exp(-3000 / 40320))  # of 8! = 40320; standard deviation 10
    assert distinct(Permutation) > expected - 40
    assert distinct(Hasty) < expected - 100


def test_rows_move_a_third_of_the_epoch_on_average() -> None:
    rows = Permutation(100_000, 0, 0)(np.arange(100_000))
    displacement = np.abs(rows - np.arange(100_000)).mean() / 100_000
    assert displacement == pytest.approx(1 / 3, rel=0.01)


def test_order_does_not_depend_on_the_hash_seed_of_python() -> None:
    program = (
        "import numpy as np; from viewstore.loaders.plan.order import Permutation;"
        "print(Permutation(1000, 7, 2)(np.arange(5)).tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert outputs == {f"{Permutation(1000, 7, 2)(np.arange(5)).tolist()}\n"}


@pytest.mark.parametrize("shuffle", ["block", "block:0", "block:x", "random", ""])
def test_an_unknown_shuffle_is_refused(shuffle: str) -> None:
    with pytest.raises(ConfigError, match=f"shuffle must be .* got '{shuffle}'"):
        order(shuffle, 10)


def epoch_of(n: int, batch: int, world: int, tail: Tail) -> list[list[list[int]]]:
    """Return the valid positions by step and rank."""
    cuts = [
        Cut(
            num_rows=n,
            global_batch=batch,
            tail=tail,
            rank=rank,
            world_size=world,
            uneven=True,
        )
        for rank in range(world)
    ]
    return [
        [positions[valid].tolist() for positions, valid in (cut.positions(step) for cut in cuts)]
        for step in range(cuts[0].steps)
    ]


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 600), WORLDS, TAILS)
def test_ranks_cut_every_step_exactly_once(n: int, batch: int, world: int, tail: Tail) -> None:
    if tail == "drop" and batch > n:
        return
    steps = epoch_of(n, batch, world, tail)
    joined = [[position for rank in ranks for position in rank] for ranks in steps]
    assert joined == [ranks[0] for ranks in epoch_of(n, batch, 1, tail)]
    positions = [position for step in joined for position in step]
    assert positions == list(range(n - n % batch if tail == "drop" else n))


@given(SIZES, st.integers(1, 600))
def test_tails_have_the_documented_number_of_steps(n: int, batch: int) -> None:
    assert Cut(num_rows=n, global_batch=batch, tail="pad").steps == -(-n // batch)
    assert Cut(num_rows=n, global_batch=batch, tail="keep").steps == -(-n // batch)
    if batch <= n:
        assert Cut(num_rows=n, global_batch=batch).steps == n // batch


def test_padding_wraps_to_the_start_of_the_epoch() -> None:
    positions, valid = Cut(num_rows=5, global_batch=4, tail="pad").positions(1)
    assert positions.tolist() == [4, 0, 1, 2]
    assert valid.tolist() == [True, False, False, False]


def test_a_kept_tail_is_short_and_may_leave_ranks_empty() -> None:
    cut = Cut(num_rows=9, global_batch=8, tail="keep", rank=1, world_size=2)
    assert cut.steps == 2
    positions, valid = cut.positions(1)
    assert len(positions) == len(valid) == 0
    assert cut.weight(1) == 0
    first = Cut(num_rows=9, global_batch=8, tail="keep", rank=0, world_size=2)
    assert first.positions(1)[0].tolist() == [8]
    assert first.weight(1) == 2


def test_weights_of_an_uneven_cut_average_to_one() -> None:
    cuts = [Cut(num_rows=100, global_batch=10, rank=r, world_size=4, uneven=True) for r in range(4)]
    assert [len(cut.positions(0)[0]) for cut in cuts] == [3, 3, 2, 2]
    assert [cut.weight(0) for cut in cuts] == [1.2, 1.2, 0.8, 0.8]


def test_an_uneven_batch_size_names_what_would_do() -> None:
    with pytest.raises(ConfigError) as caught:
        Cut(num_rows=100, global_batch=10, world_size=4)
    assert str(caught.value) == (
        "batch_size is over all ranks and must be a multiple of world_size 4, got 10; use "
        "batch_size 8 or 12, or one of the world sizes 1, 2, 5, 10, or pass uneven=True"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 0}, "batch_size must be at least 1, got 0"),
        ({"global_batch": 101}, "batch_size must be at most the 100 rows"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"tail": "cut"}, "tail must be drop, pad or keep, got 'cut'"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cut(**{"num_rows": 100, "global_batch": 10, **changes})  # type: ignore[arg-type]


def test_windows_of_a_filter_are_of_as_many_shards(digits: Store) -> None:
    """A filter keeps 2 of 16 rows of 4 of the 5 shards: a window of 2 shards has 4 rows."""
    rows = [1, 5, 18, 30, 33, 40, 64, 69]
    given_settings: dict[str, Any] = {"shuffle": "block:2", "tail": "keep", "batch_size": 4}
    seen = []
    with ViewLoader(digits, "hard", rows=rows, num_threads=0, **given_settings) as loader:
        for _ in range(3):
            for batch in loader:
                assert len(set((batch.index // digits.shard_rows).tolist())) == 2
                seen += batch.index.tolist()
    assert sorted(seen) == sorted(3 * rows)
    assert seen[:8] != seen[8:16]


@pytest.mark.parametrize("block", [1, 3, 100])
def test_sizes_of_whole_shards_change_no_order(block: int) -> None:
    whole = Order(shuffle=f"block:{block}", num_rows=70, seed=3, shard_rows=16)
    sized = replace(whole, shard_sizes=np.array([16, 16, 16, 16, 6]))
    positions = np.arange(70)
    assert np.array_equal(whole.rows(positions, 2), sized.rows(positions, 2))
