"""What a probe learns from and is asked about, and what it answers: Samples and Score.

Also which rows of a source those are: a limit spread over the labels, rows held out, and labels of
two sources matched by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.sources.table import SourceTable
from viewstore.train.eval.measures import share_error

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Rows = NDArray[np.int64]
VALIDATION = 5  # every fifth row of the bank chooses a penalty or a learning rate


@dataclass(frozen=True)
class Samples:
    """Features, float32 [N, F], and labels, int64 [N], of rows of a source.

    Raises:
        ConfigError: There are no samples, or one has no label.
    """

    features: Floats
    labels: Labels

    def __post_init__(self) -> None:
        check_labels(self.labels)

    def take(self, chosen: NDArray[Any]) -> Samples:
        """Return the samples where a mask [N] is true, or those of these numbers."""
        return Samples(self.features[chosen], self.labels[chosen])


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of a probe.

    Attributes:
        metric: What was measured: `lin` is a linear probe whose training images were augmented,
            `lin_frozen` one on features without augmentation.
        accuracy: Share of the queries that were classified right.
        n: Number of queries.
        bank: Number of samples that the probe learnt from.
        settings: What it was measured with, for the JSON output.
        details: Secondary results.
    """

    metric: str
    accuracy: float
    n: int
    bank: int
    settings: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy, from the number of queries alone."""
        return share_error(self.accuracy, self.n)


def unit(features: Floats) -> Floats:
    """Return features [N, F] divided by their norms; those that are 0 stay so."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, np.finfo(np.float32).tiny), np.float32)


def check_labels(labels: Labels) -> None:
    """Raise ConfigError if there are no samples, or one has no label."""
    if not len(labels):
        raise ConfigError("there must be at least one labelled sample, got none", code="VS104")
    if labels.min() < 0:
        raise ConfigError(
            "every sample must have a label",
            code="VS104",
            why=f"{int((labels < 0).sum())} of {len(labels)} have none",
            fix="give a --source with labels, for example a folder of class folders",
        )


def check_classes(labels: Labels, what: str) -> None:
    """Raise ConfigError if all samples are of one class: a probe would say 100 % of anything."""
    if len(np.unique(labels)) < 2:
        raise ConfigError(
            f"the {what} must have two classes or more, its {len(labels)} samples have one",
            code="VS104",
            why="whatever is learnt from it, or asked about it, is right by itself",
            fix="give a larger --limit or another source",
        )


def check_probed(bank: Labels, queries: Labels) -> None:
    """Raise ConfigError if the bank or the queries are of one class, or lack labels."""
    for labels, what in ((bank, "bank"), (queries, "set of queries")):
        check_labels(labels)
        check_classes(labels, what)


def class_count(*labels: Labels) -> int:
    """Return one more than the largest label of all."""
    return 1 + max(int(each.max()) for each in labels)


def mean_per_class(guesses: Labels, labels: Labels) -> float:
    """Return the mean over the classes in `labels` of the share that was guessed right."""
    return float(np.mean([(guesses[labels == c] == c).mean() for c in np.unique(labels)]))


def validation_split(labels: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return masks of the samples that train and of every fifth, which validates.

    Raises:
        ConfigError: Those that train are of one class.
    """
    held = np.arange(len(labels)) % VALIDATION == 0
    check_classes(labels[~held], "bank without every fifth sample, on which settings are chosen,")
    return ~held, held


def spread_rows(labels: NDArray[np.int32], limit: int | None) -> Rows:
    """Return `limit` rows, ascending, of every label as many as of the others if there are.

    `labels`: [N]. Rows of one label are taken evenly over all of its rows, since sources lie in
    the order of their keys: the first rows are often one class. All rows if `limit` is None.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    shares = np.zeros(len(groups), np.int64)
    left = limit
    while left:
        open_groups = [i for i, group in enumerate(groups) if shares[i] < len(group)]
        for i in open_groups[:left]:
            shares[i] += 1
        left -= min(left, len(open_groups))
    chosen = [
        group[np.arange(share) * len(group) // share]
        for group, share in zip(groups, shares.tolist(), strict=True)
        if share
    ]
    return np.sort(np.concatenate(chosen))


def split_rows(count: int, holdout: int) -> tuple[Rows, Rows]:
    """Return (bank, query) rows: every `holdout`-th row, from 0 on, is a query."""
    if holdout < 2:
        raise ConfigError(f"holdout must be at least 2, got {holdout}")
    rows = np.arange(count)
    return rows[rows % holdout != 0], rows[rows % holdout == 0]


def labelled_alike(table: SourceTable, like: SourceTable, names: tuple[str, str]) -> SourceTable:
    """Return `table` with its labels numbered as those of `like`, matched by name.

    `names` are what the user calls the two sources, for the message. Sources whose labels are
    numbers alone are taken to mean the same by them.

    Raises:
        ConfigError: `table` has labels that `like` has not, or only one of them has names.
    """
    if table.label_names == like.label_names:
        return table
    unknown = sorted(set(table.label_names) - set(like.label_names))
    if unknown or not table.label_names:
        more = f", and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        listed = f"{', '.join(unknown[:5])}{more}" if unknown else "numbers without names"
        raise ConfigError(
            f"labels of {names[0]} must be among those of {names[1]}",
            code="VS104",
            why=f"{names[0]} has {listed}, which {names[1]} has not",
            fix="give two sources with the same classes",
        )
    numbers = np.array([like.label_names.index(name) for name in table.label_names], np.int32)
    label = np.where(table.label < 0, table.label, numbers[np.maximum(table.label, 0)])
    return replace(table, label=label.astype(np.int32), label_names=like.label_names)
