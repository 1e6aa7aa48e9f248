"""The spatial-transformer adversary in training: where views are cut so that the loss grows.

Source: Pretraining with Hard Views, appendix G.1; facts of its public code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.images.boxes import transformed_boxes
from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.policies import dino_colours
from viewstore.randomness import MADE, Op, Stream
from viewstore.train.methods.traits import Traits
from viewstore.train.nets.soft_colours import soft_recolour
from viewstore.train.nets.spatial_transformer import (
    CROPS,
    Mode,
    SpatialTransformer,
    TransformerShape,
    identity_penalty,
    theta_crops_penalty,
    wanted_crops,
)
from viewstore.train.strategies.base import Made, Maker, Slot, wrong_views
from viewstore.train.views import Views

Penalty = Literal["tcp", "identity", "none"]
SIZE = 32  # for a look at settings before that of the images is known
STATIC = 1e-3  # spread of transforms over a batch below which they do not depend on the image
FLAT = 2.0  # standard deviation of levels below which a view shows a single colour


@dataclass(frozen=True, kw_only=True)
class TransformedViews(Maker):
    """Cuts global and local views of the one source image where a network says.

    They then have DINO's colours, without its crop and flip.

    Attributes:
        n_globals, n_locals: Number of views of either kind.
        local_size: Side of local views in pixels; None means half of that of the source image.
        mode: What a transform is made of: "translation_scale_symmetric", "translation_scale",
            "rotation_translation", "rotation_translation_scale",
            "rotation_translation_scale_symmetric" or "affine".
        theta_norm: Keep views within the image: divide rows of a transform by their L1 norm.
        bounded: Put tanh on all parameters but the angle.
        separate: Give each view a trunk of its own.
        batch_norm: Whether trunks have batch norms.
        penalty: What keeps transforms from extremes: "tcp" draws them to crops of drawn areas and
            places, "identity" to the whole image, "none".
        eps: Weight of the penalty beside the loss.
        own: Give the network an AdamW of its own, 5e-4 for 256 samples with a cosine; else it has
            the run's optimizer.
    """

    NAME: ClassVar[str] = SpatialTransformer.KIND
    USE: ClassVar[str] = "trains on views that a network cuts out of source images, against it"
    EXAMPLE: ClassVar[str] = "source"

    n_globals: int = 2
    n_locals: int = 8
    local_size: int | None = None
    mode: Mode = "translation_scale_symmetric"
    theta_norm: bool = True
    bounded: bool = False
    separate: bool = False
    batch_norm: bool = True
    penalty: Penalty = "tcp"
    eps: float = 10.0
    own: bool = False

    def __post_init__(self) -> None:
        self._shape(SIZE)
        if self.penalty not in get_args(Penalty):
            raise ConfigError(f"penalty must be tcp, identity or none, got {self.penalty!r}")
        if not 0 <= self.eps < float("inf"):
            raise ConfigError(f"eps must be at least 0, got {self.eps}")

    @property
    def optim(self) -> Mapping[str, Any] | None:
        """Settings of AdamW, if it has its own."""
        return {"name": "adamw", "lr": 5e-4, "weight_decay": 0.04} if self.own else None

    @property
    def clip(self) -> float:
        """Greatest norm of the network's gradients."""
        return 3.0

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError as every maker does; or there are several source images."""
        super().check(traits, slots)
        if len(self.takes([slot.role for slot in slots])) > 1:
            raise wrong_views(
                f"strategy {self.NAME} cuts all its views out of one source image, got more",
                slots,
                self.EXAMPLE,
            )

    def made(self, slots: Sequence[Slot]) -> tuple[Slot, ...]:
        """Return the slots of the global views, then of the local ones."""
        (place,) = self.takes([slot.role for slot in slots])[:1]
        shape = self._shape(slots[place].size)
        columns = {*COLOUR_COLUMNS, "x_theta"} | (set() if shape.rotates else {"crop_box"})
        return tuple(
            Slot(role, size, frozenset(columns), place, self.NAME) for role, size in _kinds(shape)
        )

    def network(self, slots: Sequence[Slot], channels: int) -> SpatialTransformer:
        """Return a network for the source image of these slots, which sees all its channels."""
        (place,) = self.takes([slot.role for slot in slots])[:1]
        return SpatialTransformer(self._shape(slots[place].size))

    def _shape(self, size: int) -> TransformerShape:
        return TransformerShape(
            size=size,
            local_size=size // 2 if self.local_size is None else self.local_size,
            n_globals=self.n_globals,
            n_locals=self.n_locals,
            mode=self.mode,
            theta_norm=self.theta_norm,
            bounded=self.bounded,
            separate=self.separate,
            batch_norm=self.batch_norm,
        )

    def make(self, views: Views, network: nn.Module) -> Made:
        """Return the views with those that are cut, and the penalty on where."""
        net = cast("SpatialTransformer", network)
        (place,) = self.takes(views.role)
        levels = views.pixels[place].to(next(net.parameters()).dtype)
        theta = net(levels / 255)
        stream, rows = Stream(views.at.seed, views.at.epoch), views.sample.cpu().numpy()
        height, width = _sides(views, place)
        flat = []
        for number, (role, size) in enumerate(_kinds(net.shape)):
            drawn = dino_colours(role, number, size, stream, rows, MADE + number)
            params = {name: torch.from_numpy(values) for name, values in drawn.items()}
            own = theta[:, number]
            cut = net.cut(levels, own, size)
            flat.append(cut.detach().std((2, 3)).amax(1) < FLAT)
            found = own.detach().float()
            if not net.shape.rotates:
                boxes = transformed_boxes(found.cpu().numpy(), height, width)
                params["crop_box"] = torch.from_numpy(boxes)
            views, _ = views.plus(
                soft_recolour(cut, params),
                role=role,
                parent=place,
                params={**params, "x_theta": found},
            )
        facts = {
            "theta_spread": theta.detach().std(0).mean(),
            "flat_views": torch.stack(flat).float().mean(),
        }
        return Made(views, self.eps * self._penalty(net.shape, theta, stream, rows), facts)

    def _penalty(
        self, shape: TransformerShape, theta: Tensor, stream: Stream, rows: NDArray[np.int64]
    ) -> Tensor:
        """Return the penalty on the transforms of a batch, [B, V, 2, 3]."""
        if self.penalty == "none":
            return theta.new_zeros(())
        if self.penalty == "identity":
            return identity_penalty(theta)
        wanted = []
        for number, (role, _) in enumerate(_kinds(shape)):
            drawn = stream.floats(Op.NOISE, rows, MADE + number, 2)
            wanted.append(wanted_crops(torch.from_numpy(drawn).to(theta), CROPS[role]))
        return theta_crops_penalty(theta, torch.stack(wanted, 1))

    def warnings(self, facts: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Return what is wrong with the network's views, by the facts of its last step."""
        found: list[str] = []
        if not facts:
            return ()
        if float(facts["theta_spread"]) < STATIC:
            found.append(
                f"the views of {self.NAME} are static: where they are cut does not depend on the "
                f"image (spread {float(facts['theta_spread']):.2g} over a batch)"
            )
        if share := float(facts["flat_views"]):
            found.append(f"{share:.0%} of the views of {self.NAME} zoom into a single colour")
        return tuple(found)


def _kinds(shape: TransformerShape) -> list[tuple[str, int]]:
    """Return role and side of each view."""
    return [("global", shape.size)] * shape.n_globals + [
        ("local", shape.local_size)
    ] * shape.n_locals


def _sides(views: Views, place: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return height and width of the images that a view shows whole, [B] each, in their pixels."""
    box = torch.as_tensor(views.params[place]["crop_box"]).cpu().numpy()
    return box[:, 2], box[:, 3]
