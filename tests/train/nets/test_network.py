"""Networks by name have the sizes of the papers, start as they always did, and refuse nonsense."""

import hashlib
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from viewstore.errors import ConfigError
from viewstore.train.nets.backbone import check_stage, stage
from viewstore.train.nets.network import BACKBONES, NetworkSettings, seeded_network

SMALL = [name for name in BACKBONES if not name.startswith(("vit", "resnet50"))]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def backbone_of(name: str, size: int = 32, **settings: Any) -> Any:  # noqa: ANN401
    found = NetworkSettings(backbone=name, projector=(8,), **settings)
    return seeded_network(found, 0, size=size).backbone


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("resnet18", {"stem": "imagenet"}, 11_176_512),
        ("resnet18", {}, 11_168_832),
        ("resnet50", {"stem": "imagenet"}, 23_508_032),
        ("vit-ti", {}, 5_524_416),
        ("vit-ti8", {}, 5_524_416 - 4 * (12 * 192 * 192 + 13 * 192)),
        ("vit-s", {}, 21_665_664),
        ("vit-b", {}, 85_798_656),
        ("conv3", {"in_channels": 1}, 92_896),
    ],
)
def test_backbones_have_the_sizes_of_the_papers(
    name: str, settings: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        network = seeded_network(NetworkSettings(backbone=name, **settings), 0)
    assert count(network.backbone) == parameters


def test_widths_of_conv6_halve() -> None:
    counts = [count(backbone_of(name)) for name in ("conv6", "conv6-half", "conv6-quarter")]
    assert 0.5e6 < counts[0] < 0.6e6
    for larger, smaller in pairwise(counts):
        assert 3.8 < larger / smaller < 4


@pytest.mark.parametrize("backbone", ["resnet18", "conv6", "conv3"])
def test_weights_are_drawn_in_their_order_and_those_of_convolutions_once_more(
    backbone: str,
) -> None:
    network = seeded_network(NetworkSettings(backbone=backbone, projector=(16, 8)), 7)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    torch.manual_seed(7)
    expected: list[nn.Conv2d | nn.Linear] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            expected.append(nn.Linear(layer.in_features, layer.out_features, bias=False))
        else:
            height, _ = layer.kernel_size
            expected.append(nn.Conv2d(layer.in_channels, layer.out_channels, height, bias=False))
    for layer in expected:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    for found, wanted in zip(layers, expected, strict=True):
        assert torch.equal(found.weight, wanted.weight)


@pytest.mark.parametrize(
    ("backbone", "digest"),
    [
        ("resnet18", "e7340b942b33f93d85f8f99f0c1b0852f0d114791431b27772564a8a8f0102de"),
        ("conv6", "6c86e4a99e0b4a5c487a7b9f83cc21374c51264320a9872c0899a8fee645de1f"),
        ("conv3", "8763eed3831cf5be29a48b2db2186cb7df40bd1a93e804dd8e7635ef6e67c152"),
    ],
)
def test_names_and_shapes_of_the_state_are_frozen(backbone: str, digest: str) -> None:
    state = seeded_network(NetworkSettings(backbone=backbone), 0).state_dict()
    lines = "".join(f"{name} {list(value.shape)}\n" for name, value in state.items())
    assert hashlib.sha256(lines.encode()).hexdigest() == digest


@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_ends_in_its_width_for_any_size(name: str) -> None:
    backbone = backbone_of(name).eval()
    for size in (16, 32, 40):
        assert backbone(torch.zeros(2, 3, size, size)).shape == (2, backbone.width)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_both_stems_of_resnet50(stem: str) -> None:
    backbone = backbone_of("resnet50", stem=stem).eval()
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    side = {"cifar": 32, "imagenet": 8}[stem]
    widths = [64 * side**2, *(256 * side**2 // 2**k for k in range(4))]
    assert [stage(backbone, x, k).shape for k in range(5)] == [(1, width) for width in widths]
    assert backbone(x).shape == (1, 2048)


def test_a_bottleneck_strides_in_its_3x3_convolution() -> None:
    strided = {
        name
        for name, module in backbone_of("resnet50").named_modules()
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1)
    }
    first = ("4", "8", "14")  # the first block of groups 2 to 4
    assert strided == {f"{n}.{part}.0" for n in first for part in ("second", "shortcut")}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_init_starts_residual_blocks_as_their_shortcut(name: str) -> None:
    block = backbone_of(name, zero_init=True).get_submodule("2").eval()
    x = torch.rand(2, block.norm.num_features, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), x)


def test_a_seed_draws_one_network_and_leaves_the_generator_alone() -> None:
    settings = NetworkSettings(backbone="conv3", projector=(8,))
    before = torch.get_rng_state()
    first, second = (seeded_network(settings, 5).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.get_rng_state())
    other = seeded_network(settings, 6).state_dict()
    assert not torch.equal(other["backbone.0.0.weight"], first["backbone.0.0.weight"])


@pytest.mark.parametrize("name", ["resnet18", "conv6-quarter", "conv3"])
def test_the_last_stage_pooled_are_the_features_and_nothing_runs_behind_a_stage(name: str) -> None:
    backbone = backbone_of(name).eval()
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    last = stage(backbone, x, backbone.num_stages - 1)
    pooled = last.view(2, backbone.width, -1).mean(2)
    torch.testing.assert_close(pooled, backbone(x))

    ran: list[nn.Module] = []
    for layer in backbone.children():
        layer.register_forward_hook(lambda module, *_: ran.append(module))
    stage(backbone, x, 0)
    assert ran == [next(backbone.children())]
    with pytest.raises(ConfigError, match=f"0 to {backbone.num_stages - 1}, got 9"):
        check_stage(backbone, 9)
    with pytest.raises(ConfigError, match="got -1"):
        stage(backbone, x, -1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet19"}, "backbone must be one of .* did you mean 'resnet18'"),
        ({"backbone": "os.path"}, "or module:function, timm:NAME or transformers:NAME, got"),
        ({"backbone": "timm:hf-hub:x/y"}, "backbone must be one of"),
        ({"in_channels": 2}, "in_channels must be 1 or 3, got 2"),
        ({"projector": ()}, "projector must be 1 to 8 widths .* got none"),
        ({"projector_norm": "ln"}, "projector_norm must be bn or none, got ln"),
        ({"projector_last": "ln"}, "projector_last must be bn or none, got ln"),
        ({"activation": "silu"}, "activation must be relu or gelu, got silu"),
        ({"stem": "tiny"}, "stem must be cifar or imagenet, got tiny"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
        ({"drop_path": float("nan")}, "drop_path must be in"),
        ({"backbone": "vit-s", "patch": 0}, r"patch must be in \[1, 64\], got 0"),
        ({"backbone": "conv3", "zero_init": True}, "zero_init needs residual blocks; conv3 has"),
        ({"backbone": "vit-s", "stem": "imagenet"}, "stem needs a stem of two kinds; vit-s has"),
        ({"patch": 4}, "patch needs patches; resnet18 has none"),
        ({"drop_path": 0.1}, "drop_path needs blocks that can be left out; resnet18 has none"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkSettings(**settings)
