"""The spatial transformer: where views lie, against formulas and loops in float64."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.images.boxes import transformed_boxes
from viewstore.images.resize import resize
from viewstore.train.nets.spatial_transformer import (
    CROPS,
    PARAMETERS,
    Mode,
    SpatialTransformer,
    TransformerShape,
    identity_penalty,
    theta_crops_penalty,
    wanted_crops,
)

SIDE, LOCAL = 16, 8
MODES: tuple[Mode, ...] = get_args(Mode)
modes = pytest.mark.parametrize("mode", MODES)
STRAIGHT: tuple[Mode, ...] = ("translation_scale_symmetric", "translation_scale")


def network(seed: int = 0, **shape: Any) -> SpatialTransformer:  # noqa: ANN401
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpatialTransformer(TransformerShape(**{"size": SIDE, "local_size": LOCAL, **shape}))


def images(count: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def parameters(mode: Mode, count: int = 6, seed: int = 0, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, len(PARAMETERS[mode]))
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def by_hand(mode: str, values: list[float]) -> list[list[float]]:
    """The transform that the page on operators prints, of parameters in the order it prints."""
    if mode == "affine":
        return [values[:3], values[3:]]
    a = 0.0
    if mode.startswith("rotation"):
        a, *values = values
    tx, ty, *scales = values
    sx, sy = {0: (1.0, 1.0), 1: (scales * 2)[:2], 2: scales}[len(scales)]
    return [
        [sx * math.cos(a), -sx * math.sin(a), tx],
        [sy * math.sin(a), sy * math.cos(a), ty],
    ]


@modes
@pytest.mark.parametrize("bounded", [False, True])
def test_transforms_are_those_of_the_page(mode: Mode, bounded: bool) -> None:
    drawn = parameters(mode)
    found = network(mode=mode, theta_norm=False, bounded=bounded).transforms(drawn)
    for values, theta in zip(drawn.tolist(), found, strict=True):
        angles = 1 if mode.startswith("rotation") else 0
        if bounded:
            values = [*values[:angles], *(math.tanh(each) for each in values[angles:])]
        torch.testing.assert_close(theta, torch.tensor(by_hand(mode, values), dtype=torch.float64))


@modes
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_at_the_start_every_view_is_the_resized_source(
    mode: Mode, separate: bool, batch_norm: bool
) -> None:
    """Of half the side, each pixel is the mean of four: what resizing by area gives."""
    net = network(mode=mode, separate=separate, batch_norm=batch_norm).double()
    x = images()
    with torch.no_grad():
        theta = net(x)
        assert theta.shape == (4, 10, 2, 3)
        identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)
        assert bool((theta == identity).all())
        for view in range(2):
            torch.testing.assert_close(net.cut(x, theta[:, view], SIDE), x)
        local = net.cut(x, theta[:, 5], LOCAL)
    means = x.unflatten(2, (LOCAL, 2)).unflatten(4, (LOCAL, 2)).mean((3, 5))
    torch.testing.assert_close(local, means)
    levels = (255 * x).round().to(torch.uint8)
    for sample in range(4):
        resized = resize(levels[sample].permute(1, 2, 0).numpy().copy(), LOCAL, LOCAL)
        theta = identity[None]
        cut = net.cut(levels[sample : sample + 1].double(), theta, LOCAL)[0].permute(1, 2, 0)
        assert np.abs(cut.numpy() - resized).max() <= 0.5 + 1e-9


def test_bounded_parameters_start_elsewhere() -> None:
    """Their tanh is not the identity: tanh 1 = .76."""
    with torch.no_grad():
        theta = network(bounded=True, theta_norm=False).double()(images())
    assert theta[0, 0, 0, 0].item() == pytest.approx(math.tanh(1))


@settings(max_examples=40, deadline=None)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 10**6), spread=st.floats(0, 20))
def test_normed_transforms_keep_the_grid_within_the_image(
    mode: Mode, seed: int, spread: float
) -> None:
    theta = network(mode=mode).double().transforms(parameters(mode, 8, seed, spread))
    corners = torch.tensor([[x, y, 1] for x in (-1, 1) for y in (-1, 1)], dtype=torch.float64)
    assert float((theta @ corners.T).abs().max()) <= 1 + 1e-12
    free = network(mode=mode, theta_norm=False).transforms(parameters(mode, 8, seed, spread))
    inside = free.abs().sum(-1) <= 1
    torch.testing.assert_close(theta[inside], free[inside])  # what lies within is left as it is


@pytest.mark.parametrize("mode", STRAIGHT)
@pytest.mark.parametrize("size", [LOCAL, SIDE, 11])
def test_boxes_reproduce_the_view_by_crop_and_resize(mode: Mode, size: int) -> None:
    """A loop in float64: pixel i of a side of r shows the place top + (i + 1/2) h / r - 1/2."""
    net = network(mode=mode).double()
    raw = parameters(mode, 8)
    raw[:, 2:] = raw[:, 2:].abs() + 0.2
    theta, x = net.transforms(raw), images(8)
    boxes = transformed_boxes(theta.numpy(), SIDE, SIDE).astype(float)
    assert (boxes[:, :2] >= -1e-4).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= SIDE + 1e-4).all()
    found = net.cut(x, theta, size)
    for sample, (top, left, height, width) in enumerate(boxes):
        for i in range(size):
            for j in range(size):
                y = min(max(top + (i + 0.5) * height / size - 0.5, 0), SIDE - 1)
                z = min(max(left + (j + 0.5) * width / size - 0.5, 0), SIDE - 1)
                y0, z0 = min(int(y), SIDE - 2), min(int(z), SIDE - 2)
                fy, fz = y - y0, z - z0
                image = x[sample]
                value = (
                    (1 - fy) * (1 - fz) * image[:, y0, z0]
                    + (1 - fy) * fz * image[:, y0, z0 + 1]
                    + fy * (1 - fz) * image[:, y0 + 1, z0]
                    + fy * fz * image[:, y0 + 1, z0 + 1]
                )
                torch.testing.assert_close(found[sample, :, i, j], value, rtol=0, atol=1e-5)


def test_a_box_of_whole_pixels_is_a_crop() -> None:
    net = network().double()
    x = images(1)
    theta = torch.tensor([[[0.5, 0, -0.25], [0, 0.25, 0.5]]], dtype=torch.float64)
    (box,) = transformed_boxes(theta.numpy(), SIDE, SIDE)
    assert box.tolist() == [10, 2, 4, 8]
    stretched = torch.nn.functional.interpolate(
        x[:, :, 10:14, 2:10], (8, 8), mode="bilinear", align_corners=False
    )
    found = net.cut(x, theta, 8)
    torch.testing.assert_close(found[:, :, 1:-1], stretched[:, :, 1:-1])  # but for its borders


def test_boxes_of_images_of_several_sizes() -> None:
    theta = np.array([[[0.5, 0, 0.5], [0, 1, 0]], [[-0.5, 0, 0], [0, 0.5, -0.5]]])
    boxes = transformed_boxes(theta, np.array([10, 20]), np.array([30, 40]))
    assert boxes.tolist() == [[0, 15, 10, 15], [0, 10, 10, 20]]  # a mirrored view has a box too


def test_the_layers_are_those_of_the_page() -> None:
    net = network(mode="affine")
    kinds = [type(each) for each in net.trunks[0]]  # type: ignore[arg-type]
    assert kinds == [
        nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU, nn.MaxPool2d,
        nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU, nn.AdaptiveAvgPool2d, nn.Flatten,
    ]  # fmt: skip
    convolutions = [each for each in net.modules() if isinstance(each, nn.Conv2d)]
    assert [(each.out_channels, each.padding) for each in convolutions] == [(32, (2, 2))] * 2
    widths = [each.out_features for each in net.heads[0] if isinstance(each, nn.Linear)]  # type: ignore[union-attr]
    assert widths == [128, 64, 6]
    assert net.heads[0][0].in_features == 2048  # type: ignore[index]
    assert len(network(separate=True).trunks) == len(network(separate=True).heads) == 10
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network(batch_norm=False).modules())


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) <= 1 else abs(difference) - 0.5


def test_the_penalty_is_that_of_the_page() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = 2 * torch.randn(5, 3, 2, 3, generator=generator, dtype=torch.float64)
    wanted = torch.rand(5, 3, 2, generator=generator, dtype=torch.float64)
    total = 0.0
    for sample in range(5):
        for view in range(3):
            (a, b, tx), (c, d, ty) = theta[sample, view].tolist()
            area, centre = wanted[sample, view].tolist()
            total += huber(abs(a * d - b * c) - area)
            total += huber((1 - abs(tx) / 2) * (1 - abs(ty) / 2) - centre)
    assert theta_crops_penalty(theta, wanted).item() == pytest.approx(total / 15, abs=1e-12)
    identity = [[1, 0, 0], [0, 1, 0]]
    squares = [
        (theta[s, v, i, j].item() - identity[i][j]) ** 2
        for s in range(5) for v in range(3) for i in range(2) for j in range(3)
    ]  # fmt: skip
    assert identity_penalty(theta).item() == pytest.approx(sum(squares) / len(squares), abs=1e-12)


@pytest.mark.parametrize("scale", [0.7, -0.7])
def test_the_penalty_is_flat_where_area_and_centre_are_as_wanted(scale: float) -> None:
    theta = torch.tensor([[scale, 0.1, 0.3], [0.2, 0.6, -0.4]], dtype=torch.float64)
    area = torch.linalg.det(theta[:, :2]).abs()
    centre = (1 - 0.3 / 2) * (1 - 0.4 / 2)
    theta.requires_grad_()
    penalty = theta_crops_penalty(theta, torch.stack([area, area.new_tensor(centre)]))
    (gradient,) = torch.autograd.grad(penalty, theta)
    assert penalty.item() == pytest.approx(0, abs=1e-24)
    assert float(gradient.abs().max()) < 1e-12
    elsewhere = theta_crops_penalty(theta, torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert float(torch.autograd.grad(elsewhere, theta)[0].abs().min()) > 1e-3


@pytest.mark.parametrize("kind", ["global", "local"])
def test_wanted_crops_lie_in_the_ranges_of_dino(kind: str) -> None:
    low, high = {"global": (0.4, 1.0), "local": (0.05, 0.4)}[kind]
    ends = wanted_crops(torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double(), CROPS[kind])
    expected = [[low, low**0.125], [high, high**0.125]]
    torch.testing.assert_close(ends, torch.tensor(expected).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"mode": "rotation"}, "mode must be one of translation_scale_symmetric, "),
        ({"size": 2}, r"size must be in \[4, 4096\], got 2"),
        ({"local_size": 5000}, "local_size must be in"),
        ({"n_locals": -1}, r"n_locals must be in \[0, 64\], got -1"),
        ({"n_globals": 0, "n_locals": 0}, "at least one view, got none"),
    ],
)
def test_shapes_that_cannot_be_are_refused(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(**shape)
