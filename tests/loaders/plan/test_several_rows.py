"""Several stores in one loader: how much of each an epoch has, and that nothing is mixed up."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loaders.stores import NUM_DIGITS, as_array, digits_store
from viewstore.errors import ConfigError
from viewstore.loaders import Cached, Mix, Online, ViewLoader
from viewstore.loaders.plan.order import Order, Permutation
from viewstore.loaders.plan.rows import STORE_STREAM, SeveralRows, store_seed
from viewstore.store.store import Store

RATES = [1.0, 0.5]
FROZEN = [13, 4, 1, 8, 0, 2, 5, 9, 3, 11]


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """30 digits with the same view sets as `digits`, seeded otherwise."""
    return digits_store(tmp_path_factory.mktemp("several") / "others", limit=30, seed=9)


def make(stores: Any, views: Any = "hard,simclr", **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(stores, views, **{"batch_size": 17, "num_threads": 0, **changes})


def several(counts: list[int], rates: list[float], *, seed: int = 0) -> SeveralRows:
    sizes = [int(rate * count) for rate, count in zip(rates, counts, strict=True)]
    order = Order(shuffle="global", num_rows=sum(sizes), seed=seed, shard_rows=64)
    return SeveralRows(order, tuple(rates), (None,) * len(counts), tuple(counts))


def turns_and_rows(of: SeveralRows, epoch: int) -> tuple[Any, Any]:
    positions = np.arange(of.order.num_rows)
    return np.divmod(of.rows(positions, epoch), sum(of.counts))


def test_an_element_is_the_row_that_the_formula_names() -> None:
    """Element j of store i in epoch e: perm((e m + j) mod N; N, seed, (e m + j) // N, 2^40 + i)."""
    of, counts, sizes = several([10, 7], [0.7, 1.5], seed=4), [10, 7], [7, 10]
    for epoch in range(6):
        elements = Permutation(17, 4, epoch)(np.arange(17)).tolist()
        expected = []
        for element in elements:
            store = int(element >= 7)
            passed = epoch * sizes[store] + element - 7 * store
            turn, place = divmod(passed, counts[store])
            row = Permutation(counts[store], 4, turn, STORE_STREAM + store)(np.array([place]))
            expected.append((turn, int(row[0]) + 10 * store))
        turns, rows = turns_and_rows(of, epoch)
        assert list(zip(turns.tolist(), rows.tolist(), strict=True)) == expected


def test_the_order_of_several_stores_is_frozen() -> None:
    _, rows = turns_and_rows(several([6, 8], [1.0, 0.5]), 0)
    assert rows.tolist() == FROZEN


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.05, 3.0)), min_size=1, max_size=4),
    st.integers(0, 2**53 - 1),
)
def test_rows_are_taken_without_replacement_over_epochs(
    stores: list[tuple[int, float]], seed: int
) -> None:
    """However an epoch cuts them, a turn of a store has each of its rows exactly once."""
    stores = [(count, rate) for count, rate in stores if int(rate * count)]
    if not stores:
        return
    counts, rates = [list(column) for column in zip(*stores, strict=True)]
    of = several(counts, rates, seed=seed)  # type: ignore[arg-type]
    used: Counter[tuple[int, int]] = Counter()
    epochs = 7
    for epoch in range(epochs):
        turns, rows = turns_and_rows(of, epoch)
        used.update(zip(turns.tolist(), rows.tolist(), strict=True))
    assert set(used.values()) == {1}
    first = 0
    for count, size in zip(counts, of.per_epoch, strict=True):
        uses = Counter(row for _, row in used)
        mine = [uses[row] for row in range(first, first + count)]
        assert sum(mine) == epochs * size
        assert max(mine) - min(mine) <= 1
        first += count


def test_batches_hold_the_rows_of_their_store(digits: Store, others: Store) -> None:
    stores = [digits, others]
    views = [Cached("hard"), Online("digits"), Mix({"digits": 1, "hard": 1})]
    loader = make(stores, views, rates=RATES)
    assert len(loader) == (NUM_DIGITS + 15) // 17
    seen = []
    for batch in loader:
        numbers, rows = loader.store_rows(batch.index)
        for place, (number, row) in enumerate(zip(numbers.tolist(), rows.tolist(), strict=True)):
            stored = stores[number].view_sets["hard"]
            view = int(batch.views[0].view[place])
            assert np.array_equal(as_array(batch.views[0].pixels)[place], stored[row][view])
            box = stored.params["crop_box"][row, view]
            assert np.array_equal(batch.views[0].params["crop_box"][place], box)
            assert int(batch.label[place]) == stores[number].labels[row]
        seen += batch.index.tolist()
        assert len(batch) == 17
    assert len(set(seen)) == len(seen) == 85
    assert sum(row >= NUM_DIGITS for row in seen) == 15


def test_one_store_of_rate_one_is_gone_through_once_an_epoch(digits: Store) -> None:
    loader = make([digits], batch_size=10)
    for epoch in range(2):
        rows = [row for batch in loader for row in batch.index.tolist()]
        assert sorted(rows) == list(range(NUM_DIGITS)), epoch


def test_cached_views_are_used_evenly_over_the_turns_of_their_store(
    digits: Store, others: Store
) -> None:
    """At rate .5 a row of `others` comes every second epoch: four views take eight epochs."""
    loader = make([digits, others], "hard", rates=RATES, tail="keep")
    used = np.zeros((NUM_DIGITS + 30, 4), int)
    for epoch in range(8):
        for batch in loader:
            used[batch.index, batch.views[0].view] += 1
        if epoch == 3:
            assert (used[:NUM_DIGITS] == 1).all()
    assert (used[NUM_DIGITS:] == 1).all()


def test_a_row_that_comes_twice_in_an_epoch_looks_different(digits: Store, others: Store) -> None:
    loader = make([digits, others], "online:digits", rates=[0.1, 3.0], batch_size=97)
    (batch,) = loader
    boxes: dict[int, set[bytes]] = {}
    for place, row in enumerate(batch.index.tolist()):
        box = batch.views[0].params["crop_box"][place].numpy().tobytes()
        boxes.setdefault(row, set()).add(box)
    assert {len(found) for row, found in boxes.items() if row >= NUM_DIGITS} == {3}


def test_colours_made_by_the_device_are_those_made_by_the_threads(
    digits: Store, others: Store
) -> None:
    batches = [
        list(make([digits, others], rates=RATES, photometric=where, device="cpu"))
        for where in ("cpu", "device")
    ]
    for here, there in zip(*batches, strict=True):
        assert not there.views[1].colourless
        assert torch.equal(here.views[1].pixels, there.views[1].pixels)


def test_rows_of_one_number_in_two_stores_are_drawn_apart(digits: Store, others: Store) -> None:
    (batch,) = make([digits, others], "online:digits", batch_size=100)
    boxes = {
        int(row): batch.views[0].params["crop_box"][place] for place, row in enumerate(batch.index)
    }
    assert not any(boxes[row].equal(boxes[NUM_DIGITS + row]) for row in range(30))
    assert store_seed(7, 0) == 7
    assert len({store_seed(s, n) for s in range(9) for n in range(9)}) == 81


@pytest.mark.parametrize("world", [1, 3, 4])
def test_any_world_and_any_resume_gives_the_same_batches(
    digits: Store, others: Store, world: int
) -> None:
    settings: dict[str, Any] = {"rates": RATES, "batch_size": 12, "tail": "pad"}
    whole = [pixels_of(b) for b in walk(make([digits, others], **settings), 2)]
    for stop in (0, 5, 8, 11):
        first = make([digits, others], **settings)
        state = first.state_dict()
        for _, batch in zip(range(stop), walk(first, 2), strict=False):
            state = batch.state
        ranks = []
        for rank in range(world):
            part = make([digits, others], **settings, rank=rank, world_size=world, num_threads=rank)
            with part:
                part.load_state_dict(state)
                ranks.append([pixels_of(b) for b in walk(part, 2 - part.epoch)])
        joined = [[s for rank in step for s in rank] for step in zip(*ranks, strict=True)]
        assert joined == whole[stop:], stop


def walk(loader: ViewLoader, epochs: int) -> Any:  # noqa: ANN401
    for _ in range(epochs):
        yield from loader


def pixels_of(batch: Any) -> list[tuple[int, bytes]]:  # noqa: ANN401
    return [
        (int(row), b"".join(view.pixels[place].numpy().tobytes() for view in batch.views))
        for place, row in enumerate(batch.index)
    ]


def test_a_state_of_other_stores_or_rates_is_refused(digits: Store, others: Store) -> None:
    state = make([digits, others], rates=RATES).state_dict()
    make([digits, others], rates=RATES).load_state_dict(state)
    with pytest.raises(ConfigError, match="has another store"):
        make([others, digits], rates=RATES).load_state_dict(state)
    with pytest.raises(ConfigError, match="has another row filter or rates"):
        make([digits, others], rates=[1.0, 0.6]).load_state_dict(state)
    with pytest.raises(ConfigError, match="has another store"):
        make(digits).load_state_dict(state)


def test_filters_go_by_store(digits: Store, others: Store) -> None:
    loader = make([digits, others], "hard", where="label < 4", tail="keep", rows=[None, range(20)])
    kept = np.flatnonzero(digits.labels < 4).tolist()
    kept += [NUM_DIGITS + row for row in np.flatnonzero(others.labels[:20] < 4).tolist()]
    assert sorted(row for batch in loader for row in batch.index.tolist()) == kept


def test_no_shuffle_goes_through_the_stores_one_after_the_other(
    digits: Store, others: Store
) -> None:
    loader = make([digits, others], "hard", rates=RATES, shuffle="none", tail="keep")
    epochs = [[row for batch in loader for row in batch.index.tolist()] for _ in range(2)]
    assert epochs[0] == list(range(NUM_DIGITS + 15))
    assert epochs[1] == [*range(NUM_DIGITS), *range(NUM_DIGITS + 15, NUM_DIGITS + 30)]


def test_a_rank_without_samples_gets_an_empty_batch(digits: Store, others: Store) -> None:
    last = list(make([digits, others], tail="keep", batch_size=99, rank=98, world_size=99))[-1]
    assert len(last) == 0
    assert last.views[0].pixels.shape == (0, 3, 12, 12)
    assert last.weight == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": [1.0]}, "rates must be one for each of 2 stores, got 1"),
        ({"rates": [1.0, 0.0]}, "rates must be above 0, got 0.0"),
        ({"rates": [1.0, 0.01]}, "rate 0.01 leaves none of the 30 rows"),
        ({"shuffle": "block:2"}, "several stores must be shuffled global or none, got 'block:2'"),
        ({"rows": [None]}, "rows must be one for each of 2 stores, got 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    digits: Store, others: Store, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make([digits, others], **changes)


def test_one_store_has_no_rates_and_no_store_is_refused(digits: Store) -> None:
    with pytest.raises(ConfigError, match=r"rates are for several stores, got \[0.5\] for one"):
        make(digits, rates=[0.5])
    with pytest.raises(ConfigError, match="there must be at least one store"):
        make([])


def test_stores_of_views_of_several_sizes_are_refused(digits: Store, photos: Store) -> None:
    with pytest.raises(ConfigError, match="stores must show views of the same sizes"):
        make([digits, photos], "simclr")
