"""Optimizers by name, and the learning rate and weight decay of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import nn

from viewstore.errors import ConfigError
from viewstore.train.optimizers import LARS

Schedule = Literal["cosine", "constant", "steps"]
Warmup = Literal["per_step", "per_epoch"]
MOST = 1e30  # of a rate or decay: float32 ends at 3.4e38
LR_BATCH = 256  # learning rates are per this many samples


class Defaults(NamedTuple):
    """The settings of an optimizer where a run names none."""

    lr: float
    weight_decay: float
    uniform: bool


OPTIMIZERS = {
    "sgd": Defaults(0.03, 5e-4, uniform=True),
    "adam": Defaults(1e-3, 1e-5, uniform=True),
    "adamw": Defaults(5e-4, 0.04, uniform=False),
    "lars": Defaults(0.3, 1e-6, uniform=False),
    "larc-sgd": Defaults(0.3, 1e-6, uniform=True),
}


class ParameterGroup(Protocol):
    """Parameters that are trained alike, as methods give them.

    Attributes:
        parameters: The parameters.
        decay: Whether they have weight decay.
        fixed_lr: Whether their learning rate stays at the peak.
        adapt: Whether LARS and LARC adapt their learning rate.
    """

    @property
    def parameters(self) -> list[nn.Parameter]: ...
    @property
    def decay(self) -> bool: ...
    @property
    def fixed_lr(self) -> bool: ...
    @property
    def adapt(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Settings of the optimizer and its learning rate.

    Attributes:
        name: Name in OPTIMIZERS; the weight decay of adam is L2, that of adamw decoupled.
        lr: Peak learning rate for a step of 256 samples.
        scale_lr: Multiply `lr` by the samples of a step / 256; false takes it as it is.
        bias_lr: Peak learning rate of groups without weight decay, the biases and norms; None
            means `lr`. It is scaled and scheduled as `lr` is.
        min_lr: Where the rate stops falling, at most the peak; as it is, whatever the batch.
        weight_decay: Weight decay of the groups that have one.
        weight_decay_end: Weight decay after the last step, which half a cosine leads to; None
            keeps it constant.
        uniform: Decay and adapt all parameters alike, whatever their groups say. None: as public
            runs do, of SimSiam and MoCo with sgd, and of SwAV with larc-sgd; those with lars and
            adamw leave out biases and norms.
        momentum: Momentum of sgd, lars and larc-sgd.
        nesterov: Take sgd's gradient one momentum step ahead.
        trust: Trust coefficient of lars and larc-sgd.
        clip: Greatest norm of all gradients together; None does not clip.
        accumulate: Number of micro-batches that a step computes its batch in, for less memory.
        schedule: The rate after the warm-up: "cosine" falls along half a cosine, "constant" stays
            at the peak, "steps" is multiplied by `gamma` at each of the `milestones`.
        milestones: Epochs, counted from 0, at whose beginning "steps" falls.
        gamma: Factor of each fall.
        warmup_epochs: Number of epochs in which the rate grows linearly from 0.
        warmup: Whether it grows with every step, or stays the same for an epoch.

    Raises:
        ConfigError: There is no such optimizer, a value is out of range, or has no effect.
    """

    name: str = "sgd"
    lr: float = OPTIMIZERS["sgd"].lr
    scale_lr: bool = True
    bias_lr: float | None = None
    min_lr: float = 0.0
    weight_decay: float = OPTIMIZERS["sgd"].weight_decay
    weight_decay_end: float | None = None
    uniform: bool | None = None
    momentum: float = 0.9
    nesterov: bool = False
    trust: float = 0.001
    clip: float | None = None
    accumulate: int = 1
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: int = 0
    warmup: Warmup = "per_step"

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.name!r}", code="VS102"
            )
        _check_numbers(self)
        _check_schedule(self)
        _check_effects(self)
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ConfigError(
                f"nesterov needs sgd with a momentum, got {self.name} with {self.momentum}"
            )
        if self.bias_lr is not None and self.alike:
            raise ConfigError("bias lr has no effect where all parameters are treated alike")
        if not self.min_lr <= self.lr:
            raise ConfigError(f"min lr must be in [0, lr = {self.lr}], got {self.min_lr}")

    @property
    def alike(self) -> bool:
        """Whether all parameters are decayed and adapted alike."""
        return OPTIMIZERS[self.name].uniform if self.uniform is None else self.uniform

    def make(self, groups: Iterable[ParameterGroup]) -> torch.optim.Optimizer:
        """Return the optimizer; `apply` sets its rates and weight decays before each step.

        Its groups are those given that have parameters, with "decay", "fixed_lr" and "adapt".
        The settings `clip` and `accumulate` are for the loop.
        """
        params = [
            {
                "params": group.parameters,
                "decay": group.decay or self.alike,
                "fixed_lr": group.fixed_lr,
                "adapt": group.adapt or self.alike,
                "weight_decay": self.weight_decay if group.decay or self.alike else 0.0,
            }
            for group in groups
            if group.parameters
        ]
        if self.name in ("lars", "larc-sgd"):
            clip = self.name == "larc-sgd"
            return LARS(params, self.lr, self.momentum, trust=self.trust, clip=clip)
        if self.name == "sgd":
            return torch.optim.SGD(params, self.lr, self.momentum, nesterov=self.nesterov)
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(params, self.lr)

    def apply(
        self,
        optimizer: torch.optim.Optimizer,
        step: int,
        *,
        total_steps: int,
        epoch_steps: int,
        batch_size: int,
    ) -> float:
        """Set rate and weight decay of each group for `step`, from 0; return the rate to log.

        `batch_size` counts the samples of a step, of all processes and micro-batches;
        `epoch_steps` and `total_steps` count steps of the optimizer.
        """
        rate = self.rate(
            step, total_steps=total_steps, epoch_steps=epoch_steps, batch_size=batch_size
        )
        decay = self.decay(step, total_steps=total_steps)
        for group in optimizer.param_groups:
            scale = 1.0 if group["decay"] or self.bias_lr is None else self.bias_lr / self.lr
            group["lr"] = scale * (self.peak(batch_size) if group["fixed_lr"] else rate)
            group["weight_decay"] = decay if group["decay"] else 0.0
        return rate

    def peak(self, batch_size: int) -> float:
        """Return the peak learning rate of a step of so many samples."""
        return self.lr * batch_size / LR_BATCH if self.scale_lr else self.lr

    def rate(self, step: int, *, total_steps: int, epoch_steps: int, batch_size: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        peak = self.peak(batch_size)
        epoch = step // epoch_steps
        if epoch < self.warmup_epochs:
            if self.warmup == "per_epoch":
                return peak * (epoch + 1) / self.warmup_epochs
            return peak * (step + 1) / (self.warmup_epochs * epoch_steps)
        least = min(self.min_lr, peak)
        if self.schedule == "cosine":
            warmup = self.warmup_epochs * epoch_steps
            return _cosine(peak, least, (step - warmup) / max(1, total_steps - warmup))
        falls = sum(milestone <= epoch for milestone in self.milestones)
        return max(least, peak * self.gamma**falls)

    def decay(self, step: int, *, total_steps: int) -> float:
        """Return the weight decay of `step`, counted from 0."""
        if self.weight_decay_end is None:
            return self.weight_decay
        return _cosine(self.weight_decay, self.weight_decay_end, step / total_steps)


def _cosine(start: float, end: float, done: float) -> float:
    """Return the value between start and end on half a cosine of which the share `done` is over."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def _check_numbers(settings: OptimSettings) -> None:
    """Raise ConfigError if a number is out of its range; None is none."""
    for name in ("lr", "bias_lr", "trust", "clip"):
        _check(settings, name, "above 0", lambda value: value > 0)
        _check(settings, name, f"at most {MOST:g}", lambda value: value <= MOST)
    for name in ("min_lr", "weight_decay", "weight_decay_end"):
        _check(settings, name, "at least 0", lambda value: value >= 0)
        _check(settings, name, f"at most {MOST:g}", lambda value: value <= MOST)
    _check(settings, "momentum", "in [0, 1)", lambda value: 0 <= value < 1)
    _check(settings, "gamma", "in (0, 1)", lambda value: 0 < value < 1)
    _check(settings, "accumulate", "at least 1", lambda value: value >= 1)
    if settings.warmup_epochs < 0:
        raise ConfigError(f"warm-up must be at least 0 epochs, got {settings.warmup_epochs}")


def _check(settings: OptimSettings, name: str, rule: str, holds: Callable[[float], bool]) -> None:
    value = getattr(settings, name)
    if value is not None and not holds(value):
        raise ConfigError(f"{name.replace('_', ' ')} must be {rule}, got {value}")


def _check_effects(settings: OptimSettings) -> None:
    """Raise ConfigError if a setting that is not the default changes nothing."""
    adaptive = settings.name in ("lars", "larc-sgd")
    needs = [
        ("momentum", adaptive or settings.name == "sgd", "sgd, lars or larc-sgd"),
        ("trust", adaptive, "lars or larc-sgd"),
        ("gamma", settings.schedule == "steps", "schedule steps"),
        ("min_lr", settings.schedule != "constant", "schedule cosine or steps"),
        ("warmup", settings.warmup_epochs > 0, "warm-up epochs"),
    ]
    defaults = {item.name: item.default for item in fields(settings)}
    for name, effective, needed in needs:
        value = getattr(settings, name)
        if value != defaults[name] and not effective:
            raise ConfigError(
                f"{name.replace('_', ' ')} {value} has no effect without {needed}",
                where=f"--set optim.{name}",
                fix=f"leave out optim.{name}",
            )


def _check_schedule(settings: OptimSettings) -> None:
    """Raise ConfigError unless schedule, milestones and warm-up belong together."""
    if settings.schedule not in get_args(Schedule):
        raise ConfigError(
            "schedule must be cosine or constant, or steps with milestones, "
            f"got {settings.schedule!r}"
        )
    if settings.warmup not in get_args(Warmup):
        raise ConfigError(f"warmup must be per_step or per_epoch, got {settings.warmup!r}")
    milestones = settings.milestones
    if (settings.schedule == "steps") != bool(milestones):
        raise ConfigError(
            "the schedule steps and milestones must be given together",
            why=f"the schedule is {settings.schedule}, milestones are {list(milestones)}",
        )
    if any(a >= b for a, b in zip((0, *milestones), milestones, strict=False)):
        raise ConfigError(f"milestones must be epochs that grow from 1, got {list(milestones)}")
