"""Policies with operators: a standard policy, then a chain of RandAugment's kin on its view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images.colours import Pixels
from viewstore.images.operators import recorded
from viewstore.images.operators.chain import Chain
from viewstore.images.policy import Drawn, Policy, ViewPolicy
from viewstore.images.resize import Filter
from viewstore.randomness import Integers, Stream

WHOLE = Policy(name="whole", crop=False, flip=0, jitter_probability=0, gray=0)


@dataclass(frozen=True, kw_only=True)
class Operated:
    """A chain of operators on the view of a standard policy.

    Attributes:
        name: Name in the table.
        chain: The operators.
        base: Draws and renders what they are applied to; the whole image resized by default.
        size: Height and width of the views, as `for_size` sets them: where a cutout lies and which
            tiles are alike depend on it.
    """

    name: str
    chain: Chain
    base: ViewPolicy = WHOLE
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.base, Operated):
            raise ConfigError(f"policy {self.name}: {self.base.name} has operators already")

    @property
    def role(self) -> str:
        """Purpose of the view: that of the standard policy."""
        return self.base.role

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
        return {**drawn, **self.chain.draw(stream, index, view, self.size)}

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view with these params, uint8 [height, width, 3]."""
        view = self.base.render(image, params, size, filter, out)
        view[...] = recorded.render(view, params)
        return view
