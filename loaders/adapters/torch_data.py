"""The loader as datasets of torch, for loops and trainers that want a DataLoader.

Each batch is made in one worker process. Where the threads of a ViewLoader can be used, they are
faster: nothing is copied between processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from viewstore.errors import ConfigError
from viewstore.loaders.adapters.recipe import Recipe
from viewstore.loaders.batches.batch import Batch
from viewstore.loaders.plan.asked import Views
from viewstore.loaders.settings import LoaderArguments, LoaderSettings
from viewstore.store.store import Store

MAX_WORKERS = 1024
TupleForm = bool | Literal["solo-learn", "lightly"]
BatchKey = tuple[int, int, range]  # epoch, step, positions


def tuple_of(batch: Batch, form: TupleForm = True) -> tuple[Any, ...]:
    """Return a batch as a tuple in the form that other packages expect.

    True and "solo-learn": (index, [pixels of each slot], label); "lightly": ([pixels], label,
    index). Pixels stay uint8.
    """
    pixels = [view.pixels for view in batch.views]
    if form == "lightly":
        return pixels, batch.label, batch.index
    return batch.index, pixels, batch.label


def keep_batch(batch: Any) -> Any:  # noqa: ANN401
    """Return a batch as it is: the collate_fn of a DataLoader whose samples are batches."""
    return batch


class _BatchSource:
    """What the datasets share: a loader in each process, which makes batches in its main thread."""

    def __init__(
        self,
        store: Store | Sequence[Store],
        views: str | Views,
        as_tuple: TupleForm,
        arguments: LoaderArguments,
    ) -> None:
        if as_tuple not in (True, False, "solo-learn", "lightly"):
            raise ConfigError(
                f"as_tuple must be True, False, 'solo-learn' or 'lightly', got {as_tuple!r}"
            )
        settings = LoaderSettings(**arguments)
        if torch.device(settings.device or "cpu").type != "cpu" or settings.pin:
            raise ConfigError(
                "datasets hand batches over in memory of the CPU that is not pinned; "
                "move them with batch.to(device) in the training process"
            )
        self._as_tuple = as_tuple
        self._recipe = Recipe(store, views, replace(settings, num_threads=0))
        self._recipe.loader  # noqa: B018  # wrong settings are refused here, not in a worker

    def make(self, epoch: int, step: int) -> Any:  # noqa: ANN401
        batch = self._recipe.loader.batch(epoch, step)
        return tuple_of(batch, self._as_tuple) if self._as_tuple else batch

    def state(self, epoch: int, step: int) -> dict[str, Any]:
        loader = self._recipe.loader
        loader.seek(epoch, step)
        return loader.state_dict()

    def step_of(self, state: dict[str, Any]) -> tuple[int, int]:
        """Return epoch and step of a state. Raises ConfigError: it is of another order or seed."""
        loader = self._recipe.loader
        seed = loader.state_dict()["seed"]
        if state.get("seed") != seed:
            raise ConfigError(
                f"loader state has another seed: it was saved with {state.get('seed')!r}, this "
                f"dataset has {seed}",
                fix="make the dataset with the seed of the saved run",
            )
        loader.load_state_dict(state)
        return loader.epoch, loader.step

    @property
    def steps(self) -> int:
        return len(self._recipe.loader)

    def positions(self, step: int) -> range:
        return self._recipe.loader.positions(step)


class ViewDataset(Dataset[Any]):
    """A map-style dataset whose items are batches, indexed by its own batch sampler.

    DataLoader(dataset, batch_sampler=dataset.batches(), collate_fn=keep_batch, num_workers=4)
    """

    def __init__(
        self,
        store: Store | Sequence[Store],
        views: str | Views,
        *,
        as_tuple: TupleForm = False,
        **settings: Unpack[LoaderArguments],
    ) -> None:
        """Take the arguments of ViewLoader, and whether batches become tuples (`tuple_of`)."""
        self._batches = _BatchSource(store, views, as_tuple, settings)

    def __len__(self) -> int:
        """Return the batches of an epoch, the same on every rank."""
        return self._batches.steps

    def batches(self) -> ViewBatches:
        """Return the batch sampler, which yields the keys of batches and has the state of a run."""
        return ViewBatches(self._batches)

    def __getitem__(self, key: BatchKey) -> Any:  # noqa: ANN401
        """Return the batch of (epoch, step, positions).

        Raises:
            ConfigError: The key is not one that the dataset's own batch sampler yields.
        """
        if not isinstance(key, tuple) or len(key) != 3:
            raise ConfigError(
                f"ViewDataset must be asked by its own batch sampler, got {key!r}",
                why="a row alone does not say its epoch, which decides its views",
                fix="DataLoader(dataset, batch_sampler=dataset.batches(), collate_fn=keep_batch)",
            )
        epoch, step, positions = key
        if positions != self._batches.positions(step):
            raise ConfigError(
                f"step {step} of this rank has {self._batches.positions(step)}, its sampler "
                f"asked for {positions}",
                why="the sampler was made for another rank, or wrapped to be cut again",
                fix="pass use_distributed_sampler=False, or do not let the trainer wrap it",
            )
        return self._batches.make(epoch, step)

    __getitems__ = __getitem__


class ViewBatches(Sampler[BatchKey]):
    """The keys (epoch, step, positions) of the batches of an epoch; each iter() begins the next.

    A DataLoader runs ahead of what it delivers: to resume, take batch.state, or let a
    StatefulDataLoader keep count.
    """

    def __init__(self, batches: _BatchSource) -> None:
        self._batches = batches
        self._next = (0, 0)
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self._batches.steps

    def __iter__(self) -> Iterator[BatchKey]:
        epoch, first = self._next
        self._next = (epoch + 1, 0)
        for step in range(first, self._batches.steps):
            self._resume = (epoch, step + 1)
            yield epoch, step, self._batches.positions(step)
        self._resume = None

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` at the next iter(); a step within it is kept, so that a resume holds."""
        if epoch != self._next[0]:
            self._next, self._resume = (epoch, 0), None

    def state_dict(self) -> dict[str, Any]:
        """Return what resumes after the last key that was yielded."""
        return self._batches.state(*(self._resume or self._next))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin there at the next iter(). Raises ConfigError: the state is of something else."""
        self._next, self._resume = self._batches.step_of(state), None


class ViewIterableDataset(IterableDataset[Any]):
    """An iterable dataset of batches, for DataLoader(dataset, batch_size=None, num_workers=4).

    Each worker makes whole batches in turn, so the batches come in the order of the ViewLoader
    whatever the number of workers. Each iter() is an epoch. To resume with any number of workers,
    give the state of the last batch to load_state_dict of a new dataset; a StatefulDataLoader
    counts itself.
    """

    def __init__(
        self,
        store: Store | Sequence[Store],
        views: str | Views,
        *,
        as_tuple: TupleForm = False,
        **settings: Unpack[LoaderArguments],
    ) -> None:
        """Take the arguments of ViewLoader, and whether batches become tuples (`tuple_of`)."""
        self._batches = _BatchSource(store, views, as_tuple, settings)
        # Epoch and step at which each worker begins its next epoch, and whether it began one:
        # in memory that the workers share, so that new ones go on where old ones ended.
        self._next = torch.zeros((MAX_WORKERS, 3), dtype=torch.int64)
        self._next.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Return the batches of an epoch, the same on every rank."""
        return self._batches.steps

    def __iter__(self) -> WorkerBatches:
        return WorkerBatches(self._batches, self._next)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` at the next iter(); a step within it is kept, so that a resume holds."""
        if epoch != _epoch_and_step(self._next[0])[0]:
            self._move((epoch, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return what begins at the next iter().

        Raises:
            ConfigError: Worker processes make the batches; this process does not know how many
                of them arrived.
        """
        if get_worker_info() is None and self._next[1:, 2].any():
            raise ConfigError(
                "batches are made in worker processes: their dataset does not know which arrived",
                fix="take batch.state of the last batch, or use StatefulDataLoader of torchdata",
            )
        return self._batches.state(*_epoch_and_step(self._next[_worker()[0]]))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin there at the next iter(). Raises ConfigError: the state is of something else."""
        self._move(self._batches.step_of(state))

    def _move(self, step: tuple[int, int]) -> None:
        values = torch.tensor([*step, 0])
        if get_worker_info() is None:
            self._next[:] = values
        else:  # the other workers move themselves
            self._next[_worker()[0]] = values


class WorkerBatches:
    """The batches of an epoch that this worker makes: each `stride`-th, from its number on."""

    def __init__(self, batches: _BatchSource, shared: Tensor) -> None:
        self._batches = batches
        worker, self._stride = _worker()
        self._mine = shared[worker]
        self._begin(*_epoch_and_step(self._mine), worker)

    def _begin(self, epoch: int, step: int, ahead: int) -> None:
        self._epoch, self._step = epoch, step + ahead
        self._mine[:] = torch.tensor([epoch + 1, 0, 1])

    def __iter__(self) -> WorkerBatches:
        return self

    def __next__(self) -> Any:  # noqa: ANN401
        if self._step >= self._batches.steps:
            raise StopIteration
        batch = self._batches.make(self._epoch, self._step)
        self._step += self._stride
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what this worker resumes from, valid with the same number of workers only."""
        state = self._batches.state(self._epoch, 0)
        return {**state, "step": self._step, "stride": self._stride}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises ConfigError: it is of something else, or of other workers."""
        begin = {**state, "step": 0}
        if begin.pop("stride", None) != self._stride:
            raise ConfigError(
                f"worker state is of another number of workers, this is one of {self._stride}",
                fix="resume with as many workers, or from batch.state with any number",
            )
        epoch, _ = self._batches.step_of(begin)
        self._begin(epoch, int(state["step"]), 0)


def _worker() -> tuple[int, int]:
    """Return the number of this worker process and how many there are."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def _epoch_and_step(values: Tensor) -> tuple[int, int]:
    epoch, step, _ = values.tolist()
    return int(epoch), int(step)
