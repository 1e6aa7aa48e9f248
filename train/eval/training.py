"""The one training loop of linear probes, fine-tuning and semi-supervised training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import DivergedError
from viewstore.format.plan import checked_seed
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.order import Permutation
from viewstore.progress import Fact, Progress
from viewstore.train.eval.features import Work, as_input
from viewstore.train.eval.recipe import Recipe

# Gives the batches of an epoch: what the model takes, and labels int64 [B].
Epochs = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
Curve = Callable[[Mapping[str, Any]], None]  # takes a row of a curve for each epoch


@dataclass(frozen=True, kw_only=True)
class Training:
    """How classifiers are trained, whatever they are.

    Attributes:
        recipe: Optimizer, rates, epochs, batch.
        seed: Of weights, order and augmentation; of several trainings the first.
        work: Device, threads and progress.
        curve: Takes the accuracy after each epoch; None: it is measured after the last alone.
    """

    recipe: Recipe
    seed: int = 0
    work: Work = field(default_factory=Work)
    curve: Curve | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))

    def for_count(self, count: int) -> Training:
        """Return it with batches of at most `count` samples."""
        batch = min(self.recipe.batch, count)
        return replace(self, recipe=self.recipe.changed(batch=batch))

    def noted(self, seed: int, accuracy: Callable[[], float]) -> Callable[[int, int], None] | None:
        """Return what gives the curve a row after each epoch; None if there is no curve."""
        if (curve := self.curve) is None:
            return None
        return lambda epoch, steps: curve(
            {"seed": seed, "epoch": epoch, "step": steps, "value": accuracy()}
        )


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: Epochs,
    recipe: Recipe,
    progress: Progress,
    each_epoch: Callable[[int, int], None] | None = None,
) -> None:
    """Train a classifier by the cross-entropy of its outputs [B, classes].

    Args:
        model: The classifier, in the mode that it is trained in.
        optimizer: That of `recipe.make`.
        epochs: Gives the batches of an epoch, counted from 0.
        recipe: Has the number of epochs and the schedule.
        progress: Advances by one for each sample, beside the loss of the epoch before.
        each_epoch: Is called after each with the epochs and steps that are done.

    Raises:
        DivergedError: The loss is no finite number.
    """
    steps = 0
    facts: dict[str, Fact] = {}
    for epoch in range(recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * recipe.share(epoch)
        total = torch.zeros(())
        begun = steps
        for x, labels in epochs(epoch):
            loss = F.cross_entropy(model(x), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total = total.to(loss.device) + loss.detach()
            steps += 1
            progress.advance(len(labels), **facts)
        mean = float(total) / max(1, steps - begun)
        if not math.isfinite(mean):
            raise DivergedError(
                f"the loss of the probe is {mean} in epoch {epoch + 1}",
                why="its learning rate is too high for these features",
                fix="give a lower --lr",
            )
        facts = {"loss": mean}
        if each_epoch is not None:
            each_epoch(epoch + 1, steps)


def shuffled(x: Tensor, labels: Tensor, batch: int, seed: int) -> Epochs:
    """Return what gives the batches of an epoch of samples in memory, in an order keyed by it."""

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        permutation = Permutation(size=len(labels), seed=seed, epoch=number)
        order = torch.from_numpy(permutation(np.arange(len(labels)))).to(x.device)
        for start in range(0, len(labels), batch):
            rows = order[start : start + batch]
            yield x[rows], labels[rows]

    return epoch


def epochs_of(
    loader: ViewLoader, device: str, read: Callable[[Tensor], Tensor] = lambda x: x
) -> Epochs:
    """Return what gives `read` of the images of a loader, an epoch at a time, one after another."""

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        del number  # the loader goes on by itself
        for batch in loader:
            yield read(as_input(batch.views[0].pixels, device)), batch.label.to(device)

    return epoch


def classifier(width: int, classes: int, seed: int) -> nn.Linear:
    """Return a linear layer with weights N(0, .01^2) drawn by `seed` and biases 0, as MoCo's."""
    layer = nn.Linear(width, classes, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def best_rate(recipe: Recipe, trial: Callable[[float], float]) -> tuple[float, dict[str, Any]]:
    """Return the learning rate whose `trial` has the highest accuracy, and what to report of it.

    A rate that diverges is none; of equals the first one is taken.

    Raises:
        DivergedError: All of them diverge.
    """
    accuracy: dict[float, float] = {}
    for rate in recipe.lr:
        try:
            accuracy[rate] = trial(rate)
        except DivergedError as error:
            last = error
    if not accuracy:
        raise last
    best = max(accuracy, key=accuracy.__getitem__)
    return best, {"validation_accuracy": accuracy, "validation": "every fifth row of the bank"}


def top_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the true one, int64 [B]; of equals the lower is first.

    Args:
        logits: Float [B, classes].
        labels: int64 [B].

    Raises:
        DivergedError: A logit is no finite number.
    """
    if not logits.isfinite().all():
        raise DivergedError("the probe's outputs are not finite", fix="give a lower --lr")
    labels = labels.to(logits.device)[:, None]
    true = logits.gather(1, labels)
    lower = torch.arange(logits.shape[1], device=logits.device) < labels
    return ((logits > true) | ((logits == true) & lower)).sum(1).cpu()


def share_within(ranks: Tensor, k: int) -> float:
    """Return the share of `top_ranks` below k: the top-k accuracy."""
    return int((ranks < k).sum()) / len(ranks)
