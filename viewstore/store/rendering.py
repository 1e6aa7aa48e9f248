"""The views of a recipe set, rendered from the images they start from by their stored params."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.format.columns import MADE
from viewstore.format.plan import Plan
from viewstore.images.colours import Pixels
from viewstore.images.recipes import Renderer, Values, Wrong, change_nothing
from viewstore.sources.reader import SourceReader
from viewstore.store.params import Params


class Recorded(Protocol):
    """What a rendering needs of the view set that it renders."""

    plan: Plan

    @property
    def name(self) -> str: ...

    @property
    def params(self) -> Params: ...

    def damaged(self, row: int, what: str, *, why: str) -> FormatError:
        """Return the error of a row that is stored wrong, with what mends it."""


class Views(Protocol):
    """What a rendering needs of the view set that views start from."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def num_views(self) -> int: ...

    def __getitem__(self, row: int) -> Pixels: ...


def warn_of_versions(view_set: str, libraries: Mapping[str, str]) -> None:
    """Warn if libraries, name -> version, that decide the pixels of a recipe are others here."""
    here = {name: _version(name) for name in libraries}
    changed = [f"{n} was {v}, is {here[n]}" for n, v in libraries.items() if here[n] != v]
    if changed:
        warnings.warn(
            f"views of {view_set} may be rendered with other pixels: {', '.join(changed)}; "
            "viewstore verify STORE --content tells whether they are",
            stacklevel=2,
        )


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class Rendering:
    """Renders the views of a recipe set.

    Attributes:
        view_set: The set, whose params say how.
        source: Reads the source images; None where the set was opened without its store.
        parent: The view set that its views start from; None: they start from the source images.
        recipe: As plans have it.
    """

    view_set: Recorded
    source: SourceReader | None
    parent: Views | None
    recipe: Mapping[str, Any]

    @cached_property
    def renderer(self) -> Renderer:
        """What renders one view. Raises FormatError: the recipe is not known here."""
        plan = self.view_set.plan
        names = tuple(column.name for column in plan.columns)
        return Renderer.of(self.recipe, names, (plan.height, plan.width))

    def params(
        self, rows: NDArray[np.int64], views: NDArray[np.int64]
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        """Return the checked params of `views` [B, n] of `rows` [B], and which were made, [B, n].

        Each column is [B, n, *shape]; a view that was never made has params that change nothing.

        Raises:
            FormatError: A value of a view that was made cannot be; it is named.
        """
        at = np.arange(len(rows))[:, None], views
        taken = {name: self.view_set.params.take(name, rows)[at] for name in self._columns}
        made = np.isin(taken.pop("status"), MADE)
        height, width = self.sizes(rows)
        faults = self.renderer.check(taken, height[:, None], width[:, None])
        for name, wrong in [*faults, *self._wrong_parents(taken)]:
            if (wrong & made).any():
                row, slot = np.argwhere(wrong & made)[0]
                raise self._damaged(
                    name, int(rows[row]), int(views[row, slot]), taken[name][row, slot]
                )
        for name, values in taken.items() if not made.all() else ():
            change_nothing(name, values, ~made)
        return taken, made

    def _wrong_parents(self, params: Values) -> Wrong:
        """Return which views would start from one that their parent does not have."""
        if self.parent is None:
            return []
        return [("parent", (params["parent"] < 0) | (params["parent"] >= self.parent.num_views))]

    @property
    def _columns(self) -> tuple[str, ...]:
        return ("status", *self.renderer.columns)

    def sizes(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return height and width [B] of the images that the views of `rows` start from."""
        if self.parent is not None:
            sides = self.parent.height, self.parent.width
            return np.full(len(rows), sides[0]), np.full(len(rows), sides[1])
        table = self.images.table
        return table.height[rows].astype(np.int64), table.width[rows].astype(np.int64)

    @property
    def images(self) -> SourceReader:
        """Reads the source images. Raises ConfigError: the set was opened without its store."""
        if self.source is None:
            raise ConfigError(
                f"{self.view_set.name} was opened without its store, which has the source images",
                fix="viewstore.open(store).view_sets[name]",
            )
        return self.source

    def views(self, row: int, *, only: int | None = None) -> Pixels:
        """Return the views of a row, uint8 [V, H, W, 3]; those that were never made are black.

        So are all but `only`, if it is given.

        Raises:
            FormatError: The source image cannot be read, or the params are damaged.
        """
        view_set = self.view_set
        plan = view_set.plan
        rows, views = np.array([row]), np.arange(plan.views)[None]
        params, made = self.params(rows, views)
        shown = [view for view in np.flatnonzero(made[0]).tolist() if only in (None, view)]
        starts = self._starts(row, shown, params)
        found = np.zeros((plan.views, plan.height, plan.width, 3), np.uint8)
        for view in shown:
            one = {name: values[0, view] for name, values in params.items()}
            self.renderer.render(starts[view], one, found[view])
        return found

    def _starts(
        self, row: int, views: list[int], params: Mapping[str, NDArray[Any]]
    ) -> Mapping[int, Pixels]:
        """Return the image that each of `views` starts from, read once."""
        if not views:
            return {}
        if self.parent is None:
            return dict.fromkeys(views, self.images.image(row))
        of_parent, numbers = self.parent[row], params["parent"][0]
        return {view: of_parent[int(numbers[view])] for view in views}

    def _damaged(self, name: str, row: int, view: int, value: object) -> FormatError:
        boxes = ", and boxes must lie inside their image" if name.startswith("crop_") else ""
        return self.view_set.damaged(
            row,
            f"{name} of row {row} view {view} of {self.view_set.name} cannot be {value!s}",
            why=f"its views are rendered by it{boxes}",
        )
