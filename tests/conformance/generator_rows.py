"""Every generator on a small world. As a program it prints what all make in its own process.

python -m tests.conformance.generator_rows

A case is the name of a generator. One that describes views does so of a set of three views, and
once more, as "NAME of source", of the images; one that makes views of views does so as "NAME of
views". "w-search by secant" is its other solver.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.generators.latent_world import (
    FixedParams,
    FixedPlan,
    FixedViewSet,
    World,
    make_world,
    small_encoder,
    world_on,
)
from tests.generators.standard_views import context_of, samples_on, standard_views
from viewstore.files.naming import ViewFiles
from viewstore.format.listing import Listing
from viewstore.generators import GENERATORS, make_settings, settings_class
from viewstore.generators.conformance.checks import digests, rendered_rows, stored
from viewstore.generators.conformance.world import NUM, picture
from viewstore.generators.contract import PARENT, Rendered, Resolved, Settings
from viewstore.images.resize import resize
from viewstore.sources.view_files import scan_views
from viewstore.train.encoder_file import Encoder
from viewstore.train.nets.spatial_transformer import SpatialTransformer, TransformerShape
from viewstore.train.nets.view_maker import ViewMaker, ViewMakerShape
from viewstore.train.scoring.scorer import EncoderScorer
from viewstore.train.selection_file import Selections

PIXELS = ("Expert", "Heavy")  # settings of those that need no network
# What makes a generator quick on this world; everything else is its default.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "recon": {"max_steps": 8, "slots": 4},
    "w-search": {"views": 3, "slots": 4, "eps1": 0.3},
    "w-perturb": {"views": 3},
    "embed": {"slots": 3},
    "adversarial": {"slots": 2, "bank": 3, "steps": 2, "random_start": True, "eps": 3},
    "viewmaker": {"slots": 2, "views": 3},
    "stn": {"slots": 2},
    "stn-local": {"slots": 2},
    "hard": {"slots": 3, "bank": 3},
}
LEARNED = ("viewmaker", "stn", "stn-local")
OF_VIEWS = " of views"
DESCRIBING = {name for name in GENERATORS if settings_class(name).KIND == "columns"}
OF_SOURCE = " of source"
ABOUT_IMAGES = {"duplicates", "selection"}  # and about nothing else
ABOUT_VIEWS = {"hard"}
BOTH = sorted(DESCRIBING - ABOUT_IMAGES - ABOUT_VIEWS)
BY_SECANT = " by secant"
CASES = (
    *GENERATORS,
    *(f"{name}{OF_SOURCE}" for name in BOTH),
    f"viewmaker{OF_VIEWS}",
    f"w-search{BY_SECANT}",
)


def generator_of(case: str) -> str:
    """Return the name of the generator of a case."""
    return case.removesuffix(OF_SOURCE).removesuffix(OF_VIEWS).removesuffix(BY_SECANT)


@cache
def files_folder() -> Path:
    """Return a folder of ready-made views, two of each sample, for as long as this process runs."""
    folder = Path(tempfile.mkdtemp(prefix="viewstore-import-"))
    atexit.register(shutil.rmtree, folder)
    for row in range(NUM):
        for view in (0, 1):
            Image.fromarray(picture(row + view)[:32, :32]).save(folder / f"{row}_{view}.png")
    return folder


def listed() -> Listing:
    """Return the listing of these files, with a column of params."""
    files = ViewFiles.parse(f"{files_folder()}/{{key}}_{{view}}.png")
    found = scan_views(files, [str(row) for row in range(NUM)], views=None, missing=False)
    scores = np.arange(2 * NUM, dtype=np.float32).reshape(NUM, 2)
    return Listing.of(found.places, found.names, {"distance": scores})


def logged() -> Selections:
    """Return what a training chose of each of these images."""
    values = np.random.default_rng(0)
    return Selections(
        epoch=2,
        source="",
        pairs=torch.combinations(torch.arange(3)).byte(),
        step=torch.arange(NUM),
        sample=torch.arange(NUM).flip(0),
        losses=torch.from_numpy(values.normal(size=(NUM, 3)).astype(np.float32)),
        chosen=torch.arange(NUM) % 3,
        selected=torch.arange(2 * NUM).reshape(NUM, 2).byte(),
        iou=torch.from_numpy(values.random((NUM, 3), np.float32)),
    )


@cache
def world_of(case: str) -> World:
    """Return what the generator of a case works on."""
    name = generator_of(case)
    if name == "duplicates":
        return hashed_world()
    if name == "selection":
        return pictures().with_models(selection=logged())
    if name in ("hard", "cutmix", "adversarial"):
        return scored_world()
    if name in DESCRIBING:
        return described_world(of_source=case != name)
    if name == "import":
        return pictures().with_models(listing=listed())
    if name in LEARNED:
        return learned_world(of_views=case != name)
    if GENERATORS[name].settings not in PIXELS:
        return make_world(num=NUM)
    inputs = make_settings(name, {}).inputs()
    parent = standard_views(picture, NUM, views=3) if PARENT in inputs else None
    context = context_of(picture, NUM, parent=parent)
    return World(context, samples_on(picture, parent, NUM))


def pictures() -> World:
    """Return source images of several sizes."""
    return World(context_of(picture, NUM), samples_on(picture, None, NUM))


def described_world(*, of_source: bool) -> World:
    """Return pictures, three views of each of which the last was never made, and an encoder."""
    images = np.stack([resize(picture(row), 16, 16) for row in range(NUM)])
    world = pictures().with_models(encoder=small_encoder(images, in_channels=3))
    if of_source:
        return world
    views = np.stack([images, images[:, ::-1], images[:, :, ::-1]], axis=1)
    status = np.tile(np.array([1, 2, 4], np.uint8), (NUM, 1))
    return world_on(world.context, stored_views("views", views, {"status": status}), images)


def scored_world() -> World:
    """Return four views of pictures with their boxes, the last never made, and a scorer."""
    images = np.stack([resize(picture(row), 16, 16) for row in range(NUM)])
    encoder = small_encoder(images, in_channels=3)
    settings = replace(encoder.settings, provenance={"steps": 7})
    scorer = EncoderScorer(Encoder(settings, encoder.network))
    views = np.stack([images, images[:, ::-1], images[:, :, ::-1], images * 0], axis=1)
    params = {
        "status": np.tile(np.array([1, 2, 1, 4], np.uint8), (NUM, 1)),
        "crop_box": np.random.default_rng(0).uniform(1, 8, (NUM, 4, 4)).astype(np.float32),
    }
    world = pictures().with_models(scorer=scorer)
    return world_on(world.context, stored_views("views", views, params), images)


def learned_world(*, of_views: bool) -> World:
    """Return pictures, or three views of each of which the last was never made, and networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        maker = ViewMaker(ViewMakerShape(size=8))
        cutter = SpatialTransformer(TransformerShape(size=16, local_size=8, n_locals=3))
        for head in cutter.heads:  # which begin as the identity
            torch.nn.init.normal_(head[-1].weight, std=0.2)  # type: ignore[index,arg-type]
    networks = {"viewmaker": maker, "stn": cutter}
    world = pictures().with_models(
        **{role: each.requires_grad_(False).eval() for role, each in networks.items()}
    )
    if not of_views:
        return world
    images = np.stack([resize(picture(row), 12, 12) for row in range(NUM)])
    status = np.tile(np.array([1, 2, 4], np.uint8), (NUM, 1))
    views = np.stack([images, images[:, ::-1], images[:, :, ::-1]], axis=1)
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
    return planned_settings(case).resolve(world_of(case).context)


def planned_settings(case: str) -> Settings:
    """Return the settings of a case as a plan gives them back: none of them is automatic."""
    return make_settings(generator_of(case), stored_settings(case))


def stored_settings(case: str) -> dict[str, Any]:
    """Return what a plan stores of the settings of a case."""
    name = generator_of(case)
    small = {"height": 32, "width": 32} if GENERATORS[name].settings in PIXELS else {}
    files = {"files": f"{files_folder()}/{{key}}_{{view}}.png"} if name == "import" else {}
    of_views = name in DESCRIBING - ABOUT_IMAGES and case == name
    of = {"of": "views"} if of_views or case.endswith(OF_VIEWS) else {}
    solver = {"solver": "secant"} if case.endswith(BY_SECANT) else {}
    settings = make_settings(name, {**small, **files, **of, **solver, **QUICK.get(name, {})})
    return stored(settings.resolve(world_of(case).context))


def render(case: str, rows: Iterable[int], *, seed: int = 3) -> dict[int, Rendered]:
    """Return what is made of `rows`, in this order."""
    return rendered_rows(planned_settings(case), world_of(case), rows, seed=seed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({case: digests(planned_settings(case), world_of(case)) for case in CASES}))
