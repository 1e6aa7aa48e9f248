"""Colours of views as functions of float levels that gradients pass through.

The ops, params and their order are those of `viewstore.images.colours.recolour`, which rounds to
whole levels after every op and cuts hues to steps: these do not. A gradient of solarize is that of
the levels as they are; its threshold has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from viewstore.images.colours import LEVELS, SOLARIZE_OFF

BLUR_RADIUS = 6  # in pixels: three times the greatest sigma of the policies
LEAST = 1e-6


def soft_recolour(levels: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """Return views with the colours that params record, levels [B, 3, H, W] in [0, 255].

    `params`: jitter [B, 4], jitter_order [B, 4], gray, blur and solarize [B], on the CPU.
    """
    jitter, order = params["jitter"].float(), params["jitter_order"]
    for position in range(order.shape[1]):
        for op, apply in enumerate(_JITTERS):
            levels = _on_some(levels, order[:, position] == op, jitter[:, op], apply)
    levels = _on_some(levels, params["gray"] == 1, params["gray"], lambda x, _: _grayed(x))
    levels = _on_some(levels, params["blur"] > 0, params["blur"], _blurred)
    threshold = params["solarize"].int()
    return _on_some(levels, threshold < SOLARIZE_OFF, threshold, _solarized)


def _on_some(
    x: Tensor, chosen: Tensor, amount: Tensor, apply: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return `x` with apply(sample, amount) in place of the chosen samples."""
    places = chosen.nonzero()[:, 0]
    if not len(places):
        return x
    mine = amount[places].to(x).view(-1, 1, 1, 1)
    places = places.to(x.device)
    applied = apply(x.index_select(0, places), mine).clamp(0, LEVELS)
    changed: Tensor = x.index_copy(0, places, applied)
    return changed


def _luma(x: Tensor) -> Tensor:
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def _grayed(x: Tensor) -> Tensor:
    return _luma(x).expand_as(x)


def _brighter(x: Tensor, factor: Tensor) -> Tensor:
    return x * factor


def _contrasted(x: Tensor, factor: Tensor) -> Tensor:
    mean = _luma(x).mean((1, 2, 3), keepdim=True)
    return mean + factor * (x - mean)


def _saturated(x: Tensor, factor: Tensor) -> Tensor:
    luma = _luma(x)
    return luma + factor * (x - luma)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue: f(n) = V - V S max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6, n = 5, 3, 1."""
    red, green, blue = torch.split(x, 1, dim=1)
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    scale = torch.where(chroma > LEAST, chroma, torch.ones_like(chroma))
    hue = torch.where(
        value == red,
        (green - blue) / scale,
        torch.where(value == green, 2 + (blue - red) / scale, 4 + (red - green) / scale),
    )
    sector = (hue + 6 * turns + hue.new_tensor([5, 3, 1]).view(3, 1, 1)).remainder(6)
    return value - chroma * torch.minimum(sector, 4 - sector).clamp(0, 1)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a Gaussian; what lies outside repeats the border."""
    rows, columns = (_blur_matrix(sigma, side) for side in x.shape[2:])
    return rows.unsqueeze(1) @ x @ columns.unsqueeze(1).transpose(2, 3)


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Return the blur of a line of `size` pixels, [B, size, size], for sigmas [B, 1, 1, 1]."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=sigma.device)
    weights = (-0.5 * (offsets / sigma.flatten(1)).square()).softmax(1)
    line = torch.arange(size, device=sigma.device)
    taps = (line[:, None] + offsets).clamp(0, size - 1)
    where = torch.nn.functional.one_hot(taps, size).to(weights)
    return torch.einsum("bk,ikj->bij", weights, where)


def _solarized(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x < threshold, x, LEVELS - x)


_JITTERS = (_brighter, _contrasted, _saturated, _turned)
