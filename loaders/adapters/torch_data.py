"""The loader as datasets of torch, for loops and trainers that want a DataLoader.

Each batch is made in one worker process. Where the threads of a ViewLoader can be used, they are
faster: nothing is copied between processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from viewstore.errors import ConfigError
from viewstore.loaders.adapters.epochs import SharedEpochs, this_worker
from viewstore.loaders.adapters.recipe import Recipe
from viewstore.loaders.batches.batch import Batch
from viewstore.loaders.batches.store_views import StoreOrPath
from viewstore.loaders.plan.asked import AnyViews
from viewstore.loaders.plan.numbers import whole_number
from viewstore.loaders.plan.state import State
from viewstore.loaders.settings import LoaderArguments, LoaderSettings

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
        store: StoreOrPath | Sequence[StoreOrPath],
        views: AnyViews,
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
        saved, seed = State.from_json(state).seed, loader.state_dict()["seed"]
        if saved != seed:
            raise ConfigError(
                f"loader state has another seed: it was saved with {saved}, this dataset has "
                f"{seed}",
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
        store: StoreOrPath | Sequence[StoreOrPath],
        views: AnyViews,
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

    def __iter__(self) -> BatchKeys:
        return BatchKeys(self, self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` at the next iter(); a step within it is kept, so that a resume holds."""
        epoch = whole_number("epoch", epoch, least=0)
        if epoch != self._next[0]:
            self._next, self._resume = (epoch, 0), None

    def state_dict(self) -> dict[str, Any]:
        """Return what resumes after the last key that was yielded."""
        return self._batches.state(*(self._resume or self._next))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin there at the next iter(). Raises ConfigError: the state is of something else."""
        self._next, self._resume = self._batches.step_of(state), None

    def begin(self) -> tuple[int, int]:
        """Return epoch and step where an iterator begins; the next one begins the next epoch."""
        begun, self._next = self._next, (self._next[0] + 1, 0)
        return begun

    def passed(self, epoch: int, step: int) -> None:
        """Note that an iterator stands before `step`, which is that after the last at the end."""
        ended = step >= self._batches.steps
        self._next, self._resume = (epoch + 1, 0), None if ended else (epoch, step)


class BatchKeys(Iterator[BatchKey]):
    """The keys of an epoch, which begins with the first one that is asked for.

    Its state tells the end of an epoch from the start of the next one, where a sampler's does not:
    a StatefulDataLoader makes another iterator after one that was restored at its end.
    """

    def __init__(self, sampler: ViewBatches, batches: _BatchSource) -> None:
        self._sampler, self._batches = sampler, batches
        self._place: tuple[int, int] | None = None  # unless it has begun

    def __next__(self) -> BatchKey:
        epoch, step = self._place or self._sampler.begin()
        if step >= self._batches.steps:
            raise StopIteration
        self._move(epoch, step + 1)
        return epoch, step, self._batches.positions(step)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands; at the end of an epoch the step is that after its last."""
        if self._place is None:
            return self._sampler.state_dict()
        epoch, step = self._place
        return {**self._batches.state(epoch, 0), "step": step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises ConfigError: the state is of something else."""
        epoch, _ = self._batches.step_of({**state, "step": 0})
        self._move(epoch, int(state["step"]))

    def _move(self, epoch: int, step: int) -> None:
        self._place = epoch, step
        self._sampler.passed(epoch, step)


class ViewIterableDataset(IterableDataset[Any]):
    """An iterable dataset of batches, for DataLoader(dataset, batch_size=None, num_workers=4).

    Each worker makes whole batches in turn, so the batches come in the order of the ViewLoader
    whatever the number of workers. Each iter() is an epoch. To resume with any number of workers,
    give the state of the last batch to load_state_dict of a new dataset; a StatefulDataLoader
    counts itself.
    """

    def __init__(
        self,
        store: StoreOrPath | Sequence[StoreOrPath],
        views: AnyViews,
        *,
        as_tuple: TupleForm = False,
        **settings: Unpack[LoaderArguments],
    ) -> None:
        """Take the arguments of ViewLoader, and whether batches become tuples (`tuple_of`)."""
        self._batches = _BatchSource(store, views, as_tuple, settings)
        self._epochs = SharedEpochs()

    def __len__(self) -> int:
        """Return the batches of an epoch, the same on every rank."""
        return self._batches.steps

    def __iter__(self) -> WorkerBatches:
        return WorkerBatches(self._batches, self._epochs)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` at the next iter(); a step within it is kept, so that a resume holds."""
        epoch = whole_number("epoch", epoch, least=0)
        if epoch != self._epochs.next[0]:
            self._epochs.move(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return what begins at the next iter().

        Raises:
            ConfigError: Worker processes make the batches; this process does not know how many
                of them arrived.
        """
        if get_worker_info() is None and self._epochs.of_several_workers:
            raise ConfigError(
                "batches are made in worker processes: their dataset does not know which arrived",
                fix="take batch.state of the last batch, or use StatefulDataLoader of torchdata",
            )
        return self._batches.state(*self._epochs.next)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin there at the next iter(). Raises ConfigError: the state is of something else."""
        self._epochs.move(*self._batches.step_of(state))


class WorkerBatches:
    """The batches of an epoch that this worker makes: each `stride`-th, from its number on."""

    def __init__(self, batches: _BatchSource, epochs: SharedEpochs) -> None:
        self._batches = batches
        self._epochs = epochs
        worker, self._stride = this_worker()
        self._epoch, step = epochs.begin()
        self._step = step + worker

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
        self._epoch, _ = self._batches.step_of(begin)
        self._step = int(state["step"])
        self._epochs.claim(self._epoch)
