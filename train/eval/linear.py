"""Linear probes: one layer on the features of a frozen backbone, by the recipes of papers.

`lin` is measured with augmented training images, whose features are computed anew in each epoch;
`lin_frozen` on features that were computed once.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from viewstore.progress import tracked
from viewstore.train.encoder_file import Encoder
from viewstore.train.eval.features import (
    Images,
    features_of,
    open_loader,
    probe_features,
)
from viewstore.train.eval.linear_presets import LinearPreset
from viewstore.train.eval.samples import (
    Samples,
    Score,
    check_probed,
    class_count,
    validation_split,
)
from viewstore.train.eval.training import (
    Epochs,
    Training,
    best_rate,
    classifier,
    epochs_of,
    fit,
    share_within,
    shuffled,
    top_ranks,
)


def linear_score(
    encoder: Encoder,
    bank: Images,
    queries: Images,
    preset: LinearPreset,
    training: Training,
) -> Score:
    """Return the score of a linear probe of an encoder, over the seeds of the preset.

    Args:
        encoder: Frozen; it is left as it was.
        bank: What the layer is trained on.
        queries: What it is tested on: all of them.
        preset: Training images and evaluation transform.
        training: How the layer is trained; its recipe stands in place of the preset's.

    Raises:
        ConfigError: The bank or the queries are of one class.
        DivergedError: The learning rate is too high.
        FormatError: An image cannot be read.
    """
    check_probed(bank.labels, queries.labels)
    size, work = encoder.size, training.work
    test = features_of(encoder, queries, preset.test.policy(size), work)
    if preset.augment is None:
        known = features_of(encoder, bank, preset.train.policy(size), work)
        return frozen_score(known, test, preset, training)
    training = training.for_count(len(bank))
    classes = class_count(bank.labels, test.labels)
    rate = training.recipe.lr[0]

    @torch.no_grad()
    def read(x: Tensor) -> Tensor:
        return probe_features(encoder, x).float()

    found = []
    for seed in preset.seeds_from(training.seed):
        with open_loader(
            bank.table,
            bank.rows,
            preset.augment,
            work,
            size=size,
            batch_size=training.recipe.batch,
            shuffle=True,
            seed=seed,
        ) as loader:
            epochs = epochs_of(loader, work.device, read)
            layer = classifier(test.features.shape[1], classes, seed)
            found.append(_trained(layer, epochs, len(bank), test, training, seed, rate))
    return _score(preset, training, rate, found, len(test.labels), len(bank), {})


def frozen_score(
    bank: Samples, queries: Samples, preset: LinearPreset, training: Training
) -> Score:
    """Return the score of a linear probe on features that were computed once.

    Of several learning rates the one is taken that is best on every fifth sample of the bank,
    where the layer is trained on the others; then it is trained on all.

    Raises:
        ConfigError: The bank or the queries are of one class.
        DivergedError: The learning rate is too high.
    """
    check_probed(bank.labels, queries.labels)
    classes = class_count(bank.labels, queries.labels)

    def trial(known: Samples, asked: Samples, of: Training, seed: int, lr: float) -> float:
        known, asked = _standardised(known, asked) if preset.standardise else (known, asked)
        of = of.for_count(len(known.labels))
        device = of.work.device
        x, labels = (torch.from_numpy(each).to(device) for each in (known.features, known.labels))
        layer = classifier(x.shape[1], classes, seed)
        epochs = shuffled(x, labels, of.recipe.batch, seed)
        return _trained(layer, epochs, len(labels), asked, of, seed, lr)

    rate, *others = training.recipe.lr
    chosen: dict[str, Any] = {}
    if others:
        quiet = replace(training, curve=None)
        trains, validates = validation_split(bank.labels)
        known, asked = bank.take(trains), bank.take(validates)
        rate, chosen = best_rate(
            training.recipe, lambda lr: trial(known, asked, quiet, training.seed, lr)
        )
    found = [
        trial(bank, queries, training, seed, rate) for seed in preset.seeds_from(training.seed)
    ]
    return _score(preset, training, rate, found, len(queries.labels), len(bank.labels), chosen)


def _trained(
    layer: nn.Linear,
    epochs: Epochs,
    count: int,
    test: Samples,
    training: Training,
    seed: int,
    lr: float,
) -> float:
    """Train `layer` on `count` samples an epoch, and return its accuracy on `test`."""
    recipe, work = training.recipe, training.work
    layer.to(work.device)
    x = torch.from_numpy(test.features).to(work.device)

    def accuracy() -> float:
        with torch.inference_mode():
            logits = layer(x)
        return share_within(top_ranks(logits, torch.from_numpy(test.labels)), 1)

    with tracked(work.progress, "probe", recipe.epochs * count, "samples") as progress:
        fit(layer, recipe.make(layer, lr), epochs, recipe, progress, training.noted(seed, accuracy))
    return accuracy()


def _standardised(known: Samples, asked: Samples) -> tuple[Samples, Samples]:
    mean, std = known.features.mean(0), known.features.std(0) + 1e-6
    return tuple(  # type: ignore[return-value]
        Samples((each.features - mean) / std, each.labels) for each in (known, asked)
    )


def _score(
    preset: LinearPreset,
    training: Training,
    rate: float,
    found: list[float],
    queries: int,
    bank: int,
    chosen: dict[str, Any],
) -> Score:
    details = dict(chosen)
    if len(found) > 1:
        details |= {"by_seed": found, "sd": statistics.stdev(found)}
    return Score(
        metric=preset.metric,
        accuracy=float(np.mean(found)),
        n=queries,
        bank=bank,
        settings={"recipe": asdict(training.recipe), "lr": rate, "seed": training.seed},
        details=details,
    )
