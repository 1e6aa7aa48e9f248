"""A sample's pixels and params depend on seed, epoch and row, not on who makes its batch."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from itertools import islice
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.loaders.stores import NUM_DIGITS
from viewstore.loaders import Batch, Cached, Mix, Online, ViewLoader
from viewstore.store.store import Store

VIEWS = [
    Cached("hard", n=2, then="crop", size=10),
    Mix({"digits": 1, "hard": 2}),
    Online("simclr", size=8),
]
WORLDS = st.sampled_from([1, 2, 3, 4, 6, 8, 12])
THREADS = st.integers(0, 5)


def make(store: Store, **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(store, VIEWS, **{"batch_size": 24, "num_threads": 0, **changes})


def digests(batch: Batch) -> list[tuple[int, bool, str]]:
    """Return row, validity, and a digest of pixels and params of each sample."""
    columns = [
        array.numpy()
        for view in batch.views
        for array in (view.pixels, view.view, *(view.params[name] for name in sorted(view.params)))
    ]
    return [
        (
            int(batch.index[place]),
            bool(batch.valid[place]),
            hashlib.sha256(b"".join(column[place].tobytes() for column in columns)).hexdigest(),
        )
        for place in range(len(batch))
    ]


def part_of_epoch(
    loader: ViewLoader, state: dict[str, Any], stop: int | None
) -> tuple[list[Any], Any]:
    """Return the digests of at most `stop` batches from a state on, and the state after them."""
    loader.load_state_dict(state)
    found = [digests(batch) for batch in islice(loader, stop)]
    return found, json.loads(json.dumps(loader.state_dict()))


@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.data())
def test_threads_worlds_and_resumes_change_no_bit(digits: Store, data: st.DataObject) -> None:
    """Stopped twice in an epoch, and made by other ranks and threads each time."""
    same = {
        "shuffle": data.draw(st.sampled_from(["global", "block:2", "none"])),
        "tail": data.draw(st.sampled_from(["drop", "pad", "keep"])),
        "batch_size": data.draw(st.integers(1, NUM_DIGITS)),
        "seed": data.draw(st.integers(0, 2**53 - 1)),
        "verify": data.draw(st.sampled_from(["first", "off"])),
    }
    with closing(make(digits, **same)) as loader:
        epoch = data.draw(st.integers(0, 50))
        loader.seek(epoch, data.draw(st.integers(0, len(loader) - 1)))
        state = loader.state_dict()
        whole = [digests(batch) for batch in loader]
    found: list[Any] = []
    for last in (False, False, True):
        world = data.draw(WORLDS)
        stop = None if last else data.draw(st.integers(0, max(0, len(whole) - len(found) - 1)))
        ranks = []
        for rank in range(world):
            how = {
                "num_threads": data.draw(THREADS) if rank == 0 else 0,
                "prefetch": data.draw(st.integers(1, 4)),
                "resident": data.draw(st.booleans()),
            }
            settings = {**same, **how, "rank": rank, "world_size": world, "uneven": True}
            with closing(make(digits, **settings)) as loader:
                part, after = part_of_epoch(loader, state, stop)
            ranks.append(part)
        assert len({len(part) for part in ranks}) == 1
        found += [[each for part in step for each in part] for step in zip(*ranks, strict=True)]
        state = after
    assert found == whole


@settings(max_examples=8, deadline=None)
@given(st.integers(1, NUM_DIGITS), st.integers(1, NUM_DIGITS), st.integers(0, 20), THREADS)
def test_the_cut_of_the_batches_changes_no_sample(
    digits: Store, one: int, other: int, epoch: int, threads: int
) -> None:
    """And where a sample stands does not either: the rows come in the same order."""
    orders = []
    for size, count in ((one, 0), (other, threads)):
        with closing(make(digits, batch_size=size, num_threads=count, tail="keep")) as loader:
            loader.seek(epoch)
            orders.append([each for batch in loader for each in digests(batch)])
    assert orders[0] == orders[1]
    assert sorted(row for row, _, _ in orders[0]) == list(range(NUM_DIGITS))


def test_a_rank_without_samples_has_an_empty_batch_of_views_in_memory(digits: Store) -> None:
    how = {"batch_size": 69, "tail": "keep", "rank": 1, "world_size": 2, "uneven": True}
    with closing(make(digits, resident=True, **how)) as loader:
        assert [len(batch) for batch in loader] == [34, 0]
