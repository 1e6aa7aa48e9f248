"""What generators of learned views share: the frozen network, the images it sees, its batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.generators.contract import Context
from viewstore.generators.numerics import device_class
from viewstore.images.colours import Pixels

VIEWS_CPU, VIEWS_CUDA = 64, 512  # that a network makes at a time, about


def network_of(context: Context, role: str) -> Any:  # noqa: ANN401
    """Return the frozen network of a role. Raises ConfigError: none was given."""
    found = context.models.get(role)
    if found is None:
        raise ConfigError(
            f"{role} needs the network that a training made",
            code="VS103",
            fix=f"give --{role} RUN/{role}.safetensors, which viewstore train --strategy {role} "
            "writes",
        )
    return found


def default_slots(device: str, views: int) -> int:
    """Return how many samples, of so many views, are worked on at a time on a torch device."""
    at_once = VIEWS_CUDA if device_class(device) == "cuda" else VIEWS_CPU
    return max(1, at_once // views)


def planes_of(pixels: Pixels, device: str) -> Tensor:
    """Return pixels [N, H, W, 3] as values in [0, 1], float32 [N, 3, H, W] on a device."""
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))
    return planes.to(device).float().div_(255)


def levels_of(images: Tensor) -> Pixels:
    """Return images [N, 1 or 3, H, W] of values in [0, 1] as pixels, uint8 [N, H, W, 3].

    What lies outside is cut off; what is not finite becomes 0.
    """
    levels = images.nan_to_num(0, 0, 0).mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy())
