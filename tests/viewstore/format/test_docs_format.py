"""docs/format.md: its random streams computed from the page alone, its tables, its sections."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.generator_rows import settings_of
from tests.graph import REPO
from viewstore.format.columns import DTYPES, FILLS, Column
from viewstore.generators import GENERATORS
from viewstore.images.policies import POLICIES, as_policies
from viewstore.loaders.plan.order import Order, Permutation
from viewstore.randomness import CALIBRATION, Op, Stream

PAGE = (REPO / "docs" / "format.md").read_text()
M32 = (1 << 32) - 1
SEEDS = st.integers(0, 2**53 - 1)
RULES = ("| any other of type f2, f4 |", "| any other of type u1", "| any other of type i4")


def le64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def word32(data: bytes, number: int) -> int:
    return int.from_bytes(data[4 * number : 4 * number + 4], "little")


def page_words(
    text: str, seed: int, epoch: int, op: int, row: int, view: int, block: int
) -> list[int]:
    """Return four words as 7.1 and 7.2 say."""
    digest = hashlib.sha256(text.encode() + le64(seed) + le64(epoch)).digest()
    k0, k1 = word32(digest, 0), word32(digest, 1)
    c0, c1, c2, c3 = block, view * 2**16 + op, row % 2**32, row // 2**32
    for _ in range(10):
        p, q = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (q >> 32) ^ c1 ^ k0, q & M32, (p >> 32) ^ c3 ^ k1, p & M32
        k0, k1 = (k0 + 0x9E3779B9) & M32, (k1 + 0xBB67AE85) & M32
    return [c0, c1, c2, c3]


def page_permutation(size: int, seed: int, epoch: int, stream: int, position: int) -> int:
    """Return the element at a position as 7.6 says."""
    if size == 1:
        return 0
    bits = (size - 1).bit_length()
    low_bits = bits // 2
    high_bits = bits - low_bits
    rounds = 24 if size <= 256 else 8
    text = b"viewstore/order/1" + le64(seed) + le64(epoch) + le64(stream)
    keys = hashlib.shake_256(text).digest(4 * rounds)
    while True:
        high, low = position >> low_bits, position % 2**low_bits
        for i in range(rounds):
            if i % 2 == 0:
                high ^= page_mix(low, word32(keys, i)) % 2**high_bits
            else:
                low ^= page_mix(high, word32(keys, i)) % 2**low_bits
        position = high << low_bits | low
        if position < size:
            return position


def page_mix(x: int, key: int) -> int:
    x ^= key
    x ^= x >> 16
    x = x * 0x85EBCA6B & M32
    x ^= x >> 13
    x = x * 0xC2B2AE35 & M32
    return x ^ x >> 16


@given(
    seed=SEEDS,
    epoch=st.integers(0, 2**40),
    op=st.sampled_from(list(Op)),
    row=st.integers(0, 2**64 - 1),
    view=st.integers(0, 2**16 - 1),
    block=st.integers(0, 2**32 - 2),
)
def test_words_are_those_of_the_page(
    seed: int, epoch: int, op: Op, row: int, view: int, block: int
) -> None:
    at = (int(op), row, view)
    streams = {
        "viewstore/aug/1": Stream(seed, epoch),
        "viewstore/build/2/w-search/12": replace(
            Stream.of_view_set(seed, "w-search", 12), epoch=epoch
        ),
        "viewstore/calibration/1": Stream(seed, epoch, CALIBRATION),
    }
    for text, stream in streams.items():
        expected = page_words(text, seed, epoch, *at, block)
        expected += page_words(text, seed, epoch, *at, block + 1)
        found = stream.words(op, np.uint64(row), view, blocks=2, first_block=block)  # type: ignore[arg-type]
        assert found.tolist() == expected
        low, high, *_ = page_words(text, seed, epoch, 255, row, view, 0)
        seeds = stream.seed_word(np.uint64(row), view)  # type: ignore[arg-type]
        assert int(seeds) == low + (high << 32)


def test_the_page_would_notice_a_changed_counter() -> None:
    words = Stream(1, 2).words(Op.FLIP, 3, 4).tolist()
    assert words == page_words("viewstore/aug/1", 1, 2, 1, 3, 4, 0)
    assert words != page_words("viewstore/aug/1", 1, 2, 4, 3, 1, 0)


@given(
    size=st.integers(1, 3000),
    seed=SEEDS,
    epoch=st.integers(0, 2**40),
    stream=st.sampled_from([0, 1, 2, 2**40 + 3]),
)
def test_permutations_are_those_of_the_page(size: int, seed: int, epoch: int, stream: int) -> None:
    positions = np.arange(min(size, 20))
    expected = [page_permutation(size, seed, epoch, stream, each) for each in positions.tolist()]
    assert Permutation(size, seed, epoch, stream)(positions).tolist() == expected


def test_a_block_shuffle_is_that_of_the_page() -> None:
    rows, shard_rows, window, seed, epoch = 50, 4, 3, 5, 6
    shards = [page_permutation(13, seed, epoch, 1, position) for position in range(13)]
    expected: list[int] = []
    for number in range(math.ceil(13 / window)):
        mine = [
            row
            for shard in shards[number * window : (number + 1) * window]
            for row in range(shard * shard_rows, min(rows, (shard + 1) * shard_rows))
        ]
        order = [page_permutation(len(mine), seed, epoch, 2 + number, i) for i in range(len(mine))]
        expected += [mine[place] for place in order]
    found = Order(shuffle=f"block:{window}", num_rows=rows, seed=seed, shard_rows=shard_rows)
    assert found.rows(np.arange(rows), epoch).tolist() == expected


def test_the_ops_of_the_page_are_those_of_the_code() -> None:
    listed = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", PAGE, re.MULTILINE)
    assert {name: int(number) for number, name in listed} == {op.name: op.value for op in Op}
    assert 9 not in set(map(int, Op))


def test_the_fill_values_of_the_page_are_those_of_the_code() -> None:
    section = PAGE.partition("### 3.2")[2].partition("## 4")[0]
    rows = re.findall(r"^\| ([a-z0-9_, ]+) \| (-?\d+|inf) \|$", section, re.MULTILINE)
    found = {name: float(fill) for names, fill in rows for name in names.split(", ")}
    assert found == dict(FILLS)
    assert all(rule in section for rule in RULES)
    fills = {dtype: Column(name="x_a", dtype=dtype, shape=()).fill for dtype in DTYPES}
    for dtype, fill in fills.items():
        if dtype.startswith("f"):
            assert math.isnan(fill)
        else:
            limits = np.iinfo("<" + dtype)
            assert fill == (limits.max if dtype.startswith("u") else limits.min)


def page_columns() -> dict[str, str]:
    """Return the columns that the table of 3.1 describes, with the dtype of each."""
    section = PAGE.partition("### 3.1")[2].partition("### 3.2")[0]
    columns: dict[str, str] = {}
    for names, types in re.findall(r"^\| ([a-z0-9_, ]+) \| ([^|]+) \|", section, re.MULTILINE):
        given = re.findall(r"[uif][1248]", types)
        each = names.split(", ")
        columns |= dict(zip(each, given * len(each) if len(given) == 1 else given, strict=False))
    return columns


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_page_has_the_columns_of_every_policy(policy: str) -> None:
    described = page_columns()
    for column in (column for each in as_policies(policy) for column in each.columns):
        assert described.get(column.name) == column.dtype, column.name


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_the_page_has_the_columns_of_every_generator(name: str) -> None:
    described = page_columns()
    for column in settings_of(name).columns():
        assert described.get(column.name) == column.dtype, column.name


def test_every_section_that_something_refers_to_is_there() -> None:
    sections = set(re.findall(r"^#+ (\d(?:\.\d)?) ", PAGE, re.MULTILINE))
    folders = ("viewstore", "loaders", "generators", "train", "tests", "docs")
    wrong = []
    for path in [path for folder in folders for path in (REPO / folder).rglob("*")]:
        if path.suffix in (".py", ".c", ".md") and path != Path(__file__):
            text = path.read_text()
            for number in re.findall(r"format\.md\)?,? (?:section )?(\d[\d.]*\d|\d)", text):
                if number not in sections:
                    wrong.append(f"{path.relative_to(REPO)} names {number}")
    assert wrong == []
    assert {"7.1", "7.6"} <= sections
    assert set(re.findall(r"\b(\d\.\d)\b", re.sub(r"\d\.\d{2,}|\b1\.0\b", "", PAGE))) <= sections
