"""A1: a generated view, weakly cropped and flipped, replaces one of the two expert views.

Source: Constructive Assimilation, section 3; the crops are those of its code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError, nearest
from viewstore.images.draws import Range, draw_crop, draw_switch
from viewstore.randomness import Op, Stream
from viewstore.train.losses import Negatives
from viewstore.train.method import Method, Traits
from viewstore.train.objective import Plan
from viewstore.train.strategy import make_plan, refuse
from viewstore.train.views import ViewBatch, ViewSpec

# Area of the crop box as a share of the view's, and its width / height.
CROPS: dict[str, tuple[Range, Range]] = {
    "smallcrop": ((0.9, 1.0), (0.9, 1.1)),
    "medcrop": ((0.7, 1.0), (0.9, 1.1)),
    "largecrop": ((0.5, 1.0), (0.9, 1.1)),
    "none": ((1.0, 1.0), (1.0, 1.0)),
}
# Loaders number their slots from 0: draws for views made here must not be the same ones.
FIRST_MADE_VIEW = 1 << 15


@dataclass(frozen=True, kw_only=True)
class A1:
    """One expert and one generated view, each the other's target at weight 1/2.

    Attributes:
        crop: Name in CROPS.
        flip: Probability of a horizontal flip of the generated view.
    """

    NAME: ClassVar[str] = "a1"
    NEGATIVES: ClassVar[Negatives] = "both"

    crop: str = "smallcrop"
    flip: float = 0.5

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ConfigError(
                f"a1 crop must be one of {', '.join(CROPS)}, got {self.crop!r}; "
                f"{nearest(self.crop, list(CROPS))}",
                code="VS102",
            )
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"a1 flip must be in [0, 1], got {self.flip}")

    def check(self, traits: Traits) -> None:
        if traits.targets_from != "all":
            raise refuse(
                self.NAME,
                traits,
                trait=f"only {traits.targets_from} views can be targets (targets_from)",
                fix="use --method simclr, or --strategy standard",
            )

    def request(self, traits: Traits, step: int) -> ViewSpec:
        return ViewSpec(least=2, most=2, roles={"expert": 1, "generated": 1})

    def plan(self, vb: ViewBatch, method: Method) -> Plan:
        (view,) = vb.rows("generated")
        size, place = vb.slot[view].tolist()
        images = vb.x[size].clone()
        images[place] = self._cropped(vb, view, images[place])
        made = replace(vb, x={**vb.x, size: images})
        return make_plan(made, [0, 1], [(0, 1, 0.5, "total"), (1, 0, 0.5, "total")])

    def _cropped(self, vb: ViewBatch, view: int, images: Tensor) -> Tensor:
        stream = Stream(vb.seed, vb.epoch)
        index = vb.index.cpu().numpy().astype(np.uint64)
        number = FIRST_MADE_VIEW + view
        height, width = images.shape[2:]
        scale, ratio = CROPS[self.crop]
        boxes = draw_crop(stream, index, number, height, width, scale=scale, ratio=ratio)
        return crop_images(images, boxes, draw_switch(stream, Op.FLIP, index, number, self.flip))


def crop_images(images: Tensor, boxes: NDArray[np.float32], flips: NDArray[np.bool_]) -> Tensor:
    """Return the boxes of images [B, C, H, W], resized to H x W linearly, some of them flipped.

    `boxes`: [B, 4], top, left, height, width in pixels; `flips`: [B].
    """
    height, width = images.shape[2:]
    top, left, tall, wide = torch.from_numpy(np.asarray(boxes, np.float32)).unbind(1)
    sign = torch.from_numpy(np.where(flips, np.float32(-1), np.float32(1)))
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = sign * wide / width
    theta[:, 0, 2] = (2 * left + wide) / width - 1
    theta[:, 1, 1] = tall / height
    theta[:, 1, 2] = (2 * top + tall) / height - 1
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
