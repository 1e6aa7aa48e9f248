"""The datasets for torch: the same batches as a ViewLoader, from any number of workers."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.loaders.stores import SHARD_ROWS, digits_store
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.loaders import ViewDataset, ViewIterableDataset, ViewLoader, keep_batch, tuple_of
from viewstore.loaders.settings import LoaderArguments, LoaderSettings
from viewstore.store.store import Store

VIEWS = "hard,online:digits"
SETTINGS: dict[str, Any] = {"batch_size": 12, "seed": 3}
STEPS = 5


def digest(batch: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return (
        batch.epoch,
        batch.step,
        tuple(batch.index.tolist()),
        *(view.pixels.numpy().tobytes() for view in batch.views),
        json.dumps(batch.state),
    )


def digests(batches: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [digest(batch) for batch in batches]


@pytest.fixture(scope="module")
def expected(digits: Store) -> list[tuple[Any, ...]]:
    """The batches of three epochs of a ViewLoader."""
    loader = ViewLoader(digits, VIEWS, num_threads=0, **SETTINGS)
    return [digest(batch) for _ in range(3) for batch in loader]


def iterable(store: Store, **changes: Any) -> ViewIterableDataset:  # noqa: ANN401
    return ViewIterableDataset(store, VIEWS, **{**SETTINGS, **changes})


def mapped(store: Store, workers: int, **changes: Any) -> DataLoader[Any]:  # noqa: ANN401
    dataset = ViewDataset(store, VIEWS, **SETTINGS)
    return DataLoader(
        dataset,
        batch_sampler=dataset.batches(),
        collate_fn=keep_batch,
        num_workers=workers,
        **changes,
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_iterable_dataset_gives_the_batches_of_the_loader(
    digits: Store, expected: list[Any], workers: int
) -> None:
    """Three epochs, of new workers each time: their order and their epochs do not restart."""
    loader: DataLoader[Any] = DataLoader(iterable(digits), batch_size=None, num_workers=workers)
    assert len(loader) == STEPS
    assert [digest(b) for _ in range(3) for b in loader] == expected


@pytest.mark.parametrize("seeded", [False, True])
def test_another_number_of_workers_goes_on_with_the_next_epoch(
    digits: Store, expected: list[Any], seeded: bool
) -> None:
    """Also where torch is seeded alike before each loop, which gives workers equal seeds."""
    dataset = iterable(digits)
    found = []
    for workers in (1, 2, 0):
        if seeded:
            torch.manual_seed(0)
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=workers)
        found += digests(loader)
    assert found == expected


def test_a_dataset_that_is_moved_back_forgets_what_more_workers_showed(
    digits: Store, expected: list[Any]
) -> None:
    dataset = iterable(digits)
    dataset.set_epoch(7)
    digests(DataLoader(dataset, batch_size=None, num_workers=2))
    dataset.set_epoch(1)
    found = digests(DataLoader(dataset, batch_size=None, num_workers=1))
    assert found == expected[STEPS : 2 * STEPS]
    assert digests(dataset) == expected[2 * STEPS :]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 calls it
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kind", ["iterable", "map"])
def test_a_state_after_an_epoch_resumes_with_the_next_one(
    digits: Store, expected: list[Any], kind: str, workers: int
) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make() -> Any:  # noqa: ANN401
        if kind == "iterable":
            return stateful(iterable(digits), batch_size=None, num_workers=workers)
        dataset = ViewDataset(digits, VIEWS, **SETTINGS)
        keys, collate = dataset.batches(), keep_batch
        return stateful(dataset, batch_sampler=keys, collate_fn=collate, num_workers=workers)

    loader = make()
    assert digests(loader) == expected[:STEPS]
    state = loader.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    assert digests(resumed) + digests(resumed) == expected[STEPS:]


@pytest.mark.parametrize("kind", ["iterable", "map"])
def test_persistent_workers_see_the_epoch(digits: Store, expected: list[Any], kind: str) -> None:
    loader: DataLoader[Any] = (
        mapped(digits, 2, persistent_workers=True)
        if kind == "map"
        else DataLoader(iterable(digits), batch_size=None, num_workers=2, persistent_workers=True)
    )
    assert [digest(b) for _ in range(3) for b in loader] == expected
    del loader


@pytest.mark.parametrize("kind", ["iterable", "map"])
def test_spawned_workers_give_the_same_batches(
    digits: Store, expected: list[Any], kind: str
) -> None:
    """Nothing that is not picklable travels; the worker opens the store itself."""
    changes: dict[str, Any] = {"multiprocessing_context": "spawn"}
    loader: DataLoader[Any] = (
        mapped(digits, 1, **changes)
        if kind == "map"
        else DataLoader(iterable(digits), batch_size=None, num_workers=1, **changes)
    )
    assert digests(loader) == expected[:STEPS]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_map_style_dataset_gives_the_batches_of_the_loader(
    digits: Store, expected: list[Any], workers: int
) -> None:
    loader = mapped(digits, workers)
    assert len(loader) == STEPS
    assert [digest(b) for _ in range(3) for b in loader] == expected


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("stop", [1, 4, 5, 7])
def test_the_state_of_the_last_batch_resumes_with_any_workers(
    digits: Store, expected: list[Any], workers: int, stop: int
) -> None:
    """Prefetched batches do not count: the state comes with the batch that arrived."""
    loader: DataLoader[Any] = DataLoader(
        iterable(digits), batch_size=None, num_workers=min(2, 3 - workers)
    )
    seen = (batch for _ in range(3) for batch in loader)
    state = next(batch for number, batch in enumerate(seen, 1) if number == stop).state
    resumed = iterable(digits)
    resumed.load_state_dict(state)
    rest: DataLoader[Any] = DataLoader(resumed, batch_size=None, num_workers=workers)
    found = digests(rest) + digests(rest)
    assert found == expected[stop : stop + len(found)]
    assert len(found) == 2 * STEPS - stop % STEPS


def test_leaving_an_epoch_early_begins_the_next_one_on_every_worker(
    digits: Store, expected: list[Any]
) -> None:
    """Workers are ahead of the consumer by different amounts: where they stand must not matter."""
    for loader in (
        DataLoader(iterable(digits), batch_size=None, num_workers=2),
        DataLoader(iterable(digits), batch_size=None),
        mapped(digits, 2),
    ):
        for batch in loader:
            assert digest(batch) == expected[0]
            break
        assert digests(loader) == expected[STEPS : 2 * STEPS]


def test_set_epoch_reaches_workers(digits: Store, expected: list[Any]) -> None:
    dataset = iterable(digits)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=None, num_workers=2, persistent_workers=True
    )
    for epoch in (2, 0, 1):
        dataset.set_epoch(epoch)
        assert digests(loader) == expected[epoch * STEPS : (epoch + 1) * STEPS]
    other = ViewDataset(digits, VIEWS, **SETTINGS)
    batches = other.batches()
    for epoch in (2, 0, 1):
        batches.set_epoch(epoch)
        found = [digest(other[place]) for place in batches]
        assert found == expected[epoch * STEPS : (epoch + 1) * STEPS]


def test_setting_the_epoch_after_a_resume_keeps_the_place(
    digits: Store, expected: list[Any]
) -> None:
    """Trainers call set_epoch before every epoch, the resumed one included."""
    state = ViewLoader(digits, VIEWS, num_threads=0, **SETTINGS).state_dict()
    for resumed in (iterable(digits), ViewDataset(digits, VIEWS, **SETTINGS).batches()):
        resumed.load_state_dict({**state, "epoch": 1, "step": 2})
        resumed.set_epoch(1)
        assert resumed.state_dict() == {**state, "epoch": 1, "step": 2}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 calls it
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kind", ["iterable", "map"])
def test_a_stateful_data_loader_resumes_at_every_step(
    digits: Store, expected: list[Any], kind: str, workers: int
) -> None:
    """The peer as oracle: torchdata keeps count of what was handed over."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make() -> Any:  # noqa: ANN401
        if kind == "map":
            dataset = ViewDataset(digits, VIEWS, **SETTINGS)
            return stateful(
                dataset,
                batch_sampler=dataset.batches(),
                collate_fn=keep_batch,
                num_workers=workers,
            )
        return stateful(iterable(digits), batch_size=None, num_workers=workers)

    loader, states = make(), []
    for number, batch in enumerate(loader, 1):
        assert digest(batch) == expected[number - 1]
        states.append(
            json.loads(json.dumps(loader.state_dict())) if workers < 2 or number % 2 else None
        )
    for number, state in enumerate(states, 1):
        if state is None:
            continue
        resumed = make()
        resumed.load_state_dict(state)
        found = digests(resumed)
        if number == STEPS and not found:  # the end of an epoch is an empty rest
            found = digests(resumed)
            assert found == expected[STEPS : 2 * STEPS]
        else:
            assert found + digests(resumed) == expected[number : number + len(found) + STEPS]


def test_a_dataset_does_not_pretend_to_know_what_arrived(digits: Store) -> None:
    dataset = iterable(digits)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=2)
    next(iter(loader))
    with pytest.raises(ConfigError, match="made in worker processes: their dataset does not know"):
        dataset.state_dict()


def test_worker_states_are_of_one_number_of_workers(digits: Store) -> None:
    turns = iter(iterable(digits))
    next(turns)
    state = turns.state_dict()
    assert (state["step"], state["stride"]) == (1, 1)
    with pytest.raises(ConfigError, match="of another number of workers, this is one of 1"):
        iter(iterable(digits)).load_state_dict({**state, "stride": 2})


def test_ranks_of_datasets_together_read_the_global_batches(
    digits: Store, expected: list[Any]
) -> None:
    ranks = [list(iterable(digits, rank=rank, world_size=3)) for rank in range(3)]
    joined = [
        tuple(torch.cat([b.index for b in step]).tolist()) for step in zip(*ranks, strict=True)
    ]
    assert joined == [each[2] for each in expected[:STEPS]]


def test_the_rank_is_found_where_the_dataset_is_made(
    digits: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker processes of torch.distributed jobs do not know their rank."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    dataset = iterable(digits)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert [len(batch) for batch in loader] == [4] * STEPS


def test_workers_find_the_store_that_the_dataset_was_made_of(copy: Store) -> None:
    """Another view set changes nothing; other bytes of those that are shown are refused."""
    dataset = iterable(copy)
    first = digests(dataset)
    travelled = pickle.dumps(iterable(copy))
    settings = {"height": 4, "width": 4, "views": 1}
    more = {"out": copy.root, "view_set": "more", "settings": settings, "workers": 1}
    build(BuildRequest(generator="simclr", **more))
    assert digests(pickle.loads(travelled)) == first
    shutil.rmtree(copy.root)
    digits_store(copy.root, seed=6)
    with pytest.raises(ConfigError, match="digits was changed while it was read"):
        next(iter(pickle.loads(travelled)))


def test_a_rank_that_is_known_too_late_is_an_error(digits: Store) -> None:
    """Loaders made before init_process_group would all read the same rows."""
    early = iterable(digits)
    given = iterable(digits, rank=1, world_size=3)
    loader = ViewLoader(digits, VIEWS, num_threads=0, **SETTINGS)
    begun = iter(loader)
    next(begun)
    with process_group(rank=0, world_size=1):
        assert digests(early) == digests(ViewLoader(digits, VIEWS, num_threads=0, **SETTINGS))
    with process_group(rank=1, world_size=3):
        for use in (
            lambda: iter(loader),
            lambda: next(begun),
            lambda: loader.batch(0, 0),
            lambda: next(iter(early)),
            lambda: pickle.dumps(early),  # for a worker process that is spawned
            lambda: next(iter(DataLoader(early, batch_size=None, num_workers=1))),
        ):
            with pytest.raises(ConfigError, match=r"torch\.distributed has rank 1 of 3"):
                use()
        late = iterable(digits)
        assert [b.index.tolist() for b in late] == [b.index.tolist() for b in given]


@contextmanager
def process_group(*, rank: int, world_size: int) -> Iterator[None]:
    """Set torch.distributed up as one of some ranks, of which the others never come."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=rank, world_size=world_size
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def test_rows_or_another_ranks_places_are_refused(digits: Store) -> None:
    dataset = ViewDataset(digits, VIEWS, **SETTINGS)
    with pytest.raises(ConfigError, match="must be asked by its own batch sampler, got 3"):
        dataset[3]  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"step 1 of this rank has range\(12, 24\)"):
        dataset[(0, 1, range(12, 18))]


def test_batches_become_the_tuples_that_others_expect(digits: Store) -> None:
    batch = next(iter(iterable(digits)))
    for form in (True, "solo-learn"):
        index, pixels, label = next(iter(iterable(digits, as_tuple=form)))
        assert index.equal(batch.index)
        assert label.equal(batch.label)
        assert [p.equal(v.pixels) for p, v in zip(pixels, batch.views, strict=True)] == [True, True]
    pixels, label, index = tuple_of(batch, "lightly")
    assert len(pixels) == 2
    assert label.equal(batch.label)
    assert index.equal(batch.index)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"as_tuple": "timm"}, "as_tuple must be True, False, 'solo-learn' or 'lightly'"),
        ({"device": "cuda"}, "hand batches over in memory of the CPU"),
        ({"pin": True}, "hand batches over in memory of the CPU"),
        ({"batch_size": 71}, "batch_size must be at most the 70 rows"),
        ({"rank": 1}, "rank and world_size must be given together"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(
    digits: Store, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        iterable(digits, **changes)


def test_a_state_of_another_seed_or_batch_size_is_refused(digits: Store) -> None:
    for changes, message in (({"seed": 4}, "another seed"), ({"batch_size": 6}, "another batch")):
        state = iterable(digits, **changes).state_dict()
        with pytest.raises(ConfigError, match=message):
            iterable(digits).load_state_dict(state)
        with pytest.raises(ConfigError, match=message):
            ViewDataset(digits, VIEWS, **SETTINGS).batches().load_state_dict(state)


def test_settings_of_the_adapters_are_those_of_the_loader() -> None:
    """Type checkers read LoaderArguments, help() the signature: both are LoaderSettings."""
    settings = dict(LoaderSettings.__annotations__)
    known = {name: each.__forward_arg__ for name, each in LoaderArguments.__annotations__.items()}
    assert known == {**settings, "batch_size": "Required[int]"}
    shown = inspect.signature(ViewLoader).parameters
    assert list(shown) == ["store", "views", *settings]
    assert shown["prefetch"].default == 3
    assert shown["batch_size"].default is inspect.Parameter.empty


def test_block_shuffle_and_filters_work_in_workers(digits: Store) -> None:
    settings: dict[str, Any] = {
        "batch_size": 4,
        "shuffle": "block:2",
        "where": f"hard.flip = 1 and index < {3 * SHARD_ROWS}",
        "tail": "keep",
    }
    alone = digests(ViewLoader(digits, VIEWS, num_threads=0, **settings))
    dataset = ViewIterableDataset(digits, VIEWS, **settings)
    assert digests(DataLoader(dataset, batch_size=None, num_workers=2)) == alone
