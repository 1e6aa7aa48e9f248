"""How much the crops of a sample overlap, pair by pair: what choosers log and analyses count.

Boxes are rows of (top, left, height, width) in pixels of the sample's image: mirroring a view does
not change its box.
"""

from __future__ import annotations

import torch
from torch import Tensor


def all_pairs(views: int) -> Tensor:
    """Return the unordered pairs of `views` views, int64 [P, 2]: (0, 1), (0, 2), ... in order."""
    return torch.combinations(torch.arange(views), 2)


def pairwise_iou(boxes: Tensor, pairs: Tensor | None = None) -> Tensor:
    """Return intersection over union of the crops of each pair, float32 [B, P].

    Args:
        boxes: [B, V, 4], of the V views of B samples; areas are above 0.
        pairs: int64 [P, 2], view numbers; None: those of `all_pairs`.
    """
    first, second = (all_pairs(boxes.shape[1]) if pairs is None else pairs).to(boxes.device).T
    return iou(boxes[:, first], boxes[:, second])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Return intersection over union of boxes [..., 4] with areas above 0, float32 [...]."""
    shared, area, other = _areas(first, second)
    return (shared / (area + other - shared)).float()


def ioa(first: Tensor, second: Tensor) -> Tensor:
    """Return the share of each `first` box that lies in `second`, float32 [...].

    Both are [..., 4], with areas above 0. Source: Graded Similarity, equation 4.
    """
    shared, area, _ = _areas(first, second)
    return (shared / area).float()


def _areas(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the areas of the intersection, of the first and of the second box, float64."""
    first, second = first.double(), second.double()
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared, first[..., 2:].prod(-1), second[..., 2:].prod(-1)


def is_least(values: Tensor, chosen: Tensor, *, ties: bool = False) -> Tensor:
    """Return of which samples the chosen pair has the least of `values`, bool [B].

    Args:
        values: [B, P].
        chosen: int64 [B], numbers of pairs.
        ties: Count every pair with the least value; else the first one alone, as HVP's code does.
    """
    least = values == values.amin(1, keepdim=True)
    if not ties:
        least = least & (least.cumsum(1) == 1)
    return least.gather(1, chosen[:, None])[:, 0]


def choice_facts(iou: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Return what a log says of the chosen pairs of a step, scalars by name.

    Args:
        iou: float32 [B, P]; pair 0 is that of the first two views.
        chosen: int64 [B], numbers of pairs.
    """
    return {
        "min_iou_share": is_least(iou, chosen).float().mean(),
        "min_iou_share_ties": is_least(iou, chosen, ties=True).float().mean(),
        "iou": iou.gather(1, chosen[:, None]).mean(),
        "iou_first_pair": iou[:, 0].mean(),
    }
