"""The network against sums written out from the formulas, in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from viewstore.errors import CheckpointError, ConfigError
from viewstore.generators.stylegan2.layers import Noise
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.generators.stylegan2.shape import Architecture, infer

Array = np.ndarray[Any, np.dtype[np.float64]]

ASYMMETRIC = np.outer([0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2])
THREE = np.outer([0.2, 0.5, 0.3], [0.1, 0.6, 0.3])
EIGHT = np.array([0.02, 0.05, 0.2, 0.25, 0.2, 0.15, 0.1, 0.03])

SHAPES = {
    "skip": Architecture(z_dim=4, mapping_widths=(6, 5), channels=(4, 3, 2), image_channels=3),
    "one channel without noise": Architecture(
        z_dim=4, mapping_widths=(5,), channels=(3, 3), image_channels=1, use_noise=False
    ),
    "orig with three taps": Architecture(
        z_dim=4, mapping_widths=(5,), channels=(2, 3), image_channels=3, kind="orig", taps=(3, 3)
    ),
    "resnet with clamp": Architecture(
        z_dim=4,
        mapping_widths=(5,),
        channels=(3, 2, 4),
        image_channels=2,
        kind="resnet",
        conv_clamp=0.5,
    ),
    "conditional, filter per axis": Architecture(
        z_dim=4,
        c_dim=3,
        embed_width=6,
        mapping_widths=(7, 5),
        channels=(2, 2),
        image_channels=1,
        taps=(8,),
        lr_multiplier=0.5,
    ),
    "labels alone": Architecture(
        z_dim=0, c_dim=3, embed_width=6, mapping_widths=(5,), channels=(2,), image_channels=1
    ),
}
FILTERS = {(4, 4): ASYMMETRIC, (3, 3): THREE, (8,): EIGHT}


def random_tensors(shape: Architecture) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    tensors = {
        name: np.asarray(rng.normal(size=size), dtype=np.float32)
        for name, size in sorted(shape.shapes().items())
    }
    for name in tensors:
        if name.endswith("resample_filter"):
            tensors[name] = FILTERS[shape.taps].astype(np.float32)
    return tensors


def network(shape: Architecture) -> StyleGAN2:
    return StyleGAN2.from_tensors(random_tensors(shape), shape.kwargs()).double()


class Reference:
    """Section 1 of the specification, one number at a time."""

    def __init__(self, shape: Architecture, tensors: dict[str, np.ndarray]) -> None:
        self.shape = shape
        self.t: dict[str, Array] = {n: value.astype(np.float64) for n, value in tensors.items()}

    def dense(self, name: str, x: Array, lr: float = 1.0) -> Array:
        weight = self.t[f"{name}.weight"]
        out: Array = x @ weight.T * (lr / math.sqrt(weight.shape[1]))
        out += self.t[f"{name}.bias"] * lr
        return out

    def mapping(self, z: Array, c: Array) -> Array:
        def norm(v: Array) -> Array:
            return v / np.sqrt((v**2).mean(1, keepdims=True) + 1e-8)

        parts = [norm(z)] if self.shape.z_dim else []
        if self.shape.c_dim:
            parts.append(norm(self.dense("mapping.embed", c)))
        x = np.concatenate(parts, axis=1)
        for i in range(len(self.shape.mapping_widths)):
            x = self.dense(f"mapping.fc{i}", x, self.shape.lr_multiplier)
            x = np.where(x > 0, x, 0.2 * x) * math.sqrt(2)
        return np.repeat(x[:, None], self.shape.num_codes, axis=1)

    def conv(self, name: str, x: Array, w: Array, *, up: bool, gain: float = 1.0) -> Array:
        weight = self.t[f"{name}.weight"]
        style = self.dense(f"{name}.affine", w[None])[0]
        weight = weight * style[None, :, None, None]
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        x = self.fir(transposed(x, weight), 4, -1) if up else correlate(x, weight)
        if self.shape.use_noise:
            x = x + self.t[f"{name}.noise_const"] * self.t[f"{name}.noise_strength"]
        x = x + self.t[f"{name}.bias"][:, None, None]
        x = np.where(x > 0, x, 0.2 * x) * math.sqrt(2) * gain
        return self.clamp(x, gain)

    def clamp(self, x: Array, gain: float = 1.0) -> Array:
        bound = self.shape.conv_clamp
        return x if bound is None else np.clip(x, -bound * gain, bound * gain)

    def fir(self, x: Array, gain: float, extra: int) -> Array:
        taps = self.t["synthesis.b4.resample_filter"]
        kernel = np.outer(taps, taps) if taps.ndim == 1 else taps
        size = len(kernel)
        before, after = math.ceil(size / 2) + extra, size // 2 - 1
        padded = np.pad(x, ((0, 0), (before, after), (before, after)))
        out = np.zeros((len(x), *(side - size + 1 for side in padded.shape[1:])))
        for row, column in np.ndindex(out.shape[1:]):
            window = padded[:, row : row + size, column : column + size]
            out[:, row, column] = (window * kernel[::-1, ::-1]).sum((1, 2)) * gain
        return out

    def upsample(self, x: Array) -> Array:
        spread = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2]))
        spread[:, ::2, ::2] = x
        return self.fir(spread, 4, 0)

    def torgb(self, name: str, x: Array, w: Array) -> Array:
        style = self.dense(f"{name}.affine", w[None])[0] / math.sqrt(len(x))
        weight = self.t[f"{name}.weight"][:, :, 0, 0] * style
        pixels = np.einsum("oi,iyx->oyx", weight, x)
        return self.clamp(pixels + self.t[f"{name}.bias"][:, None, None])

    def synthesis(self, w: Array) -> Array:
        image: Array | None = None
        x = self.conv("synthesis.b4.conv1", self.t["synthesis.b4.const"], w[0], up=False)
        last = len(self.shape.channels) - 1
        for block in range(last + 1):
            name = f"synthesis.b{4 * 2**block}"
            if block:
                start, resnet = x, self.shape.kind == "resnet"
                x = self.conv(f"{name}.conv0", x, w[2 * block - 1], up=True)
                gain = math.sqrt(0.5) if resnet else 1.0
                x = self.conv(f"{name}.conv1", x, w[2 * block], up=False, gain=gain)
                if resnet:
                    weight = self.t[f"{name}.skip.weight"][:, :, 0, 0] / math.sqrt(len(start))
                    mixed = np.einsum("oi,iyx->oyx", weight, start)
                    x = x + gain * self.upsample(mixed)
            if self.shape.kind == "skip" or block == last:
                drawn = self.torgb(f"{name}.torgb", x, w[2 * block + 1])
                image = drawn if image is None else self.upsample(image) + drawn
        assert image is not None
        return image


def correlate(x: Array, weight: Array) -> Array:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for row, column in np.ndindex(out.shape[1:]):
        window = padded[:, row : row + 3, column : column + 3]
        out[:, row, column] = (weight * window).sum((1, 2, 3))
    return out


def transposed(x: Array, weight: Array) -> Array:
    out = np.zeros((len(weight), 2 * x.shape[1] + 1, 2 * x.shape[2] + 1))
    for row, column in np.ndindex(x.shape[1:]):
        stamp = np.einsum("oiyx,i->oyx", weight, x[:, row, column])
        out[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += stamp
    return out


@pytest.mark.parametrize("name", SHAPES)
def test_mapping_follows_the_formulas(name: str) -> None:
    shape = SHAPES[name]
    rng = np.random.default_rng(2)
    z, c = rng.normal(size=(3, shape.z_dim)), np.eye(3)[:, : shape.c_dim]
    reference = Reference(shape, random_tensors(shape)).mapping(z, c)
    codes = network(shape).mapping(torch.from_numpy(z), torch.from_numpy(c))
    np.testing.assert_allclose(codes.numpy(), reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("noise", ["const", "none"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_synthesis_follows_the_formulas(name: str, fused: bool, noise: Noise) -> None:
    shape = SHAPES[name]
    tensors = random_tensors(shape)
    w = np.random.default_rng(3).normal(size=(2, shape.num_codes, shape.w_dim))
    images = network(shape).synthesis(torch.from_numpy(w), noise=noise, fused=fused)
    if noise == "none":
        tensors |= {n: value * 0 for n, value in tensors.items() if "noise_strength" in n}
    reference = Reference(shape, tensors)
    wanted = np.stack([reference.synthesis(codes) for codes in w])
    assert images.shape == (2, shape.image_channels, shape.resolution, shape.resolution)
    np.testing.assert_allclose(images.numpy(), wanted, rtol=0, atol=1e-10)


def test_fused_equals_unfused_in_float32() -> None:
    shape = SHAPES["skip"]
    generator = StyleGAN2.from_tensors(random_tensors(shape), shape.kwargs())
    w = generator.sample(8, 4)
    difference = generator.synthesis(w) - generator.synthesis(w, fused=True)
    assert float(difference.abs().max()) <= 1e-4


def test_truncation_pulls_the_first_codes_towards_the_average() -> None:
    generator = network(SHAPES["skip"])
    z = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 4)))
    full = generator.mapping(z)
    pulled = generator.w_avg + 0.7 * (full - generator.w_avg)
    torch.testing.assert_close(generator.mapping(z, psi=0.7), pulled)
    partly = generator.mapping(z, psi=0.7, cutoff=2)
    torch.testing.assert_close(partly[:, :2], pulled[:, :2])
    torch.testing.assert_close(partly[:, 2:], full[:, 2:])


def test_random_noise_is_keyed_by_its_generator() -> None:
    generator = network(SHAPES["skip"])
    w = generator.sample(2, 0)

    def draw(seed: int) -> torch.Tensor:
        source = torch.Generator().manual_seed(seed)
        images: torch.Tensor = generator.synthesis(w, noise="random", generator=source)
        return images

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    with pytest.raises(ConfigError, match="random noise needs a generator"):
        generator.synthesis(w, noise="random")


def test_sampled_codes_depend_on_seed_and_row_alone() -> None:
    generator = network(SHAPES["skip"])
    assert torch.equal(generator.sample(3, 9), generator.sample(20, 9)[:3])
    assert not torch.equal(generator.sample(3, 9), generator.sample(3, 10))


def test_sigma_w_is_the_spread_of_the_codes() -> None:
    generator = network(SHAPES["skip"])
    codes = generator.sample(4000, 123)[:, 0]
    assert generator.sigma_w == pytest.approx(float(codes.var(0).mean().sqrt()), rel=0.03)


def test_fingerprint_changes_with_a_weight_and_with_the_clamp() -> None:
    shape = SHAPES["resnet with clamp"]
    tensors, kwargs = random_tensors(shape), shape.kwargs()
    first = StyleGAN2.from_tensors(tensors, kwargs).fingerprint
    assert StyleGAN2.from_tensors(tensors, kwargs).fingerprint == first
    kwargs["synthesis_kwargs"]["conv_clamp"] = 0.25
    assert StyleGAN2.from_tensors(tensors, kwargs).fingerprint != first
    tensors["mapping.w_avg"][0] += 1
    assert StyleGAN2.from_tensors(tensors, shape.kwargs()).fingerprint != first


def test_conditional_network_refuses_to_map_without_labels() -> None:
    generator = network(SHAPES["conditional, filter per axis"])
    with pytest.raises(ConfigError, match=r"conditional \(3 classes\): give --labels or a source"):
        generator.sample(2, 0)
    with pytest.raises(ConfigError, match=r"must be in \[0, 3\), got 1 to 3"):
        generator.sample(2, 0, torch.tensor([1, 3]))
    one_hot = torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    assert torch.equal(
        generator.sample(2, 0, torch.tensor([1, 2])), generator.sample(2, 0, one_hot)
    )


def test_codes_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"codes must be \[N, 6, 5\], got \[2, 5\]"):
        network(SHAPES["skip"]).synthesis(torch.zeros(2, 5))


@pytest.mark.parametrize("name", SHAPES)
def test_architecture_is_inferred_from_shapes_and_kwargs(name: str) -> None:
    shape = SHAPES[name]
    assert infer(shape.shapes(), shape.kwargs()) == shape


def test_filters_repeated_per_layer_must_agree() -> None:
    shape = SHAPES["skip"]
    tensors = random_tensors(shape)
    tensors["synthesis.b8.conv0.resample_filter"] = tensors["synthesis.b8.resample_filter"]
    tensors["synthesis.b8.conv1.resample_filter"] = np.ones((3, 3), np.float32)  # never used
    StyleGAN2.from_tensors(tensors, shape.kwargs())
    tensors["synthesis.b8.conv0.resample_filter"] = np.ones((4, 4), np.float32)
    with pytest.raises(CheckpointError, match="must be equal in every layer"):
        StyleGAN2.from_tensors(tensors, shape.kwargs())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping.fc0.weight": None}, "mapping layers must be numbered 0, 1, ..., got"),
        ({"mapping.w_avg": None}, "mapping.w_avg is missing"),
        ({"synthesis.b8.conv0.noise_const": None}, "b8.conv0.noise_const is missing"),
        ({"synthesis.b8.conv0.extra": np.ones(3)}, "b8.conv0.extra has no place"),
        ({"synthesis.b8.conv0.bias": np.ones(7)}, r"b8.conv0.bias must have shape \(3,\)"),
        ({"synthesis.b32.conv0.bias": np.ones(7)}, "b32.conv1.weight is missing"),
        ({"synthesis.b64.conv1.bias": np.ones(7)}, "block sizes must be 4, 8, ... up to"),
        ({"synthesis.b4.const": np.full((4, 4, 4), np.nan)}, "not finite"),
        ({"synthesis.b4.const": np.ones((4, 4, 4), np.int64)}, "must be floating point"),
        ({"mapping.fc0.weight": np.ones(3)}, "fc0.weight must have 2 axes"),
        ({"synthesis.b4.conv1.weight": np.ones((0, 4, 3, 3))}, "must have 4 axes"),
    ],
)
def test_missing_extra_and_misshapen_tensors_are_refused(
    change: dict[str, np.ndarray | None], message: str
) -> None:
    shape = SHAPES["skip"]
    tensors = {**random_tensors(shape), **change}
    with pytest.raises(CheckpointError, match=message):
        StyleGAN2.from_tensors({n: t for n, t in tensors.items() if t is not None}, shape.kwargs())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mapping_kwargs": {}}, "num_layers is 8, but the tensors have 2"),
        ({"mapping_kwargs": {"activation": "relu"}}, "activation must be 'lrelu'"),
        ({"mapping_kwargs": []}, "mapping_kwargs must be a dict"),
        ({"synthesis_kwargs": {"activation": "swish"}}, "activation must be 'lrelu'"),
        ({"synthesis_kwargs": {"kernel": 5}}, "'kernel' is not one that StyleGAN2 has"),
        ({"synthesis_kwargs": {"architecture": "unet"}}, "must be skip, orig or resnet"),
        ({"synthesis_kwargs": {"architecture": "orig"}}, "no place in this orig network"),
        ({"synthesis_kwargs": {"conv_clamp": -1}}, "conv_clamp must be a positive number"),
        ({"synthesis_kwargs": {"use_noise": 1}}, "use_noise must be true or false"),
        ({"magnitude_ema_beta": 0.5}, "'magnitude_ema_beta' is not one"),
        ({"img_resolution": 32}, "img_resolution is 32, but the tensors say 16"),
    ],
)
def test_arguments_that_change_the_network_are_refused(
    kwargs: dict[str, Any], message: str
) -> None:
    shape = SHAPES["skip"]
    with pytest.raises(CheckpointError, match=message):
        StyleGAN2.from_tensors(random_tensors(shape), shape.kwargs() | kwargs)
