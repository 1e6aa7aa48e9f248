"""Small pairs of modules of torch.export: a random decoder, and an encoder that inverts it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

SIDE = 16
WIDTH = 12


class SmallDecoder(nn.Module):
    """Latents [N, D], or [N, L, D] as one vector, to images that fill [-1, 1] and a little more."""

    def __init__(self, *, codes: int | None = None, channels: int = 1, side: int = SIDE) -> None:
        super().__init__()
        self.width = WIDTH * (codes or 1)
        self.first = nn.Linear(self.width, 8 * (side // 4) ** 2)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.last = nn.Conv2d(8, channels, 3, padding=1)
        self.side = side

    def forward(self, w: Tensor) -> Tensor:
        x = self.first(w.flatten(1)).unflatten(1, (8, self.side // 4, self.side // 4))
        x = nn.functional.silu(self.up(self.norm(x)))
        x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return 1.2 * self.last(x).tanh()


class SmallEncoder(nn.Module):
    """Images to latents [N, D], or [N, L, D]."""

    def __init__(self, *, codes: int | None = None, channels: int = 1, side: int = SIDE) -> None:
        super().__init__()
        self.shape = (WIDTH,) if codes is None else (codes, WIDTH)
        self.seen = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.last = nn.Linear(8 * (side // 2) ** 2, WIDTH * (codes or 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.silu(self.seen(x)).flatten(1)).unflatten(1, self.shape)


class NoGradient(nn.Module):
    """A decoder that gives no gradient: its latents are rounded to whole numbers."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, w: Tensor) -> Tensor:
        images: Tensor = self.decoder((4 * w).round() / 4)
        return images


def keyed(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return a network with keyed weights of some contrast, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("bias"):
            value.zero_()
        elif value.ndim > 1:
            fan_in = value[0].numel()
            value.copy_(2 * torch.randn(value.shape, generator=generator) / fan_in**0.5)
    return network.eval()


def export(path: Path, network: nn.Module, shape: tuple[int, ...], *, rows: int | None) -> Path:
    """Write a module that takes float32 [rows, *shape]; any number of rows where that is None."""
    number = {0: torch.export.Dim("rows", min=1, max=4096)} if rows is None else None
    inputs = (torch.zeros(rows or 3, *shape),)
    torch.export.save(torch.export.export(network, inputs, dynamic_shapes=(number,)), path)
    return path


def write_pair(
    folder: Path,
    *,
    codes: int | None = None,
    channels: int = 1,
    rows: int | None = None,
    side: int = SIDE,
    gradient: bool = True,
) -> dict[str, Path]:
    """Write a decoder and an encoder; return their files by role, "gan" and "inverter"."""
    sizes = {"codes": codes, "channels": channels, "side": side}
    decoder, encoder = keyed(SmallDecoder(**sizes)), keyed(SmallEncoder(**sizes), 1)
    latent = (WIDTH,) if codes is None else (codes, WIDTH)
    made = decoder if gradient else NoGradient(decoder)
    return {
        "gan": export(folder / "decoder.pt2", made.eval(), latent, rows=rows),
        "inverter": export(folder / "encoder.pt2", encoder, (channels, side, side), rows=rows),
    }
