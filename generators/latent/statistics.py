"""Mean and spread of the latents of a pair: units of steps and of noise, which a GAN knows itself.

They are measured once, when the view set `recon` is planned, and stored in its plan and in those of
the view sets that are made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch

from viewstore.errors import ConfigError
from viewstore.generators.contract import Context
from viewstore.generators.latent.calibration import CHUNK, measured_samples
from viewstore.generators.latent.decode import fit_source, gan_of
from viewstore.generators.latent.pair import ExportedDecoder
from viewstore.generators.numerics import from_pixels, repeatable

DIGITS = 4  # significant ones: machines differ in later ones, plans must not

Statistics = Mapping[str, Any]


def measured_latents(context: Context, *, threads: int) -> Statistics | None:
    """Return what is to be known of the latents of the context's pair; None for a GAN.

    Latents of up to 2,048 keyed images of the whole source, as the encoder of the pair gives them;
    codes of one image count as that many latents, as those of a GAN are.

    Returns:
        "samples", the number of images, and "mean" and "std", lists of D numbers.

    Raises:
        ConfigError: The latents do not differ, or are not finite.
        FormatError: No image can be read.
    """
    gan = gan_of(context)
    if not isinstance(gan, ExportedDecoder):
        return None
    encode = context.models["inverter"].to(context.device)
    samples = measured_samples(context, why="the spread of latents is measured on them")
    number = count = 0
    total, square = torch.zeros(2, gan.w_dim, dtype=torch.float64)
    images = (fit_source(each.image, context) for each in samples)
    for chunk in _chunks(images):
        pixels = from_pixels(np.stack(chunk), context.device)[:, : gan.channels]
        with torch.no_grad(), repeatable(context.device, threads):
            codes = encode(pixels * 2 - 1).double().cpu().flatten(0, 1)
        number, count = number + len(chunk), count + len(codes)
        total += codes.sum(0)
        square += codes.square().sum(0)
    mean = total / count
    variance = (square - total * mean).clamp_min(0) / max(1, count - 1)
    if not 0 < float(variance.mean()) < np.inf:
        raise ConfigError(
            f"the encoder gives latents of {number} images that do not differ, or are not finite",
            code="VS103",
            why="steps and noise are in units of their standard deviation",
            fix="give the encoder that belongs to the decoder, and a source of more than one image",
        )
    return {"samples": number, "mean": _rounded(mean), "std": _rounded(variance.sqrt())}


def _chunks(images: Iterable[Any]) -> Iterator[list[Any]]:
    pulled = iter(images)
    while chunk := list(islice(pulled, CHUNK)):
        yield chunk


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
