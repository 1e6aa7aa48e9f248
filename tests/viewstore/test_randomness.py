"""Philox and its keys: known answers of Random123 and of docs/format.md."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewstore.randomness import (
    AUGMENT,
    BUILD,
    Op,
    Stream,
    compiled,
    integers,
    normal,
    words_with_numpy,
)

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    "fill", [words_with_numpy, *([compiled.words] if compiled is not None else [])]
)
@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES), (ONES,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),  # the digits of pi
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(
    fill: Callable[..., None],
    key: tuple[int, int],
    counter: tuple[int, int, int, int],
    expected: tuple[int, int, int, int],
) -> None:
    first_block, middle, low, high = counter
    rows, views = np.array([[high << 32 | low], [middle >> 16]], np.uint64)
    words = np.empty((1, 4), np.uint32)
    fill(*key, middle & 0xFFFF, rows, views, first_block, 1, words)
    assert tuple(words[0].tolist()) == expected


def test_key_and_first_words_are_frozen() -> None:
    stream = Stream(0, 0, AUGMENT)
    assert stream.key == (943273532, 2866751943)
    assert stream.uniform(Op.CROP, 0, 0).tolist() == [
        0.6915665927808732,
        0.5115073907654732,
        0.24918730300851166,
        0.3045119261369109,
    ]


def test_seed_and_epoch_are_hashed_not_added() -> None:
    keys = {Stream(0, 1).key, Stream(1, 0).key, Stream(0, 0).key, Stream(0, 0, BUILD).key}
    assert len(keys) == 4


@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=8),
    st.integers(0, 99),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_words_do_not_depend_on_their_company(
    rows: list[int], view: int, blocks: int, first: int
) -> None:
    stream = Stream(7, 3)
    index = np.array(rows, np.uint64)
    together = stream.words(Op.BLUR, index, view, blocks=blocks, first_block=first)
    for place, row in enumerate(rows):
        alone = [stream.words(Op.BLUR, row, view, first_block=first + b) for b in range(blocks)]
        assert np.array_equal(together[place], np.concatenate(alone))


def test_every_part_of_the_counter_changes_the_words() -> None:
    stream = Stream(0)
    places = [(Op.CROP, 5, 0), (Op.FLIP, 5, 0), (Op.CROP, 5, 1), (Op.CROP, 5 + 2**32, 0)]
    words = {tuple(stream.words(op, row, view).tolist()) for op, row, view in places}
    assert len(words) == len(places)


def test_index_and_view_are_broadcast_together() -> None:
    grid = Stream(1).words(Op.FLIP, np.arange(5), np.arange(3)[:, None])
    assert grid.shape == (3, 5, 4)
    assert np.array_equal(grid[2, 4], Stream(1).words(Op.FLIP, 4, 2))


def test_seed_word_joins_the_first_two_words_of_its_op() -> None:
    low, high = Stream(3).words(Op.SEQUENTIAL, 9, 2)[:2].tolist()
    assert int(Stream(3).seed_word(9, 2)) == low + (high << 32)


def test_uniform_words_are_uniform_and_normal_ones_normal() -> None:
    u = Stream(11).uniform(Op.SEQUENTIAL, np.arange(50_000), 0)
    counts = np.bincount(integers(u.ravel(), 20), minlength=20)
    chi_square = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_square < 50  # 19 degrees of freedom: p > 1e-4
    z = normal(u[:, 0], u[:, 1])
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    assert np.isfinite(normal(np.zeros(1), np.zeros(1))).all()
