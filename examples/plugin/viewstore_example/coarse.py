"""The encoder `coarse`: an image as 8 x 8 mean colours. It learns nothing, and is quick."""

from __future__ import annotations

from torch import Tensor, nn


class Coarse(nn.Module):
    """Mean colours of 8 x 8 fields, less the gray in the middle of the range."""

    def forward(self, images: Tensor) -> Tensor:
        """Return features [N, 192] of images [N, 3, H, W], float32 in [0, 1]."""
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) - 0.5


def coarse() -> nn.Module:
    """Return the encoder: what `--encoder viewstore_example.coarse:coarse` calls."""
    return Coarse()
