"""Augmentation of what a discriminator sees: each operator, its draws, its gradients."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.generators.gan.augment import (
    OPS,
    augmented,
    checked_ops,
    draws,
    tinted,
    warped,
)

ALL = checked_ops("flip,bgc")
SIDE = 8
BY_NAME = {op.name: op for op in OPS}


def pictures(channels: int = 3, count: int = 3) -> Tensor:
    drawn = torch.rand(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return drawn.double() * 2 - 1


def made(name: str, first: float, second: float = 0.5, count: int = 3) -> Tensor:
    u = torch.tensor([[first, second]], dtype=torch.float64).repeat(count, 1)
    return BY_NAME[name].matrices(u, SIDE)


def below(normal: float) -> float:
    """Return the uniform number of which the normal deviate is made."""
    return 0.5 * (1 + math.erf(normal / math.sqrt(2)))


def test_without_probability_or_operators_nothing_is_done() -> None:
    images = pictures()
    assert augmented(images, draws(3, "x", 0, 0), 0.0, ALL) is images
    assert augmented(images, draws(3, "x", 0, 0), 0.7, frozenset()) is images
    changed = augmented(images, draws(3, "x", 0, 0), 0.7, ALL)
    assert not bool((changed == images).flatten(1).all(1).any())


@pytest.mark.parametrize("channels", [1, 3])
def test_an_operator_that_is_not_applied_leaves_every_bit(channels: int) -> None:
    images = pictures(channels).float()
    uniform = draws(3, "x", 0, 0)
    uniform[..., 0] = 0.99
    assert torch.equal(augmented(images, uniform, 0.5, ALL), images)


@pytest.mark.parametrize(("u", "mirrored"), [(0.2, True), (0.7, False)])
def test_flip(u: float, mirrored: bool) -> None:
    images = pictures()
    assert torch.equal(warped(images, made("flip", u)), images.flip(3) if mirrored else images)


@pytest.mark.parametrize("quarter", range(4))
def test_turn(quarter: int) -> None:
    images = pictures()
    found = warped(images, made("turn", quarter / 4 + 0.1))
    assert torch.equal(found, torch.rot90(images, quarter, (2, 3)))


def test_shift_by_whole_pixels_mirrors_at_the_edge() -> None:
    images = pictures()
    found = warped(images, made("shift", 0.999, 0.001))  # reads one pixel right of it, and above
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(found, padded[:, :, :SIDE, 2:])


def test_slide_by_half_a_pixel_averages_neighbours() -> None:
    images = pictures()
    found = warped(images, made("slide", below(0.5), below(0.0)))  # spread is SIDE / 8: one pixel
    wanted = (images[..., :-1] + images[..., 1:]) / 2
    torch.testing.assert_close(found[..., :-1], wanted)


@pytest.mark.parametrize("name", ["scale", "rotate", "stretch", "slide"])
def test_geometry_samples_as_torch_does(name: str) -> None:
    images = pictures()
    matrices = made(name, 0.83, 0.31)
    # The coordinates of grid_sample run from -1 to 1 between the centres of the outer pixels.
    theta = matrices[:, :2].clone()
    theta[:, :, 2] /= (SIDE - 1) / 2
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    wanted = F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    torch.testing.assert_close(warped(images, matrices), wanted)
    assert not torch.allclose(wanted, images)


def test_geometry_is_what_its_numbers_say() -> None:
    factor = 2**0.2
    torch.testing.assert_close(made("scale", below(1.0))[0].diag(), _of(factor, factor, 1))
    torch.testing.assert_close(made("stretch", below(1.0))[0].diag(), _of(factor, 1 / factor, 1))
    angle = 0.5 * math.pi  # of (2 u - 1) pi
    wanted = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    np.testing.assert_allclose(made("rotate", 0.75)[0, :2, :2], wanted, atol=1e-12)


def _of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rotated(colour: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula about the axis of gray."""
    axis = np.ones(3) / math.sqrt(3)
    turned = colour * math.cos(angle) + np.cross(axis, colour) * math.sin(angle)
    return turned + axis * (axis @ colour) * (1 - math.cos(angle))


@pytest.mark.parametrize(
    ("name", "u", "change"),
    [
        ("brightness", below(0.5), lambda c: c + 0.1),
        ("contrast", below(1.0), lambda c: c * 2**0.5),
        ("luma", 0.2, lambda c: c - 2 * c.mean()),
        ("luma", 0.7, lambda c: c),
        ("hue", 0.8, lambda c: rotated(c, 0.6 * math.pi)),
        ("saturation", below(-1.0), lambda c: c.mean() + (c - c.mean()) / 2),
    ],
)
def test_colours_are_those_of_the_formula_pixel_by_pixel(
    name: str, u: float, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    images = pictures()
    found = tinted(images, made(name, u)).numpy()
    for place in np.ndindex(3, SIDE, SIDE):
        image, y, x = place
        colour = images[image, :, y, x].numpy()
        np.testing.assert_allclose(found[image, :, y, x], change(colour), atol=1e-12)


@pytest.mark.parametrize("name", [op.name for op in OPS if op.group == "c"])
def test_a_gray_image_is_changed_as_one_of_three_equal_channels(name: str) -> None:
    images = pictures(1)
    matrices = made(name, 0.3)
    three = tinted(images.expand(-1, 3, -1, -1), matrices)
    torch.testing.assert_close(tinted(images, matrices), three.mean(1, keepdim=True))
    if name in ("hue", "saturation"):
        torch.testing.assert_close(tinted(images, matrices), images)


def test_operators_are_applied_in_their_order_each_to_the_image_before_it() -> None:
    images = pictures()
    uniform = draws(3, "x", 0, 0)
    for number, op in enumerate(OPS):
        uniform[:, number, 0] = 0.0 if op.name in ("turn", "shift", "contrast", "luma") else 1.0
    uniform[:, [OPS.index(BY_NAME["turn"])], 1] = 0.3
    one_by_one = images
    for number, op in enumerate(OPS):
        if float(uniform[0, number, 0]) == 0:
            apply = tinted if op.group == "c" else warped
            one_by_one = apply(one_by_one, op.matrices(uniform[:, number, 1:], SIDE))
    torch.testing.assert_close(augmented(images, uniform, 0.5, ALL), one_by_one)


def test_what_is_drawn_for_an_image_does_not_depend_on_its_company() -> None:
    assert torch.equal(draws(3, "real", 1, 2), draws(9, "real", 1, 2)[:3])
    images = pictures(count=9)
    together = augmented(images, draws(9, "real", 1, 2), 0.6, ALL)
    alone = [augmented(images[i : i + 1], draws(i + 1, "real", 1, 2)[i:], 0.6, ALL) for i in (0, 5)]
    torch.testing.assert_close(torch.cat(alone), together[[0, 5]], rtol=0, atol=1e-12)


def test_draws_differ_by_purpose_seed_and_step() -> None:
    keys = [("real", 1, 2), ("fake", 1, 2), ("real", 2, 1), ("real", 1, 3)]
    found = [draws(4, *key) for key in keys]
    assert len({tuple(each.flatten().tolist()) for each in found}) == len(keys)
    every = torch.stack(found)
    assert 0 < float(every.min()) < float(every.max()) < 1


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_gradients_are_exact(channels: int) -> None:
    images = pictures(channels, 2)[..., :4, :4].requires_grad_()
    uniform = draws(2, "x", 0, 3)

    def squared(x: Tensor) -> Tensor:
        return augmented(x, uniform, 0.9, ALL).square()

    assert torch.autograd.gradcheck(squared, images)
    assert torch.autograd.gradgradcheck(squared, images)


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_each_operator_is_applied_as_often_as_p_says(p: float) -> None:
    """The condition under which a generator cannot learn the augmentation (section 2.2)."""
    count = 20_000
    uniform = draws(count, "x", 0, 0)
    eye = torch.eye(2, dtype=torch.float64)
    flips = _linear(uniform, p, "flip")
    share = float((flips[:, 0, 0] < 0).double().mean())
    assert share == pytest.approx(p / 2, abs=0.012)
    quarters = Counter(map(tuple, _linear(uniform, p, "turn")[:, 0].int().tolist()))
    assert quarters[1, 0] / count == pytest.approx(1 - p + p / 4, abs=0.012)
    for other in ((0, -1), (-1, 0), (0, 1)):
        assert quarters[other] / count == pytest.approx(p / 4, abs=0.012)
    for name in ("scale", "stretch", "rotate"):
        changed = (_linear(uniform, p, name) != eye).flatten(1).any(1)
        assert float(changed.double().mean()) == pytest.approx(p, abs=0.012), name


def _linear(uniform: Tensor, p: float, name: str) -> Tensor:
    from viewstore.generators.gan.augment import _product

    return _product(uniform, p, SIDE, frozenset({name}), "bg")[:, :2, :2]


def test_the_spreads_are_those_of_the_paper() -> None:
    uniform = draws(20_000, "x", 0, 0)
    number = {op.name: place for place, op in enumerate(OPS)}

    def of(name: str, side: int = 64) -> Tensor:
        return BY_NAME[name].matrices(uniform[:, number[name], 1:], side)

    assert float(of("scale")[:, 0, 0].log2().std()) == pytest.approx(0.2, rel=0.03)
    assert float(of("stretch")[:, 0, 0].log2().std()) == pytest.approx(0.2, rel=0.03)
    assert float((of("slide")[:, :2, 2] / 64).std()) == pytest.approx(0.125, rel=0.03)
    assert float(of("brightness")[:, 0, 3].std()) == pytest.approx(0.2, rel=0.03)
    assert float(of("contrast")[:, 0, 0].log2().std()) == pytest.approx(0.5, rel=0.03)
    shifts = of("shift")[:, :2, 2]
    assert sorted(set(shifts.flatten().tolist())) == list(range(-8, 9))


def test_nothing_is_mirrored_unless_it_is_named() -> None:
    assert checked_ops("b") == {"turn", "shift"}
    assert checked_ops("bgc") == {op.name for op in OPS} - {"flip"}
    assert checked_ops("flip, c") == {"flip"} | {op.name for op in OPS if op.group == "c"}
    for text in ("", "b,,g", "mirror", "bx"):
        with pytest.raises(ConfigError, match="augment_ops must be letters of bgc or names"):
            checked_ops(text)
    with pytest.raises(ConfigError) as caught:
        checked_ops("rotation")
    assert caught.value.fix == "did you mean 'rotate'?"
