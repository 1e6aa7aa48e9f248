"""Colour jitter, grayscale, blur and solarize of whole batches, on the device they lie on.

The ops and params are those that `viewstore.images.colours.recolour` renders one view at a time
with Pillow. Pixels are within 2/255 of its: the same arithmetic, in whole numbers below 2^24,
which float32 holds exactly, with its rounding to whole levels after every op. Samples are chosen
by params that lie on the CPU, so that nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from viewstore.images.colours import CIRCLE, COLOUR_COLUMNS, DIFFERENCES, LEVELS, SOLARIZE_OFF, hues

BLUR_PASSES = 3  # of a box, as in Pillow
PIECE_BYTES = 32 << 20  # of pixels at a time: float32 makes much of them
_BYTE = 256


def recolour(
    pixels: Sequence[Tensor], params: Sequence[Mapping[str, Tensor]], device: torch.device
) -> list[Tensor]:
    """Return the views with their recorded colours, uint8 [B, 3, H, W], channels last on `device`.

    Args:
        pixels: Views without colours, uint8 [B, 3, H, W] each; they are left as they are.
        params: COLOUR_COLUMNS of each view, [B, ...], on the CPU.
        device: Where the colours are made. The pixels are moved as they are.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for slot, view in enumerate(pixels):
        by_shape.setdefault(view.shape, []).append(slot)
    recoloured: dict[int, Tensor] = {}
    for (count, channels, height, width), slots in by_shape.items():
        # One launch of each op serves all views of a size.
        shape = (len(slots), count, height, width, channels)
        joined = torch.empty(shape, dtype=torch.uint8, device=device)
        for part, slot in zip(joined, slots, strict=True):
            part.copy_(pixels[slot].permute(0, 2, 3, 1), non_blocking=True)
        columns = {
            name: torch.cat([params[slot][name] for slot in slots]) for name in COLOUR_COLUMNS
        }
        size = max(1, PIECE_BYTES // (height * width * channels))
        for begin in range(0, len(slots) * count, size):
            piece = {name: column[begin : begin + size] for name, column in columns.items()}
            _recolour(joined.flatten(0, 1)[begin : begin + size], piece)
        recoloured |= zip(slots, joined.permute(0, 1, 4, 2, 3), strict=True)
    return [recoloured[slot] for slot in range(len(pixels))]


def _recolour(x: Tensor, params: Mapping[str, Tensor]) -> None:
    """Apply the ops to uint8 [B, H, W, 3] in place, in the order in which views are rendered."""
    *factors, turns = params["jitter"].unbind(1)
    # Pillow has 256 hues; cut in the precision of `colours.recolour`, so that no step differs.
    amounts = (*factors, (turns.double() * LEVELS).trunc().remainder(256))
    for ops in params["jitter_order"].unbind(1):
        for op, (amount, apply) in enumerate(zip(amounts, _JITTERS, strict=True)):
            _on_some(x, ops == op, amount, apply)
    gray, sigma = params["gray"], params["blur"]
    threshold = params["solarize"].float()  # uint16 cannot be compared
    _on_some(x, gray == 1, gray, _gray)
    _on_some(x, sigma > 0, _box_kernel(sigma), _blur)
    _on_some(x, threshold < SOLARIZE_OFF, threshold, _solarize)


def _on_some(
    x: Tensor, chosen: Tensor, amount: Tensor, apply: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Replace the chosen samples of `x` by `apply`(sample, amount); masks are on the CPU."""
    indices = chosen.nonzero()[:, 0]
    if not len(indices):
        return
    mine = amount[indices].float().to(x.device, non_blocking=True)
    indices = indices.to(x.device, non_blocking=True)
    x.index_copy_(0, indices, apply(x.index_select(0, indices), mine))


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return _cut(x * _each(factor))


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    luma = _luma(x)
    count = luma[0].numel()
    total = luma.sum(dim=(1, 2, 3), dtype=torch.int64)
    mean = torch.div(2 * total + count, 2 * count, rounding_mode="floor")
    return _blend(_each(mean.float()), x, factor)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(_luma(x).float(), x, factor)


def _hue(x: Tensor, steps: Tensor) -> Tensor:
    """Turn the hue, cut to whole steps like the saturation, as Pillow's HSV has them."""
    red, green, blue = (plane.int() for plane in x.chunk(3, dim=3))
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    index = DIFFERENCES * (red - green + LEVELS) + green - blue + LEVELS
    hue = _hues(x.device).index_select(0, index.view(-1)).view(index.shape)
    # One division of whole numbers below 2^24, so that its floor is exact.
    saturation = (LEVELS * chroma / value.clamp(min=1)).floor_()
    return _from_hsv((hue + _each(steps)).remainder_(256), saturation, value)


@lru_cache(maxsize=16)
def _hues(device: torch.device) -> Tensor:
    return torch.from_numpy(hues()).to(device, non_blocking=True)


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return RGB levels of hue, saturation and value 0..255, [n, H, W, 1] each."""
    # Red, green and blue are one function of the hue, a third of the circle apart.
    shifts = torch.arange(5 * LEVELS, 0, -2 * LEVELS, device=hue.device)
    position = (6 * hue + shifts).remainder_(CIRCLE)
    missing = torch.minimum(position, 4 * LEVELS - position).clamp_(0, LEVELS)
    share = LEVELS**2 - saturation * missing
    # A tensor, as CUDA divides by a number by multiplying with its inverse, which is not exact.
    return _cut((value * share / share.new_full((1,), LEVELS**2)).add_(0.5))


def _gray(x: Tensor, amount: Tensor) -> Tensor:
    del amount
    return _luma(x).to(torch.uint8).expand_as(x)


def _solarize(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x < _each(threshold), x, LEVELS - x)


def _luma(x: Tensor) -> Tensor:
    """Return the gray levels of uint8 [n, H, W, 3], int32 [n, H, W, 1]."""
    red, green, blue = x.int().chunk(3, dim=3)
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def _blend(low: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    return _cut(low + _each(factor) * (x - low))


def _cut(x: Tensor) -> Tensor:
    """Return levels as uint8, cut towards zero."""
    return x.clamp_(0, LEVELS).to(torch.uint8)


def _each(amount: Tensor) -> Tensor:
    """Return an amount for each sample so that it meets [n, H, W, C]."""
    return amount.view(-1, 1, 1, 1)


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Blur with Pillow's Gaussian: three box blurs a direction, each rounded to whole levels.

    `kernel`: float32 [n, 3], as `_box_kernel` has it.
    """
    count, height, width, channels = x.shape
    rows = x.permute(0, 2, 1, 3).reshape(count, width, height * channels).float()
    rows = _boxes(rows, _box_matrix(kernel, width)).view(count, width, height, channels)
    columns = rows.permute(0, 2, 1, 3).reshape(count, height, width * channels)
    return _cut(_boxes(columns, _box_matrix(kernel, height))).view(x.shape)


def _boxes(lines: Tensor, matrix: Tensor) -> Tensor:
    """Apply a box three times to `lines`, float32 [n, size, M], in place."""
    sums = lines.new_empty(len(lines), matrix.shape[1], lines.shape[2])
    upper, middle, lower = sums.chunk(3, dim=1)
    for _ in range(BLUR_PASSES):
        torch.bmm(matrix, lines, out=sums)  # autocast leaves what has an `out` alone
        # ((upper * 256 + middle) * 256 + lower) / 2^24, rounded: no number exceeds 2^24.
        middle.add_(lower.div_(_BYTE).floor_()).div_(_BYTE).floor_()
        torch.add(upper, middle, out=lines).add_(_BYTE / 2).div_(_BYTE).floor_()
    return lines


def _box_kernel(sigma: Tensor) -> Tensor:
    """Return the box of a Gaussian, float32 [n, 3]: its whole radius, and two weights in 2^-24.

    The weights are those of a pixel within the radius and of the two behind it; precisions are
    Pillow's. Source: equations 7, 11 and 14 of Gwosdek et al., Theoretical Foundations of
    Gaussian Convolution by Extended Box Filtering (SSVM 2011).
    """
    variance = sigma.square() / BLUR_PASSES
    length = (12 * variance.double() + 1).sqrt().float()
    whole = ((length - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part /= 6 * (variance - (whole + 1).square())
    inner = (_BYTE**3 / (2 * (whole + part) + 1)).floor()
    outer = ((_BYTE**3 - (2 * whole + 1) * inner) / 2).floor()
    return torch.stack([whole, inner, outer], dim=1)


def _box_matrix(kernel: Tensor, size: int) -> Tensor:
    """Return the box blur of a line of `size` pixels, the ends repeated, [n, 3 * size, size].

    Its thirds have the upper, the middle and the lower 8 bits of each weight. Such products and
    their sums are exact in whatever order and in TF32 too, which keeps 11 bits of a factor.
    """
    whole, *weights = (each.view(-1, 1, 1) for each in kernel.unbind(1))
    inner, outer = (_in_bytes(weight).repeat_interleave(size, 1) for weight in weights)
    line = torch.arange(size, device=kernel.device)
    target = line.repeat(3)[:, None]

    def beyond(far: Tensor) -> Tensor:
        """Return the weight of all pixels that lie `far` or farther to one side."""
        return inner * (whole - far + 1).clamp(min=0) + outer * (far <= whole + 1)

    distance = (line - target).abs()
    box = beyond(distance) - beyond(distance + 1)
    # What a box would take from outside it takes from the first and the last pixel.
    box[:, :, :1] += beyond(target + 1)
    box[:, :, -1:] += beyond(size - target)
    return box


def _in_bytes(weight: Tensor) -> Tensor:
    """Return the upper, the middle and the lower 8 bits of weights [n, 1, 1], [n, 3, 1]."""
    upper = (weight / _BYTE**2).floor()
    rest = weight - _BYTE**2 * upper
    middle = (rest / _BYTE).floor()
    return torch.cat([upper, middle, rest - _BYTE * middle], dim=1)


_JITTERS = (_brightness, _contrast, _saturation, _hue)
