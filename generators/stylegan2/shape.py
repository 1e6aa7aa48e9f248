"""The architecture of a StyleGAN2 network, inferred from its tensors or chosen by the trainer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from viewstore.errors import CheckpointError

Kind = Literal["skip", "orig", "resnet"]
Shape = tuple[int, ...]

RECORDED = frozenset({"num_fp16_res", "fp16_channels_last", "channel_base", "channel_max"})
MAPPING_KWARGS = frozenset(
    {"num_layers", "embed_features", "layer_features", "activation", "lr_multiplier", "w_avg_beta"}
)
SYNTHESIS_KWARGS = RECORDED | {
    "architecture",
    "conv_clamp",
    "use_noise",
    "resample_filter",
    "activation",
}
NETWORK_KWARGS = frozenset(
    {
        "z_dim",
        "c_dim",
        "w_dim",
        "img_resolution",
        "img_channels",
        "mapping_kwargs",
        "synthesis_kwargs",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What decides the names and shapes of a network's tensors, and how they are applied.

    Attributes:
        z_dim: Width of z.
        c_dim: Classes; 0 for an unconditional network.
        channels: Feature maps of the blocks at 4, 8, 16, ... pixels.
        mapping_widths: Outputs of the mapping layers; the last is the width of a code.
        embed_width: Outputs of the label embedding; 0 for an unconditional network.
        taps: Shape of the resampling filter: (t, t), or (t,) if applied per axis.
        image_channels: Channels of the images.
        kind: How features become an image: a sum over blocks ("skip"), or the last block alone,
            without ("orig") or with residual blocks ("resnet").
        conv_clamp: Bound of every activation, or None.
        use_noise: Whether layers add noise.
        lr_multiplier: By which the stored weights of the mapping layers are scaled.
    """

    z_dim: int
    c_dim: int = 0
    embed_width: int = 0
    mapping_widths: tuple[int, ...]
    channels: tuple[int, ...]
    image_channels: int
    taps: Shape = (4, 4)
    kind: Kind = "skip"
    conv_clamp: float | None = None
    use_noise: bool = True
    lr_multiplier: float = 0.01

    @property
    def w_dim(self) -> int:
        """Width of a code."""
        return self.mapping_widths[-1]

    @property
    def resolution(self) -> int:
        """Side of the images, in pixels."""
        return 4 << (len(self.channels) - 1)

    @property
    def num_codes(self) -> int:
        """Codes of an image."""
        return 2 * len(self.channels)

    def draws_image(self, block: int) -> bool:
        """Return whether a block turns its features into pixels."""
        return self.kind == "skip" or block == len(self.channels) - 1

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every tensor of the network by its canonical name."""
        return self._mapping_shapes() | self._synthesis_shapes()

    def _mapping_shapes(self) -> dict[str, Shape]:
        found: dict[str, Shape] = {"mapping.w_avg": (self.w_dim,)}
        if self.c_dim:
            found["mapping.embed.weight"] = (self.embed_width, self.c_dim)
            found["mapping.embed.bias"] = (self.embed_width,)
        inputs = self.z_dim + self.embed_width
        for i, outputs in enumerate(self.mapping_widths):
            found[f"mapping.fc{i}.weight"] = (outputs, inputs)
            found[f"mapping.fc{i}.bias"] = (outputs,)
            inputs = outputs
        return found

    def _synthesis_shapes(self) -> dict[str, Shape]:
        found: dict[str, Shape] = {"synthesis.b4.const": (self.channels[0], 4, 4)}
        for block, outputs in enumerate(self.channels):
            name = f"synthesis.b{4 << block}"
            found[f"{name}.resample_filter"] = self.taps
            inputs = self.channels[max(block - 1, 0)]
            if block:
                found |= self._conv_shapes(f"{name}.conv0", inputs, outputs, 4 << block)
            found |= self._conv_shapes(f"{name}.conv1", outputs, outputs, 4 << block)
            if block and self.kind == "resnet":
                found[f"{name}.skip.weight"] = (outputs, inputs, 1, 1)
            if self.draws_image(block):
                found[f"{name}.torgb.weight"] = (self.image_channels, outputs, 1, 1)
                found[f"{name}.torgb.bias"] = (self.image_channels,)
                found |= self._affine_shapes(f"{name}.torgb", outputs)
        return found

    def _conv_shapes(self, name: str, inputs: int, outputs: int, size: int) -> dict[str, Shape]:
        found: dict[str, Shape] = {
            f"{name}.weight": (outputs, inputs, 3, 3),
            f"{name}.bias": (outputs,),
        }
        if self.use_noise:
            found[f"{name}.noise_const"] = (size, size)
            found[f"{name}.noise_strength"] = ()
        return found | self._affine_shapes(name, inputs)

    def _affine_shapes(self, name: str, inputs: int) -> dict[str, Shape]:
        return {f"{name}.affine.weight": (inputs, self.w_dim), f"{name}.affine.bias": (inputs,)}

    def check(self, found: Mapping[str, Shape]) -> None:
        """Raise CheckpointError if names are missing, extra or misshapen."""
        wanted = self.shapes()
        for name in sorted(wanted.keys() - found.keys()):
            raise CheckpointError(f"tensor {name} is missing; its shape would be {wanted[name]}")
        for name in sorted(found.keys() - wanted.keys()):
            raise CheckpointError(f"tensor {name} has no place in this {self.kind} network")
        for name, shape in wanted.items():
            if found[name] != shape:
                raise CheckpointError(f"tensor {name} must have shape {shape}, got {found[name]}")

    def kwargs(self) -> dict[str, Any]:
        """Return constructor arguments that `infer` reads back to this architecture."""
        mapping: dict[str, Any] = {"num_layers": len(self.mapping_widths)}
        mapping["lr_multiplier"] = self.lr_multiplier
        synthesis: dict[str, Any] = {"architecture": self.kind}
        synthesis |= {"conv_clamp": self.conv_clamp, "use_noise": self.use_noise}
        return {
            "z_dim": self.z_dim,
            "c_dim": self.c_dim,
            "w_dim": self.w_dim,
            "img_resolution": self.resolution,
            "img_channels": self.image_channels,
            "mapping_kwargs": mapping,
            "synthesis_kwargs": synthesis,
        }


def resampling(filters: Iterable[str]) -> list[str]:
    """Return those of the names of `resample_filter` tensors that a network resamples with.

    Layers that do not double the size have one in files too, whatever it holds. Where no layer
    resamples, all names are returned.
    """
    names = list(filters)
    doubling = r"synthesis\.b(?!4\.)\d+\.((conv0|skip)\.)?resample_filter"
    return [name for name in names if re.fullmatch(doubling, name)] or names


def infer(shapes: Mapping[str, Shape], kwargs: Mapping[str, Any]) -> Architecture:
    """Return the architecture of tensors of these shapes, built with these constructor arguments.

    Shapes decide sizes; `kwargs` decides what shapes do not (architecture, clamp, learning
    rate multiplier, noise) and must agree with the rest. Constructor defaults may be absent.

    Raises:
        CheckpointError: Not a StyleGAN2 network, or one that we could not run faithfully.
    """
    mapping = _section(kwargs, "mapping_kwargs", MAPPING_KWARGS)
    synthesis = _section(kwargs, "synthesis_kwargs", SYNTHESIS_KWARGS)
    _known(kwargs, NETWORK_KWARGS, "constructor")
    layers = _count(shapes, r"mapping\.fc(\d{1,4})\.weight")
    blocks = [_require(shapes, f"synthesis.b{size}.conv1.weight", 4)[0] for size in _sizes(shapes)]
    embed = shapes.get("mapping.embed.weight", (0, 0))
    if len(embed) != 2:
        raise CheckpointError(f"tensor mapping.embed.weight must have 2 axes, got {embed}")
    found = Architecture(
        z_dim=_require(shapes, "mapping.fc0.weight", 2)[1] - embed[0],
        c_dim=embed[1],
        embed_width=embed[0],
        mapping_widths=tuple(
            _require(shapes, f"mapping.fc{i}.weight", 2)[0] for i in range(layers)
        ),
        channels=tuple(blocks),
        image_channels=_require(shapes, f"synthesis.b{4 << len(blocks) - 1}.torgb.weight", 4)[0],
        taps=shapes.get("synthesis.b4.resample_filter", (4, 4)),
        kind=_kind(synthesis.get("architecture", "skip")),
        conv_clamp=_number(synthesis.get("conv_clamp"), "conv_clamp"),
        use_noise=_flag(synthesis.get("use_noise", True)),
        lr_multiplier=_number(mapping.get("lr_multiplier"), "lr_multiplier") or 0.01,
    )
    _agree(found, kwargs, mapping.get("num_layers", 8))
    found.check(shapes)
    return found


def _section(kwargs: Mapping[str, Any], name: str, known: frozenset[str]) -> Mapping[str, Any]:
    section = kwargs.get(name, {})
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{name} must be a dict, got {type(section).__name__}")
    _known(section, known, name)
    activation = section.get("activation", "lrelu")
    if activation != "lrelu":
        raise CheckpointError(f"activation must be 'lrelu', got {activation!r}")
    return section


def _known(given: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise CheckpointError(f"{where} argument {name!r} is not one that StyleGAN2 has")


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    numbers = sorted(int(m[1]) for name in shapes if (m := re.fullmatch(pattern, name)))
    if not numbers or numbers != list(range(len(numbers))):
        raise CheckpointError(f"mapping layers must be numbered 0, 1, ..., got {numbers}")
    return len(numbers)


def _sizes(shapes: Mapping[str, Shape]) -> list[int]:
    pattern = r"synthesis\.b(\d{1,4})\..*"
    sizes = sorted({int(m[1]) for name in shapes if (m := re.fullmatch(pattern, name))})
    if not 1 <= len(sizes) <= 9 or sizes != [4 << i for i in range(len(sizes))]:
        raise CheckpointError(f"block sizes must be 4, 8, ... up to at most 1024, got {sizes}")
    return sizes


def _require(shapes: Mapping[str, Shape], name: str, axes: int) -> Shape:
    if name not in shapes:
        raise CheckpointError(f"tensor {name} is missing")
    if len(shapes[name]) != axes or min(shapes[name]) < 1:
        raise CheckpointError(f"tensor {name} must have {axes} axes, got shape {shapes[name]}")
    return shapes[name]


def _kind(value: object) -> Kind:
    if value not in ("skip", "orig", "resnet"):
        raise CheckpointError(f"architecture must be skip, orig or resnet, got {value!r}")
    return value


def _number(value: object, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise CheckpointError(f"{name} must be a positive number or None, got {value!r}")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise CheckpointError(f"use_noise must be true or false, got {value!r}")
    return value


def _agree(found: Architecture, kwargs: Mapping[str, Any], num_layers: object) -> None:
    facts = {
        "z_dim": found.z_dim,
        "c_dim": found.c_dim,
        "w_dim": found.w_dim,
        "img_resolution": found.resolution,
        "img_channels": found.image_channels,
    }
    for name, fact in facts.items():
        if kwargs.get(name, fact) != fact:
            raise CheckpointError(f"{name} is {kwargs[name]!r}, but the tensors say {fact}")
    if num_layers != len(found.mapping_widths):
        raise CheckpointError(
            f"num_layers is {num_layers!r}, but the tensors have {len(found.mapping_widths)} "
            "mapping layers"
        )
    if len(found.taps) not in (1, 2) or min(found.taps) < 1 or len(set(found.taps)) != 1:
        raise CheckpointError(f"resample_filter must be [t, t] or [t], got {list(found.taps)}")
