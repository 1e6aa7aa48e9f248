"""Makes a stored view anew from its params: what `ViewSet.replay` does."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE, Status
from viewstore.images.codec import Codec
from viewstore.images.colours import Pixels
from viewstore.images.operated import HEAVY
from viewstore.images.recipes import RecipeSpec, expert_recipe, heavy_recipe
from viewstore.sources.reader import SourceReader
from viewstore.store.rendering import Recorded as Rendered
from viewstore.store.rendering import Rendering, Views

DecodeLatent = Callable[[NDArray[np.float16]], Pixels]  # latent [L, D] to view [H, W, 3]
NOT_MADE: Mapping[int, str] = {
    Status.NEVER_WRITTEN: "its shard was not built yet",
    Status.FAILED: "it failed when it was made",
    Status.UNREADABLE: "its source image could not be read when it was made",
}


class Recorded(Rendered, Protocol):
    """What a replay needs of a view set."""

    source: SourceReader | None

    @property
    def parent(self) -> Views:
        """The view set that its views start from. Raises ConfigError: there is none."""

    @property
    def codec(self) -> Codec:
        """How its views are stored."""


def replay(view_set: Recorded, row: int, view: int, decode: DecodeLatent | None) -> Pixels:
    """Return a view made anew, as `ViewSet.replay` says."""
    plan = view_set.plan
    row = _number("row", row, plan.rows)
    view = _number("view", view, plan.views)
    where = f"view {view} of row {row} of {plan.view_set}"
    status = _stored(view_set, "status", row, view)
    if status not in MADE:
        why = NOT_MADE.get(int(status), f"its status is {status}, which says nothing")
        raise ConfigError(f"{where} cannot be replayed: {why}", code="VS208")
    spec = _recipe_of(plan.generator["args"])
    if spec is not None:
        pixels = _rendered(view_set, row, view, spec)
    elif "latent" not in view_set.params:
        kept = "keep_latents" in plan.generator["args"]
        raise ConfigError(
            f"{where} cannot be replayed: "
            + ("its latents were not stored" if kept else "its params do not say how it was made"),
            code="VS208",
            why="it was built with the setting keep_latents off, which is the default"
            if kept
            else None,
            fix="build the views again with --set keep_latents=true, into another --view-set"
            if kept
            else None,
        )
    elif decode is None:
        raise ConfigError(
            f"{where} was made by a network, which is needed to replay it",
            code="VS208",
            fix="give its generator: viewstore replay with --gan FILE",
        )
    else:
        pixels = decode(_stored(view_set, "latent", row, view))
    stored: Pixels = view_set.codec.roundtrip(pixels[None])[0]
    return stored


def _number(name: str, given: object, count: int) -> int:
    """Return a number below `count`, of whatever type of integer it is."""
    try:
        number = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{name} must be a number from 0, got {given!r}") from None
    if not 0 <= number < count:
        raise IndexError(f"{name} must be in [0, {count}), got {number}")
    return number


def _stored(view_set: Recorded, name: str, row: int, view: int) -> Any:  # noqa: ANN401
    return view_set.params.rows(name, np.array([row]))[0][view]


def _rendered(view_set: Recorded, row: int, view: int, spec: RecipeSpec) -> Pixels:
    """Return a view rendered from what it was made of by its recorded params, which are checked."""
    recipe = {**asdict(spec), "version": spec.version}
    parent = None if view_set.plan.parent is None else view_set.parent
    found: Pixels = Rendering(view_set, view_set.source, parent, recipe).views(row)[view]
    return found


def _recipe_of(args: Mapping[str, Any]) -> RecipeSpec | None:
    """Return how views are made again that a generator with these settings made; None: not so."""
    if "policy" in args:
        return expert_recipe(args["policy"], args["filter"])
    if str(args.get("chain")) in HEAVY:
        return heavy_recipe(args["chain"], args["filter"])
    return None
