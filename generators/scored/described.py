"""What generators of columns share: whose views they describe, and which of those are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE, Column, Status
from viewstore.format.plan import SOURCE
from viewstore.generators.contract import PARENT, Context, Input, OfSource, Sample
from viewstore.images.colours import Pixels

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Describes(OfSource):
    """What `Settings` say of columns about the views of a set, or about the images.

    Attributes:
        of: The view set whose views are described, or "source" for the images.
        described: Roles of the described views; recorded in the plan, never to be set.
    """

    KIND: ClassVar[Literal["pixels", "columns"]] = "columns"

    of: str = SOURCE
    described: tuple[str, ...] | None = None

    @property
    def height(self) -> None:
        """Columns have no size."""
        return None

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set that is described as the parent; the images are no view set."""
        return {} if self.of == SOURCE else {PARENT: Input(self.of)}

    def reads_source(self) -> bool:
        """Return whether the images are described."""
        return self.of == SOURCE


@dataclass(frozen=True, kw_only=True)
class Described:
    """What the settings of columns resolve to; `described` are the roles of the described views."""

    of: str
    described: tuple[str, ...]

    @property
    def views(self) -> int:
        """Views per sample of what is described."""
        return len(self.described)

    @property
    def height(self) -> int:
        """Return 0: columns have no size."""
        return 0

    @property
    def width(self) -> int:
        """Return 0: columns have no size."""
        return 0

    def roles(self) -> tuple[str, ...]:
        """Return the roles of the described views."""
        return self.described


def roles_of(context: Context) -> tuple[str, ...]:
    """Return the roles of the described views; the images are one view of role "source".

    Raises:
        ConfigError: The parent has no views of its own.
    """
    parent = context.parent
    if parent is None:
        return (SOURCE,)
    if parent.kind == "columns":
        raise ConfigError(
            f"{parent.name} has no views to describe, it describes those of {parent.of}",
            code="VS103",
            fix=f"give --of {parent.of}",
        )
    return parent.roles


def columns_per_view(columns: tuple[Column, ...], views: int) -> tuple[Column, ...]:
    """Return columns that each view of a set has, and its status, by name."""
    status = Column(name="status", dtype="u1", shape=())
    found = (replace(each, shape=(views, *each.shape)) for each in (*columns, status))
    return tuple(sorted(found, key=lambda column: column.name))


def unwritten(columns: tuple[Column, ...]) -> dict[str, NDArray[Any]]:
    """Return a row of each column that holds fill values."""
    return {each.name: each.empty(1)[0] for each in columns}


def seen_views(sample: Sample) -> Pixels | list[Pixels]:
    """Return the described views as a reader sees them, [V]; the image is one of them."""
    return [sample.image] if sample.parent is None else sample.parent.pixels()


def made_views(sample: Sample) -> NDArray[np.bool_]:
    """Return which of the described views were made, [V]."""
    if sample.parent is None:
        return np.ones(1, np.bool_)
    return np.isin(sample.parent.status, MADE)


def status_of(made: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the status of what was computed of views, of which some were never made."""
    return np.where(made, Status.OK, Status.UNREADABLE).astype(np.uint8)
