"""Probes of frozen features: weighted kNN, a linear layer, logistic regression.

Features are the backbone's, of the evaluation transform: short side to the encoder's size, centre
crop. No probe here augments its training images, so the linear one is called `lin_frozen`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.format.plan import checked_seed
from viewstore.images.colours import Pixels
from viewstore.images.resize import resize
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import SourceTable
from viewstore.train.encoder_file import Encoder

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
ProbeName = Literal["knn", "linear", "logreg"]
BATCH = 256


class KnnPreset(NamedTuple):
    """The numbers of neighbours, the reported one first, and the temperature of their votes."""

    neighbours: tuple[int, ...]
    temperature: float


# gs: the paper does not give its temperature.
KNN_PRESETS = {
    "monitor": KnnPreset((200,), 0.1),
    "ca": KnnPreset((5,), 0.1),
    "gs": KnnPreset((201,), 0.1),
    "dino": KnnPreset((20, 10, 100, 200), 0.07),
}
L2_GRID = np.logspace(-6, 5, 45)
VALIDATION = 5  # every fifth row of the bank chooses l2
LINEAR_EPOCHS = 100
LINEAR_LR = 0.1


@dataclass(frozen=True)
class Samples:
    """Features, float32 [N, F], and labels, int64 [N], of rows of a source.

    Raises:
        ConfigError: There are no samples, or one has no label.
    """

    features: Floats
    labels: Labels

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise ConfigError("there must be at least one labelled sample, got none", code="VS104")
        if self.labels.min() < 0:
            raise ConfigError(
                "every sample must have a label",
                code="VS104",
                why=f"{int((self.labels < 0).sum())} of {len(self.labels)} have none",
                fix="give a --source with labels, for example a folder of class folders",
            )

    def take(self, mask: NDArray[np.bool_]) -> Samples:
        """Return the samples where `mask`, [N], is true."""
        return Samples(self.features[mask], self.labels[mask])


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of a probe.

    Attributes:
        metric: What was measured; `lin_frozen` is a linear probe on features without augmentation.
        accuracy: Share of the queries that were classified right.
        queries: Number of queries.
        bank: Number of samples that the probe learnt from.
        details: Settings of the probe and secondary results, for the JSON output.
    """

    metric: str
    accuracy: float
    queries: int
    bank: int
    details: dict[str, Any]

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy, from the number of queries alone."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.queries)


def centre_crop(image: Pixels, size: int) -> Pixels:
    """Return the middle of an image, uint8 [size, size, 3], its short side resized to `size`."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    new_height, new_width = max(size, round(height * scale)), max(size, round(width * scale))
    if (new_height, new_width) != (height, width):
        image = resize(image, new_height, new_width)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return image[top : top + size, left : left + size]


def images_of(table: SourceTable, rows: NDArray[np.int64], size: int) -> Iterator[Tensor]:
    """Yield the images of `rows` in batches, float32 [B, 3, size, size] in [0, 1]."""
    reader = SourceReader(table)
    for start in range(0, len(rows), BATCH):
        batch = [centre_crop(reader.image(int(row)), size) for row in rows[start : start + BATCH]]
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255


def features_of(
    encoder: Encoder, table: SourceTable, rows: NDArray[np.int64], *, device: str = "cpu"
) -> Samples:
    """Return the features and labels of `rows`. Raises ConfigError: a row has no label."""
    labels = np.asarray(table.label, np.int64)[rows]
    with torch.inference_mode():
        batches = [
            encoder.features(images.to(device)).cpu()
            for images in images_of(table, rows, encoder.size)
        ]
    features = torch.cat(batches).numpy() if batches else np.empty((0, 0), np.float32)
    return Samples(features, labels)


def spread_rows(labels: NDArray[np.int32], limit: int | None) -> NDArray[np.int64]:
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


def check_classes(samples: Samples, what: str) -> None:
    """Raise ConfigError if all samples are of one class: a probe would say 100 % of anything."""
    if len(np.unique(samples.labels)) < 2:
        raise ConfigError(
            f"the {what} must have two classes or more, its {len(samples.labels)} samples have one",
            code="VS104",
            why="whatever is learnt from it, or asked about it, is right by itself",
            fix="give a larger --limit or another source",
        )


def split_rows(count: int, holdout: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (bank, query) rows: every `holdout`-th row, from 0 on, is a query."""
    if holdout < 2:
        raise ConfigError(f"holdout must be at least 2, got {holdout}")
    rows = np.arange(count)
    return rows[rows % holdout != 0], rows[rows % holdout == 0]


def knn(
    bank: Samples,
    queries: Samples,
    *,
    neighbours: int,
    temperature: float,
    weighting: Literal["exp", "uniform"] = "exp",
) -> float:
    """Return the accuracy of a vote of the nearest neighbours by cosine.

    A neighbour's vote counts exp(cosine / temperature), or 1 if `weighting` is "uniform"; of equal
    votes the lower label wins. There are at most as many neighbours as samples in the bank.
    """
    keys = F.normalize(torch.from_numpy(bank.features), dim=1)
    classes = int(max(bank.labels.max(), queries.labels.max())) + 1
    labels = torch.from_numpy(bank.labels)
    k = min(neighbours, len(labels))
    right = 0
    for start in range(0, len(queries.labels), BATCH):
        batch = F.normalize(torch.from_numpy(queries.features[start : start + BATCH]), dim=1)
        similarity, nearest = (batch @ keys.T).topk(k)
        weight = (similarity / temperature).exp()
        if weighting == "uniform":
            weight = torch.ones_like(similarity)
        votes = torch.zeros(len(batch), classes).scatter_add_(1, labels[nearest], weight)
        guesses = votes.numpy().argmax(1)  # the first of equals
        right += int((guesses == queries.labels[start : start + BATCH]).sum())
    return right / len(queries.labels)


def linear(bank: Samples, queries: Samples, *, seed: int = 0) -> float:
    """Return the accuracy of a linear layer on standardised features.

    SGD trains it; `seed` is that of the order of its batches.
    """
    mean, std = bank.features.mean(0), bank.features.std(0) + 1e-6
    x = torch.from_numpy((bank.features - mean) / std)
    y = torch.from_numpy(bank.labels)
    classes = int(max(bank.labels.max(), queries.labels.max())) + 1
    layer = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), LINEAR_LR, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, LINEAR_EPOCHS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(LINEAR_EPOCHS):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            loss = F.cross_entropy(layer(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    with torch.inference_mode():
        guesses = layer(torch.from_numpy((queries.features - mean) / std)).numpy().argmax(1)
    return float((guesses == queries.labels).mean())


def logistic_regression(bank: Samples, queries: Samples) -> tuple[float, float]:
    """Return (accuracy, l2) of L-BFGS; l2 is chosen on every fifth row of the bank.

    The penalty is l2 / 2 * |w|^2 beside the SUM of the losses: scikit-learn's C = 1 / l2.
    """
    validation = np.arange(len(bank.labels)) % VALIDATION == 0
    train = bank.take(~validation)
    check_classes(train, "bank without every fifth sample, on which l2 is chosen,")
    check = bank.take(validation)
    scores = [_fit(train, l2).score(check.features, check.labels) for l2 in L2_GRID]
    best = np.flatnonzero(np.asarray(scores) == max(scores))
    l2 = float(L2_GRID[best[len(best) // 2]])  # the middle of a plateau, not its edge
    return float(_fit(bank, l2).score(queries.features, queries.labels)), l2


def _fit(samples: Samples, l2: float) -> Any:  # noqa: ANN401
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=1 / l2, max_iter=500)
    # On a busy machine the threads of small matrix products wait for each other.
    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
        # With a very weak penalty there is no end to reach; validation passes it over.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(samples.features, samples.labels)


def evaluate(
    bank: Samples, queries: Samples, probe: ProbeName, *, preset: str = "monitor", seed: int = 0
) -> Score:
    """Return the score of a probe that learns from `bank` and classifies `queries`.

    `preset`: Name in KNN_PRESETS, for "knn"; `seed`: of the order of "linear".

    Raises:
        ConfigError: There is no such preset, or the bank or the queries are of one class.
    """
    seed = checked_seed(seed)
    check_classes(bank, "bank")
    check_classes(queries, "set of queries")
    sizes = {"queries": len(queries.labels), "bank": len(bank.labels)}
    if probe == "knn":
        if preset not in KNN_PRESETS:
            raise ConfigError(
                f"kNN preset must be one of {', '.join(KNN_PRESETS)}, got {preset!r}", code="VS102"
            )
        asked, temperature = KNN_PRESETS[preset]
        neighbours = tuple(dict.fromkeys(min(k, len(bank.labels)) for k in asked))
        by_k = {k: knn(bank, queries, neighbours=k, temperature=temperature) for k in neighbours}
        details: dict[str, Any] = {
            "preset": preset,
            "temperature": temperature,
            "neighbours": neighbours[0],
            "by_k": by_k,
        }
        return Score(metric="knn", accuracy=by_k[neighbours[0]], details=details, **sizes)
    if probe == "linear":
        accuracy = linear(bank, queries, seed=seed)
        details = {"epochs": LINEAR_EPOCHS, "lr": LINEAR_LR, "seed": seed}
        return Score(metric="lin_frozen", accuracy=accuracy, details=details, **sizes)
    accuracy, l2 = logistic_regression(bank, queries)
    details = {"l2": l2, "convention": "sum"}
    return Score(metric="logreg", accuracy=accuracy, details=details, **sizes)
