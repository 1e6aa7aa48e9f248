"""Images by the features of an encoder, for distances between sets of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from viewstore.generators.gan.frechet import Features, Images, Rows
from viewstore.images.resize import resize

BATCH = 64


class Encoder(Protocol):
    """An encoder of ours, or a module of torch.export."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of what it sees; None: any."""

    @property
    def input_views(self) -> int | None:
        """How many images it sees at a time; None: any number."""

    def outputs(self, x: Tensor) -> Mapping[str, Tensor]:
        """Return "feature" [P, D] of images [P, 3, H, W] in [0, 1]."""


def encoder_features(encoder: Encoder, name: str, *, device: str = "cpu") -> Features:
    """Return the features of an encoder on `device`, under a name.

    Images [N, 1 or 3, H, W] in [-1, 1] are rounded to the levels of a picture, resized by area to
    what the encoder sees, and seen in batches of one shape.
    """

    @torch.no_grad()
    def rows(images: Images) -> Rows:
        count = encoder.input_views or BATCH
        found = []
        for first in range(0, len(images), count):
            part = _planes(images[first : first + count], encoder.input_size)
            short = count - len(part)
            seen = torch.cat([part, part[:1].expand(short, -1, -1, -1)]) if short else part
            said = encoder.outputs(seen.to(device))["feature"][: len(part)]
            found.append(said.cpu().double().numpy())
        return np.concatenate(found)

    return Features(name=name, rows=rows)


def _planes(images: Images, size: tuple[int, int] | None) -> Tensor:
    """Return float32 [N, 3, H, W] in [0, 1] of images in [-1, 1]."""
    levels = np.rint((images + 1) * 127.5).clip(0, 255).astype(np.uint8)
    pixels = np.repeat(levels, 3 // levels.shape[1], axis=1).transpose(0, 2, 3, 1)
    if size is not None:
        pixels = np.stack([resize(np.ascontiguousarray(each), *size) for each in pixels])
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
    return torch.from_numpy(planes).float().div_(255)
