"""Train a StyleGAN2 generator on images (arXiv:1912.04958), with the settings of arXiv:2006.06676.

Every draw of a step is keyed by (seed, step), so a resumed run equals an uninterrupted one bit
for bit, on the same machine.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError, DivergedError, StoppedError
from viewstore.files.disk import unlink
from viewstore.files.tensors import as_stored, read_json, read_tensors, write_tensors
from viewstore.format.plan import checked_seed
from viewstore.generators.gan.discriminator import TAPS, Discriminator
from viewstore.generators.gan.keyed import epoch_rows, keyed_generator
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.generators.stylegan2.resample import filter_of
from viewstore.generators.stylegan2.shape import Architecture
from viewstore.progress import Progress, Silent

KIND = "viewstore_gan_training"
KIMG = 1000
W_AVG_KEEP = 0.995
R1_EVERY = 16

Snapshot = Callable[[int, StyleGAN2], None]


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))
        for name, value in asdict(self).items():
            low = 0 if name in ("gamma", "seed") else math.ulp(0.0)
            if not low <= value < math.inf:
                rule = "positive" if low else "at least 0"
                raise ConfigError(f"{name} must be {rule}, got {value}")
        if self.batch % self.group:
            raise ConfigError(f"batch must be a multiple of group {self.group}, got {self.batch}")

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return math.ceil(self.kimg * KIMG / self.batch)

    def architecture(self, resolution: int, image_channels: int) -> Architecture:
        """Return the network for images of `resolution` pixels a side, a power of two."""
        sizes = [4 << i for i in range(resolution.bit_length() - 2)]
        return Architecture(
            z_dim=self.latent_dim,
            mapping_widths=(self.latent_dim,) * self.mapping_layers,
            channels=tuple(min(self.channel_base // size, self.channels) for size in sizes),
            image_channels=image_channels,
        )


class GanTrainer:
    """Two networks, the average of one, and their optimisers at some step."""

    def __init__(self, images: Tensor, settings: GanSettings, *, device: str = "cpu") -> None:
        """Start at step 0 on `images`, float32 [N, C, H, W] in [-1, 1], on any device.

        Raises:
            ConfigError: The images are of another form, or fewer than a batch.
        """
        _check_images(images, settings)
        self.settings, self.device = settings, device
        self.images = images
        self.step = 0
        shape = settings.architecture(images.shape[2], images.shape[1])
        keyed = keyed_generator("weights", settings.seed)
        generator = StyleGAN2(shape)
        initialise(generator, keyed)
        discriminator = Discriminator(shape.channels, shape.image_channels, group=settings.group)
        discriminator.initialise(keyed)
        self.generator = generator.to(device)
        self.discriminator = discriminator.to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        # R1 is its own step each R1_EVERY: the optimiser is slowed to match (lazy regularisation).
        lazy = R1_EVERY / (R1_EVERY + 1)
        self.generator_adam = _adam(self.generator, settings.lr, 0.99)
        self.discriminator_adam = _adam(self.discriminator, settings.lr * lazy, 0.99**lazy)

    def advance(self) -> dict[str, float]:
        """Do one step; return its losses where R1 is one of them, else nothing.

        Raises:
            DivergedError: A loss is not finite.
        """
        seed, batch = self.settings.seed, self.settings.batch
        keyed = keyed_generator("step", seed, self.step)
        real = self.images[epoch_rows(len(self.images), batch, seed, self.step)].to(self.device)
        generator_loss = self._train_generator(keyed)
        discriminator_loss = self._train_discriminator(real, keyed)
        penalty = self._penalise(real) if self.step % R1_EVERY == 0 else None
        self.step += 1
        self._update_average()
        if penalty is None:
            return {}
        losses = {"g": float(generator_loss), "d": float(discriminator_loss), "r1": float(penalty)}
        if not all(map(math.isfinite, losses.values())):
            raise DivergedError(
                f"training left the finite numbers before step {self.step}: {losses}",
                fix="lower --set lr or raise --set gamma, and train from the start",
            )
        return losses

    def _fake(self, keyed: torch.Generator) -> tuple[Tensor, Tensor]:
        z = torch.randn(self.settings.batch, self.settings.latent_dim, generator=keyed)
        codes: Tensor = self.generator.mapping(z.to(self.device))
        images = self.generator.synthesis(codes, noise="random", generator=keyed)
        return images, codes

    def _train_generator(self, keyed: torch.Generator) -> Tensor:
        self.discriminator.requires_grad_(False)
        images, codes = self._fake(keyed)
        loss = F.softplus(-self.discriminator(images)).mean()
        _update(self.generator_adam, loss)
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            self.generator.w_avg.lerp_(codes[:, 0].mean(0), 1 - W_AVG_KEEP)
        return loss.detach()

    def _train_discriminator(self, real: Tensor, keyed: torch.Generator) -> Tensor:
        with torch.no_grad():
            images, _ = self._fake(keyed)
        loss = (
            F.softplus(self.discriminator(images)).mean()
            + F.softplus(-self.discriminator(real)).mean()
        )
        _update(self.discriminator_adam, loss)
        return loss.detach()

    def _penalise(self, real: Tensor) -> Tensor:
        """Do the R1 step: the squared gradient of the scores by real images."""
        real = real.clone().requires_grad_()
        scores = self.discriminator(real).sum()
        (slope,) = torch.autograd.grad(scores, real, create_graph=True)
        penalty = slope.square().sum((1, 2, 3)).mean() * (self.settings.gamma / 2)
        _update(self.discriminator_adam, penalty * R1_EVERY)
        return penalty.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        seen = self.step * self.settings.batch
        half_life = min(self.settings.ema_kimg * KIMG, 0.05 * seen)
        keep = 0.5 ** (self.settings.batch / half_life)
        weights = zip(self.average.parameters(), self.generator.parameters(), strict=True)
        for average, current in weights:
            average.lerp_(current, 1 - keep)
        buffers = zip(self.average.buffers(), self.generator.buffers(), strict=True)
        for stored, latest in buffers:
            stored.copy_(latest)

    def result(self) -> StyleGAN2:
        """Return a frozen copy of the averaged generator."""
        tensors = {name: value.cpu() for name, value in self.average.state_dict().items()}
        return StyleGAN2.from_tensors(tensors, self.average.kwargs)

    def write(self, path: Path) -> None:
        """Write everything that the next step depends on to a file that `read` reads."""
        tensors: dict[str, Tensor] = {}
        for name, network in self._networks().items():
            tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
        for name, adam in self._optimisers().items():
            for number, state in adam.state_dict()["state"].items():
                tensors |= {f"{name}/{number}/{key}": value for key, value in state.items()}
        about = {KIND: "1", "settings": json.dumps(asdict(self.settings), sort_keys=True)}
        about |= {"images": _digest(self.images), "step": str(self.step)}
        write_tensors(path, as_stored(tensors, half=False), about)

    def read(self, path: Path) -> None:
        """Go on from what `write` wrote.

        Raises:
            CheckpointError: Not such a file.
            ConfigError: It is of other settings (but for the length) or other images.
        """
        tensors, about = read_tensors(path, KIND)
        self._check_run(path, read_json(about, "settings"), about.get("images", ""))
        try:
            for name, network in self._networks().items():
                network.load_state_dict(_below(tensors, name))
            for name, adam in self._optimisers().items():
                _restore(adam, _below(tensors, name))
            self.step = int(about["step"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"cannot resume from {path}: {error}") from error

    def _check_run(self, path: Path, stored: dict[str, Any], images: str) -> None:
        length = {"kimg", "snapshot_kimg"}
        for name, value in asdict(self.settings).items():
            if name not in length and stored.get(name) != value:
                raise ConfigError(
                    f"{name} is {value}, but the training in {path} has {stored.get(name)}",
                    code="VS103",
                    fix="give the same settings, or another --state file",
                )
        if images != _digest(self.images):
            raise ConfigError(
                f"the training in {path} is on other images",
                code="VS103",
                fix="give the same source, or another --state file",
            )

    def _networks(self) -> dict[str, nn.Module]:
        # The names are those of the tensors in state files.
        return {
            "generator": self.generator,
            "judge": self.discriminator,
            "average": self.average,
        }

    def _optimisers(self) -> dict[str, torch.optim.Adam]:
        return {"generator_adam": self.generator_adam, "judge_adam": self.discriminator_adam}


def train_generator(
    images: Tensor,
    settings: GanSettings,
    *,
    state: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    snapshot: Snapshot = lambda seen, network: None,
    stop: Callable[[], bool] = lambda: False,
) -> StyleGAN2:
    """Train on `images`, float32 [N, C, H, W] in [-1, 1]; return the averaged generator.

    Args:
        images: The training set; C is 1 or 3, H and W a power of two.
        settings: How it is trained.
        state: A file that the training is written to every `snapshot_kimg`, and from which it goes
            on if the file exists.
        device: Torch device.
        progress: Begun by the caller, in images; advanced with the losses "g", "d" and "r1".
        snapshot: Called with the images seen so far and the averaged generator, every
            `snapshot_kimg` and at the end.
        stop: Called after every step but the last; true writes `state` and ends the training.

    Raises:
        ConfigError: The images do not fit, or `state` is of another run.
        DivergedError: A loss is not finite.
        StoppedError: `stop` returned true.
        CheckpointError: `state` cannot be read.
    """
    progress = progress or Silent()
    trainer = GanTrainer(images, settings, device=device)
    if state is not None and state.exists():
        trainer.read(state)
    elif state is not None:  # what cannot be written ends the training now, not in minutes
        trial = state.with_name(f"{state.name}.trial")
        trainer.write(trial)
        unlink(trial)
    every = max(1, round(settings.snapshot_kimg * KIMG / settings.batch))
    reported = 0
    while trainer.step < settings.steps:
        losses = trainer.advance()
        seen = trainer.step * settings.batch
        if losses:
            progress.advance(seen - reported, **losses)
            reported = seen
        if trainer.step % every == 0 or trainer.step == settings.steps:
            if state is not None:
                trainer.write(state)
            snapshot(seen, trainer.result())
        if trainer.step < settings.steps and stop():
            raise _stopped(trainer, state)
    progress.advance(settings.steps * settings.batch - reported)
    return trainer.result()


def _stopped(trainer: GanTrainer, state: Path | None) -> StoppedError:
    """Write the state, if there is a file for it; return the error that says what is kept."""
    message = f"training stopped after step {trainer.step} of {trainer.settings.steps}"
    if state is None:
        return StoppedError(
            message,
            why="nothing is kept: the training has no state file",
            fix="train again with --state FILE, which can be stopped at any moment",
        )
    trainer.write(state)
    return StoppedError(message, where=str(state), why="the state of that step is written there")


def initialise(network: StyleGAN2, keyed: torch.Generator) -> None:
    """Draw the weights of an untrained network, in place, from `keyed`."""
    for name, tensor in network.named_parameters():
        if name.endswith("affine.bias"):
            nn.init.ones_(tensor)
        elif name.endswith(("weight", "const")):
            nn.init.normal_(tensor, generator=keyed)
            if name.startswith("mapping.fc"):
                tensor.data.div_(network.shape.lr_multiplier)
    for name, buffer in network.named_buffers():
        if name.endswith("noise_const"):
            buffer.normal_(generator=keyed)
        elif name.endswith("resample_filter"):
            buffer.copy_(filter_of(TAPS))


def _check_images(images: Tensor, settings: GanSettings) -> None:
    if images.dtype != torch.float32 or images.ndim != 4:
        raise ConfigError(
            f"images must be float32 [N, C, H, W], got {images.dtype} {list(images.shape)}"
        )
    count, _, height, width = images.shape
    if height != width or height not in {4 << i for i in range(9)}:
        raise ConfigError(
            "images must be square with a side that is a power of two from 4 to 1024, "
            f"got {height} x {width}"
        )
    if count < settings.batch:
        raise ConfigError(f"there must be at least {settings.batch} images, got {count}")
    if float(images.abs().max()) > 1:
        raise ConfigError("images must lie in [-1, 1]")


def _adam(network: nn.Module, lr: float, beta: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(0.0, beta), eps=1e-8)


def _update(adam: torch.optim.Adam, loss: Tensor) -> None:
    adam.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.cpu().contiguous().numpy().tobytes()).hexdigest()


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    start = f"{name}/"
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}


def _restore(adam: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = value
    adam.load_state_dict(adam.state_dict() | {"state": state})
