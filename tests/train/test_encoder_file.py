"""Encoders keep their numbers in a file, and a file that is not one says so."""

import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import viewstore
from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import read_with_config, write_with_config
from viewstore.train.encoder_file import Encoder, EncoderSettings, load_encoder, save_encoder
from viewstore.train.nets.domains import add_domain, use_domain
from viewstore.train.nets.network import Network, seeded_network
from viewstore.train.nets.vit import VisionTransformer

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


# What the file of SETTINGS says, as files did before there were other settings of networks.
CONFIG = {
    "backbone": "conv3",
    "in_channels": 1,
    "projector": [128, 64],
    "size": 16,
    "mean": [0.5],
    "std": [0.25],
    "policy": "digits",
    "provenance": {"command": "by hand"},
}


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
    write_with_config(path, "encoder", tensors, CONFIG | changes)


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
        ({"backbone": ["conv3"]}, "setting backbone must be str"),
        ({"projector": [65536] * 8}, r"weight projector\..* must have shape|they differ in"),
        ({"projector_norm": "none"}, r"they differ in projector\."),
        ({"projector_norm": None}, "setting projector_norm must be str, got None"),
        ({"projector_last": "ln"}, "projector_last must be bn or none, got ln"),
        ({"activation": 1}, "setting activation must be str, got 1"),
        ({"zero_init": 1}, "setting zero_init must be bool, got 1"),
        ({"stem": "imagenet"}, "stem needs a stem of two kinds; conv3 has none"),
        ({"drop_path": 1}, "setting drop_path must be float, got 1"),
        ({"patch": None}, "setting patch must be int, got None"),
        ({"backbone": "vit-ti", "patch": 3}, "multiples of the patch of 3 pixels"),
        ({"backbone": "vit-b", "size": 4096, "patch": 1}, "they differ in"),
    ],
)
def test_other_settings_than_the_weights_are_refused(
    tmp_path: Path, network: Network, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "e.safetensors"
    write_damaged(path, network)
    load_encoder(path)
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


def test_a_file_without_a_setting_is_refused(tmp_path: Path, network: Network) -> None:
    for name in CONFIG:
        config = {key: value for key, value in CONFIG.items() if key != name}
        write_with_config(tmp_path / "e", "encoder", network.clean_weights(), config)
        with pytest.raises(CheckpointError, match=f"they differ in {name}"):
            load_encoder(tmp_path / "e")


@torch.no_grad()
def test_the_shipped_encoder_gives_the_features_that_it_always_gave() -> None:
    path = Path(viewstore.__file__).parent / "weights" / "digits-encoder.safetensors"
    encoder = load_encoder(path)
    blocks = []
    for inputs, outputs in pairwise((1, 32, 64, 128)):
        convolution = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False)
        blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()))
    backbone = nn.Sequential(*blocks).eval()
    tensors = {name: value.float() for name, value in load_file(path).items()}
    names = [name.removeprefix("backbone.") for name in tensors if name.startswith("backbone.")]
    backbone.load_state_dict({name: tensors[f"backbone.{name}"] for name in names}, strict=True)
    x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    features = backbone((x - encoder.mean) / encoder.std).mean((2, 3))
    assert torch.equal(encoder.features(x), features)
    assert torch.equal(encoder.probe_features(x), features)
    norm = nn.BatchNorm1d(128).eval()
    state = {n.removeprefix("projector.1."): v for n, v in tensors.items() if "projector.1." in n}
    norm.load_state_dict(state, strict=True)
    hidden = norm(features @ tensors["projector.0.weight"].T).relu()
    last = nn.BatchNorm1d(64, affine=False).eval()
    state = {n.removeprefix("projector.4."): v for n, v in tensors.items() if "projector.4." in n}
    last.load_state_dict(state, strict=True)
    wanted = nn.functional.normalize(last(hidden @ tensors["projector.3.weight"].T), dim=1)
    torch.testing.assert_close(encoder(x), wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"projector_norm": "none", "activation": "gelu"},
        {"projector_last": "none"},
        {"backbone": "resnet18", "stem": "imagenet", "zero_init": True, "projector": (8,)},
        {"backbone": "vit-ti", "patch": 4, "drop_path": 0.1, "projector": (8,)},
    ],
)
def test_every_setting_of_a_network_is_kept(
    tmp_path: Path, images: Tensor, changes: dict[str, Any]
) -> None:
    settings = replace(SETTINGS, **changes)
    network = seeded_network(settings.network(), 0, size=16)
    save_encoder(tmp_path / "e", settings, network)
    said = read_with_config(tmp_path / "e", "encoder").config
    assert said.keys() - CONFIG.keys() == changes.keys() - CONFIG.keys()
    encoder = load_encoder(tmp_path / "e")
    assert encoder.settings == settings
    assert encoder.network.settings == settings.network()
    assert torch.equal(encoder(images), Encoder(settings, network)(images))


def test_a_probe_reads_four_class_tokens_of_a_vision_transformer(images: Tensor) -> None:
    settings = replace(SETTINGS, backbone="vit-ti", patch=8, projector=(8,))
    encoder = Encoder(settings, seeded_network(settings.network(), 0, size=16))
    assert encoder.features(images).shape == (4, 192)
    assert encoder.probe_features(images).shape == (4, 768)
    assert torch.equal(encoder.probe_features(images)[:, -192:], encoder.features(images))


def test_what_only_training_needs_is_left_out(
    tmp_path: Path, network: Network, images: Tensor
) -> None:
    save_encoder(tmp_path / "plain", SETTINGS, network)
    add_domain(network)
    with use_domain(network, "adv"):
        network.train()(torch.rand(8, 1, 16, 16) * 9)
    save_encoder(tmp_path / "domains", SETTINGS, network)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "domains").read_bytes()

    settings = replace(SETTINGS, backbone="vit-ti", patch=8, projector=(8,))
    transformer = seeded_network(settings.network(), 0, size=16)
    save_encoder(tmp_path / "plain", settings, transformer)
    assert isinstance(transformer.backbone, VisionTransformer)
    transformer.backbone.add_mask_token()
    save_encoder(tmp_path / "masked", settings, transformer)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "masked").read_bytes()
    assert load_encoder(tmp_path / "masked")(images).shape == (4, 8)


def test_reading_a_file_leaves_torchs_generator_alone(tmp_path: Path, network: Network) -> None:
    save_encoder(tmp_path / "e", SETTINGS, network)
    before = torch.get_rng_state()
    load_encoder(tmp_path / "e")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_backbone_of_the_user_loads_only_where_the_reader_names_it_and_it_imports(
    tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def net() -> nn.Module:
        called.append("net")
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6))

    module: Any = ModuleType("usernets")
    module.net = net
    monkeypatch.setitem(sys.modules, "usernets", module)
    settings = replace(SETTINGS, backbone="usernets:net", projector=(8,))
    network = seeded_network(settings.network(), 0, size=16)
    path = tmp_path / "e"
    save_encoder(path, settings, network)
    encoder = load_encoder(path, backbone="usernets:net")
    assert torch.equal(encoder(images), Encoder(settings, network)(images))
    assert encoder.features(images).shape == (4, 6)

    called.clear()
    for other in (None, "usernets:other"):
        with pytest.raises(CheckpointError, match="function usernets:net, which was not allowed"):
            load_encoder(path, backbone=other)
    assert called == []
    monkeypatch.delitem(sys.modules, "usernets")
    with pytest.raises(ConfigError, match="there is no backbone usernets:net: No module") as error:
        load_encoder(path, backbone="usernets:net")
    assert "PYTHONPATH=." in str(error.value.fix)


def test_a_file_cannot_choose_a_function_that_is_called(tmp_path: Path, network: Network) -> None:
    write_damaged(tmp_path / "e", network, backbone="os:getcwd")
    with pytest.raises(CheckpointError, match="was not allowed") as caught:
        load_encoder(tmp_path / "e")
    assert caught.value.why == "a file must not choose what code is run"
