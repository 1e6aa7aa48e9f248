"""How the classifier of a probe is trained: optimizer, learning rates, epochs, batch, schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from viewstore.errors import ConfigError
from viewstore.train.optimizers import LARS

OptimizerName = Literal["sgd", "nesterov", "lars", "adamax", "adamw"]
MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        optimizer: "sgd" and "nesterov" have momentum .9, as "lars" has.
        lr: Learning rate of the head; of several the best on a validation split is taken.
        lr_batch: Batch size that `lr` is for: another one scales it. None: it is for any.
        backbone_lr: Learning rate of the backbone, where one is trained; None: that of the head.
        weight_decay: Weight decay of all weights; that of adamw is decoupled.
        epochs: Passes over the training samples.
        batch: Samples of a step, at most as many as there are.
        milestones: Epochs after which the rate is multiplied by `factor`. None: it falls along
            half a cosine to 0, epoch by epoch.
        factor: As above.
        warmup: First epochs, over which the rate grows linearly.

    Raises:
        ConfigError: A value is out of range.
    """

    optimizer: OptimizerName
    lr: tuple[float, ...]
    lr_batch: int | None = None
    backbone_lr: float | None = None
    weight_decay: float = 0.0
    epochs: int
    batch: int
    milestones: tuple[int, ...] | None = None
    factor: float = 0.1
    warmup: int = 0

    def __post_init__(self) -> None:
        if not self.lr or not all(0 < rate < math.inf for rate in self.lr):
            raise ConfigError(f"lr must be above 0, got {', '.join(map(str, self.lr)) or 'none'}")
        if self.epochs < 1 or self.batch < 1:
            raise ConfigError(
                f"epochs and batch size must be at least 1, got {self.epochs} and {self.batch}"
            )

    def changed(
        self, *, epochs: int | None = None, lr: float | None = None, batch: int | None = None
    ) -> Recipe:
        """Return the recipe with what is not None in place of its own."""
        return replace(
            self,
            epochs=self.epochs if epochs is None else epochs,
            lr=self.lr if lr is None else (lr,),
            batch=self.batch if batch is None else batch,
        )

    def share(self, epoch: int) -> float:
        """Return the share of the peak rate that an epoch, counted from 0, has."""
        if epoch < self.warmup:
            return (epoch + 1) / self.warmup
        if self.milestones is not None:
            return self.factor ** sum(epoch >= each for each in self.milestones)
        done = (epoch - self.warmup) / max(1, self.epochs - self.warmup)
        return (1 + math.cos(math.pi * done)) / 2

    def scaled(self, lr: float) -> float:
        """Return the peak rate of a batch of this recipe for a rate of `lr_batch` samples."""
        return lr if self.lr_batch is None else lr * self.batch / self.lr_batch

    def make(
        self, head: nn.Module, lr: float, backbone: Sequence[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """Return the optimizer of a head, and of a backbone where that is trained too."""
        peak = self.scaled(lr)
        groups = [{"params": list(head.parameters()), "lr": peak, "peak": peak}]
        if backbone:
            rate = peak if self.backbone_lr is None else self.backbone_lr
            groups.append({"params": list(backbone), "lr": rate, "peak": rate})
        decay = self.weight_decay
        match self.optimizer:
            case "lars":
                return LARS(groups, lr=peak, momentum=MOMENTUM, weight_decay=decay)
            case "adamax":
                return torch.optim.Adamax(groups, weight_decay=decay)
            case "adamw":
                return torch.optim.AdamW(groups, weight_decay=decay)
            case name:
                nesterov = name == "nesterov"
                return torch.optim.SGD(
                    groups, momentum=MOMENTUM, weight_decay=decay, nesterov=nesterov
                )
