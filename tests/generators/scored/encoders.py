"""Encoders for tests of columns: a file of ours, and modules of torch.export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.generators.latent_world import small_encoder
from viewstore.images.colours import Pixels
from viewstore.train.encoder_file import Encoder, save_encoder

SIDE = 16
CLASSES = 6


class Classifier(nn.Module):
    """A small network of one convolution, with features and logits."""

    mean: Tensor

    def __init__(self, *, logits: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 24, 3, stride=2)
        self.norm = nn.BatchNorm2d(24)
        self.head = nn.Linear(24 * 49, CLASSES)
        self.logits = logits
        self.register_buffer("mean", torch.full((3, 1, 1), 0.4), persistent=False)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        feature = self.norm(self.convolution((x - self.mean) / 0.25)).relu().flatten(1)
        return {"feature": feature, "logits": self.head(feature)} if self.logits else feature


def classifier(*, logits: bool = True) -> Classifier:
    """Return a classifier with keyed weights, in evaluation mode."""
    network = Classifier(logits=logits).eval()
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if name.startswith(("convolution", "head")):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return network


def export(path: Path, network: nn.Module, *, views: int | None = None, side: int = SIDE) -> Path:
    """Write a module of torch.export that takes `views` images, or any number, of one size."""
    images = torch.zeros(views or 4, 3, side, side)
    number = None if views else {0: torch.export.Dim("views", min=1, max=4096)}
    program = torch.export.export(network, (images,), dynamic_shapes=(number,))
    torch.export.save(program, path)
    return path


def write_encoder(path: Path, images: Pixels, *, in_channels: int = 3) -> Encoder:
    """Write an encoder file of ours whose norms have seen `images`, uint8 [N, H, W, 3]."""
    encoder = small_encoder(images, in_channels=in_channels)
    save_encoder(path, encoder.settings, encoder.network)
    return encoder
