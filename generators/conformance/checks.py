"""What every generator is held to: views that depend on (seed, sample, view, settings) alone.

`generator_checks` looks at one generator on a world of a few samples. The project's own generators
are tested with the same checks.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import MADE, Column, Status
from viewstore.generators.conformance.world import SEED, World
from viewstore.generators.contract import PARENT, Rendered, Resolved, Settings
from viewstore.images.recipes import box_inside
from viewstore.plugins import Check

# Settings that stay None where there was nothing to measure or to read.
RECORDED = ("calibration", "latents", "latents_digest")
ReadsPlan = Callable[[Mapping[str, Any]], Settings]
Elsewhere = Callable[[], Sequence[str]]  # digests of all rows, made in a fresh process


def rendered_rows(
    settings: Settings, world: World, rows: Iterable[int], *, seed: int = SEED
) -> dict[int, Rendered]:
    """Return what a new generator makes of `rows`, in this order, by row."""
    resolved = settings.resolve(world.context)
    generator = resolved.make(replace(world.context, seed=seed))
    found = generator.render(world.samples[row] for row in rows)
    return {rendered.index: rendered for rendered in found}


def digest(rendered: Rendered) -> str:
    """Return the sha256 of pixels, if there are any, and params."""
    pixels = b"" if rendered.pixels is None else rendered.pixels.tobytes()
    found = hashlib.sha256(pixels)
    for name in sorted(rendered.params):
        found.update(name.encode() + np.ascontiguousarray(rendered.params[name]).tobytes())
    return found.hexdigest()


def digests(settings: Settings, world: World) -> list[str]:
    """Return the digests of all rows."""
    made = rendered_rows(settings, world, range(len(world.samples)))
    return [digest(made[row]) for row in range(len(world.samples))]


def generator_checks(
    settings: Settings, world: World, *, read: ReadsPlan, elsewhere: Elsewhere
) -> list[Check]:
    """Return what a generator is held to with these settings.

    `read` makes settings of what a plan stores of them; `elsewhere` renders what they make too.
    """
    every = range(len(world.samples))
    images = [sample.image.copy() for sample in world.samples]
    first: dict[int, Rendered] = {}

    def made() -> dict[int, Rendered]:
        if not first:
            first.update(rendered_rows(settings, world, every))
        return first

    def alone() -> str | None:
        for row in every:
            if wrong := difference(made()[row], rendered_rows(settings, world, [row])[row]):
                return f"{wrong}, when it is made alone"
        return None

    def backwards() -> str | None:
        found = rendered_rows(settings, world, reversed(every[1:]))
        return _first(difference(made()[row], found[row]) for row in every[1:])

    def moved() -> str | None:
        made()
        with _random_generators_at(271):
            found = rendered_rows(settings, world, every)
        return _first(difference(made()[row], found[row]) for row in every)

    def another_process() -> str | None:
        ours = [digest(made()[row]) for row in every]
        found = elsewhere()
        return _first(f"row {row}" for row in every if ours[row] != found[row])

    def planned() -> str | None:
        resolved = settings.resolve(world.context)
        return _first(_wrong_form(resolved, settings.KIND, made()[row]) for row in every)

    again = "a shard that is built again, by another worker, would be another one"
    checks = [
        Check(
            "settings are their own plan",
            "a build could not go on",
            lambda: _unstable(settings, world, read),
        ),
        Check("views and params are as planned", "they could not be stored or read", planned),
        Check("a sample is the same alone", again, alone),
        Check("samples are the same in any order", again, backwards),
        Check("global random generators do not matter", again, moved),
        Check("another process makes the same", again, another_process),
        Check(
            "source images stay as they are",
            "other views of them would change",
            lambda: _written(settings, world, images),
        ),
        Check(
            "crop boxes lie in their images",
            "overlaps would be wrong",
            lambda: _outside(world, made()),
        ),
    ]
    if settings.recipe() is not None:
        checks.append(
            Check(
                "the recipe renders the views",
                "--codec params would show other views",
                lambda: _not_replayed(settings, world, made()),
            )
        )
    return checks


def difference(one: Rendered, other: Rendered) -> str | None:
    """Return the first column, or the pixels, in which what was made of a row differs."""
    names = sorted(one.params)
    if names != sorted(other.params):
        return f"row {one.index} has the columns {names} and {sorted(other.params)}"
    for name in names:
        if wrong := _unequal(np.asarray(one.params[name]), np.asarray(other.params[name])):
            return f"row {one.index}, column {name}{wrong}"
    if (one.pixels is None) != (other.pixels is None):
        return f"row {one.index} has pixels but once"
    if one.pixels is None or other.pixels is None:
        return None
    wrong = _unequal(one.pixels, other.pixels)
    return f"row {one.index}, pixels{wrong}" if wrong else None


def _unequal(one: NDArray[Any], other: NDArray[Any]) -> str | None:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return f" are {one.dtype}{list(one.shape)} and {other.dtype}{list(other.shape)}"
    if one.tobytes() == other.tobytes():
        return None
    same = (one == other) | ((one != one) & (other != other))  # NaN
    places = np.argwhere(~same)
    if not len(places):
        return " have other bits"
    place = tuple(places[0].tolist())
    at = f" at {list(place)}" if place else ""
    return f"{at}: {one[place].item()} and {other[place].item()}"


def _first(found: Iterable[str | None]) -> str | None:
    return next((each for each in found if each is not None), None)


@contextmanager
def _random_generators_at(seed: int) -> Iterator[None]:
    """Have the global random generators of Python, numpy and torch elsewhere in a block."""
    import torch

    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002


def stored(resolved: Resolved) -> dict[str, Any]:
    """Return what a plan stores of resolved settings."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(resolved)))  # type: ignore[call-overload]
    return found


def _unstable(settings: Settings, world: World, read: ReadsPlan) -> str | None:
    """Return what differs where a plan's settings are read and resolved again."""
    plan = stored(settings.resolve(world.context))
    automatic = [key for key, value in plan.items() if value is None and key not in RECORDED]
    if automatic:
        return f"{automatic[0]} is still automatic (None) once it is resolved"
    known = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    if known != set(plan):
        return f"the settings and what they resolve to differ in {sorted(known ^ set(plan))[0]}"
    again = stored(read(plan).resolve(world.context))
    changed = [key for key in plan if plan[key] != again[key]]
    if changed:
        return f"{changed[0]} is {plan[changed[0]]}, and then {again[changed[0]]}"
    return None


def _wrong_form(resolved: Resolved, kind: str, rendered: Rendered) -> str | None:
    """Return how what was made of a row differs from what was planned."""
    row, columns = rendered.index, {column.name: column for column in resolved.columns()}
    if len(resolved.roles()) != resolved.views:
        return f"there are {resolved.views} views and {len(resolved.roles())} roles"
    if "status" not in columns:
        return "there is no column status"
    if set(columns) != set(rendered.params):
        differing = sorted(set(columns) ^ set(rendered.params))[0]
        return f"row {row}: columns that are planned and made differ in {differing}"
    for column in columns.values():
        value = np.asarray(rendered.params[column.name])
        if (value.shape, value.dtype) != (column.shape, column.numpy_dtype):
            return (
                f"row {row}, column {column.name} is {value.dtype}{list(value.shape)}, planned was "
                f"{column.numpy_dtype}{list(column.shape)}"
            )
    shape = (resolved.views, resolved.height, resolved.width, 3)
    if kind == "columns":
        return None if rendered.pixels is None else f"row {row}: a set of columns has pixels"
    if rendered.pixels is None or rendered.pixels.shape != shape or rendered.pixels.dtype != "u1":
        return f"row {row}: views must be uint8{list(shape)}"
    return _never_written(columns.values(), rendered)


def _never_written(columns: Iterable[Column], rendered: Rendered) -> str | None:
    """Return the column that says of a view that was made that it was not."""
    row, status = rendered.index, np.asarray(rendered.params["status"])
    if not np.isin(status, [*MADE, Status.FAILED, Status.UNREADABLE]).all():
        return f"row {row}: status must be 1, 2, 3 or 4, is {status.tolist()}"
    made = np.isin(status, MADE)
    for column in columns:
        value = np.asarray(rendered.params[column.name])
        if column.views is not None:
            value = value[list(column.views)]
        elif value.shape[:1] == made.shape:
            value = value[made]
        if column.missing(value).any():
            return f"row {row}, column {column.name} has its fill value, {column.fill}"
    return None


def _written(settings: Settings, world: World, images: Sequence[NDArray[np.uint8]]) -> str | None:
    """Return the row of an image that is no longer as it was before anything was rendered."""
    rendered_rows(settings, world, range(len(world.samples)))
    for row, (image, sample) in enumerate(zip(images, world.samples, strict=True)):
        if wrong := _unequal(image, sample.image):
            return f"the image of row {row} was changed{wrong}"
    return None


def _outside(world: World, made: Mapping[int, Rendered]) -> str | None:
    for row, rendered in made.items():
        box = rendered.params.get("crop_box")
        if box is None:
            return None
        height, width = world.samples[row].size
        inside = box_inside(box, np.asarray(height), np.asarray(width), whole=False)
        if not inside.all():
            view = int(np.argmin(inside))
            return f"row {row}, view {view}: crop_box {box[view].tolist()} of {height}x{width}"
    return None


def _not_replayed(settings: Settings, world: World, made: Mapping[int, Rendered]) -> str | None:
    recipe = settings.recipe()
    assert recipe is not None, "it has one"
    resolved = settings.resolve(world.context)
    names = tuple(column.name for column in resolved.columns())
    renderer = recipe.renderer(names, (resolved.height, resolved.width))
    parented = PARENT in settings.inputs()
    for row, rendered in made.items():
        for view in range(resolved.views):
            params = {name: np.asarray(rendered.params[name])[view] for name in names}
            sample = world.samples[row]
            if parented:
                assert sample.parent is not None
                image = sample.parent.pixels()[int(params["parent"])]
            else:
                image = sample.image
            found = renderer.render(image, params)
            assert rendered.pixels is not None
            if wrong := _unequal(rendered.pixels[view], found):
                return f"row {row}, view {view}{wrong}"
    return None
