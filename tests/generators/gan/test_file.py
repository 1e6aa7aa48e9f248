"""Our own file of a generator: what goes in comes out, and nothing else is taken for one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

from viewstore.errors import CheckpointError
from viewstore.files.tensors import read_tensors, write_tensors
from viewstore.generators.gan.file import (
    Origin,
    compared_images,
    read_generator,
    write_generator,
)
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.generators.stylegan2.shape import Architecture

SHAPE = Architecture(z_dim=4, mapping_widths=(5,), channels=(3, 2), image_channels=1)
ORIGIN = Origin(
    family="rosinality",
    source_sha256="ab" * 32,
    licence_note="MIT",
    provenance={"seed": 3, "command": "viewstore gan convert"},
)


@pytest.fixture
def network() -> StyleGAN2:
    rng = np.random.default_rng(1)
    tensors = {
        name: np.asarray(rng.normal(size=size), np.float32)
        for name, size in sorted(SHAPE.shapes().items())
    }
    for name in tensors:
        if name.endswith("resample_filter"):
            tensors[name] = np.full((4, 4), 1 / 16, np.float32)
    return StyleGAN2.from_tensors(tensors, SHAPE.kwargs())


def test_float32_file_gives_the_same_network(tmp_path: Path, network: StyleGAN2) -> None:
    path = tmp_path / "new" / "gan.bin"
    write_generator(path, network, ORIGIN, half=False)
    opened = read_generator(path)
    assert opened.origin == ORIGIN
    assert opened.network.fingerprint == network.fingerprint
    assert opened.network.sigma_w == network.sigma_w
    assert torch.equal(compared_images(opened.network), compared_images(network))


def test_float16_values_are_the_weights(tmp_path: Path, network: StyleGAN2) -> None:
    path = tmp_path / "gan"
    written = write_generator(path, network, ORIGIN, half=True)
    read = read_generator(path).network
    assert read.fingerprint == written.fingerprint != network.fingerprint
    assert all(value.dtype == torch.float32 for value in read.state_dict().values())
    again = write_generator(tmp_path / "again", read, ORIGIN, half=True)
    assert again.fingerprint == read.fingerprint
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_stock_safetensors_reads_the_file(tmp_path: Path, network: StyleGAN2) -> None:
    path = tmp_path / "gan"
    write_generator(path, network, ORIGIN, half=False)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["viewstore_gan"] == "1"
        assert set(file.keys()) == set(SHAPE.shapes())
        assert torch.equal(file.get_tensor("mapping.w_avg"), network.w_avg)


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path, network: StyleGAN2) -> None:
    network.state_dict()["synthesis.b4.const"][0] = 1e6
    with pytest.raises(CheckpointError, match="const holds values that float16 cannot"):
        write_generator(tmp_path / "gan", network, ORIGIN, half=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"viewstore_gan": "2"}, "viewstore_gan = 2, wanted 1"),
        ({"viewstore_gan": None}, "viewstore_gan = nothing, wanted 1"),
        ({"kwargs": "[" * 100_000}, "no JSON named kwargs"),
        ({"kwargs": "[]"}, "kwargs must be an object"),
        ({"kwargs": None}, "no JSON named kwargs"),
        ({"kwargs": "{}"}, "num_layers is 8, but the tensors have 1"),
        ({"sigma_w": "nan"}, "sigma_w must be a positive number"),
        ({"sigma_w": None}, "sigma_w must be a positive number"),
    ],
)
def test_files_with_other_text_are_refused(
    tmp_path: Path, network: StyleGAN2, about: dict[str, str | None], message: str
) -> None:
    path = tmp_path / "gan"
    write_generator(path, network, ORIGIN, half=False)
    tensors, text = read_tensors(path, "viewstore_gan")
    changed: dict[str, Any] = text | about
    write_tensors(path, tensors, {k: v for k, v in changed.items() if v is not None})
    with pytest.raises(CheckpointError, match=message) as caught:
        read_generator(path)
    assert str(path) in str(caught.value)


def test_tensors_of_other_types_are_refused(tmp_path: Path, network: StyleGAN2) -> None:
    path = tmp_path / "gan"
    write_generator(path, network, ORIGIN, half=False)
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(CheckpointError, match="must be float16 or float32, got"):
        read_generator(path)


def test_every_truncation_is_refused(tmp_path: Path, network: StyleGAN2) -> None:
    path = tmp_path / "gan"
    write_generator(path, network, ORIGIN, half=True)
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 50):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_generator(path)


def test_flipped_bytes_are_refused_or_change_only_values(
    tmp_path: Path, network: StyleGAN2
) -> None:
    path = tmp_path / "gan"
    write_generator(path, network, ORIGIN, half=True)
    data = path.read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for position in rng.integers(0, len(data), 200):
        broken = bytearray(data)
        broken[position] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            read_generator(path)
        except CheckpointError:
            refused += 1
    assert refused > 50


def test_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none"):
        read_generator(tmp_path / "none")
