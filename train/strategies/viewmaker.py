"""ViewMaker in training: a network changes source images so that the method's loss grows.

Source: Viewmaker Networks, arXiv:2010.07432, section 3; Constructive Assimilation, table 1, rows 4
(with a1), 5 and 9 (with a2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn

from viewstore.errors import ConfigError
from viewstore.randomness import MADE, Op, Stream
from viewstore.train.methods.traits import Traits
from viewstore.train.nets.view_maker import ViewMaker, ViewMakerShape
from viewstore.train.strategies.base import SOURCE, Made, Maker, Slot, refuse
from viewstore.train.views import Views


@dataclass(frozen=True, kw_only=True)
class ViewMakerViews(Maker):
    """Makes one view of each source image among the views, of role generated.

    Alone, it trains on pairs of them; with a1 on one of them and an expert view, with a2 on expert
    views with which one of them is aligned.

    Attributes:
        eps: Mean absolute change of a value in [0, 1], over an image.
        clamp: Cut off what leaves [0, 1]; the authors do not on CIFAR.
        lr: Learning rate of Adam for the network, which stays the same.
    """

    NAME: ClassVar[str] = ViewMaker.KIND
    USE: ClassVar[str] = "trains on views that a network makes of source images, against it"
    EXAMPLE: ClassVar[str] = "source,source"

    eps: float = 0.05
    clamp: bool = True
    lr: float = 1e-3

    def __post_init__(self) -> None:
        ViewMakerShape(size=8, eps=self.eps, clamp=self.clamp)
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"lr of {self.NAME} must be above 0, got {self.lr}")

    @property
    def optim(self) -> Mapping[str, Any]:
        """Settings of Adam."""
        adam: dict[str, Any] = {"name": "adam", "scale_lr": False, "schedule": "constant"}
        return adam | {"lr": self.lr, "weight_decay": 0.0}

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError as every maker does; or nothing but made views could be learned from.

        That is so of methods that learn from crops alone, without such views beside.
        """
        super().check(traits, slots)
        roles = [slot.role for slot in slots]
        if traits.target_roles and not set(roles) & set(traits.target_roles):
            raise refuse(
                self.NAME,
                traits,
                why=f"it learns from views of role {' or '.join(traits.target_roles)} alone "
                "(target_roles), and none of the views beside the source images is one",
                fix=f"use --strategy {self.NAME},a2 --views dino,dino,{SOURCE}",
            )

    def made(self, slots: Sequence[Slot]) -> tuple[Slot, ...]:
        """Return a generated slot of the size of each source image."""
        places = self.takes([slot.role for slot in slots])
        _one_size([slots[place].size for place in places])
        return tuple(
            slots[place]._replace(role="generated", name=self.NAME, parent_slot=place)
            for place in places
        )

    def network(self, slots: Sequence[Slot], channels: int) -> ViewMaker:
        """Return a network for source images of the size of these slots."""
        sizes = [slots[place].size for place in self.takes([slot.role for slot in slots])]
        return ViewMaker(
            ViewMakerShape(size=_one_size(sizes), channels=channels, eps=self.eps, clamp=self.clamp)
        )

    def make(self, views: Views, network: nn.Module) -> Made:
        """Return the views with a view of each source image; all are made in one forward."""
        maker = cast("ViewMaker", network)
        places = self.takes(views.role)
        channels = maker.shape.channels
        dtype = next(maker.parameters()).dtype
        images = [views.pixels[place][:, :channels].to(dtype) / 255 for place in places]
        stream, rows = Stream(views.at.seed, views.at.epoch), views.sample.cpu().numpy()
        noise = [
            stream.floats(Op.NOISE, rows, MADE + place, maker.noise_numbers) for place in places
        ]
        made = maker(torch.cat(images), torch.from_numpy(np.concatenate(noise)).to(images[0]))
        for place, levels in zip(places, (255 * made).chunk(len(places)), strict=True):
            seen = views.pixels[place].shape[1]
            views, _ = views.plus(
                levels.expand(-1, seen, -1, -1),
                role="generated",
                parent=place,
                params=views.params[place],
            )
        return Made(views, made.new_zeros(()))


def _one_size(sizes: Sequence[int]) -> int:
    """Return the size that all have. Raises ConfigError: they differ."""
    if len(set(sizes)) > 1:
        raise ConfigError(
            f"source images must have one size, they have {', '.join(map(str, sorted(sizes)))} px",
            where="--views",
            fix="give --size",
        )
    return sizes[0]
