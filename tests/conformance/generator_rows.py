"""Every generator on a small world. As a program it prints what it makes in its own process.

python -m tests.conformance.generator_rows CASE

A case is the name of a generator. One that describes views does so of a set of three views, and
once more, as "NAME of source", of the images.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np

from tests.generators.latent_world import (
    FixedParams,
    FixedPlan,
    FixedViewSet,
    World,
    make_world,
    small_encoder,
    world_on,
)
from viewstore.generators import GENERATORS, make_settings, settings_class
from viewstore.generators.contract import Context, Rendered, Resolved, Sample
from viewstore.images.raw import Raw
from viewstore.images.resize import resize

NUM = 5
# What makes a generator quick on this world; everything else is its default.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "recon": {"max_steps": 20, "slots": 4},
    "w-search": {"views": 3, "slots": 4, "eps1": 0.3},
    "w-perturb": {"views": 3},
    "embed": {"slots": 3},
}
DESCRIBING = {name for name in GENERATORS if settings_class(name).KIND == "columns"}
OF_SOURCE = " of source"
CASES = (*GENERATORS, *(f"{name}{OF_SOURCE}" for name in sorted(DESCRIBING - {"duplicates"})))


def generator_of(case: str) -> str:
    """Return the name of the generator of a case."""
    return case.removesuffix(OF_SOURCE)


def picture(row: int) -> Any:  # noqa: ANN401
    """Return a source image whose size depends on its row."""
    height, width = 40 + row, 50 - row
    rows, columns = np.mgrid[:height, :width]
    return (np.stack([rows * 5 + row, columns * 3, rows * columns // 4], -1) % 256).astype("u1")


@cache
def world_of(case: str) -> World:
    """Return what the generator of a case works on."""
    name = generator_of(case)
    if name == "duplicates":
        return hashed_world()
    if name in DESCRIBING:
        return described_world(of_source=case != name)
    if GENERATORS[name].settings != "Expert":
        return make_world(num=NUM)
    return pictures()


def pictures() -> World:
    """Return source images of several sizes."""
    context = Context(
        seed=3,
        view_set="views",
        num_samples=NUM,
        source_height=None,
        source_width=None,
        source_image=picture,
        codec=Raw(),
    )
    return World(context, tuple(Sample.of(row, picture(row)) for row in range(NUM)))


def described_world(*, of_source: bool) -> World:
    """Return pictures, three views of each of which the last was never made, and an encoder."""
    images = np.stack([resize(picture(row), 16, 16) for row in range(NUM)])
    world = pictures().with_models(encoder=small_encoder(images, in_channels=3))
    if of_source:
        return world
    views = np.stack([images, images[:, ::-1], images[:, :, ::-1]], axis=1)
    status = np.tile(np.array([1, 2, 4], np.uint8), (NUM, 1))
    return world_on(world.context, stored_views("views", views, {"status": status}), images)


def hashed_world() -> World:
    """Return pictures of which two are the same, and their hashes."""
    dhash = np.array([[7], [2**63], [7], [2**40 + 1], [2**50]], np.uint64)
    params = {"dhash": dhash, "status": np.ones((NUM, 1), np.uint8)}
    nothing = np.zeros((NUM, 1, 0, 0, 0), np.uint8)
    parent = stored_views("quality", nothing, params)
    return world_on(pictures().context, replace(parent, of="source"), nothing)


def stored_views(name: str, pixels: Any, params: Mapping[str, Any]) -> FixedViewSet:  # noqa: ANN401
    """Return a view set in memory."""
    return FixedViewSet(name, FixedPlan((), {"args": {}}), FixedParams(params), pixels)


def settings_of(case: str) -> Resolved:
    """Return the resolved settings of a case, as a plan gives them back."""
    context = world_of(case).context
    return make_settings(generator_of(case), stored_settings(case)).resolve(context)


def stored_settings(case: str) -> dict[str, Any]:
    """Return what a plan stores of the settings of a case."""
    name = generator_of(case)
    small = {"height": 32, "width": 32} if GENERATORS[name].settings == "Expert" else {}
    of = {"of": "views"} if name in DESCRIBING - {"duplicates"} and case == name else {}
    settings = make_settings(name, {**small, **of, **QUICK.get(name, {})})
    resolved = settings.resolve(world_of(case).context)
    stored: dict[str, Any] = json.loads(json.dumps(asdict(resolved)))  # type: ignore[call-overload]
    return stored


def render(case: str, rows: Iterable[int], *, seed: int = 3) -> dict[int, Rendered]:
    """Return what is made of `rows`, in this order."""
    world = world_of(case)
    generator = settings_of(case).make(replace(world.context, seed=seed))
    found = generator.render(world.samples[row] for row in rows)
    return {rendered.index: rendered for rendered in found}


def digest(rendered: Rendered) -> str:
    """Return the sha256 of pixels, if there are any, and params."""
    pixels = b"" if rendered.pixels is None else rendered.pixels.tobytes()
    found = hashlib.sha256(pixels)
    for name in sorted(rendered.params):
        found.update(name.encode() + np.ascontiguousarray(rendered.params[name]).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    made = render(sys.argv[1], range(NUM))
    print(json.dumps([digest(made[row]) for row in range(NUM)]))
