"""What searched views are once they are stored: rendered, encoded, decoded and measured again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.generators.contract import Context
from viewstore.generators.latent.decode import (
    Decoder,
    clamped_share,
    decoded_features,
    to_pixels,
)
from viewstore.generators.latent.goal import Goal, measure
from viewstore.images.colours import Pixels


class Judged(NamedTuple):
    """What a sample is as stored: pixels [n, H, W, 3], clipped [n], measured [n, 4]."""

    pixels: Pixels
    clipped: NDArray[np.float32]
    measured: NDArray[np.float32]


class Judge:
    """Renders and measures up to `slots` samples at a time, at one constant shape."""

    def __init__(self, goal: Goal, context: Context, decode: Decoder, *, slots: int) -> None:
        self.slots = slots
        self._goal = goal
        self._context = context
        self._decode = decode
        self._encoder = context.models["encoder"].to(context.device)

    @torch.no_grad()
    def judge(self, latents: list[Tensor], anchors: list[Tensor]) -> list[Judged]:
        """Return what up to `slots` samples are, of latents [n, L, D] and anchor features [E]."""
        count, padding = len(latents), self.slots - len(latents)
        stacked = torch.stack([*latents, *latents[-1:] * padding])
        decoded = self._decode(stacked.flatten(0, 1))
        shape = stacked.shape[:2]
        pixels = to_pixels(decoded)
        pixels = pixels.reshape(*shape, *pixels.shape[1:])
        features = decoded_features(
            pixels, codec=self._context.codec, encoder=self._encoder, device=self._context.device
        )
        against = torch.stack([*anchors, *anchors[-1:] * padding])
        measured = measure(self._goal, features, against)[1].cpu().numpy()
        clipped = clamped_share(decoded).reshape(shape)
        return [Judged(pixels[i], clipped[i], measured[i]) for i in range(count)]
