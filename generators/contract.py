"""The contract of a generator: settings that describe a view set, and what renders its views.

A generator is a pure function of (seed, sample, view, settings, weights): the same pixels and
params whoever computes them, in whatever company.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import Column
from viewstore.images.codec import Codec
from viewstore.shards.unit import Rendered, Sample
from viewstore.store.view_set import ViewSet

__all__ = ["Context", "Generator", "Rendered", "Sample", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a generator is given besides its settings.

    Attributes:
        seed: Seed of the plan; draws come from Stream(seed, 0, BUILD).
        num_samples: Rows of the store.
        source_height, source_width: Size that all source images share, or None where they differ.
        source_image: Decodes the source image of a row: uint8 [H, W, 3].
        codec: What the views will be stored in; acceptance is judged on its roundtrip.
        device: Torch device, "cpu" or "cuda:0".
        models: Frozen networks by role ("gan", "encoder", "inverter"), as the settings' NEEDS ask.
        parent: The finished view set that the settings' PARENT names.
        warn: Told what the user should know; called by `resolve`, in the main process.
    """

    seed: int
    num_samples: int
    source_height: int | None
    source_width: int | None
    source_image: Callable[[int], NDArray[np.uint8]]
    codec: Codec
    device: str = "cpu"
    models: Mapping[str, Any] = field(default_factory=dict)
    parent: ViewSet | None = None
    warn: Callable[[str], None] = lambda message: None


class Generator(Protocol):
    """Renders the views of samples."""

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield one Rendered for each sample, in any order, pulling samples as there is room."""


class Settings(Protocol):
    """A frozen, JSON-able dataclass of one generator kind; a row of the table in `__init__`.

    Class attributes:
        VERSION: Raised when the same settings would give other pixels or params.
        PARENT: View set that must be built before, or None.
        NEEDS: Roles of the networks that `resolve` and `make` want in Context.models.
    """

    VERSION: ClassVar[int]
    PARENT: ClassVar[str | None]
    NEEDS: ClassVar[tuple[str, ...]]

    views: int
    height: int | None
    width: int | None

    def resolve(self, context: Context) -> Self:
        """Return these settings with every automatic value filled in: what the plan stores."""

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view: "expert", "generated", "global", "local", ..."""

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns that `render` gives; "status" is one of them."""

    def make(self, context: Context) -> Generator:
        """Return the generator of resolved settings."""

    def parent_settings(self) -> Mapping[str, Any]:
        """Return what PARENT must be built with for these views to start from it."""
