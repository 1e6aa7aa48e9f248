"""The settings of one training run: everything besides the store that decides its result."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from viewstore.errors import ConfigError, nearest
from viewstore.format.plan import MAX_SIDE, checked_seed
from viewstore.images.policies import ViewPolicy
from viewstore.images.policy_values import PolicySetting, name_of, policies_of, spelled_out
from viewstore.loaders.batches.batch import IMAGENET_MEAN, IMAGENET_STD
from viewstore.train.loop.layers import DEFAULT_NAMES, METHOD, OPTIMIZER, STRATEGY, flat
from viewstore.train.loop.optim import OPTIMIZERS, OptimSettings
from viewstore.train.loop.scaling import Precision
from viewstore.train.methods.base import MethodSettings
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.settings import settings_named
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import STRATEGIES, strategy_of
from viewstore.train.values import shown, typed_settings
from viewstore.train.views import Preprocessing

TABLES = ("method", "strategy", "network", "optim")
# Of values in [0, 1]: ImageNet's for colour, the middle of the range for gray.
STATISTICS = {3: (IMAGENET_MEAN, IMAGENET_STD), 1: ((0.5,), (0.5,))}
LEAST_STD, GREATEST_STATISTIC = 1e-6, 1e6  # beyond these float32 loses the image
RANGES: Mapping[str, tuple[int, int]] = {
    "epochs": (1, 2**31),
    "steps": (1, 2**31),
    "batch_size": (2, 2**31),
    "holdout": (2, 2**31),
    "size": (1, MAX_SIDE),
    "local_size": (1, MAX_SIDE),
}


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
        local_size: Side of online local crops; None means 96/224 of `size`.
        seed: Seed of the weights, of the order and of all draws.
        holdout: Leave out every `holdout`-th row (0, holdout, ...); None means none.
        where: Train only on rows that this filter selects; None means all.
        missing: What a view that was not made does: "raise", or "resample" another of its sample.
        precision: "bf16" and "fp16" compute the forward pass in these where autocast allows it.
        mean, std: Normalisation of values in [0, 1] per channel; None means STATISTICS.
        policies: Policies of one's own that `views` may name, as values: --policy FILE gives them.

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
    local_size: int | None = None
    seed: int = 0
    holdout: int | None = None
    where: str | None = None
    missing: Literal["raise", "resample"] = "raise"
    precision: Precision = "fp32"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    policies: tuple[PolicySetting, ...] = ()

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                "the length of the run must be given once",
                why=f"epochs are {self.epochs}, steps are {self.steps}",
                fix="give --epochs E or --steps N",
            )
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                rule = f"at least {least}" if value < least else f"at most {most}"
                raise ConfigError(f"{name.replace('_', ' ')} must be {rule}, got {value}")
        parts = self.optim.accumulate
        if self.batch_size % parts or self.batch_size // parts < 2:
            raise ConfigError(
                f"batch size must be a multiple of the {parts} parts that a step is computed in, "
                f"of 2 samples or more each, got {self.batch_size}",
                where="--set optim.accumulate",
                fix=f"give --batch-size {max(2, self.batch_size // parts) * parts}",
            )
        _check_statistics(self)
        object.__setattr__(self, "seed", checked_seed(self.seed))

    @property
    def own_policies(self) -> dict[str, tuple[ViewPolicy, ...]]:
        """The policies of one's own, by name."""
        return {name_of(each): policies_of(each) for each in self.policies}

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

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Self:
        """Return the settings of a tree of values, of the form that `to_json` gives.

        Tables may be dotted names instead. What is left out is the default: of the network's
        head that of the method, of the rate and its decay that of the optimizer.

        Raises:
            ConfigError: A name is unknown, or a value is of another type or out of range.
        """
        values = flat(tree)
        tables: dict[str, dict[str, Any]] = {name: {} for name in ("", *TABLES)}
        for key, value in values.items():
            table, dot, name = key.partition(".")
            if not (table in TABLES if dot else key in _own_names()):
                raise _unknown(key, values)
            tables[table if dot else ""][name if dot else key] = value
        if "views" not in tables[""]:
            raise ConfigError(
                "the views of the run must be named",
                fix="give --views simclr,simclr, for example, or a --preset, which names some",
            )
        policies = _policies(tables[""].pop("policies", ()))
        method = method_of(_name(METHOD, tables["method"]), tables["method"])
        strategy = strategy_of(_name(STRATEGY, tables["strategy"]), tables["strategy"])
        given = typed_settings("network.", NetworkSettings, tables["network"])
        network = NetworkSettings(**{**method.HEAD, **given})
        optimizer = _name(OPTIMIZER, tables["optim"])
        optim = typed_settings("optim.", OptimSettings, tables["optim"])
        if (defaults := OPTIMIZERS.get(optimizer)) is not None:
            optim = {"lr": defaults.lr, "weight_decay": defaults.weight_decay, **optim}
        return cls(
            method=method,
            strategy=strategy,
            network=network,
            optim=OptimSettings(name=optimizer, **optim),
            policies=policies,
            **typed_settings("", cls, tables[""]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, with the names of method and strategy.

        A setting that several parts of the strategy have is named "PART.SETTING".
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values |= {"network": asdict(self.network), "optim": asdict(self.optim)}
        values["method"] = {"name": self.method.TRAITS.name, **settings_named(self.method)}
        parts = {part.NAME: settings_named(part) for part in self.strategy.parts}
        count = Counter(name for settings in parts.values() for name in settings)
        values["strategy"] = {"name": ",".join(parts)} | {
            f"{part}." * (count[name] > 1) + name: value
            for part, settings in parts.items()
            for name, value in settings.items()
        }
        return values


def _check_statistics(config: PretrainConfig) -> None:
    """Raise ConfigError unless mean and std have a usable number for each channel."""
    channels = config.network.in_channels
    for name, least in (("mean", -GREATEST_STATISTIC), ("std", LEAST_STD)):
        values = getattr(config, name)
        if values is None:
            continue
        if len(values) != channels:
            raise ConfigError(
                f"{name} must have {channels} values, one per channel, got {list(values)}",
                where=f"--set {name}",
                fix=f"give {channels} values, or leave out {name}",
            )
        if not all(least <= value <= GREATEST_STATISTIC for value in values):
            raise ConfigError(
                f"{name} must be in [{least:g}, {GREATEST_STATISTIC:g}], got {list(values)}",
                where=f"--set {name}",
                why="pixels in [0, 1] are normalised to (x - mean) / std",
            )


def _policies(given: Any) -> tuple[PolicySetting, ...]:  # noqa: ANN401
    """Return policies of one's own, complete. Raises ConfigError: they are none, or share names."""
    if not isinstance(given, list | tuple) or any(isinstance(each, str) for each in given):
        raise ConfigError(
            f"policies must be tables of values, got {given!r}",
            where="--set policies",
            fix="give --policy FILE.toml, once for each",
        )
    found = tuple(spelled_out(each) for each in given)
    names = Counter(map(name_of, found))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"policy {twice[0]} is given twice", where=f"--policy {twice[0]}")
    return found


def _own_names() -> set[str]:
    return {item.name for item in fields(PretrainConfig)} - set(TABLES)


def _name(key: str, table: dict[str, Any]) -> str:
    """Take the name out of a table, or return the default one. Raises ConfigError: no text."""
    name = table.pop("name", DEFAULT_NAMES[key])
    if not isinstance(name, str):
        raise ConfigError(f"{key} must be text, got {name!r}", where=f"--set {key}")
    return name


def _unknown(key: str, values: Mapping[str, Any]) -> ConfigError:
    """Return the error of a key that no table and no run has; it names the nearest of all."""
    if key in TABLES:
        fix = f"name {key}.name, as with --set {key}.name={values[key]}"
        return ConfigError(
            f"{key} is a table of settings, got {values[key]!r}",
            fix=fix if key != "network" else "name one of its settings, such as network.backbone",
        )
    kinds = [("network", NetworkSettings), ("optim", OptimSettings)]
    kinds += [("method", kind) for kind in METHODS.own.values()]
    kinds += [("strategy", kind) for kind in STRATEGIES.own.values()]
    dotted = [f"{table}.{shown(item.name)}" for table, kind in kinds for item in fields(kind)]
    near = difflib.get_close_matches(key, [*_own_names(), *dotted], n=1)
    return ConfigError(
        f"there is no setting {key!r}; {nearest(key, near or [*_own_names(), *TABLES])}",
        code="VS102",
        where=f"--set {key}",
    )
