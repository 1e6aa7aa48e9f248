"""Numbers of combinations, lists of them and random ones."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.train.strategies.small import at_step
from viewstore.train.strategies.combinations import (
    Candidates,
    crop_combinations,
    expert_pairs,
    listed,
    random_numbers,
    subsets_at,
)


@given(st.data())
def test_subsets_are_those_of_itertools_in_their_order(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 9))
    taken = data.draw(st.integers(0, size))
    expected = list(itertools.combinations(range(size), taken))
    found = subsets_at(np.arange(len(expected)), size, taken)
    assert [tuple(row) for row in found.tolist()] == expected


def test_the_last_subset_of_many_is_found_without_the_others() -> None:
    count = math.comb(34, 17)
    last = subsets_at(np.array([0, count - 1]), 34, 17)
    assert last.tolist() == [list(range(17)), list(range(17, 34))]


def test_experts_are_paired_in_one_order_or_both() -> None:
    assert expert_pairs([1, 2, 4], directed=False).pairs == ((1, 2), (1, 4), (2, 4))
    both = expert_pairs([1, 2, 4], directed=True).pairs
    assert both == ((1, 2), (1, 4), (2, 1), (2, 4), (4, 1), (4, 2))
    assert expert_pairs([0, 1], directed=False).count == 1


@pytest.mark.parametrize(("local", "taken", "count"), [(16, 8, 51_480), (20, 10, 739_024)])
def test_combinations_of_crops_are_counted(local: int, taken: int, count: int) -> None:
    assert crop_combinations(range(4), range(4, 4 + local), taken).count == count


def test_combinations_of_crops_are_all_that_keep_the_parity_of_globals() -> None:
    candidates = crop_combinations(range(4), range(4, 10), 3)
    expected = [
        [first, second, *local]
        for first, second in ((0, 1), (0, 3), (2, 1), (2, 3))
        for local in itertools.combinations(range(4, 10), 3)
    ]
    assert candidates.at(np.arange(candidates.count)).tolist() == expected
    assert candidates.count == len(expected) == 80
    assert candidates.first == (0, 1, 4, 5, 6)


def test_local_crops_that_do_not_train_are_no_candidates() -> None:
    candidates = crop_combinations(range(2), range(2, 6), 0)
    assert candidates.views == (0, 1)
    assert candidates.at(np.arange(1)).tolist() == [[0, 1]]


@given(
    st.integers(1, 2**53),
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.integers(0, 100),
)
def test_a_list_has_no_repeats_and_is_sorted(count: int, limit: int, step: int, epoch: int) -> None:
    limit = min(limit, count)
    if limit == count and count > 1000:
        return
    numbers = listed(count, limit, at_step(step, epoch=epoch)).tolist()
    assert numbers == sorted(set(numbers))
    assert len(numbers) == limit
    assert numbers[0] >= 0
    assert numbers[-1] < count


@pytest.mark.parametrize("limit", [0, 80, 128])
def test_a_limit_that_is_no_limit_lists_all(limit: int) -> None:
    assert listed(80, limit, at_step(3)).tolist() == list(range(80))


def test_lists_are_keyed_by_epoch_and_step() -> None:
    lists = [listed(51_480, 128, at_step(s, epoch=e)).tolist() for s, e in ((0, 0), (1, 0), (0, 1))]
    assert lists[0] == listed(51_480, 128, at_step(0)).tolist()
    assert lists[0] != lists[1] != lists[2] != lists[0]


def test_all_subsets_are_listed_equally_often() -> None:
    found = Counter(tuple(listed(5, 2, at_step(step)).tolist()) for step in range(4000))
    assert set(found) == set(itertools.combinations(range(5), 2))
    # 400 of each are expected, with a standard deviation of 19.
    assert max(abs(count - 400) for count in found.values()) < 80


def test_random_numbers_are_keyed_by_sample_and_epoch() -> None:
    sample = torch.tensor([7, 3, 11, 3])
    numbers = random_numbers(1000, sample, at_step(0))
    assert numbers[1] == numbers[3]
    assert random_numbers(1000, sample.flip(0), at_step(5)).equal(numbers.flip(0))
    assert not random_numbers(1000, sample, at_step(0, epoch=1)).equal(numbers)


def test_random_numbers_are_equally_frequent() -> None:
    numbers = random_numbers(6, torch.arange(6000), at_step(0))
    # 1000 of each are expected, with a standard deviation of 29.
    assert (numbers.bincount(minlength=6) - 1000).abs().max() < 120


def test_views_of_candidates_are_sorted() -> None:
    candidates = Candidates(pairs=((5, 2), (2, 5)), locals=(1, 9), taken=1)
    assert candidates.views == (1, 2, 5, 9)
