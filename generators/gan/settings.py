"""How a generator is trained: the settings, their ranges, and the recipes that have a name."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from viewstore.errors import ConfigError
from viewstore.format.plan import checked_seed
from viewstore.generators.gan.augment import checked_ops
from viewstore.generators.stylegan2.shape import Architecture

KIMG = 1000

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "digits": {},
    # arXiv:2006.06676, appendix C, CIFAR-10: there for 100,000 kimg.
    "cifar": {
        "kimg": 10_000.0,
        "latent_dim": 512,
        "channels": 512,
        "batch": 64,
        "gamma": 0.01,
        "group": 32,
        "ema_kimg": 500.0,
        "snapshot_kimg": 50.0,
        "augment": "ada",
        "augment_ops": "flip,bgc",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GanSettings:
    """How a generator is trained; the defaults are those of the digits that the package ships.

    Attributes:
        kimg: How long to train, in thousands of real images.
        latent_dim: Width of z and of w. 512 for photographs.
        channels: Feature maps of a layer, at most. 512 for photographs.
        channel_base: Feature maps times resolution, at most.
        batch: Images of a step. Another batch is another run.
        gamma: Weight of R1; more for higher resolutions and fewer images.
        group: Images whose spread the discriminator sees; divides the batch.
        ema_kimg: Half-life of the averaged weights, which are the result.
        snapshot_kimg: How often a resumable state is written.
        conditional: Whether the network is told the class of an image, from the source's labels.
        augment: What the discriminator sees of images: "none" as they are, "ada" augmented with a
            probability that follows its overfitting, or that probability, in [0, 1].
        augment_ops: What may be done to them: groups of letters or names of operators, with commas.
        ada_target: Share of real images told to be real less that of the others, which "ada" holds.
        ada_kimg: Thousands of images in which "ada" can go from never to always.
    """

    kimg: float = 100.0
    latent_dim: int = 32
    mapping_layers: int = 2
    channels: int = 32
    channel_base: int = 32768
    batch: int = 32
    gamma: float = 0.1
    group: int = 4
    ema_kimg: float = 5.0
    lr: float = 0.0025
    snapshot_kimg: float = 5.0
    seed: int = 0
    conditional: bool = False
    augment: str | float = "none"
    augment_ops: str = "bgc"
    ada_target: float = 0.6
    ada_kimg: float = 500.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))
        check_numbers(self, may_be_zero=("gamma", "seed"))
        if self.batch % self.group:
            raise ConfigError(f"batch must be a multiple of group {self.group}, got {self.batch}")
        if not isinstance(self.conditional, bool):
            raise ConfigError(f"conditional must be true or false, got {self.conditional!r}")
        if self.ada_target >= 1:
            raise ConfigError(f"ada_target must be below 1, got {self.ada_target}")
        checked_ops(self.augment_ops)
        self._check_augment()

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return math.ceil(self.kimg * KIMG / self.batch)

    @property
    def snapshot_steps(self) -> int:
        """Steps from one snapshot to the next."""
        return max(1, round(self.snapshot_kimg * KIMG / self.batch))

    @property
    def probability(self) -> float:
        """Probability of each augmentation at the start."""
        return self.augment if isinstance(self.augment, int | float) else 0.0

    def architecture(
        self, resolution: int, image_channels: int, *, classes: int = 0
    ) -> Architecture:
        """Return the network for images of `resolution` pixels a side, a power of two.

        Raises:
            ConfigError: No feature map is left at that resolution.
        """
        if self.channel_base < resolution:
            raise ConfigError(
                f"channel_base must be at least the {resolution} pixels of an image, "
                f"got {self.channel_base}"
            )
        sizes = [4 << i for i in range(resolution.bit_length() - 2)]
        return Architecture(
            z_dim=self.latent_dim,
            c_dim=classes,
            embed_width=self.latent_dim if classes else 0,
            mapping_widths=(self.latent_dim,) * self.mapping_layers,
            channels=tuple(min(self.channel_base // size, self.channels) for size in sizes),
            image_channels=image_channels,
        )

    def _check_augment(self) -> None:
        if self.augment in ("none", "ada"):
            return
        if isinstance(self.augment, str | bool) or not 0 <= self.augment <= 1:
            raise ConfigError(
                f"augment must be none, ada or a number in [0, 1], got {self.augment!r}"
            )


def settings_of(preset: str, given: Mapping[str, Any]) -> GanSettings:
    """Return the settings of a preset with those that are `given` in their place.

    Raises:
        ConfigError: One is out of range, or has no effect beside the others.
    """
    settings = GanSettings(**{**PRESETS[preset], **given})
    needed = {"augment_ops": "another augment than none"} if settings.augment == "none" else {}
    if settings.augment != "ada":
        needed |= dict.fromkeys(("ada_target", "ada_kimg"), "augment=ada")
    for name, other in needed.items():
        if name in given:
            raise ConfigError(f"{name} has no effect without {other}, and it is {settings.augment}")
    return settings


def check_numbers(settings: Any, *, may_be_zero: Collection[str]) -> None:  # noqa: ANN401
    """Raise ConfigError unless each int and float of a dataclass is one, finite and positive."""
    for field in fields(settings):
        name, value, whole = field.name, getattr(settings, field.name), field.type == "int"
        if field.type not in ("int", "float"):
            continue
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ConfigError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
        low = 0 if name in may_be_zero else math.ulp(0.0)
        if not low <= value < math.inf:
            rule = "positive" if low else "at least 0"
            raise ConfigError(f"{name} must be {rule}, got {value}")
