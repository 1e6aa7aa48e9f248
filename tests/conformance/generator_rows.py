"""Every generator on a small world. As a program it prints the views it makes in its own process.

python -m tests.conformance.generator_rows NAME
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.generators.latent_world import World, make_world
from tests.generators.standard_views import context_of, samples_on, standard_views
from viewstore.files.naming import ViewFiles
from viewstore.format.listing import Listing
from viewstore.generators import GENERATORS, make_settings
from viewstore.generators.contract import PARENT, Rendered, Resolved
from viewstore.sources.view_files import scan_views

NUM = 5
PIXELS = ("Expert", "Heavy")  # settings of those that need no network
# What makes a generator quick on this world; everything else is its default.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "recon": {"max_steps": 20, "slots": 4},
    "w-search": {"views": 3, "slots": 4, "eps1": 0.3},
    "w-perturb": {"views": 3},
}


def picture(row: int) -> Any:  # noqa: ANN401
    """Return a source image whose size depends on its row."""
    height, width = 40 + row, 50 - row
    rows, columns = np.mgrid[:height, :width]
    return (np.stack([rows * 5 + row, columns * 3, rows * columns // 4], -1) % 256).astype("u1")


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


@cache
def world_of(name: str) -> World:
    """Return what generator `name` works on."""
    if name == "import":
        context = replace(world_of("simclr").context, models={"listing": listed()})
        return World(context, world_of("simclr").samples)
    if GENERATORS[name].settings not in PIXELS:
        return make_world(num=NUM)
    inputs = make_settings(name, {}).inputs()
    parent = standard_views(picture, NUM, views=3) if PARENT in inputs else None
    context = context_of(picture, NUM, parent=parent)
    return World(context, samples_on(picture, parent, NUM))


def settings_of(name: str) -> Resolved:
    """Return the resolved settings of generator `name`, as a plan gives them back."""
    context = world_of(name).context
    return make_settings(name, stored_settings(name)).resolve(context)


def stored_settings(name: str) -> dict[str, Any]:
    """Return what a plan stores of the settings of generator `name`."""
    small = {"height": 32, "width": 32} if GENERATORS[name].settings in PIXELS else {}
    files = {"files": f"{files_folder()}/{{key}}_{{view}}.png"} if name == "import" else {}
    settings = make_settings(name, {**small, **files, **QUICK.get(name, {})})
    resolved = settings.resolve(world_of(name).context)
    stored: dict[str, Any] = json.loads(json.dumps(asdict(resolved)))  # type: ignore[call-overload]
    return stored


def render(name: str, rows: Iterable[int], *, seed: int = 3) -> dict[int, Rendered]:
    """Return the views of `rows`, rendered in this order."""
    world = world_of(name)
    generator = settings_of(name).make(replace(world.context, seed=seed))
    found = generator.render(world.samples[row] for row in rows)
    return {rendered.index: rendered for rendered in found}


def digest(rendered: Rendered) -> str:
    """Return the sha256 of pixels and params."""
    found = hashlib.sha256(rendered.pixels.tobytes())
    for name in sorted(rendered.params):
        found.update(name.encode() + np.ascontiguousarray(rendered.params[name]).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    made = render(sys.argv[1], range(NUM))
    print(json.dumps([digest(made[row]) for row in range(NUM)]))
