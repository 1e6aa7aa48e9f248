"""The autoencoder: it learns, a second run is equal, and what it writes is a pair."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from viewstore.generators.latent.pair import read_decoder, read_encoder
from viewstore.sources.image_array import read_images, signed

ARGUMENTS = ("digits", "--size", 16, "--width", 6, "--epochs", 3, "--out")


def test_it_learns_and_its_modules_are_a_pair(run: Callable[..., str], tmp_path: Path) -> None:
    printed = run("autoencoder", *ARGUMENTS, tmp_path / "pair")
    losses = [float(each) for each in re.findall(r"^epoch \d+ loss (\S+)$", printed, re.MULTILINE)]
    assert len(losses) == 3
    assert losses[-1] < losses[0] / 4
    decoder = read_decoder(tmp_path / "pair/decoder.pt2")
    encoder = read_encoder(tmp_path / "pair/encoder.pt2")
    assert (decoder.res, decoder.channels, decoder.num_codes, decoder.w_dim) == (16, 1, 16, 6)
    assert decoder.differentiable
    held_out = torch.from_numpy(signed(read_images("digits", size=16))[::16])
    error = (decoder.synthesis(encoder(held_out)) - held_out).square().mean().item()
    (said,) = re.findall(r"^mean squared error of 113 images .*: (\S+)$", printed, re.MULTILINE)
    assert abs(float(said) - error) < 2e-4
    assert error < 0.05
    assert run("autoencoder", *ARGUMENTS, tmp_path / "again") == printed
