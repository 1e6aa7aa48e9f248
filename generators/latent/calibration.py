"""How far expert views lie from their anchors: the distance that searches take by default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError, FormatError
from viewstore.generators.contract import Context, Sample
from viewstore.generators.latent.decode import Features, gan_of
from viewstore.generators.numerics import from_pixels
from viewstore.generators.pixels.expert import ExpertGenerator, ResolvedExpert
from viewstore.images.colours import Pixels
from viewstore.images.policies import POLICIES
from viewstore.images.resize import resize
from viewstore.randomness import CALIBRATION, Op, Stream

SAMPLES = 2048
DRAWS = 4
CHUNK = 64  # samples at a time
DIGITS = 4  # of each figure, after the point: machines differ in later ones, plans must not


@dataclass(frozen=True)
class Calibration:
    """Feature distances under an expert policy.

    Attributes:
        samples, draws: What was measured.
        mean, std, p5, p95: Of the distance between a source image and its expert view.
        view_view: Mean distance of two expert views of one sample.
        between: Mean distance of source images of different samples.
    """

    samples: int
    draws: int
    mean: float
    std: float
    p5: float
    p95: float
    view_view: float
    between: float

    def text(self) -> str:
        """Return the mean distance with its standard error, and what it was taken from."""
        error = self.std / (self.samples * self.draws) ** 0.5
        return f"eps1 {self.mean:.3f} +- {error:.3f} from {self.samples} x {self.draws}"

    def to_json(self) -> dict[str, float]:
        """Return the figures as a plan stores them."""
        return asdict(self)


def calibrate(context: Context) -> Calibration:
    """Measure the expert views that the context's encoder was trained with, at the GAN's size.

    Four views of each of up to 2,048 samples of the whole source, whatever rows the store has,
    drawn by the context's seed. Images that cannot be read are passed over.

    Raises:
        ConfigError: The encoder's policy is unknown, or the context has no generator.
        FormatError: No image can be read.
    """
    encoder = context.models["encoder"].to(context.device)
    size = gan_of(context).res
    if not all(part in POLICIES for part in encoder.policy.split("+")):
        raise ConfigError(
            f"the encoder was trained with the policy {encoder.policy}, which is not known here"
            if encoder.policy
            else "the encoder names no augmentation policy: it was trained on generated views "
            "alone, or elsewhere",
            why="eps1 is the mean distance of views of that policy",
            fix="give the distances: first viewstore gan invert --set shift_stop=0.06 (a fifth of "
            "eps1), then build with --set eps1=0.3; or an encoder that saw expert views",
        )
    settings = ResolvedExpert(
        policy=encoder.policy, views=DRAWS, height=size, width=size, filter="area"
    )
    experts = ExpertGenerator(settings, Stream(context.seed, 0, CALIBRATION))
    samples = measured_samples(context, why="eps1 is calibrated on them")
    features = []
    while chunk := list(islice(samples, CHUNK)):
        features.append(_features(encoder, experts, chunk, size, context.device))
    all_features = torch.cat(features)
    return summarise(all_features[:, 0], all_features[:, 1:])


def measured_samples(context: Context, *, why: str) -> Iterator[Sample]:
    """Yield up to 2,048 samples of the whole source, chosen by the context's seed.

    Images that cannot be read are passed over.

    Raises:
        FormatError: None can be read; `why` says what for.
    """
    count, image = (
        (context.num_samples, context.source_image)
        if context.whole_source is None
        else context.whole_source()
    )
    rows = calibration_rows(count, context.seed).tolist()
    found = False
    for sample in readable(rows, image):
        found = True
        yield sample
    if not found:
        raise FormatError(
            f"none of {len(rows)} images of the source can be read", code="VS205", why=why
        )


def readable(rows: Iterable[int], image: Callable[[int], Pixels]) -> Iterator[Sample]:
    """Yield the samples of `rows` whose image can be read."""
    for row in rows:
        with suppress(FormatError):
            yield Sample.of(row, image(row))


def calibration_rows(num_samples: int, seed: int) -> NDArray[np.int64]:
    """Return the rows to measure, ascending: all, or 2,048 that depend on the seed alone."""
    if num_samples <= SAMPLES:
        return np.arange(num_samples)
    index = np.arange(num_samples, dtype=np.uint64)
    words = Stream(seed, 0, CALIBRATION).words(Op.SET_CHOICE, index, 0)[:, 0]
    return np.sort(np.argsort(words, kind="stable")[:SAMPLES])


def summarise(anchors: Tensor, views: Tensor) -> Calibration:
    """Return the figures of unit features, float32: `anchors` [B, E], `views` [B, draws, E]."""
    to_anchor = (views - anchors[:, None]).norm(dim=-1).double().numpy()
    pairs = (views - views.roll(1, dims=1)).norm(dim=-1).double().mean()
    between = (anchors - anchors.roll(1, dims=0)).norm(dim=-1).double().mean()
    low, high = np.percentile(to_anchor, [5, 95])
    figures = (to_anchor.mean(), to_anchor.std(), low, high, float(pairs), float(between))
    mean, std, p5, p95, view_view, apart = (round(float(value), DIGITS) for value in figures)
    return Calibration(
        samples=len(anchors),
        draws=views.shape[1],
        mean=mean,
        std=std,
        p5=p5,
        p95=p95,
        view_view=view_view,
        between=apart,
    )


def _features(
    encoder: Features,
    experts: ExpertGenerator,
    samples: list[Sample],
    size: int,
    device: str,
) -> Tensor:
    """Return the features of each source image and of its views, [B, 1 + DRAWS, E]."""
    pixels = np.empty((len(samples), 1 + DRAWS, size, size, 3), np.uint8)
    for number, views in enumerate(experts.render(samples)):
        pixels[number, 0] = resize(samples[number].image, size, size)
        assert views.pixels is not None, "pixels were wanted"
        pixels[number, 1:] = views.pixels
    seen = from_pixels(pixels, device)
    with torch.no_grad():
        return encoder(seen.flatten(0, 1)).reshape(*seen.shape[:2], -1).cpu()
