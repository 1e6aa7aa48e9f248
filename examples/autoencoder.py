"""An autoencoder for W-search and W-perturb in place of a GAN and its inverter: two modules.

python examples/autoencoder.py photos --size 32 --out pair
viewstore build --generator w-search --source photos --gan pair/decoder.pt2 \
    --inverter pair/encoder.pt2 --encoder encoder/encoder.safetensors --out views
"""

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from viewstore.sources.image_array import read_images

WIDTHS = (16, 32, 64)  # of the first convolutions; the last goes on until 4 x 4 pixels
NOISE = 0.2  # on latents in training, which have unit variance: neighbours then look alike


class Encoder(nn.Module):
    """Images [N, C, S, S] in [-1, 1] to latents [N, 16, D]: a code for each of 4 x 4 places."""

    def __init__(self, size: int, channels: int, width: int) -> None:
        super().__init__()
        widths = [channels, *widths_of(size)]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], width, 3, padding=1))
        self.scale = nn.BatchNorm2d(width, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.layers(x)).flatten(2).transpose(1, 2)


class Decoder(nn.Module):
    """Latents [N, 16, D] to images [N, C, S, S] in [-1, 1]."""

    def __init__(self, size: int, channels: int, width: int) -> None:
        super().__init__()
        widths = [*reversed(widths_of(size)), WIDTHS[0]]
        layers: list[nn.Module] = [nn.Conv2d(width, widths[0], 3, padding=1), nn.SiLU()]
        for inputs, outputs in pairwise(widths):
            up = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
            layers += [up, nn.BatchNorm2d(outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTHS[0], channels, 3, padding=1))

    def forward(self, w: Tensor) -> Tensor:
        return self.layers(w.transpose(1, 2).unflatten(2, (4, 4))).tanh()


def widths_of(size: int) -> list[int]:
    halvings = size.bit_length() - 3
    return [WIDTHS[min(i, len(WIDTHS) - 1)] for i in range(halvings)]


def floats(levels: Tensor) -> Tensor:
    return (levels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train(images: Tensor, encoder: Encoder, decoder: Decoder, epochs: int, batch: int) -> None:
    """Train on uint8 images [N, C, S, S] by the mean squared error of what comes back."""
    both = nn.ModuleList([encoder, decoder]).to(memory_format=torch.channels_last).train()
    adam = torch.optim.Adam(both.parameters())
    batch = min(batch, len(images))
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 4e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images))[: steps * batch].view(steps, batch):
            x = floats(images[rows])
            latents = encoder(x)
            error = (decoder(latents + NOISE * torch.randn_like(latents)) - x).square().mean()
            adam.zero_grad()
            error.backward()
            adam.step()
            schedule.step()
            total += error.item()
        print(f"epoch {epoch} loss {total / steps:.5f}", flush=True)
    both.eval()


@torch.no_grad()
def reconstruction_error(images: Tensor, encoder: Encoder, decoder: Decoder) -> float:
    errors = [
        (decoder(encoder(x)) - x).square().mean((1, 2, 3)) for x in map(floats, images.split(250))
    ]
    return torch.cat(errors).mean().item()


def export(path: Path, module: nn.Module, inputs: Tensor) -> None:
    """Write a module that takes any number of rows."""
    plain = module.eval().cpu().to(memory_format=torch.contiguous_format)
    rows = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(plain, (inputs,), dynamic_shapes=rows), path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("--size", type=int, default=32, help="16, 32, 64, 128 or 256 pixels")
    parser.add_argument("--width", type=int, default=32, help="D, numbers of a code")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("pair"))
    asked = parser.parse_args()
    torch.manual_seed(0)
    images = torch.from_numpy(read_images(asked.source, size=asked.size))
    held_out = torch.arange(len(images)) % 16 == 0
    shape = (asked.size, images.shape[1], asked.width)
    encoder, decoder = Encoder(*shape), Decoder(*shape)
    train(images[~held_out], encoder, decoder, asked.epochs, asked.batch)
    error = reconstruction_error(images[held_out], encoder, decoder)
    print(f"mean squared error of {int(held_out.sum())} images that were held out: {error:.5f}")
    asked.out.mkdir(parents=True, exist_ok=True)
    example = floats(images[:2])
    export(asked.out / "encoder.pt2", encoder, example)
    export(asked.out / "decoder.pt2", decoder, encoder(example).detach())


if __name__ == "__main__":
    main()
