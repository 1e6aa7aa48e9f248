"""Exported backbones have the names of other libraries, and do in modules like theirs what ours do.

The modules of this file are written after the structure that torchvision and timm document.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.train.encoder_export import Layout, export_state, save_export, stem_lines
from viewstore.train.encoder_file import Encoder, EncoderSettings
from viewstore.train.nets.domains import add_domain
from viewstore.train.nets.network import seeded_network

NORM = ("weight", "bias", "running_mean", "running_var")
RESNET18_KEYS = [
    "conv1.weight",
    *(f"bn1.{part}" for part in NORM),
    *(
        f"layer{group}.{block}.{name}"
        for group in (1, 2, 3, 4)
        for block in (0, 1)
        for name in (
            "conv1.weight",
            *(f"bn1.{part}" for part in NORM),
            "conv2.weight",
            *(f"bn2.{part}" for part in NORM),
        )
    ),
    *(
        f"layer{group}.0.downsample.{name}"
        for group in (2, 3, 4)
        for name in ("0.weight", *(f"1.{part}" for part in NORM))
    ),
]
VIT_BLOCK = {
    "norm1.weight": [192],
    "norm1.bias": [192],
    "attn.qkv.weight": [576, 192],
    "attn.qkv.bias": [576],
    "attn.proj.weight": [192, 192],
    "attn.proj.bias": [192],
    "norm2.weight": [192],
    "norm2.bias": [192],
    "mlp.fc1.weight": [768, 192],
    "mlp.fc1.bias": [768],
    "mlp.fc2.weight": [192, 768],
    "mlp.fc2.bias": [192],
}
TORCHVISION_BLOCK = {
    "ln_1.weight": [192],
    "ln_1.bias": [192],
    "self_attention.in_proj_weight": [576, 192],
    "self_attention.in_proj_bias": [576],
    "self_attention.out_proj.weight": [192, 192],
    "self_attention.out_proj.bias": [192],
    "ln_2.weight": [192],
    "ln_2.bias": [192],
    "mlp.0.weight": [768, 192],
    "mlp.0.bias": [768],
    "mlp.3.weight": [192, 768],
    "mlp.3.bias": [192],
}


class BasicBlock(nn.Module):
    """Torchvision's, by its names."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class BottleneckBlock(nn.Module):
    """Torchvision's, by its names."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Torchvision's, without a classifier."""

    def __init__(self, block: Any, depths: list[int], expansion: int, *, cifar: bool) -> None:  # noqa: ANN401
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1)
        if cifar:
            self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for group, depth in enumerate(depths):
            blocks = []
            for number in range(depth):
                blocks.append(block(inputs, 64 * 2**group, 2 if group and not number else 1))
                inputs = 64 * 2**group * expansion
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for group in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = group(x)
        return x.mean((2, 3))


class EncoderBlock(nn.Module):
    """Torchvision's, by its names: attention is torch's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(4 * width, width),
            nn.Dropout(0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class TorchvisionViT(nn.Module):
    """Torchvision's VisionTransformer, without a classifier."""

    def __init__(self, width: int, patch: int, count: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.zeros(1, 1 + count, width))
        self.encoder.layers = nn.Sequential()
        for number in range(12):
            self.encoder.layers.add_module(f"encoder_layer_{number}", EncoderBlock(width))
        self.encoder.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        out: Any = self.encoder
        return out.ln(out.layers(x + out.pos_embedding))[:, 0]


def make(backbone: str, **settings: Any) -> Encoder:  # noqa: ANN401
    found = EncoderSettings(
        backbone=backbone,
        projector=(8,),
        size=32,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.5),
        policy="",
        **settings,
    )
    network = seeded_network(found.network(), 0, size=32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # nothing at the value it starts with
        for value in network.clean_weights().values():
            value.add_(torch.rand(value.shape, generator=generator), alpha=0.02)
    add_domain(network)  # what is only for training is not exported
    return Encoder(found, network)


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def loaded(encoder: Encoder, module: nn.Module, layout: Layout = "torchvision") -> Tensor:
    module.load_state_dict(export_state(encoder, layout), strict=True)
    out: Tensor = module.eval()(encoder.prepare(images()))
    return out


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_resnet18_is_that_of_torchvision_and_timm(stem: Any, layout: Layout) -> None:  # noqa: ANN401
    encoder = make("resnet18", stem=stem)
    state = export_state(encoder, layout)
    assert sorted(state) == sorted(RESNET18_KEYS)
    assert list(state["conv1.weight"].shape) == [
        64,
        3,
        *{"cifar": (3, 3), "imagenet": (7, 7)}[stem],
    ]
    module = ResNet(BasicBlock, [2, 2, 2, 2], 1, cifar=stem == "cifar")
    torch.testing.assert_close(loaded(encoder, module, layout), encoder.features(images()))


def test_resnet50_is_that_of_torchvision() -> None:
    encoder = make("resnet50", stem="imagenet")
    state = export_state(encoder, "torchvision")
    assert len(state) == 5 * (1 + 16 * 3 + 4)
    assert list(state["layer4.2.conv3.weight"].shape) == [2048, 512, 1, 1]
    assert list(state["layer1.0.downsample.0.weight"].shape) == [256, 64, 1, 1]
    module = ResNet(BottleneckBlock, [3, 4, 6, 3], 4, cifar=False)
    torch.testing.assert_close(loaded(encoder, module), encoder.features(images()))


def test_a_vision_transformer_has_the_names_of_timm() -> None:
    state = export_state(make("vit-ti", patch=8), "timm")
    expected = {
        "cls_token": [1, 1, 192],
        "pos_embed": [1, 17, 192],
        "patch_embed.proj.weight": [192, 3, 8, 8],
        "patch_embed.proj.bias": [192],
        "norm.weight": [192],
        "norm.bias": [192],
    }
    for block in range(12):
        expected |= {f"blocks.{block}.{name}": shape for name, shape in VIT_BLOCK.items()}
    assert {name: list(value.shape) for name, value in state.items()} == expected


def test_a_vision_transformer_is_that_of_torchvision() -> None:
    encoder = make("vit-ti", patch=8)
    network: Any = encoder.network
    network.backbone.add_mask_token()  # what is only for training is not exported
    state = export_state(encoder, "torchvision")
    expected = {
        "class_token": [1, 1, 192],
        "conv_proj.weight": [192, 3, 8, 8],
        "conv_proj.bias": [192],
        "encoder.pos_embedding": [1, 17, 192],
        "encoder.ln.weight": [192],
        "encoder.ln.bias": [192],
    }
    for block in range(12):
        layer = f"encoder.layers.encoder_layer_{block}"
        expected |= {f"{layer}.{name}": shape for name, shape in TORCHVISION_BLOCK.items()}
    assert {name: list(value.shape) for name, value in state.items()} == expected
    found = loaded(encoder, TorchvisionViT(192, 8, 16))
    torch.testing.assert_close(found, encoder.features(images()), atol=2e-5, rtol=1e-4)


def test_an_export_is_a_safetensors_file_with_its_preprocessing(tmp_path: Path) -> None:
    encoder = make("resnet18")
    for name in ("a", "b"):
        save_export(tmp_path / name, encoder, "timm")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", framework="pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = export_state(encoder, "timm")
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    assert (about["format"], about["layout"], about["backbone"]) == ("pt", "timm", "resnet18")
    assert json.loads(about["mean"]) == [0.5, 0.4, 0.3]
    assert json.loads(about["std"]) == [0.2, 0.25, 0.5]
    assert json.loads(about["size"]) == 32
    assert about["stem"] == "cifar"
    save_export(tmp_path / "vit", make("vit-ti", patch=8), "timm")
    with safe_open(tmp_path / "vit", framework="pt") as file:
        assert "stem" not in file.metadata()


def test_the_lines_for_the_small_stem_make_a_model_take_the_export() -> None:
    encoder = make("resnet18")
    model = ResNet(BasicBlock, [2, 2, 2, 2], 1, cifar=False)
    for line in stem_lines(encoder):
        exec(line, {"model": model, "torch": torch})
    torch.testing.assert_close(loaded(encoder, model), encoder.features(images()))
    assert stem_lines(make("resnet18", stem="imagenet")) == ()
    assert stem_lines(make("vit-ti", patch=8)) == ()


def test_what_has_no_names_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torchvision has no network like the backbone conv3"):
        save_export(tmp_path / "e", make("conv3"), "torchvision")
    wrong: Any = "keras"
    with pytest.raises(ConfigError, match="layout must be torchvision or timm, got 'keras'"):
        export_state(make("resnet18"), wrong)
    assert list(tmp_path.iterdir()) == []
