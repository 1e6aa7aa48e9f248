"""The settings of one training run: everything besides the store that decides its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from viewstore.errors import ConfigError
from viewstore.format.plan import checked_seed
from viewstore.loaders.batches.batch import IMAGENET_MEAN, IMAGENET_STD
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.methods.base import MethodSettings
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.settings import settings_named
from viewstore.train.strategies.base import Strategy
from viewstore.train.views import Preprocessing

# Of values in [0, 1]: ImageNet's for colour, the middle of the range for gray.
STATISTICS = {3: (IMAGENET_MEAN, IMAGENET_STD), 1: ((0.5,), (0.5,))}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The settings of a run. Runs with equal settings and stores give equal encoders.

    Attributes:
        views: Names of view sets or policies, one per view.
        method, strategy: Settings of the method and of the strategy.
        network, optim: Settings of the network and of the optimizer.
        epochs, steps: Length of the run; exactly one of the two is set.
        batch_size: Samples per step.
        size: Side of online views in pixels; None means that of the view sets or source images.
        seed: Seed of the weights, of the order and of all draws.
        holdout: Leave out every `holdout`-th row (0, holdout, ...); None means none.
        where: Train only on rows that this filter selects; None means all.
        missing: What a view that was not made does: "raise", or "resample" another of its sample.
        precision: "bf16" computes the forward pass in bfloat16 where autocast allows it.
        mean, std: Normalisation of values in [0, 1] per channel; None means STATISTICS.

    Raises:
        ConfigError: A value is out of range.
    """

    views: tuple[str, ...]
    method: MethodSettings
    strategy: Strategy
    network: NetworkSettings = field(default_factory=NetworkSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 256
    size: int | None = None
    seed: int = 0
    holdout: int | None = None
    where: str | None = None
    missing: Literal["raise", "resample"] = "raise"
    precision: Literal["fp32", "bf16"] = "fp32"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                "the length of the run must be given once",
                why=f"epochs are {self.epochs}, steps are {self.steps}",
                fix="give --epochs E or --steps N",
            )
        for name, least in (("epochs", 1), ("steps", 1), ("batch_size", 2), ("holdout", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name.replace('_', ' ')} must be at least {least}, got {value}")
        object.__setattr__(self, "seed", checked_seed(self.seed))

    @property
    def prepare(self) -> Preprocessing:
        """The function from pixels to the network's input."""
        channels = self.network.in_channels
        mean, std = STATISTICS[channels]
        return Preprocessing(in_channels=channels, mean=self.mean or mean, std=self.std or std)

    def total_steps(self, epoch_steps: int) -> int:
        """Return the length of the run in steps, `epoch_steps` to an epoch."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * epoch_steps

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, with the names of method and strategy."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values |= {"network": asdict(self.network), "optim": asdict(self.optim)}
        values["method"] = {"name": self.method.TRAITS.name, **vars(self.method)}
        values["strategy"] = {part.NAME: settings_named(part) for part in self.strategy.parts}
        return values
