"""Inversion: for each source image the latents whose image is nearest, in pixels and features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.format.columns import Column, Status
from viewstore.generators.contract import (
    Context,
    OfSource,
    Rendered,
    Sample,
    check_counts,
    settings_but,
)
from viewstore.generators.latent.calibration import calibrate
from viewstore.generators.latent.checks import (
    SIZES,
    check_encoder,
    check_images,
    check_positive,
    check_size,
    default_slots,
    not_automatic,
)
from viewstore.generators.latent.decode import (
    Features,
    LatentDecoder,
    decoded_features,
    decoder_of,
    fit_source,
    gan_of,
    to_pixels,
    unit_images,
)
from viewstore.generators.latent.slots import Finished, SlotPool, Start
from viewstore.generators.latent.starts import (
    STARTS,
    STEPS,
    STEPS_FROM_AVERAGE,
    Starts,
    check_starts,
    choose_start,
)
from viewstore.generators.latent.statistics import measured_latents
from viewstore.generators.numerics import device_class, from_pixels, keep_freed_memory, repeatable
from viewstore.images.colours import Pixels

SHIFT_OF_EPS1 = 1 / 5


@dataclass(frozen=True, kw_only=True)
class Inversion(OfSource):
    """The user's settings of the view set `recon`: one view, the reconstruction, and its latents.

    The goal of a sample is its feature distance, `shift_stop`: what is searched from it keeps the
    features of the source image. The pixel error is recorded; only without an encoder is it the
    goal. What is None is automatic.

    Attributes:
        views: Number of views of each sample, which is 1: the reconstruction.
        height, width: Size of the views in pixels, which must be that of the generator's images.
        psi: Truncation of the generator; the view sets made from this one must have the same.
        lr: Learning rate of Adam, in units of sigma_w, the spread of the generator's codes.
        lam_f: Weight of the feature distance; 0 leaves the encoder out of the objective.
        mse_stop: Mean squared error, of images in [-1, 1], at which a sample may stop.
        shift_stop: Feature distance at which it may stop, and above which, measured on stored
            pixels, it missed its goal; automatic is a fifth of eps1.
        max_steps: Most updates of a sample; automatic is none from known latents, 50 after an
            inverter, and 300 from an average code. 0 keeps the latents of the start, which is
            automatic where the decoder has no gradient.
        measured: Whether an encoder measures `anchor_shift`; automatic is yes if one is given.
        known_latents: Whether to take the latents that the images of a generated source were made
            from; automatic is yes where the source has them and this generator made it.
        inverter: Whether to start from the inverter's answer; automatic is yes if one is given.
        class_start: Whether to start from the mean code of a sample's class, and from the average
            code where its label is none of the generator's; automatic is yes with a conditional
            generator and no better start.
        slots: Samples at a time; automatic is 16 on CPU and 128 on CUDA, fewer where images are
            large. Part of the plan, like `device_class` and `threads`: another number rounds
            differently.
        device_class: Kind of device, "cpu" or "cuda"; recorded in the plan, never to be set.
        threads: Threads of torch in each process.
        code_shape: Shape of the generator's latents; recorded in the plan, never to be set.
        calibration: What `shift_stop` was taken from; recorded in the plan, never to be set.
        latents_digest: Of the file of known latents; recorded in the plan, never to be set.
        latents: Mean and spread of a pair's latents; recorded in the plan, never to be set.
    """

    # 1 counted the pixel error as a goal too, 2 always started from the average of all classes
    VERSION: ClassVar[int] = 3
    NEEDS: ClassVar[tuple[str, ...]] = ("gan", "encoder", "inverter")

    views: int = 1
    height: int | None = None
    width: int | None = None
    psi: float = 1.0
    lr: float = 0.06
    lam_f: float = 0.1
    mse_stop: float = 0.002
    shift_stop: float | None = None
    max_steps: int | None = None
    measured: bool | None = None
    known_latents: bool | None = None
    inverter: bool | None = None
    class_start: bool | None = None
    slots: int | None = None
    device_class: str | None = None
    threads: int = 1
    code_shape: tuple[int, int] | None = None
    calibration: dict[str, float] | None = None
    latents_digest: str | None = None
    latents: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.views != 1:
            raise ConfigError(f"recon.views must be 1, got {self.views}")
        check_positive("recon", self, ("psi", "lr", "mse_stop", "shift_stop", "slots", "threads"))
        check_counts("recon", self, ("slots", "threads"))
        if self.max_steps is not None and self.max_steps < 0:
            raise ConfigError(f"recon.max_steps must be 0 or more, got {self.max_steps}")
        check_starts(self)
        if self.lam_f < 0:
            raise ConfigError(f"recon.lam_f must be 0 or more, got {self.lam_f}")
        if self.lam_f > 0 and self.measured is False:
            raise ConfigError("recon.lam_f must be 0 without an encoder")

    def refreshed(self) -> Mapping[str, Any]:
        """Return the settings but for sizes, a calibrated goal, and what a start decides."""
        dropped = [*STARTS, "latents_digest", "latents"]
        if self.calibration is not None:
            dropped += ["shift_stop", "calibration"]
        start = next((name for name in STARTS if getattr(self, name)), "average")
        if self.max_steps == STEPS.get(start, STEPS_FROM_AVERAGE):
            dropped.append("max_steps")
        return settings_but(self, *SIZES, *dropped)

    def resolve(self, context: Context) -> ResolvedInversion:
        """Fill in the size, the limits and what depends on the networks given.

        Raises:
            ConfigError: The networks do not fit each other, or an encoder is needed.
        """
        gan, encoder = gan_of(context), context.models.get("encoder")
        check_size(gan, self.height, self.width)
        check_images(context)
        measured = encoder is not None if self.measured is None else self.measured
        if encoder is None and (measured or self.lam_f > 0):
            raise ConfigError(
                "recon needs an encoder to keep the features of a source image",
                fix="give one with --encoder, or set lam_f=0",
            )
        start, known = choose_start(self, context)
        max_steps = self._steps(gan, start)
        shift_stop, calibration = self.shift_stop, None
        if measured and encoder is not None:
            check_encoder(gan, encoder)
            if shift_stop is None:
                calibration = calibrate(context).to_json()
                shift_stop = round(calibration["mean"] * SHIFT_OF_EPS1, 4)
        return ResolvedInversion(
            **not_automatic(self),
            height=gan.res,
            width=gan.res,
            code_shape=(gan.num_codes, gan.w_dim),
            measured=measured,
            **{name: name == start for name in STARTS},
            latents_digest=known.digest if known is not None else None,
            shift_stop=shift_stop,
            max_steps=max_steps,
            slots=self.slots or default_slots(gan, context.device, views=1),
            device_class=device_class(context.device),
            calibration=calibration or self.calibration,
            latents=self.latents or measured_latents(context, threads=self.threads),
        )

    def _steps(self, gan: LatentDecoder, start: str) -> int:
        """Return the most updates of a sample. Raises ConfigError: no gradient leads them."""
        if self.max_steps and not gan.differentiable:
            raise ConfigError(
                f"recon.max_steps must be 0, got {self.max_steps}",
                code="VS103",
                why="the decoder has no gradient by its latents, which updates go by",
                fix="leave it out: latents are then those of the encoder",
            )
        if self.max_steps is not None:
            return self.max_steps
        return STEPS.get(start, STEPS_FROM_AVERAGE) if gan.differentiable else 0


@dataclass(frozen=True, kw_only=True)
class ResolvedInversion:
    """What `Inversion` resolves to; its attributes are those of `Inversion`.

    Attributes:
        shift_stop: None if no feature distance is asked for.
        code_shape: Of the generator's latents, (L, D).
        calibration: What `shift_stop` was taken from; None if it was given.
        latents_digest: Of the file of known latents; None if none are taken.
        latents: What `statistics` says of those of a pair; None for a GAN.
    """

    views: int
    height: int
    width: int
    psi: float
    lr: float
    lam_f: float
    mse_stop: float
    shift_stop: float | None
    max_steps: int
    measured: bool
    known_latents: bool
    inverter: bool
    class_start: bool
    slots: int
    device_class: str
    threads: int
    code_shape: tuple[int, int]
    calibration: dict[str, float] | None
    latents_digest: str | None
    latents: Mapping[str, Any] | None

    def roles(self) -> tuple[str, ...]:
        """Return the role of the one view."""
        return ("generated",)

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        columns = [
            Column(name="status", dtype="u1", shape=(1,)),
            Column(name="parent", dtype="i4", shape=(1,)),
            Column(name="latent", dtype="f2", shape=(1, *self.code_shape)),
            Column(name="steps", dtype="i4", shape=(1,)),
            Column(name="converged", dtype="u1", shape=(1,)),
            Column(name="loss0", dtype="f4", shape=(1,)),
            Column(name="loss", dtype="f4", shape=(1,)),
            Column(name="x_invert_mse", dtype="f4", shape=(), per="sample"),
        ]
        if self.measured:
            columns.append(Column(name="distance", dtype="f4", shape=(1,)))
            columns.append(Column(name="anchor_shift", dtype="f4", shape=(), per="sample"))
        return tuple(sorted(columns, key=lambda column: column.name))

    def make(self, context: Context) -> InversionGenerator:
        """Return the generator."""
        return InversionGenerator(self, context)


@dataclass(frozen=True, eq=False)
class _Job:
    index: int
    image: Pixels  # the source at the generator's size
    features: Tensor  # of that image; empty without an encoder


class InversionGenerator:
    """Finds latents in a slot pool, one view per slot."""

    def __init__(self, settings: ResolvedInversion, context: Context) -> None:
        keep_freed_memory()
        self._settings = settings
        self._context = context
        self._decode = decoder_of(
            gan_of(context), settings.psi, settings.latents, device=context.device
        )
        models, device = context.models, context.device
        self._encoder = models["encoder"].to(device) if settings.measured else None
        start = next((name for name in STARTS if getattr(settings, name)), "average")
        self._starts = Starts(start, context, self._decode, settings.latents_digest)

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield one Rendered for each sample, as they finish."""
        settings = self._settings
        pool: SlotPool[_Job] = SlotPool(
            slots=settings.slots,
            lr=settings.lr * self._decode.gan.sigma_w,
            max_steps=settings.max_steps,
            objective=self._objective,
            judge=self._is_near,
        )
        starts = (self._start(sample) for sample in samples)
        while True:
            with self._repeatable():
                pool.fill(starts)
                rendered = [self._finish(done) for done in pool.step()] if pool.busy else []
            yield from rendered
            if not pool.busy and not rendered:
                return

    def _repeatable(self) -> Any:  # noqa: ANN401
        return repeatable(self._context.device, self._settings.threads)

    @torch.no_grad()
    def _start(self, sample: Sample) -> Start[_Job]:
        gan, device = self._decode.gan, self._context.device
        image = fit_source(sample.image, self._context)
        unit = from_pixels(image[None], device)
        target = unit[:, : gan.channels] * 2 - 1
        features = unit.new_zeros(0) if self._encoder is None else self._encoder(unit)[0]
        job = _Job(index=sample.index, image=image, features=features)
        latents = self._starts(sample, target)
        return Start(job=job, latents=latents, target=(target[0], features))

    def _objective(self, latents: Tensor, targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the loss [P] and, [P, 3], mean squared error, feature distance, loss.

        The loss sees images that are not clamped, or values out of range had no gradient; the
        error that is judged is that of the clamped ones.
        """
        images, features = targets
        decoded = self._decode(latents.flatten(0, 1))
        loss = (decoded - images).square().mean((1, 2, 3))
        mse = (decoded.detach().clamp(-1, 1) - images).square().mean((1, 2, 3))
        square = torch.zeros_like(mse)
        if self._encoder is not None:
            square = (self._encoder(unit_images(decoded)) - features).square().sum(1)
            loss = loss + self._settings.lam_f * square
        return loss, torch.stack([mse, square.detach().sqrt(), loss], dim=1)

    def _is_near(self, job: _Job, measured: NDArray[np.float32]) -> bool:
        mse, shift, _ = measured
        return bool(mse <= self._settings.mse_stop) and self._keeps_features(shift)

    @torch.no_grad()
    def _finish(self, done: Finished[_Job]) -> Rendered:
        job, latents = done.start.job, done.latents
        # The reconstruction is that of the latents as they are stored.
        stored = _half(latents)
        failed = not (np.isfinite(done.last).all() and np.isfinite(stored).all())
        if failed:
            stored = _half(self._decode.gan.w_avg.expand_as(latents))
        rounded = torch.from_numpy(stored.astype(np.float32)).to(self._context.device)
        pixels = to_pixels(self._decode(rounded))
        loss = done.state.first[2] if failed else done.last[2]
        seen = self._context.codec.roundtrip(pixels)
        shift = None if self._encoder is None else self._shift(self._encoder, pixels, job)
        met = done.reached if shift is None else self._keeps_features(shift)
        status = Status.FAILED if failed else Status.OK if met else Status.GOAL_NOT_MET
        params: dict[str, NDArray[Any]] = {
            "status": np.array([status], np.uint8),
            "parent": np.array([-1], np.int32),
            "latent": stored,
            "steps": np.array([done.state.steps], np.int32),
            "converged": np.array([status == Status.OK], np.uint8),
            "loss0": np.array([done.state.first[2]], np.float32),
            "loss": np.array([loss], np.float32),
            "x_invert_mse": _mean_square(job.image, seen[0]),
        }
        if shift is not None:
            params |= {"distance": np.array([shift]), "anchor_shift": np.array(shift)}
        return Rendered(index=job.index, pixels=pixels, params=params)

    def _shift(self, encoder: Features, pixels: Pixels, job: _Job) -> np.float32:
        """Return the feature distance of stored pixels [1, H, W, 3] to the source image."""
        features = decoded_features(
            pixels[None], codec=self._context.codec, encoder=encoder, device=self._context.device
        )
        return np.float32((features[0, 0] - job.features).norm().item())

    def _keeps_features(self, shift: np.floating[Any]) -> bool:
        """Decide whether a feature distance meets the goal of a sample."""
        enough = self._settings.shift_stop
        return enough is None or bool(shift <= enough)


def _half(latents: Tensor) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):  # what float16 cannot hold is not finite
        return latents.cpu().numpy().astype(np.float16)


def _mean_square(first: Pixels, second: Pixels) -> NDArray[np.float32]:
    """Return the mean squared error of two images as values in [-1, 1]."""
    difference = (first.astype(np.float32) - second.astype(np.float32)) / 127.5
    return np.array(np.square(difference).mean(), np.float32)
