"""Policies with operators: a standard policy, and a chain of RandAugment's kin on its view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images.colours import NOT_APPLIED, SOLARIZE_OFF, Pixels
from viewstore.images.operators.chain import CHAINS, INSTEAD, Chain
from viewstore.images.operators.recorded import operated, put_together
from viewstore.images.operators.spaces import ra16
from viewstore.images.policy import Drawn, Policy, ViewPolicy
from viewstore.images.resize import Filter
from viewstore.randomness import Integers, Stream

WHOLE = Policy(name="whole", crop=False, flip=0, jitter_probability=0, gray=0)
# What a standard policy records of a view to which it did nothing, but for the box.
NOTHING_DONE: Mapping[str, Any] = {
    "flip": 0,
    "jitter": (1, 1, 1, 0),
    "jitter_order": NOT_APPLIED,
    "gray": 0,
    "blur": 0,
    "solarize": SOLARIZE_OFF,
}


@dataclass(frozen=True, kw_only=True)
class Operated:
    """A standard policy with a chain of operators.

    Attributes:
        name: Name in the table.
        chain: The operators.
        base: The standard policy; by default one that shows the whole image, resized.
        before: Whether the operators are applied to the image before the standard policy, instead
            of to its view. The jigsaw comes last; one in place of the operators is then in
            place of the standard policy too.
        size: Height and width of the views, as `for_size` sets them: where a cutout lies and which
            tiles are alike depend on it.
    """

    name: str
    chain: Chain
    base: ViewPolicy = WHOLE
    before: bool = False
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.base, Operated):
            raise ConfigError(f"policy {self.name}: {self.base.name} has operators already")

    @property
    def role(self) -> str:
        """Purpose of the view: "heavy"; that of crops, or of operators before them, stays."""
        standard = self.before or self.base.role != "expert"
        return self.base.role if standard else "heavy"

    @property
    def crops(self) -> bool:
        """Whether it cuts views out of what it is given, or shows all of it."""
        return self.base != WHOLE

    @property
    def columns(self) -> tuple[Column, ...]:
        """The params of one view, by name: those of the standard policy and of the chain."""
        return tuple(
            sorted((*self.base.columns, *self.chain.columns), key=lambda column: column.name)
        )

    @property
    def whole_pixels(self) -> bool:
        """Whether crop boxes begin and end between pixels."""
        return self.base.whole_pixels

    def for_size(self, height: int, width: int) -> Operated:
        """Return the policy for views of this size."""
        return replace(self, base=self.base.for_size(height, width), size=(height, width))

    def draw(
        self,
        stream: Stream,
        index: Integers,
        view: Integers,
        height: Integers,
        width: Integers,
    ) -> Drawn:
        """Return params by column; the image sizes `height`, `width` bound the crop box.

        Raises:
            ConfigError: `for_size` has not said how large the views are.
        """
        if self.size is None:
            raise ConfigError(f"policy {self.name} draws for views of one size; call for_size")
        drawn = self.base.draw(stream, index, view, height, width)
        image = (height, width) if self.before else None
        drawn |= self.chain.draw(stream, index, view, self.size, image)
        if self.before and self.chain.instead is not None:
            moved = self.chain.instead_of_operators(stream, index, view)
            whole = WHOLE.draw(stream, index, view, height, width)["crop_box"]
            drawn["crop_box"] = np.where(moved[..., None], whole, drawn["crop_box"])
            for name in NOTHING_DONE.keys() & drawn.keys():
                drawn[name][moved] = NOTHING_DONE[name]
        return drawn

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params, uint8 [height, width, 3]."""
        if self.before:
            view = self.base.render(operated(image, params), params, size, filter, out)
            view[...] = put_together(view, params)
        else:
            view = self.base.render(image, params, size, filter, out)
            view[...] = put_together(operated(view, params), params)
        return view


_BYOL_HEAVY = Operated(
    name="dssl-byol-heavy",
    chain=Chain(spaces=(ra16(8, 16),), grid=4, instead=INSTEAD),
    base=Policy(name="dssl-byol-heavy", role="heavy", blur=0.5),
    before=True,
)
# What makes a heavy view of a standard one, by name. Source: DSSL (arXiv:2110.13555), and its code.
HEAVY: Mapping[str, Operated] = {
    **{name: Operated(name=name, chain=chain) for name, chain in CHAINS.items()},
    "byol": _BYOL_HEAVY,
}


@dataclass(frozen=True)
class Recorded:
    """Renders views with operators from their record on what they were made of.

    Attributes:
        policy: Its base says how pixels are cut and coloured, and whether operators come before
            it. What it would draw does not matter: that is recorded.
        box: Column with the box in what the views are made of; "" means that they show all of it.
    """

    policy: Operated
    box: str

    @property
    def whole_pixels(self) -> bool:
        """Whether crop boxes begin and end between pixels: as those of its base."""
        return self.policy.whole_pixels

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params, uint8 [height, width, 3]."""
        box = params[self.box] if self.box else (0, 0, *image.shape[:2])
        mine = {**params, "crop_box": box, "flip": params.get("flip", 0)}
        return self.policy.render(image, mine, size, filter, out)
