"""What the generators of latent views compute with: decoding, pixels, features, keyed starts."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.generators.stylegan2.codes import keyed_normal
from viewstore.images.resize import resize
from viewstore.randomness import BUILD, Stream

if TYPE_CHECKING:
    from viewstore.generators.contract import Context
    from viewstore.generators.stylegan2.network import StyleGAN2
    from viewstore.images.codec import Codec


Precision = Literal["fp32", "bf16"]
Features = Callable[[Tensor], Tensor]

# mallopt: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (32 MiB is the most it takes).
MALLOC_OPTIONS = {-1: 1 << 30, -2: 1 << 27, -3: 1 << 25}


@dataclass(frozen=True)
class Decoder:
    """`g(w_avg + psi (w - w_avg))`: truncation is a property of the generator, everywhere."""

    gan: StyleGAN2
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
        images: Tensor = self.gan.synthesis(latents, noise="const")
        return images.float()


def decoder_of(context: Context, psi: float) -> Decoder:
    """Return the context's generator on its device, behind `psi`."""
    return Decoder(cast("StyleGAN2", context.models["gan"]).to(context.device), psi)


def unit_images(images: Tensor) -> Tensor:
    """Return decoded images as an encoder takes them: clamped, in [0, 1]."""
    return (images.clamp(-1, 1) + 1) / 2


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Return decoded images [N, C, H, W] as stored: uint8 [N, H, W, 3], one channel repeated."""
    levels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def from_pixels(pixels: NDArray[np.uint8], device: str) -> Tensor:
    """Return stored pixels [..., H, W, 3] as float32 [..., 3, H, W] in [0, 1]."""
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, -3))
    return torch.from_numpy(planes).to(device).float().div_(255)


def clamped_share(images: Tensor) -> NDArray[np.float32]:
    """Return the share of each image's values that lie outside [-1, 1]."""
    return (images.abs() > 1).float().mean((1, 2, 3)).cpu().numpy()


def decoded_features(
    pixels: NDArray[np.uint8], *, codec: Codec, encoder: Features, device: str
) -> Tensor:
    """Return the features of views [B, V, H, W, 3] as a reader of the store will see them."""
    stored = np.stack([codec.roundtrip(views) for views in pixels])
    seen = from_pixels(stored, device)
    return encoder(seen.flatten(0, 1)).reshape(*seen.shape[:2], -1)


def start_noise(
    seed: int, index: int, views: int, code_shape: tuple[int, int]
) -> tuple[Tensor, NDArray[np.uint64]]:
    """Return N(0, 1) noise [views, L, D] of a sample, and the words that seeded each view."""
    words = Stream(seed, 0, BUILD).seed_word(index, np.arange(views))
    codes, width = code_shape
    drawn = [keyed_normal(codes, width, int(word)) for word in words]
    return torch.stack(drawn), words


def fit_source(image: NDArray[np.uint8], size: int, channels: int) -> NDArray[np.uint8]:
    """Return a source image [H, W, 3] at the generator's size.

    Raises:
        ConfigError: The generator is gray and the image is not.
    """
    if channels == 1 and not (image == image[..., :1]).all():
        raise ConfigError(
            "the generator makes images of 1 channel, the source has images of 3 channels",
            code="VS103",
            fix="give a generator that was trained on this source",
        )
    if image.shape[:2] == (size, size):
        return image
    return resize(image, size, size)


@contextlib.contextmanager
def repeatable(device: str, threads: int) -> Iterator[None]:
    """Compute so that the same tensors give the same bits in every worker.

    A thread count other than the plan's splits sums elsewhere; TF32 and autotuned kernels round
    differently from one run to the next.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if device.startswith("cuda"):
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ):
                yield
        else:
            yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, once and for all, where glibc manages it.

    A step on CPU takes the same megabytes again and again. By default glibc hands them back each
    time and the kernel clears them anew, which is a fifth of the step.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC_OPTIONS.items():
            mallopt(option, value)


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which networks run: bfloat16 products, or nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
