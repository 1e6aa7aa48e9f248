"""Makes a stored view anew from its params: what `ViewSet.replay` does."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE, Status
from viewstore.images.codec import Codec
from viewstore.images.colours import Pixels
from viewstore.images.operated import HEAVY
from viewstore.images.operators import recorded
from viewstore.images.policies import policies
from viewstore.images.recipes import heavy_recipe
from viewstore.sources.reader import SourceReader
from viewstore.store.rendering import Recorded as Rendered
from viewstore.store.rendering import Rendering, Views

DecodeLatent = Callable[[NDArray[np.float16]], Pixels]  # latent [L, D] to view [H, W, 3]
NOT_MADE = {
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
        raise ConfigError(f"{where} cannot be replayed: {NOT_MADE[Status(status)]}", code="VS208")
    if "policy" in plan.generator["args"]:
        pixels = _cut(view_set, row, view)
    elif str(plan.generator["args"].get("chain")) in HEAVY:
        pixels = _operated(view_set, row, view)
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


def _cut(view_set: Recorded, row: int, view: int) -> Pixels:
    """Return a view rendered from its source image by the policy that drew its params."""
    plan, args = view_set.plan, view_set.plan.generator["args"]
    if view_set.source is None:
        raise ConfigError(
            f"{plan.view_set} was opened without its store, which has the source images",
            fix="viewstore.open(store).view_set(name).replay(row, view)",
        )
    size = plan.height, plan.width
    names = policies(args["policy"])
    policy = names[view % len(names)].for_size(*size)
    params = {each.name: _stored(view_set, each.name, row, view) for each in policy.columns}
    recorded.check(params, size, f"row {row} view {view} of {plan.view_set}")
    return policy.render(view_set.source.image(row), params, size, args["filter"])


def _operated(view_set: Recorded, row: int, view: int) -> Pixels:
    """Return a heavy view rendered from what it was made of by its recorded operators."""
    plan = view_set.plan
    spec = heavy_recipe(plan.generator["args"]["chain"], plan.generator["args"]["filter"])
    recipe = {**asdict(spec), "version": spec.version}
    parent = None if plan.parent is None else view_set.parent
    found: Pixels = Rendering(view_set, view_set.source, parent, recipe).views(row)[view]
    return found
