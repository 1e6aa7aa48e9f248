"""Train a StyleGAN2 generator on images (arXiv:1912.04958), with the settings of arXiv:2006.06676.

Every draw of a step is keyed by (seed, step), so a resumed run equals an uninterrupted one bit
for bit, on the same machine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import ConfigError, DivergedError, StoppedError
from viewstore.files.disk import unlink
from viewstore.generators.gan.ada import Controller
from viewstore.generators.gan.augment import augmented, checked_ops, draws
from viewstore.generators.gan.discriminator import TAPS, Discriminator
from viewstore.generators.gan.keyed import epoch_rows, keyed_generator
from viewstore.generators.gan.settings import KIMG, GanSettings
from viewstore.generators.gan.state import Data, Parts, read_state, unfit, write_state
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.generators.stylegan2.resample import filter_of
from viewstore.progress import Progress, Silent

W_AVG_KEEP = 0.995
R1_EVERY = 16
MAX_CLASSES = 16_384

Snapshot = Callable[[int, StyleGAN2], None]


class GanTrainer:
    """Two networks, the average of one, and their optimisers at some step."""

    def __init__(
        self,
        images: Tensor,
        settings: GanSettings,
        *,
        labels: Tensor | None = None,
        device: str = "cpu",
    ) -> None:
        """Start at step 0 on `images` [N, C, H, W], on any device.

        They are float32 in [-1, 1], or uint8 levels, which take a fourth of the memory. `labels`,
        int64 [N], are needed by a conditional training only.

        Raises:
            ConfigError: The images are of another form, or fewer than a batch; or the labels are.
        """
        _check_images(images, settings)
        self.settings, self.device = settings, device
        self.images = images
        self.labels = labels if settings.conditional else None
        self.step = 0
        classes = _count_classes(labels, len(images)) if settings.conditional else 0
        shape = settings.architecture(images.shape[2], images.shape[1], classes=classes)
        keyed = keyed_generator("weights", settings.seed)
        generator = StyleGAN2(shape)
        initialise(generator, keyed)
        discriminator = Discriminator(
            shape.channels, shape.image_channels, group=settings.group, classes=classes
        )
        discriminator.initialise(keyed)
        self.generator = generator.to(device)
        self.discriminator = discriminator.to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        # R1 is its own step each R1_EVERY: the optimiser is slowed to match (lazy regularisation).
        lazy = R1_EVERY / (R1_EVERY + 1)
        self.generator_adam = _adam(self.generator, settings.lr, 0.99)
        self.discriminator_adam = _adam(self.discriminator, settings.lr * lazy, 0.99**lazy)
        self.augment_ops = checked_ops(settings.augment_ops)
        self.controller = Controller(
            target=settings.ada_target if settings.augment == "ada" else None,
            images=settings.ada_kimg * KIMG,
            p=settings.probability,
        )

    def advance(self) -> dict[str, float]:
        """Do one step; return its losses where R1 is one of them, else nothing.

        With adaptive augmentation the probability "p" and the share "r_t" that it follows are
        among them.

        Raises:
            DivergedError: A loss is not finite.
        """
        seed, batch = self.settings.seed, self.settings.batch
        keyed = keyed_generator("step", seed, self.step)
        rows = epoch_rows(len(self.images), batch, seed, self.step)
        real = _signed(self.images[rows].to(self.device))
        labels = None if self.labels is None else self.labels[rows].to(self.device)
        generator_loss = self._train_generator(keyed)
        discriminator_loss, scores = self._train_discriminator(real, labels, keyed)
        penalty = self._penalise(real, labels) if self.step % R1_EVERY == 0 else None
        self.controller.observe(scores, self.step)
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
        if self.controller.target is not None:
            losses |= {"p": self.controller.p, "r_t": self.controller.overfit}
        return losses

    def _fake(self, keyed: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return images, their codes, and their labels, which are those of random rows."""
        batch, labels = self.settings.batch, None
        z = torch.randn(batch, self.settings.latent_dim, generator=keyed)
        if self.labels is not None:
            rows = torch.randint(len(self.labels), (batch,), generator=keyed)
            labels = self.labels[rows].to(self.device)
        codes: Tensor = self.generator.mapping(z.to(self.device), labels)
        images = self.generator.synthesis(codes, noise="random", generator=keyed)
        return images, codes, labels

    def _score(self, images: Tensor, labels: Tensor | None, whose: str) -> Tensor:
        """Return the scores [N] of images as the discriminator sees them: augmented."""
        if self.controller.p:
            uniform = draws(len(images), f"augment {whose}", self.settings.seed, self.step)
            images = augmented(images, uniform, self.controller.p, self.augment_ops)
        scores: Tensor = self.discriminator(images, labels)
        return scores

    def _train_generator(self, keyed: torch.Generator) -> Tensor:
        self.discriminator.requires_grad_(False)
        images, codes, labels = self._fake(keyed)
        loss = F.softplus(-self._score(images, labels, "generator")).mean()
        _update(self.generator_adam, loss)
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            self.generator.w_avg.lerp_(codes[:, 0].mean(0), 1 - W_AVG_KEEP)
        return loss.detach()

    def _train_discriminator(
        self, real: Tensor, real_labels: Tensor | None, keyed: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and the scores of the real images."""
        with torch.no_grad():
            images, _, labels = self._fake(keyed)
        of_fake = self._score(images, labels, "fake")
        of_real = self._score(real, real_labels, "real")
        loss = F.softplus(of_fake).mean() + F.softplus(-of_real).mean()
        _update(self.discriminator_adam, loss)
        return loss.detach(), of_real.detach()

    def _penalise(self, real: Tensor, labels: Tensor | None = None) -> Tensor:
        """Do the R1 step: the squared gradient of the scores by real images, not augmented yet."""
        real = real.clone().requires_grad_()
        scores = self._score(real, labels, "real").sum()
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

    @cached_property
    def data(self) -> Data:
        """What identifies the images and labels that are trained on."""
        return Data.of(self.images, self.labels)

    def write(self, path: Path) -> None:
        """Write everything that the next step depends on to a file that `read` reads."""
        write_state(
            path,
            self._parts(),
            self.settings,
            self.data,
            step=self.step,
            controller=self.controller.state(),
        )

    def read(self, path: Path) -> None:
        """Go on from what `write` wrote.

        Raises:
            CheckpointError: Not such a file.
            ConfigError: It is of other settings (but for the length) or other images.
        """
        self.step, controller = read_state(path, self._parts(), self.settings, self.data)
        try:
            self.controller.restore(controller)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise unfit(path, error) from error

    def _parts(self) -> Parts:
        # The names are those of the tensors in state files.
        networks = {
            "generator": self.generator,
            "judge": self.discriminator,
            "average": self.average,
        }
        optimisers = {
            "generator_adam": self.generator_adam,
            "judge_adam": self.discriminator_adam,
        }
        return Parts(networks=networks, optimisers=optimisers)


def train_generator(
    images: Tensor,
    settings: GanSettings,
    *,
    labels: Tensor | None = None,
    state: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    snapshot: Snapshot = lambda seen, network: None,
    stop: Callable[[], bool] = lambda: False,
) -> StyleGAN2:
    """Train on `images` [N, C, H, W]; return the averaged generator.

    Args:
        images: The training set, float32 in [-1, 1] or uint8; C is 1 or 3, H = W a power of two.
        settings: How it is trained.
        labels: Classes int64 [N], from 0 on, each of some image; of a conditional training only.
        state: A file that the training is written to every `snapshot_kimg`, and from which it goes
            on if the file exists.
        device: Torch device.
        progress: Begun by the caller, in images; advanced with the losses "g", "d" and "r1", and
            with adaptive augmentation "p" and "r_t".
        snapshot: Called with the images seen so far and the averaged generator, every
            `snapshot_kimg` and at the end; again where a training goes on from one of these.
        stop: Called after every step but the last; true writes `state` and ends the training.

    Raises:
        ConfigError: The images do not fit, or `state` is of another run.
        DivergedError: A loss is not finite.
        StoppedError: `stop` returned true.
        CheckpointError: `state` cannot be read.
    """
    progress = progress or Silent()
    trainer = GanTrainer(images, settings, labels=labels, device=device)
    every, reported = settings.snapshot_steps, 0
    if state is not None and state.exists():
        trainer.read(state)
        if trainer.step > settings.steps:
            raise ConfigError(
                f"the training in this state is at step {trainer.step}, and kimg={settings.kimg:g} "
                f"ends at {settings.steps}",
                code="VS103",
                where=str(state),
                fix="give more kimg, or another --state",
            )
        if trainer.step % every == 0:  # it may have ended before what follows the state was done
            snapshot(trainer.step * settings.batch, trainer.result())
    elif state is not None:  # what cannot be written ends the training now, not in minutes
        trial = state.with_name(f"{state.name}.trial")
        trainer.write(trial)
        unlink(trial)
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
    if images.dtype not in (torch.float32, torch.uint8) or images.ndim != 4:
        raise ConfigError(
            f"images must be float32 or uint8 [N, C, H, W], got {images.dtype} {list(images.shape)}"
        )
    count, _, height, width = images.shape
    if height != width or height not in {4 << i for i in range(9)}:
        raise ConfigError(
            "images must be square with a side that is a power of two from 4 to 1024, "
            f"got {height} x {width}"
        )
    if count < settings.batch:
        raise ConfigError(f"there must be at least {settings.batch} images, got {count}")
    if images.is_floating_point() and float(images.abs().max()) > 1:
        raise ConfigError("images must lie in [-1, 1]")


def _signed(images: Tensor) -> Tensor:
    """Return levels 0..255 as float32 in [-1, 1], and floats as they are."""
    return images if images.is_floating_point() else images / 127.5 - 1


def _count_classes(labels: Tensor | None, count: int) -> int:
    """Return how many classes there are. Raises ConfigError: a class has no image, or none has."""
    advice = "train without --set conditional=true, or take a source with labels"
    if labels is None or bool((labels < 0).all()):
        raise ConfigError(
            "a conditional training needs the classes of its images, and they have no labels",
            fix=advice,
        )
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ConfigError(
            f"labels must be int64 [{count}], got {labels.dtype} {list(labels.shape)}"
        )
    found = np.unique(labels.cpu().numpy()).tolist()
    if found[0] < 0:
        without = int((labels < 0).sum())
        raise ConfigError(
            f"a conditional training needs the class of every image: {without} of {count} have no "
            "label",
            fix=advice,
        )
    if found != list(range(len(found))) or len(found) > MAX_CLASSES:
        raise ConfigError(
            f"labels must be 0, 1, ..., each of some image, at most {MAX_CLASSES:,}: there are "
            f"{len(found)} different ones from {found[0]} to {found[-1]}",
            fix="number them from 0; --limit and --holdout must leave an image of each class",
        )
    return len(found)


def _adam(network: nn.Module, lr: float, beta: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(0.0, beta), eps=1e-8)


def _update(adam: torch.optim.Adam, loss: Tensor) -> None:
    adam.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()
