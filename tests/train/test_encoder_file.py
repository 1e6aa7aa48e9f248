"""Encoders keep their numbers in a file, and a file that is not one says so."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import write_with_config
from viewstore.train.encoder_file import Encoder, EncoderSettings, load_encoder, save_encoder
from viewstore.train.nets.network import Network, seeded_network

SETTINGS = EncoderSettings(
    backbone="conv3",
    in_channels=1,
    projector=(128, 64),
    size=16,
    mean=(0.5,),
    std=(0.25,),
    policy="digits",
    provenance={"command": "by hand"},
)


@pytest.fixture
def network() -> Network:
    network = seeded_network(SETTINGS.network(), 0)
    network.train()
    network(torch.rand(32, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    return network


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_an_encoder_comes_back_from_its_file(
    tmp_path: Path, network: Network, images: torch.Tensor
) -> None:
    save_encoder(tmp_path / "e.safetensors", SETTINGS, network)
    encoder = load_encoder(tmp_path / "e.safetensors")
    assert asdict(encoder.settings) == asdict(SETTINGS)
    assert (encoder.size, encoder.in_channels, encoder.policy) == (16, 1, "digits")
    assert torch.equal(encoder(images), Encoder(SETTINGS, network)(images))
    torch.testing.assert_close(encoder(images).norm(dim=1), torch.ones(4))
    assert encoder.features(images).shape == (4, 128)
    assert len(encoder.digest) == 64
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_equal_encoders_are_equal_bytes(tmp_path: Path, network: Network) -> None:
    for name in ("a", "b"):
        save_encoder(tmp_path / name, SETTINGS, network)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load_encoder(tmp_path / "a").digest == load_encoder(tmp_path / "b").digest


@pytest.mark.parametrize(
    ("half", "digest"),
    [
        (False, "70b9c6b4bfcc4c0514526fc81358d1e8cfb60cc6fd1d320c64818a182a56a342"),
        (True, "dc6bd7a532b66a0529560717664862c084bb7f2571ea26c09a5e94f9729b813f"),
    ],
)
def test_bytes_of_an_encoder_are_frozen(
    tmp_path: Path, network: Network, half: bool, digest: str
) -> None:
    with torch.no_grad():
        for number, value in enumerate(network.state_dict().values()):
            value.fill_(number / 4)
    save_encoder(tmp_path / "e", SETTINGS, network, half=half)
    assert load_encoder(tmp_path / "e").digest == digest


def test_half_weights_are_rounded_once(
    tmp_path: Path, network: Network, images: torch.Tensor
) -> None:
    save_encoder(tmp_path / "half", SETTINGS, network, half=True)
    half = load_encoder(tmp_path / "half")
    save_encoder(tmp_path / "again", SETTINGS, half.network, half=True)
    assert (tmp_path / "half").read_bytes() == (tmp_path / "again").read_bytes()
    assert half(images).dtype == torch.float32
    assert (half(images) - Encoder(SETTINGS, network)(images)).abs().max() < 0.01
    assert (tmp_path / "half").stat().st_size < 245_000


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path, network: Network) -> None:
    with torch.no_grad():
        network.projector[0].weight[0, 0] = 1e6
    with pytest.raises(ConfigError, match=r"weight projector\.0\.weight must be finite"):
        save_encoder(tmp_path / "half", SETTINGS, network, half=True)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_reads_gray_and_colour_and_other_sizes(network: Network) -> None:
    encoder = Encoder(SETTINGS, network)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    assert torch.equal(encoder(images), encoder(images[:, :1]))
    assert encoder(torch.rand(2, 1, 40, 24)).shape == (2, 64)
    with pytest.raises(ConfigError, match=r"images must be \[N, 1 or 3, H, W\], got \[2, 2"):
        encoder(images[:, :2])


def test_distances_have_gradients_with_respect_to_pixels(network: Network) -> None:
    images = torch.rand(2, 1, 16, 16, requires_grad=True)
    Encoder(SETTINGS, network)(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def write_damaged(path: Path, network: Network, **changes: object) -> None:
    tensors = {
        name: value for name, value in network.state_dict().items() if value.is_floating_point()
    }
    config = json.loads(json.dumps(asdict(SETTINGS))) | changes
    write_with_config(path, "encoder", tensors, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "conv4"}, "backbone must be one of .* did you mean"),
        ({"backbone": "conv6"}, "weights must be those of the network"),
        ({"projector": [128, 32]}, r"weight projector\..* must have shape"),
        ({"projector": "128"}, "setting projector must be list"),
        ({"size": 0}, "size must be in"),
        ({"size": True}, "setting size must be int, got True"),
        ({"std": [0.0]}, "std above 0"),
        ({"mean": [0.5, 0.5]}, "mean and std must have 1 values"),
        ({"colour": "red"}, "they differ in colour"),
    ],
)
def test_other_settings_than_the_weights_are_refused(
    tmp_path: Path, network: Network, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "e.safetensors"
    write_damaged(path, network, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(path)
    assert caught.value.where == str(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, network: Network) -> None:
    with torch.no_grad():
        network.projector[0].weight[0, 0] = float("nan")
    write_damaged(tmp_path / "e", network)
    with pytest.raises(CheckpointError, match="must be finite"):
        load_encoder(tmp_path / "e")


def test_a_file_that_is_not_an_encoder_says_what_it_lacks(tmp_path: Path, network: Network) -> None:
    path = tmp_path / "e"
    write_damaged(path, network)
    whole = path.read_bytes()
    for cut in (0, 4, 8, 200, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_encoder(path)
    write_with_config(path, "inverter", {}, {})
    with pytest.raises(CheckpointError, match="its metadata lacks viewstore_encoder"):
        load_encoder(path)
    path.write_bytes(whole.replace(b'"viewstore_encoder":"1"', b'"viewstore_encoder":"2"'))
    with pytest.raises(CheckpointError, match="version of a encoder file must be 1, got '2'"):
        load_encoder(path)
    with pytest.raises(CheckpointError, match="cannot read the encoder file"):
        load_encoder(tmp_path / "absent")
