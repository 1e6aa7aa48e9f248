"""Looks at a network while it trains: on clean images of a few rows, without leaving a trace.

A run makes a `Monitor` of rows that `choose_rows` gave it and asks for a reading every few epochs.
The run with it is, bit for bit, the run without it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError
from viewstore.images.colours import Pixels
from viewstore.loaders.plan.numbers import whole_number
from viewstore.randomness import MONITOR, Op, Stream
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import SourceTable
from viewstore.train.eval.measures import effective_rank, share_error, zstd
from viewstore.train.eval.neighbours import KNN_PRESETS, knn
from viewstore.train.eval.samples import Samples

Rows = NDArray[np.int64]
Images = Callable[[Rows], Iterator[Tensor]]
Embed = Callable[[Tensor], tuple[Tensor, Tensor]]
LEAST_ZSTD = 0.1
CHANCE_ERRORS = 2  # a kNN this many standard errors above chance at most is chance
READINGS = 3  # in a row, that say that a network has collapsed
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """How often a network is looked at, and on how much.

    Attributes:
        every: Epochs between two readings.
        preset: Name in KNN_PRESETS; its first number of neighbours is taken.
        bank, queries: Numbers of rows that kNN learns from and is asked about.

    Raises:
        ConfigError: A value is out of range.
    """

    every: int = 1
    preset: str = "monitor"
    bank: int = 4096
    queries: int = 1024

    def __post_init__(self) -> None:
        whole_number("knn-every", self.every, least=1)
        whole_number("knn-bank", self.bank, least=2)
        whole_number("knn-queries", self.queries, least=1)
        if self.preset not in KNN_PRESETS:
            raise ConfigError(
                f"kNN preset must be one of {', '.join(KNN_PRESETS)}, got {self.preset!r}",
                code="VS102",
                where=f"--knn {self.preset}",
            )


class MonitorRows(NamedTuple):
    """Rows of a source, ascending, int64: what kNN learns from, and what it is asked about."""

    bank: Rows
    queries: Rows


def choose_rows(
    labels: NDArray[np.int32],
    trained: Rows,
    settings: MonitorSettings,
    *,
    seed: int,
    held_out: Rows | None = None,
) -> MonitorRows:
    """Return labelled rows by the seed alone: the bank of those trained on, the queries of others.

    Args:
        labels: Of all rows, -1 where there is none.
        trained: Rows that are trained on.
        settings: Numbers of rows; fewer are taken where there are not so many.
        seed: Of the choice.
        held_out: Rows that are not trained on; None takes the queries of the trained rows too,
            out of the bank.

    Raises:
        ConfigError: There are not two labelled rows, or all have one label.
    """
    trained = trained[labels[trained] >= 0]
    if held_out is None:
        wanted = settings.bank + settings.queries
        count = min(settings.queries, len(trained) * settings.queries // wanted)
        queries = _least(trained, max(count, 1), seed)
        trained = np.setdiff1d(trained, queries)
    else:
        queries = _least(held_out[labels[held_out] >= 0], settings.queries, seed)
    bank = _least(trained, settings.bank, seed)
    if not len(queries) or len(np.unique(labels[bank])) < 2:
        raise ConfigError(
            "kNN while training needs labelled images of two classes or more",
            code="VS104",
            where="--knn-every",
            fix="leave out --knn-every, or train on a source with labels",
        )
    return MonitorRows(bank, queries)


def _least(rows: Rows, count: int, seed: int) -> Rows:
    """Return the `count` rows whose keyed words are least, ascending."""
    words = Stream(seed, domain=MONITOR).words(Op.SET_CHOICE, rows, 0)[..., 0]
    return np.sort(rows[np.lexsort((rows, words))[:count]])


def clean_images(table: SourceTable, transform: Callable[[Pixels], Pixels]) -> Images:
    """Return what yields the images of rows, in batches, by the evaluation transform.

    `transform` makes uint8 [r, r, 3] of uint8 [H, W, 3]; batches are uint8 [B, 3, r, r].
    """
    reader = SourceReader(table)

    def images(rows: Rows) -> Iterator[Tensor]:
        for start in range(0, len(rows), BATCH):
            batch = [transform(reader.image(int(row))) for row in rows[start : start + BATCH]]
            yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)

    return images


@dataclass(kw_only=True)
class CollapseDetector:
    """Says of a run of readings whether the network has collapsed.

    Attributes:
        low: Readings in a row, up to the last, that looked collapsed; kept in a checkpoint.
    """

    low: int = 0

    @property
    def collapsed(self) -> bool:
        """Whether the last READINGS looked collapsed."""
        return self.low >= READINGS

    def update(self, *, zstd: float, knn: float, error: float, chance: float) -> bool:
        """Take a reading; return whether the last READINGS looked collapsed.

        Args:
            zstd: Spread of the unit projections.
            knn: Accuracy of kNN.
            error: Its standard error.
            chance: Accuracy of who sees nothing.
        """
        healthy = zstd >= LEAST_ZSTD and knn > chance + CHANCE_ERRORS * error
        self.low = 0 if healthy else self.low + 1
        return self.collapsed

    def to_json(self) -> dict[str, int]:
        """Return the state, for a checkpoint."""
        return {"low": self.low}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> CollapseDetector:
        """Return the detector that had this state. Raises CheckpointError: it is none."""
        low = state.get("low")
        if set(state) != {"low"} or type(low) is not int or low < 0:
            raise CheckpointError(
                f"state of a collapse detector must be the number low of readings, got {state}"
            )
        return cls(low=low)


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Reads spread, rank and kNN of a network that trains.

    Attributes:
        settings: When, and by which votes.
        rows: Which rows are looked at.
        labels: int32 [N], of all rows of the source.
        images: Yields the clean images of rows, uint8 [B, 3, r, r] (`clean_images`).
        network: What is put into evaluation mode meanwhile: all that `embed` runs.
        embed: Returns backbone features [B, F] and projections [B, D] of images.
        detector: Its state goes into checkpoints.
    """

    settings: MonitorSettings
    rows: MonitorRows
    labels: NDArray[np.int32]
    images: Images
    network: nn.Module
    embed: Embed
    detector: CollapseDetector

    def due(self, epoch: int) -> bool:
        """Whether a reading is wanted after epoch number `epoch`, from 0."""
        return (epoch + 1) % self.settings.every == 0

    def read(self, *, epoch: int, step: int) -> dict[str, Any]:
        """Return a reading, for `curve.jsonl`; `step` counts the steps that are done.

        It has zstd of the projections and effective rank of the features, of bank and queries
        together; the share of queries that kNN classifies right, and its standard error; and
        whether the network has collapsed.
        """
        labels = [self.labels[rows].astype(np.int64) for rows in self.rows]
        with undisturbed(self.network):
            parts = [self._embedded(rows) for rows in self.rows]
        projections = torch.cat([part[1] for part in parts])
        bank, queries = (
            Samples(features.numpy(), each)
            for (features, _), each in zip(parts, labels, strict=True)
        )
        preset = KNN_PRESETS[self.settings.preset]
        (accuracy,) = knn(
            bank, queries, neighbours=preset.neighbours[:1], temperature=preset.temperature
        ).values()
        reading = {
            "zstd": zstd(projections),
            "effective_rank": effective_rank(torch.cat([part[0] for part in parts])),
            "knn": accuracy,
            "knn_se": share_error(accuracy, len(queries.labels)),
        }
        collapsed = self.detector.update(
            zstd=reading["zstd"],
            knn=accuracy,
            error=reading["knn_se"],
            chance=chance(bank.labels, queries.labels),
        )
        return {"epoch": epoch, "step": step, **reading, "collapsed": collapsed}

    def _embedded(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return features and projections of rows, float32, on the CPU."""
        found = [self.embed(images) for images in self.images(rows)]
        features, projections = (
            torch.cat([each.float().cpu() for each in part]) for part in zip(*found, strict=True)
        )
        return features, projections


def chance(bank: Rows, queries: Rows) -> float:
    """Return the accuracy of who always says the bank's most frequent label; labels [N], [M]."""
    return float((queries == np.bincount(bank).argmax()).mean())


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, for a block that leaves no trace.

    Modes of all its modules and the random states of torch, numpy and Python are put back.
    """
    modes = [(module, module.training) for module in network.modules()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = {each.device.index for each in network.parameters() if each.is_cuda}
    try:
        with torch.random.fork_rng(sorted(cuda)), torch.no_grad():
            network.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for module, training in modes:
            module.training = training
