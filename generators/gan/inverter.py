"""The inverter: a small network that guesses the codes of an image in one pass, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import (
    as_stored,
    read_json,
    read_tensors,
    weights_digest,
    write_tensors,
)
from viewstore.generators.stylegan2.network import StyleGAN2

KIND = "viewstore_inverter"
SLOPE = 0.2
WIDTHS = (32, 64)  # feature maps of the first convolutions; the last goes on until 2 x 2 pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class InverterShape:
    """The images that an inverter reads and the codes that it gives.

    Attributes:
        res: Side of the images, in pixels: a power of two from 4 to 1024.
        channels: Of the images.
        num_codes, w_dim: Codes of an image, and their width.
        generator: Fingerprint of the generator that it was trained for.
    """

    res: int
    channels: int
    num_codes: int
    w_dim: int
    generator: str

    def __post_init__(self) -> None:
        sizes = (self.res, self.channels, self.num_codes, self.w_dim)
        if not all(isinstance(size, int) and 1 <= size <= 16384 for size in sizes):
            raise ConfigError(f"sizes of an inverter must be in [1, 16384], got {sizes}")
        if self.res < 4 or self.res & (self.res - 1) or self.res > 1024:
            raise ConfigError(f"res must be a power of two from 4 to 1024, got {self.res}")

    @classmethod
    def of(cls, generator: StyleGAN2) -> InverterShape:
        """Return the shape of an inverter for `generator`."""
        return cls(
            res=generator.res,
            channels=generator.channels,
            num_codes=generator.num_codes,
            w_dim=generator.w_dim,
            generator=generator.fingerprint,
        )


class Inverter(nn.Module):
    """Images [N, C, H, W] in [-1, 1] to codes [N, L, D]: the average code and what differs."""

    w_avg: Tensor

    def __init__(self, shape: InverterShape) -> None:
        """Make an untrained inverter; `provenance` is for whoever trains it to fill in."""
        super().__init__()
        self.shape = shape
        self.provenance: dict[str, Any] = {}
        halvings = shape.res.bit_length() - 2
        widths = [shape.channels, *(WIDTHS[min(i, len(WIDTHS) - 1)] for i in range(halvings))]
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(halvings)
        )
        self.hidden = nn.Linear(4 * widths[-1], 4 * shape.w_dim)
        self.out = nn.Linear(4 * shape.w_dim, shape.num_codes * shape.w_dim)
        self.register_buffer("w_avg", torch.zeros(shape.w_dim))

    @property
    def res(self) -> int:
        """Side of the images, in pixels."""
        return self.shape.res

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.shape.channels

    @property
    def num_codes(self) -> int:
        """Codes of an image."""
        return self.shape.num_codes

    @property
    def w_dim(self) -> int:
        """Width of a code."""
        return self.shape.w_dim

    @property
    def digest(self) -> str:
        """SHA-256 of the shape and the weights."""
        return weights_digest(asdict(self.shape), self.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes of `x`. Raises ConfigError: images of another size."""
        size = (self.channels, self.res, self.res)
        if tuple(x.shape[1:]) != size:
            raise ConfigError(f"images must be [N, {', '.join(map(str, size))}], got {[*x.shape]}")
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
        x = F.leaky_relu(self.hidden(x.flatten(1)), SLOPE)
        offsets: Tensor = self.out(x)
        return self.w_avg + offsets.view(-1, self.num_codes, self.w_dim)


def write_inverter(path: Path, inverter: Inverter, *, half: bool) -> Inverter:
    """Write an inverter and return the one that the file holds, rounded once if `half`."""
    about = {KIND: "1", "shape": json.dumps(asdict(inverter.shape), sort_keys=True)}
    about["provenance"] = json.dumps(inverter.provenance, sort_keys=True)
    write_tensors(path, as_stored(inverter.state_dict(), half=half), about)
    return load_inverter(path)


def load_inverter(path: Path) -> Inverter:
    """Return the frozen inverter of a file.

    Raises:
        CheckpointError: The file is not an inverter.
    """
    tensors, about = read_tensors(path, KIND)
    try:
        shape: dict[str, Any] = read_json(about, "shape")
        inverter = Inverter(InverterShape(**shape))
        inverter.load_state_dict({name: value.float() for name, value in tensors.items()})
        inverter.provenance = read_json(about, "provenance")
    except (ConfigError, CheckpointError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot read {path} as an inverter: {error}", where=str(path)
        ) from error
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise CheckpointError(f"{path} holds weights that are not finite", where=str(path))
    return inverter.requires_grad_(False).eval()
