"""Small real stores for the tests of loading, built by the build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import viewstore
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ViewStoreError
from viewstore.loaders import ViewLoader
from viewstore.store.store import Store

NUM_DIGITS = 70
SHARD_ROWS = 16


def digits_store(
    out: Path, *, limit: int = NUM_DIGITS, seed: int = 5, shard_rows: int = SHARD_ROWS
) -> Store:
    """Return 70 digits in 5 shards, the last ragged; raw view sets of 3 and of 4 views."""
    small = {"height": 12, "width": 12}
    request = BuildRequest(
        generator="digits",
        out=out,
        source="digits",
        limit=limit,
        shard_rows=shard_rows,
        settings={**small, "views": 3},
        workers=1,
    )
    build(request)
    build(
        BuildRequest(
            generator="simclr",
            out=out,
            view_set="hard",
            settings={**small, "views": 4},
            workers=1,
            seed=seed,
        )
    )
    return viewstore.open(out)


def photographs(folder: Path, count: int = 22) -> Path:
    """Write JPEG files of several sizes into two class folders."""
    for number in range(count):
        height, width = 60 + number, 90 - number
        rows, columns = np.mgrid[:height, :width]
        waves = np.stack([rows * 2 + number * 9, columns * 3, rows + columns], axis=-1)
        path = folder / ("cats", "dogs")[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((waves % 256).astype(np.uint8)).save(path, quality=90)
    return folder


def photograph_store(out: Path, source: Path) -> Store:
    """Return views of photographs as jpg and as png."""
    settings = {"views": 2, "height": 48, "width": 40}
    for codec in ("jpg", "png"):
        build(
            BuildRequest(
                generator="moco",
                out=out,
                view_set=codec,
                source=str(source),
                codec=codec,
                shard_rows=8,
                settings=settings,
                workers=1,
            )
        )
    return viewstore.open(out)


def damage(store: Store, name: str, row: int, *, at: int = 200) -> None:
    """Flip one bit of a member of `row`."""
    views = store.view_sets[name]
    shard = views.shards[row // store.shard_rows]
    offset = int(views.members[row, -1]["offset"]) + at
    shard.path.chmod(0o644)
    with shard.path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def batches_before_error(loader: ViewLoader) -> tuple[int, ViewStoreError]:
    """Return how many batches an epoch gave before one raised, and what it raised."""
    count = 0
    try:
        for _ in loader:
            count += 1
    except ViewStoreError as error:
        return count, error
    raise AssertionError("no batch raised")


def as_array(pixels: Any) -> Any:  # noqa: ANN401
    """Return delivered pixels [B, C, H, W] as an array [B, H, W, C]."""
    return pixels.permute(0, 2, 3, 1).numpy()
