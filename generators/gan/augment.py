"""Augment what a discriminator sees, so that a generator can be trained on few images.

Source: arXiv:2006.06676, section 2 and appendix B: each operator is applied with probability p, to
real and generated images alike. Where it is applied with p below 1, a generator whose augmented
images are distributed as the augmented real ones has to match the real ones themselves. Images are
sampled bilinearly here, there through a wavelet filter.

All of it is gathers and products, so that R1, a gradient of a gradient, is that of the image
before it was augmented.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from viewstore.errors import ConfigError, nearest
from viewstore.generators.gan.keyed import keyed_word

LN2 = math.log(2)
SHIFT, SLIDE = 0.125, 0.125  # of the side of an image: the largest shift, the spread of a slide
PARAMETERS = 2  # numbers that an operator may draw, besides whether it is applied


class Op(NamedTuple):
    """An operator: its name, its group (blit, geometry, colour), and its matrices [n, k, k].

    Those of b and g take centred pixel coordinates (x, y, 1) of the augmented image to those of the
    image that it reads; those of c take colours (r, g, b, 1), in [-1, 1], to colours. They are made
    of numbers drawn from U(0, 1), [n, PARAMETERS] and of the side of an image.
    """

    name: str
    group: str
    matrices: Callable[[Tensor, int], Tensor]


def draws(num: int, purpose: str, seed: int, step: int) -> Tensor:
    """Return U(0, 1) for `num` images, float64 [num, ops, 3]; row i does not depend on `num`."""
    size = (num, len(OPS), 1 + PARAMETERS)
    words = np.random.Philox(key=keyed_word(purpose, seed, step)).random_raw(math.prod(size))
    return torch.from_numpy((((words >> np.uint64(11)) + 0.5) * 2.0**-53).reshape(size))


def checked_ops(text: str) -> frozenset[str]:
    """Return the operators that a text such as "bgc" or "flip,shift,c" names.

    A group of letters means all operators of these groups but flip, which must be named: the mirror
    image of a digit or of writing is none, and at high p a generator would learn it.

    Raises:
        ConfigError: A word is neither.
    """
    names = {op.name for op in OPS}
    found: set[str] = set()
    for word in map(str.strip, str(text).split(",")):
        if word in names:
            found.add(word)
        elif word and set(word) <= set("bgc"):
            found |= {op.name for op in OPS if op.group in word} - {"flip"}
        else:
            raise ConfigError(
                f"augment_ops must be letters of bgc or names of operators, got {word!r}",
                fix=nearest(word, sorted(names)),
            )
    return frozenset(found)


def augmented(images: Tensor, uniform: Tensor, p: float, ops: frozenset[str]) -> Tensor:
    """Return `images`, floats [N, C, S, S], each augmented by `ops` with probability `p` each.

    `uniform` is what `draws` gives. C is 1 or 3; of one channel hue and saturation change nothing.
    With p = 0 the images come back as they are.
    """
    if p == 0 or not ops:
        return images
    side = images.shape[-1]
    warps = _product(uniform, p, side, ops, "bg")
    tints = _product(uniform, p, side, ops, "c")
    return tinted(warped(images, warps), tints)


def _product(uniform: Tensor, p: float, side: int, ops: frozenset[str], groups: str) -> Tensor:
    """Return the matrices [n, k, k] of the operators of some groups, one after the other."""
    colour = groups == "c"
    total = torch.eye(4 if colour else 3, dtype=torch.float64).expand(len(uniform), -1, -1)
    for number, op in enumerate(OPS):
        if op.name not in ops or op.group not in groups:
            continue
        # An image is rotated with probability p by two operators that do so independently.
        chance = 1 - math.sqrt(1 - p) if op.name == "rotate" else p
        applied = (uniform[:, number, 0] < chance)[:, None, None]
        made = op.matrices(uniform[:, number, 1:], side)
        matrix = torch.where(applied, made, torch.eye(made.shape[1], dtype=made.dtype))
        total = matrix @ total if colour else total @ matrix
    return total


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images [N, C, S, S] read bilinearly at points, beyond their edge mirrored at it.

    `matrices`, [N, 3, 3], take centred pixel coordinates to those that are read.
    """
    channels, side = images.shape[1:3]
    centre = (side - 1) / 2
    matrices = matrices.to(images.device, images.dtype)[..., None]
    line = torch.arange(side, dtype=images.dtype, device=images.device) - centre
    y, x = (each.flatten() for each in torch.meshgrid(line, line, indexing="ij"))
    read = matrices[:, :2, 0] * x + matrices[:, :2, 1] * y + matrices[:, :2, 2] + centre
    read = read.remainder(2 * (side - 1))
    read = torch.minimum(read, 2 * (side - 1) - read)
    first = read.floor().long().clamp(max=side - 1)
    then = (first + 1).clamp(max=side - 1)
    share = read - first
    flat = images.flatten(2)

    def corner(column: Tensor, row: Tensor) -> Tensor:
        return flat.gather(2, (row * side + column)[:, None].expand(-1, channels, -1))

    right, down = share[:, None, 0], share[:, None, 1]
    above = corner(first[:, 0], first[:, 1]) * (1 - right) + corner(then[:, 0], first[:, 1]) * right
    below = corner(first[:, 0], then[:, 1]) * (1 - right) + corner(then[:, 0], then[:, 1]) * right
    return (above * (1 - down) + below * down).view(images.shape)


def tinted(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images [N, C, S, S] whose colours `matrices`, [N, 4, 4], changed.

    A gray image of one channel is taken as one whose three are equal, and their mean is returned.
    """
    matrix, shift = matrices[:, :3, :3], matrices[:, :3, 3:]
    if images.shape[1] == 1:
        matrix, shift = matrix.sum((1, 2), keepdim=True) / 3, shift.mean(1, keepdim=True)
    matrix, shift = matrix.to(images.device, images.dtype), shift.to(images.device, images.dtype)
    return (matrix @ images.flatten(2) + shift).view(images.shape)


def _plane(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """Return matrices [n, k, k] of entries, each a number or one for each of n."""
    filled = [
        [e if isinstance(e, Tensor) else torch.full_like(like, e) for e in row] for row in rows
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in filled], dim=-2)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _plane([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]], x)


def _turning(cosine: Tensor, sine: Tensor) -> Tensor:
    return _plane([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]], cosine)


def _moving(offset: Tensor) -> Tensor:
    x, y = offset.unbind(1)
    return _plane([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], x)


def _normal(uniform: Tensor) -> Tensor:
    deviates: Tensor = torch.special.ndtri(uniform)
    return deviates


def _flip(u: Tensor, side: int) -> Tensor:
    return _scaling(torch.where(u[:, 0] < 0.5, -1.0, 1.0).to(u), torch.ones_like(u[:, 0]))


def _turn(u: Tensor, side: int) -> Tensor:
    quarter = (u[:, 0] * 4).floor().long()
    cosine = torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=u.dtype)
    return _turning(cosine[quarter], cosine[(quarter + 3) % 4])


def _shift(u: Tensor, side: int) -> Tensor:
    return _moving(((2 * u - 1) * (SHIFT * side)).round())


def _scale(u: Tensor, side: int) -> Tensor:
    factor = torch.exp(0.2 * LN2 * _normal(u[:, 0]))
    return _scaling(factor, factor)


def _rotate(u: Tensor, side: int) -> Tensor:
    angle = (2 * u[:, 0] - 1) * math.pi
    return _turning(angle.cos(), angle.sin())


def _stretch(u: Tensor, side: int) -> Tensor:
    factor = torch.exp(0.2 * LN2 * _normal(u[:, 0]))
    return _scaling(factor, 1 / factor)


def _slide(u: Tensor, side: int) -> Tensor:
    return _moving(_normal(u) * (SLIDE * side))


def _about_luma(along: Tensor, across: Tensor, turned: Tensor) -> Tensor:
    """Return colours scaled `along` the gray axis, `across` it, and `turned` about it by 90°."""
    eye = torch.eye(3, dtype=along.dtype)
    gray = torch.full((3, 3), 1 / 3, dtype=along.dtype)
    quarter = torch.tensor(
        [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=along.dtype
    ) / math.sqrt(3)
    along, across, turned = (each[:, None, None] for each in (along, across, turned))
    linear = across * eye + (along - across) * gray + turned * quarter
    made = torch.eye(4, dtype=linear.dtype).repeat(len(linear), 1, 1)
    made[:, :3, :3] = linear
    return made


def _brightness(u: Tensor, side: int) -> Tensor:
    made = torch.eye(4, dtype=u.dtype).repeat(len(u), 1, 1)
    made[:, :3, 3] = 0.2 * _normal(u[:, :1])
    return made


def _contrast(u: Tensor, side: int) -> Tensor:
    factor = torch.exp(0.5 * LN2 * _normal(u[:, 0]))
    return _about_luma(factor, factor, torch.zeros_like(factor))


def _luma(u: Tensor, side: int) -> Tensor:
    one = torch.ones_like(u[:, 0])
    return _about_luma(torch.where(u[:, 0] < 0.5, -one, one), one, torch.zeros_like(one))


def _hue(u: Tensor, side: int) -> Tensor:
    angle = (2 * u[:, 0] - 1) * math.pi
    return _about_luma(torch.ones_like(angle), angle.cos(), angle.sin())


def _saturation(u: Tensor, side: int) -> Tensor:
    factor = torch.exp(LN2 * _normal(u[:, 0]))
    return _about_luma(torch.ones_like(factor), factor, torch.zeros_like(factor))


OPS: tuple[Op, ...] = (
    Op("flip", "b", _flip),
    Op("turn", "b", _turn),
    Op("shift", "b", _shift),
    Op("scale", "g", _scale),
    Op("rotate", "g", _rotate),
    Op("stretch", "g", _stretch),
    Op("rotate", "g", _rotate),
    Op("slide", "g", _slide),
    Op("brightness", "c", _brightness),
    Op("contrast", "c", _contrast),
    Op("luma", "c", _luma),
    Op("hue", "c", _hue),
    Op("saturation", "c", _saturation),
)
