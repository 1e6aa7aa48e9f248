"""From latents to images, stored pixels and their features, and keyed noise to start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.generators.contract import Context
from viewstore.generators.latent.pair import ExportedDecoder
from viewstore.generators.numerics import from_pixels
from viewstore.generators.stylegan2.codes import keyed_normal
from viewstore.images.codec import Codec
from viewstore.images.colours import Pixels
from viewstore.images.resize import resize
from viewstore.randomness import Stream

Features = Callable[[Tensor], Tensor]


class LatentDecoder(Protocol):
    """What makes images of latents: a StyleGAN2, or the decoder of a pair (`pair`)."""

    @property
    def res(self) -> int:
        """Side of the images, in pixels."""

    @property
    def channels(self) -> int:
        """Channels of the images, 1 or 3."""

    @property
    def num_codes(self) -> int:
        """Codes of an image, L."""

    @property
    def w_dim(self) -> int:
        """Width of a code, D."""

    @property
    def w_avg(self) -> Tensor:
        """The average code, float32 [D]."""

    @property
    def w_std(self) -> Tensor:
        """Standard deviation of each dimension of the codes, float32 [D]."""

    @property
    def sigma_w(self) -> float:
        """Spread of the codes: rms over dimensions of their standard deviation."""

    @property
    def differentiable(self) -> bool:
        """Whether images have a gradient by their latents."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the images of latents."""

    @property
    def c_dim(self) -> int:
        """Number of classes, 0 where there are none."""

    @property
    def feature_values(self) -> int:
        """Values of all feature maps of an image, about."""

    def class_mean(self, label: int) -> Tensor:
        """Return the mean code of a class, float32 [D]. Raises ConfigError: there is none."""

    @property
    def synthesis(self) -> Callable[[Tensor], Tensor]:
        """Images [N, C, H, H] of latents [N, L, D], in about [-1, 1]: not clamped."""

    def to(self, device: str) -> LatentDecoder:
        """Return it on a torch device."""


def gan_of(context: Context) -> LatentDecoder:
    """Return the context's generator. Raises ConfigError if there is none."""
    if "gan" not in context.models:
        raise ConfigError("latent views need a generator", fix="give one with --gan")
    gan: LatentDecoder = context.models["gan"]
    return gan


@dataclass(frozen=True)
class Decoder:
    """`g(w_avg + psi (w - w_avg))`: truncation is a property of the generator, everywhere.

    Attributes:
        gan: The network g, on the device of the latents.
        psi: Truncation; 1 is none.
    """

    gan: LatentDecoder
    psi: float

    @property
    def code_shape(self) -> tuple[int, int]:
        """Codes per image and their width, (L, D)."""
        return self.gan.num_codes, self.gan.w_dim

    def untruncated(self, latents: Tensor) -> Tensor:
        """Return latents whose image is the one that `latents` have without truncation."""
        average = self.gan.w_avg
        return latents if self.psi == 1 else average + (latents - average) / self.psi

    def __call__(self, latents: Tensor) -> Tensor:
        """Return float32 images [N, C, H, W] of `latents` [N, L, D], not clamped."""
        if self.psi != 1:
            latents = torch.lerp(self.gan.w_avg, latents, self.psi)
        return self.gan.synthesis(latents).float()


def decoder_of(
    gan: LatentDecoder, psi: float, latents: Mapping[str, Any] | None, *, device: str = "cpu"
) -> Decoder:
    """Return a generator on a device, behind `psi`.

    `latents` is what a plan says of those of a pair (`statistics`).
    """
    known = gan.knowing(latents) if isinstance(gan, ExportedDecoder) else gan
    return Decoder(known.to(device), psi)


def unit_images(images: Tensor) -> Tensor:
    """Return decoded images as an encoder takes them: clamped, in [0, 1]."""
    return (images.clamp(-1, 1) + 1) / 2


def to_pixels(images: Tensor) -> Pixels:
    """Return decoded images [N, C, H, W] as stored: uint8 [N, H, W, 3], one channel repeated."""
    levels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def clamped_share(images: Tensor) -> NDArray[np.float32]:
    """Return the share of each image's values that lie outside [-1, 1]."""
    return (images.abs() > 1).float().mean((1, 2, 3)).cpu().numpy()


def decoded_features(pixels: Pixels, *, codec: Codec, encoder: Features, device: str) -> Tensor:
    """Return the features [B, V, E] of views, uint8 [B, V, H, W, 3], as they will be stored."""
    stored = np.stack([codec.roundtrip(views) for views in pixels])
    seen = from_pixels(stored, device)
    return encoder(seen.flatten(0, 1)).reshape(*seen.shape[:2], -1)


def start_noise(
    stream: Stream, index: int, views: int, code_shape: tuple[int, int]
) -> tuple[Tensor, NDArray[np.uint64]]:
    """Return N(0, 1) noise of a sample, float32 [views, L, D], and the word that seeds each view.

    `index` is the sample's row, `code_shape` is (L, D).
    """
    words = stream.seed_word(index, np.arange(views))
    codes, width = code_shape
    drawn = [keyed_normal(codes, width, int(word)) for word in words]
    return torch.stack(drawn), words


def fit_source(image: Pixels, context: Context) -> Pixels:
    """Return a source image, uint8 [H, W, 3], at the size of the context's generator.

    Raises:
        ConfigError: The generator is gray and the image is not.
    """
    gan = gan_of(context)
    if gan.channels == 1 and not (image == image[..., :1]).all():
        taken = (
            "no --gan was given, so the one for the digits that the package ships was taken"
            if "gan" in context.packaged
            else None
        )
        raise ConfigError(
            "the generator makes images of 1 channel, the source has images of 3 channels",
            code="VS103",
            why=taken,
            fix="give one that was trained on this source with --gan; "
            "viewstore gan train --part generator --source SRC makes one",
        )
    return resize(image, gan.res, gan.res)
