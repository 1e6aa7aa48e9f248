"""The digits weights that the package ships: small, and as good as docs/gan.md says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from viewstore.build.roles import load_model, packaged_weights
from viewstore.generators.gan.file import read_generator
from viewstore.generators.gan.frechet import PixelFrechet
from viewstore.generators.gan.inverter import load_inverter
from viewstore.generators.gan.inverter_training import quality
from viewstore.sources.arrays import DIGITS
from viewstore.sources.image_array import read_images, signed
from viewstore.sources.open import open_source


def shipped(role: str) -> Path:
    path = packaged_weights(role)
    if not path.is_file():
        pytest.skip(f"{path.name} is not built yet")
    return path


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return torch.from_numpy(signed(read_images(DIGITS)))


@pytest.fixture(scope="module")
def generated() -> np.ndarray:
    network = read_generator(shipped("gan")).network
    images = [network.synthesis(codes) for codes in torch.split(network.sample(1797, 2), 100)]
    return torch.cat(images).clamp(-1, 1).numpy()


def test_generated_digits_are_near_real_ones(generated: np.ndarray, digits: Tensor) -> None:
    distance = PixelFrechet(digits.numpy())
    held_out = PixelFrechet(digits[::4].numpy())
    assert distance(generated) <= 1.9
    assert held_out(generated) <= 2.3
    assert distance(generated[::2]) > 0.2  # a copy of real rows would be nearer


def test_all_ten_classes_are_generated(generated: np.ndarray, digits: Tensor) -> None:
    labels = open_source(DIGITS).table.label
    model = LogisticRegression(max_iter=2000).fit(digits.flatten(1).numpy(), labels)
    found = np.bincount(model.predict(generated.reshape(len(generated), -1)), minlength=10)
    assert found.min() >= 0.04 * len(generated)


def test_inverter_finds_held_out_digits(digits: Tensor) -> None:
    inverter = load_inverter(shipped("inverter"))
    network = read_generator(shipped("gan")).network
    assert inverter.shape.generator == network.fingerprint
    measured = quality(digits[::4], inverter, network, load_model("encoder", shipped("encoder")))
    assert measured["pixel_mse"] <= 0.012
    assert measured["shift_mean"] <= 0.18
    assert measured["shift_p95"] <= 0.36


def test_weights_are_small_and_say_how_they_were_made() -> None:
    sizes = [shipped(role).stat().st_size for role in ("gan", "encoder", "inverter")]
    assert sum(sizes) < 1_000_000
    provenance = read_generator(shipped("gan")).origin.provenance
    assert provenance["source"] == DIGITS
    assert provenance["holdout"] == 4


def test_provenance_is_of_the_shipped_files() -> None:
    record = json.loads(shipped("gan").with_name("PROVENANCE.json").read_text())
    for role in ("gan", "inverter"):
        path = shipped(role)
        entry = record["files"][path.name]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["command"].startswith("viewstore gan train ")
    encoder = hashlib.sha256(shipped("encoder").read_bytes()).hexdigest()
    assert record["files"]["digits-inverter.safetensors"]["encoder_sha256"] == encoder
