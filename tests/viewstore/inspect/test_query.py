"""Queries: which rows they come to, in which order, against a plain list in Python."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.viewstore.small_stores import build_small
from viewstore.errors import ConfigError, UnavailableError
from viewstore.inspect import query as queries
from viewstore.inspect.chosen_rows import choose_rows, worst_rows
from viewstore.inspect.query import Deadline, Query, Result, Understood, sortable, understand
from viewstore.store import matching
from viewstore.store.kept import Kept
from viewstore.store.store import Store, open_store

SORTS = ("", "key", "label", "index", "height", "blur", "flip", "solarize", "status")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, source: str) -> Store:
    """Twenty samples of two views; those of the second shard were never built."""
    folder = tmp_path_factory.mktemp("query")
    build_small(folder / "s", source, only=(0, 2))
    from viewstore.build.finalise import finalise

    finalise(folder / "s", allow_partial=True)
    return open_store(folder / "s")


def asked(store: Store, where: str = "", sort: str = "", seed: int = 0) -> Understood:
    query = Query(where=where, sort=sort, seed=seed)
    return understand(store, query, store.view_sets["simclr"])


def all_rows(store: Store, **query: Any) -> list[int]:  # noqa: ANN401
    found = asked(store, **query).find()
    return found.page(0, len(found))


def cells(store: Store, name: str) -> list[list[Any]]:
    """Return the values of a column of each row, None where one is missing."""
    if name == "key":
        return [[key.encode()] for key in store.keys]
    if name == "index":
        return [[row] for row in range(store.num_samples)]
    if name == "label":
        return [[None if label < 0 else label] for label in store.labels.tolist()]
    if name == "height":
        return [[int(height)] for height in store.table.height]
    views = store.view_sets["simclr"]
    column, values = views.plan.column(name), views.params[name]
    gone = column.missing(values)
    return [
        [None if away or math.isnan(value) else value for value, away in zip(*each, strict=True)]
        for each in zip(values.tolist(), gone.tolist(), strict=True)
    ]


def oracle(store: Store, rows: list[int], sort: str) -> list[int]:
    """Order rows as the specification says, with Python's own sort."""
    name, descending = sort.removeprefix("-"), sort.startswith("-")
    if not name:
        return rows
    found = cells(store, name)
    known = {row: [value for value in found[row] if value is not None] for row in rows}
    has = [row for row in rows if known[row]]
    extreme = max if descending else min
    ordered = sorted(has, key=lambda row: extreme(known[row]), reverse=descending)  # stable
    return ordered + [row for row in rows if not known[row]]


@given(
    sort=st.sampled_from(SORTS),
    descending=st.booleans(),
    least=st.integers(0, 19),
    label=st.sampled_from(["label >= 0", "label = 1", "not label = 2", "status is missing"]),
    begin=st.integers(0, 25),
    count=st.integers(1, 25),
)
def test_rows_are_those_of_a_plain_list_in_python(
    few: Store, sort: str, descending: bool, least: int, label: str, begin: int, count: int
) -> None:
    order = f"-{sort}" if descending and sort else sort
    kept = {
        "label >= 0": lambda row: True,
        "label = 1": lambda row: row % 3 == 1,
        "not label = 2": lambda row: row % 3 != 2,
        "status is missing": lambda row: 8 <= row < 16,
    }[label]
    rows = [row for row in range(20) if row >= least and kept(row)]
    found = asked(few, f"index >= {least} and {label}", order).find()
    expected = oracle(few, rows, order)
    assert len(found) == len(expected)
    assert found.page(begin, begin + count) == expected[begin : begin + count]
    assert found.page(0, count) == expected[:count]  # after the whole order too


@given(
    values=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    descending=st.booleans(),
    count=st.integers(1, 60),
    dtype=st.sampled_from(["u1", "f4", "u8"]),
)
def test_the_first_page_is_that_of_the_whole_order(
    values: list[int], descending: bool, count: int, dtype: str
) -> None:
    rows = np.arange(len(values)) * 3
    array = np.array(values, dtype)
    first = Result(rows, array, descending=descending).page(0, count)
    assert first == Result(rows, array, descending=descending).page(0, len(values))[:count]
    sign = -1 if descending else 1
    pairs = sorted((sign * value, 3 * place) for place, value in enumerate(values))
    assert first == [row for _, row in pairs][:count]


def test_missing_values_come_last_both_ways(few: Store) -> None:
    for sort in ("blur", "-blur", "status", "-status"):
        assert all_rows(few, sort=sort)[-8:] == list(range(8, 16)), sort


def test_random_rows_are_those_that_a_seed_chooses_for_ever(digits: Path) -> None:
    store = open_store(digits)
    assert asked(store, sort="random", seed=3).find().page(0, 5) == [0, 7, 53, 58, 66]
    found = asked(store, sort="random", seed=4).find()
    assert found.page(0, 24) == choose_rows(store, count=24, random=True, seed=4)
    pages = [found.page(begin, begin + 24) for begin in range(0, 80, 24)]
    assert sorted(row for page in pages for row in page) == list(range(80))


def test_the_worst_are_all_samples_and_the_report_shows_the_first(searched: Path) -> None:
    store = open_store(searched)
    views = store.view_sets["w-search"]
    found = understand(store, Query(sort="worst"), views).find()
    ranked = found.page(0, len(found))
    assert sorted(ranked) == list(range(len(views)))
    assert ranked[: len(worst_rows(views, 9))] == worst_rows(views, 9)
    fewer = understand(store, Query(where="index < 3", sort="worst"), views).find()
    assert fewer.page(0, 9) == [row for row in ranked if row < 3]
    with pytest.raises(ConfigError, match="the worst samples are those of a view set"):
        understand(store, Query(sort="worst"), None)


def test_no_sample_is_the_worst_where_there_is_no_goal(few: Store) -> None:
    with pytest.raises(ConfigError, match="simclr has no goal") as raised:
        asked(few, sort="worst")
    assert "any(status >= 3)" in str(raised.value.fix)


def test_an_empty_result_is_an_answer(few: Store) -> None:
    for sort in ("", "blur", "-key", "random"):
        found = asked(few, "index > 99", sort).find()
        assert (len(found), found.page(0, 24), found.page(24, 48)) == (0, [], [])


def test_a_query_is_shown_as_it_was_understood(few: Store) -> None:
    query = asked(few, "flip=1 and any(blur > 1) and not gray = 1 and label<2")
    assert query.text == "any(flip = 1) and any(blur > 1) and not any(gray = 1) and label < 2"
    assert query.terms[1] == ("any(blur > 1)", "flip = 1 and not gray = 1 and label < 2")
    assert asked(few, "flip = 1").terms == [("any(flip = 1)", "")]
    assert asked(few, "flip = 1 or label = 1").terms == [("any(flip = 1) or label = 1", "")]
    assert asked(few).terms == []
    assert query.columns == ["flip", "blur", "gray", "label"]
    assert asked(few, "flip = 1", "-blur").columns == ["flip", "blur"]


@given(st.lists(st.sampled_from(["flip = 1", "label < 2", "(gray = 1 or flip = 0)"]), min_size=2))
def test_a_chip_removes_its_own_term(few: Store, terms: list[str]) -> None:
    whole = " and ".join(terms[:8])
    for place, (_, others) in enumerate(asked(few, whole).terms):
        rest = [term for at, term in enumerate(terms[:8]) if at != place]
        assert asked(few, others).text == asked(few, " and ".join(rest)).text


def test_equal_queries_have_one_name_and_others_another(few: Store, digits: Path) -> None:
    same = {asked(few, where).id for where in ("flip=1", "any(flip = 1)", " flip  =  +1")}
    assert len(same) == 1
    others = [
        asked(few, "flip = 0"),
        asked(few, "flip = 1", "blur"),
        asked(few, "flip = 1", "-blur"),
        asked(few, "flip = 1", "random", 1),
        asked(few, "flip = 1", "random", 2),
        understand(few, Query(where="flip = 1"), None),
        asked(open_store(digits), "flip = 1"),
    ]
    assert len({each.id for each in others} | same) == len(others) + 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"sort": "blurr"}, "sort must name a column, got 'blurr'; did you mean 'blur'"),
        ({"sort": "-simclr.blr"}, "sort must name a column of simclr, got 'blr'.*character 2"),
        ({"sort": "crop_box"}, "sort must name a column of single numbers; crop_box has"),
        ({"sort": "x" * 129}, "sort must have at most 128 characters"),
        ({"sort": "-"}, "sort must name a column, got ''"),
        ({"where": "blurr > 1"}, "where must name a column"),
        ({"where": f"blur > {'1' * 33}"}, "numbers of at most 32 characters"),
        ({"sort": "random", "seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_understood_is_refused(
    few: Store, query: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(few, **query)


def test_columns_that_order_are_those_of_source_view_set_and_columns_sets(few: Store) -> None:
    names = sortable(few, few.view_sets["simclr"])
    assert {"key", "label", "index", "height", "width", "blur", "flip"} <= set(names)
    assert not {"crop_box", "dhash", "pixel_crc", "seed", "status"} & set(names)
    for name in names:
        assert len(asked(few, sort=f"-{name}").find()) == 20
    assert sortable(few, None) == ["key", "label", "index", "height", "width"]


def test_the_view_that_decided_is_named_and_missing_values_decide_nothing(few: Store) -> None:
    greatest, least = asked(few, sort="-blur"), asked(few, sort="blur")
    values = [None, 0.5, float("nan"), 2.0, 2.0]
    assert (greatest.deciding(values), least.deciding(values)) == (3, 1)
    assert greatest.deciding([None, float("nan")]) is None
    assert greatest.deciding("key") is greatest.deciding(3) is None


def test_a_query_is_cut_off_between_blocks(few: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "BLOCK_ROWS", 4)
    looked: list[int] = []
    asked(few, "flip = 1").find(lambda: looked.append(1))
    assert len(looked) > 20 / 4
    with pytest.raises(UnavailableError, match="this query takes more than -1 s"):
        asked(few, "flip = 1").find(Deadline(-1))
    monkeypatch.setattr(queries, "BLOCK", 4)
    looked.clear()
    asked(few, sort="blur").find(lambda: looked.append(1))
    assert len(looked) > 20 / 4


def test_blocks_change_nothing(few: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = all_rows(few, where="any(blur > 1)", sort="-blur")
    monkeypatch.setattr(matching, "BLOCK_ROWS", 3)
    monkeypatch.setattr(queries, "BLOCK", 3)
    assert all_rows(few, where="any(blur > 1)", sort="-blur") == whole


class CountedKeys:
    """Keys that count how many of them are read."""

    def __init__(self, keys: Any) -> None:  # noqa: ANN401
        self.keys, self.read = keys, 0

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: Any) -> Any:  # noqa: ANN401
        self.read += len(range(len(self.keys))[row]) if isinstance(row, slice) else 1
        return self.keys[row]


def test_no_query_reads_all_keys(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(digits)
    counted = CountedKeys(store.table.keys)
    monkeypatch.setattr(store.keys, "_keys", counted)
    object.__setattr__(store.table, "keys", counted)
    assert all_rows(store, where="key in ['0007', '0070', 'none']") == [7, 70]
    assert all_rows(store, where="key != '0007'") == [row for row in range(80) if row != 7]
    assert all_rows(store, sort="-key") == list(range(80))[::-1]
    assert counted.read < 80


def test_columns_are_kept_in_one_bounded_memory(digits: Path) -> None:
    memory: Kept[Any] = Kept(700, lambda column: column.nbytes)
    first, second = open_store(digits), open_store(digits)
    for store in (first, second):
        store.keep_columns(memory)
    views = first.view_sets["simclr"].params
    assert views["flip"] is second.view_sets["simclr"].params["flip"]  # 320 bytes, read once
    assert views["gray"].nbytes == 320
    assert (len(memory), memory.weight) == (2, 640)
    views["status"]
    assert (len(memory), memory.weight) == (2, 640)  # flip went
    assert views["blur"].nbytes > memory.limit
    assert memory.weight == 640  # too large to be kept, and read all the same
    alone = open_store(digits).view_sets["simclr"].params
    assert np.array_equal(alone["flip"], views["flip"])
    assert not alone.stays("flip")
    assert views.stays("flip")
    assert not views.stays("blur")


def test_a_value_is_made_once_for_threads_that_ask_at_once() -> None:
    made: list[int] = []

    def make() -> int:
        time.sleep(0.01)
        made.append(1)
        return 7

    kept: Kept[int] = Kept(4)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: kept.get("key", make), range(12))) == [7] * 12
    assert made == [1]

    def fail() -> int:
        raise ConfigError("no")

    for _ in range(2):
        with pytest.raises(ConfigError, match="no"):
            kept.get("other", fail)
    assert kept._making == {}


def test_threads_ask_one_store_at_once(digits: Path) -> None:
    """Six threads with a memory that holds two columns find what one thread finds."""
    store = open_store(digits)
    store.keep_columns(Kept(700, lambda column: column.nbytes))
    plain = open_store(digits)
    wheres = (
        "any(flip = 1 and gray = 0)",
        "blur > 1 and label < 5",
        "status = 1",
        "solarize < 256",
    )
    sorts = ("blur", "-flip", "solarize", "-key", "random", "")
    expected = {(w, s): all_rows(plain, where=w, sort=s) for w in wheres for s in sorts}

    def ask(seed: int) -> Iterator[bool]:
        rng = random.Random(seed)
        for _ in range(60):
            where, sort = rng.choice(wheres), rng.choice(sorts)
            yield all_rows(store, where=where, sort=sort) == expected[where, sort]

    with ThreadPoolExecutor(6) as pool:
        answers = [
            each for found in pool.map(lambda seed: list(ask(seed)), range(6)) for each in found
        ]
    assert len(answers) == 360
    assert all(answers)
