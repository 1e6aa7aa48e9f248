"""Optimizers by name, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from viewstore.errors import ConfigError

Schedule = Literal["cosine", "constant"]
LR_BATCH = 256  # learning rates are per this many samples


class Defaults(NamedTuple):
    """The settings of an optimizer where a run names none."""

    lr: float
    weight_decay: float


OPTIMIZERS = {
    "sgd": Defaults(0.03, 5e-4),
    "adam": Defaults(1e-3, 1e-5),
    "adamw": Defaults(5e-4, 0.04),
}


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Settings of the optimizer and its learning rate.

    Attributes:
        name: Name in OPTIMIZERS; the weight decay of adam is L2, that of adamw decoupled.
        lr: Peak learning rate for a batch of 256 samples; it is scaled with the batch size.
        weight_decay: Weight decay of all parameters.
        momentum: Momentum of sgd.
        schedule: The rate after the warm-up: "cosine" falls along half a cosine to 0, "constant"
            stays at the peak.
        warmup_epochs: Number of epochs in which the rate grows linearly from 0.

    Raises:
        ConfigError: There is no such optimizer, or a value is out of range.
    """

    name: str = "sgd"
    lr: float = OPTIMIZERS["sgd"].lr
    weight_decay: float = OPTIMIZERS["sgd"].weight_decay
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.name!r}", code="VS102"
            )
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0, got {self.lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"schedule must be cosine or constant, got {self.schedule!r}")
        if self.warmup_epochs < 0:
            raise ConfigError(f"warm-up must be at least 0 epochs, got {self.warmup_epochs}")

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer; the loop sets its learning rate before each step."""
        decay = self.weight_decay
        if self.name == "sgd":
            return torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=decay)
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(parameters, self.lr, weight_decay=decay)

    def rate(self, step: int, *, total_steps: int, epoch_steps: int, batch_size: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        peak = self.lr * batch_size / LR_BATCH
        warmup = self.warmup_epochs * epoch_steps
        if step < warmup:
            return peak * (step + 1) / warmup
        if self.schedule == "constant":
            return peak
        done = (step - warmup) / max(1, total_steps - warmup)
        return peak * (1 + math.cos(math.pi * done)) / 2
