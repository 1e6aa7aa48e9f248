"""Backbones of encoders as files of other programs: tensors by the names of torchvision or timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.files.tensors import write_tensors
from viewstore.format.records import canonical
from viewstore.train.encoder_file import Encoder
from viewstore.train.nets.foreign import is_foreign
from viewstore.train.nets.network import BACKBONES

Layout = Literal["torchvision", "timm"]
STEM = {"0": "conv1", "1": "bn1"}
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
# Beginnings of names within a residual block, ours and theirs; `norm` is bn2 or bn3.
PARTS = {
    "resnet18": {"first.0": "conv1", "first.1": "bn1", "second": "conv2", "norm": "bn2"},
    "resnet50": {
        "first.0": "conv1",
        "first.1": "bn1",
        "second.0": "conv2",
        "second.1": "bn2",
        "third": "conv3",
        "norm": "bn3",
    },
}
# Names of a vision transformer, ours (timm's) and torchvision's.
VIT = (
    (r"cls_token", "class_token"),
    (r"pos_embed", "encoder.pos_embedding"),
    (r"patch_embed\.proj\.", "conv_proj."),
    (r"norm\.", "encoder.ln."),
    (r"blocks\.(\d+)\.norm([12])\.", r"encoder.layers.encoder_layer_\1.ln_\2."),
    (r"blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.encoder_layer_\1.self_attention.in_proj_"),
    (r"blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.encoder_layer_\1.self_attention.out_proj."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layers.encoder_layer_\1.mlp.0."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layers.encoder_layer_\1.mlp.3."),
)


def export_state(encoder: Encoder, layout: Layout) -> dict[str, Tensor]:
    """Return the backbone's tensors, float32, by the names of another library.

    A residual network gets those of torchvision's `resnet18` and `resnet50`, which are timm's
    too, a vision transformer those of timm's `vit_*` or of torchvision's `VisionTransformer`; all
    without a classifier. Counters of batches, which none of them needs, are left out. A network
    with the stem for small images fits theirs behind what `stem_lines` says.

    Raises:
        ConfigError: There is no such layout, or it has no names for the backbone.
    """
    if layout not in get_args(Layout):
        raise ConfigError(f"layout must be {' or '.join(get_args(Layout))}, got {layout!r}")
    name = encoder.settings.backbone
    prefix = "backbone."
    weights = {
        key.removeprefix(prefix): value.detach().to("cpu", torch.float32)
        for key, value in encoder.network.clean_weights().items()
        if key.startswith(prefix)
    }
    if name in DEPTHS:
        return _residual(weights, name)
    if name in BACKBONES and name.startswith("vit"):
        return weights if layout == "timm" else {_renamed(k): v for k, v in weights.items()}
    mine = is_foreign(name)
    allowed, module = (f", backbone={name!r}", ".net") if mine else ("", "")
    raise ConfigError(
        f"{layout} has no network like the backbone {name}",
        why=f"an export has the names of {', '.join(DEPTHS)} or of vision transformers",
        fix=f"load the encoder's own file: load_encoder(path{allowed}).network.backbone{module} "
        "is the module",
    )


def stem_lines(encoder: Encoder) -> tuple[str, ...]:
    """Return the lines of Python that make a `model` of another library take an export.

    There are some for residual networks with the stem for small images: theirs have another one.
    """
    settings = encoder.settings
    if settings.backbone not in DEPTHS or settings.stem != "cifar":
        return ()
    return (
        f"model.conv1 = torch.nn.Conv2d({settings.in_channels}, 64, 3, 1, 1, bias=False)",
        "model.maxpool = torch.nn.Identity()",
    )


def save_export(path: Path, encoder: Encoder, layout: Layout) -> None:
    """Replace the file `path` by `export_state` as safetensors, atomically.

    Its metadata are texts: format "pt", the layout, the backbone, the stem of a residual network,
    and the size, mean and std of its input, which are those of values in [0, 1].

    Raises:
        ConfigError: As `export_state`.
    """
    settings = encoder.settings
    texts = {"format": "pt", "layout": layout, "backbone": settings.backbone}
    if settings.backbone in DEPTHS:
        texts["stem"] = settings.stem
    about = {"size": settings.size, "mean": settings.mean, "std": settings.std}
    texts |= {name: canonical(value).decode() for name, value in about.items()}
    write_tensors(path, export_state(encoder, layout), texts)


def _residual(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    blocks = [
        f"layer{group}.{number}"
        for group, depth in enumerate(DEPTHS[name], 1)
        for number in range(depth)
    ]
    parts = PARTS[name] | {"shortcut": "downsample"}
    found = {}
    for key, value in weights.items():
        layer, _, rest = key.partition(".")
        if layer == "0":
            found[f"{STEM[rest[0]]}{rest[1:]}"] = value
        else:
            (part,) = (part for part in parts if rest.startswith(f"{part}."))
            found[f"{blocks[int(layer) - 1]}.{parts[part]}{rest.removeprefix(part)}"] = value
    return found


def _renamed(key: str) -> str:
    """Return torchvision's name of a tensor of a vision transformer."""
    for ours, theirs in VIT:
        if match := re.match(ours, key):
            return match.expand(theirs) + key[match.end() :]
    raise AssertionError(key)
