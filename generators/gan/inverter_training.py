"""Train an inverter: the pixels and features of its decoded guess become those of the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from viewstore.errors import ConfigError, DivergedError, StoppedError
from viewstore.format.plan import checked_seed
from viewstore.generators.gan.inverter import Inverter, InverterShape
from viewstore.generators.gan.keyed import epoch_rows, keyed_generator
from viewstore.generators.gan.settings import check_numbers
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.progress import Progress, Silent

REPORT_EVERY = 25
QUALITY_BATCH = 256

Encoder = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class InverterSettings:
    """How an inverter is trained.

    Attributes:
        steps: How long, in batches.
        batch: Images of a step.
        lr: Of Adam.
        feature_weight: Weight of the squared distance between features.
        seed: Of the weights at the start, and of the order of the images.
    """

    steps: int = 2000
    batch: int = 32
    lr: float = 1e-3
    feature_weight: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))
        check_numbers(self, may_be_zero=("feature_weight", "seed"))


def train_inverter(
    images: Tensor,
    generator: StyleGAN2,
    encoder: Encoder,
    settings: InverterSettings,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Inverter:
    """Train on `images`, float32 [N, C, H, W] in [-1, 1] and return the frozen inverter.

    `encoder` takes images in [0, 1] and gives unit features [N, D]; it and `generator` are frozen
    networks on `device`. `progress` was begun by the caller, in steps; it is advanced with the
    two parts of the loss, "pixels" and "features". `stop` is called after every step but the last;
    true ends the training, of which nothing is kept.

    Raises:
        ConfigError: The images are not of the generator's size.
        DivergedError: The loss is not finite.
        StoppedError: `stop` returned true.
    """
    progress = progress or Silent()
    size = (generator.channels, generator.res, generator.res)
    if images.dtype != torch.float32 or tuple(images.shape[1:]) != size or not len(images):
        raise ConfigError(
            f"images must be float32 [N, {', '.join(map(str, size))}], "
            f"got {images.dtype} {list(images.shape)}"
        )
    inverter = _untrained(generator, settings.seed).to(device)
    adam = torch.optim.Adam(inverter.parameters(), lr=settings.lr)
    reported = 0
    for step in range(settings.steps):
        real = images[epoch_rows(len(images), settings.batch, settings.seed, step)].to(device)
        decoded = generator.synthesis(inverter(real))
        pixels = (decoded - real).square().mean()
        features = _feature_distance(encoder, decoded, real)
        adam.zero_grad(set_to_none=True)
        (pixels + settings.feature_weight * features).backward()
        adam.step()
        if step % REPORT_EVERY == 0 or step == settings.steps - 1:
            losses = {"pixels": pixels.item(), "features": features.item()}
            if not all(map(math.isfinite, losses.values())):
                raise DivergedError(
                    f"training left the finite numbers at step {step}: {losses}",
                    fix="lower --set lr",
                )
            progress.advance(step + 1 - reported, **losses)
            reported = step + 1
        if step < settings.steps - 1 and stop():
            raise StoppedError(
                f"training stopped after step {step + 1} of {settings.steps}",
                why="nothing is kept: an inverter is trained in one go",
                fix="run the same command again, which begins anew",
            )
    return inverter.requires_grad_(False).eval().cpu()


@torch.no_grad()
def quality(
    images: Tensor, inverter: Inverter, generator: StyleGAN2, encoder: Encoder
) -> dict[str, float]:
    """Return how far decoded guesses are from `images`, float32 [N, C, H, W] in [-1, 1].

    "pixel_mse" is the mean squared error, of decoded images that are clamped; "shift_mean" and
    "shift_p95" are the mean and the 95th percentile of the feature distance. All on the CPU.
    """
    errors, shifts = [], []
    for real in torch.split(images, QUALITY_BATCH):
        decoded = generator.synthesis(inverter(real)).clamp(-1, 1)
        errors.append((decoded - real).square().mean((1, 2, 3)))
        shifts.append((encoder((decoded + 1) / 2) - encoder((real + 1) / 2)).norm(dim=1))
    shift = torch.cat(shifts)
    return {
        "pixel_mse": torch.cat(errors).mean().item(),
        "shift_mean": shift.mean().item(),
        "shift_p95": shift.quantile(0.95).item(),
    }


def _untrained(generator: StyleGAN2, seed: int) -> Inverter:
    inverter = Inverter(InverterShape.of(generator))
    keyed = keyed_generator("inverter", seed)
    for layer in inverter.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            torch.nn.init.uniform_(layer.weight, -bound, bound, generator=keyed)
            assert layer.bias is not None, "no layer of an inverter is without bias"
            torch.nn.init.uniform_(layer.bias, -bound, bound, generator=keyed)
    inverter.w_avg.copy_(generator.w_avg)
    return inverter


def _feature_distance(encoder: Encoder, decoded: Tensor, real: Tensor) -> Tensor:
    seen = encoder((decoded.clamp(-1, 1) + 1) / 2)
    with torch.no_grad():
        wanted = encoder((real + 1) / 2)
    return (seen - wanted).square().sum(1).mean()
