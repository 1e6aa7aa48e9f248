"""The data of the workloads: one store each, and the same bytes as every peer wants them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from contest.photos import jpegs, photographs, write_tars
from contest.workloads import CHECK_DATA, CHECKED, VIEW_SET, Workload
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.files.disk import write_atomic
from viewstore.store.store import Store, open_store

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
VERSION = 1
ROWS_PER_SHARD = {"small": 1_024, "jpg": 256, "raw": 256, "photos": 256, CHECK_DATA: 16}
ANCHOR_SIDE = 32  # of the one view that a store of photographs must have


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Where real images come from.

    Attributes:
        small: Source of 32 px images, as `viewstore build` takes it.
        photos: Folder of photographs.
    """

    small: str
    photos: Path


def prepare(folder: Path, workloads: list[Workload], origins: Origins, peers: str | None) -> None:
    """Make what is missing of the data of `workloads` in `folder`."""
    for workload in workloads:
        _prepare(folder, workload, origins)
        if workload.kind == "online":
            _prepare(folder, replace(workload, data=CHECK_DATA, samples=CHECKED), origins)
    if peers is not None:
        for name in {each.data for each in workloads} | {CHECK_DATA}:
            if (folder / name).is_dir() and not (folder / name / "data.beton").is_file():
                write_beton(folder / name, peers)


def _prepare(folder: Path, workload: Workload, origins: Origins) -> None:
    target = folder / workload.data
    facts = _facts(folder, workload, origins)
    stamp = target / "made.json"
    if stamp.is_file():
        made = json.loads(stamp.read_text())
        if made == facts or (
            made | {"samples": 0} == facts | {"samples": 0} and made["samples"] > facts["samples"]
        ):
            return
        shutil.rmtree(target)
    elif target.exists():  # its making was cut short
        shutil.rmtree(target)
    target.mkdir(parents=True)
    if workload.kind == "online":
        _make_photos(target, workload, origins)
    else:
        _make_views(folder, target, workload, origins)
    write_atomic(stamp, json.dumps(facts).encode())


def _facts(folder: Path, workload: Workload, origins: Origins) -> dict[str, Any]:
    fields = asdict(workload)
    kept = ("kind", "data", "samples", "cached", "side")
    origin = origins.small if workload.data == "small" else str(origins.photos)
    return {"version": VERSION, "origin": origin, **{name: fields[name] for name in kept}}


def _make_photos(target: Path, workload: Workload, origins: Origins) -> None:
    square = workload.data == CHECK_DATA
    images = jpegs(photographs(origins.photos), workload.samples, square=square)
    write_tars(target / "tars", images)
    store = _build(
        target,
        source=_brace(target / "tars"),
        limit=workload.samples,
        data=workload.data,
        settings={"views": 1, "height": ANCHOR_SIDE, "width": ANCHOR_SIDE},
        codec="jpg",
    )
    _write_spans(target, [[store.source.read(row)] for row in range(workload.samples)])


def _make_views(folder: Path, target: Path, workload: Workload, origins: Origins) -> None:
    source = origins.small
    if workload.data != "small":
        source = _photo_source(folder, workload.samples, origins)
    store = _build(
        target,
        source=source,
        limit=workload.samples,
        data=workload.data,
        settings={"views": workload.cached, "height": workload.side, "width": workload.side},
        codec=workload.kind,
    )
    if store.num_samples != workload.samples:
        raise ConfigError(
            f"workload {workload.name} needs {workload.samples} images, "
            f"{source} has {store.num_samples}"
        )
    if workload.kind == "jpg":
        _write_spans(target, [_members(store, row) for row in range(workload.samples)])
        return
    shape = (workload.samples, workload.cached, workload.side, workload.side, 3)
    flat = np.lib.format.open_memmap(target / "views.npy", "w+", np.uint8, shape)
    for row in range(workload.samples):
        flat[row] = store.view_sets[VIEW_SET][row]
    flat.flush()


def _photo_source(folder: Path, samples: int, origins: Origins) -> str:
    """Return the tars of photographs that cached 224 px views are rendered from."""
    tars = folder / f"photos-{samples}"
    if not (tars / "whole").is_file():
        shutil.rmtree(tars, ignore_errors=True)
        write_tars(tars, jpegs(photographs(origins.photos), samples, square=False))
        (tars / "whole").touch()
    return _brace(tars)


def _brace(tars: Path) -> str:
    last = len(list(tars.glob("*.tar"))) - 1
    return str(tars / f"{{0000..{last:04d}}}.tar") if last else str(tars / "0000.tar")


def _build(
    target: Path, *, source: str, limit: int, data: str, settings: dict[str, Any], codec: str
) -> Store:
    request = BuildRequest(
        generator="simclr",
        view_set=VIEW_SET,
        out=target / "store",
        source=source,
        limit=limit,
        shard_rows=min(ROWS_PER_SHARD[data], max(1, limit // 4)),
        settings=settings,
        codec=codec,
    )
    build(request)
    return open_store(target / "store")


def _members(store: Store, row: int) -> list[bytes]:
    view_set = store.view_sets[VIEW_SET]
    shard = row // store.shard_rows
    descriptor = view_set.shards[shard].open()
    try:
        places = [
            view_set.members[row, place]
            for place, name in enumerate(view_set.plan.members)
            if name != "json"
        ]
        return [os.pread(descriptor, int(at["size"]), int(at["offset"])) for at in places]
    finally:
        os.close(descriptor)


def _write_spans(target: Path, images: list[list[bytes]]) -> None:
    """Write all encoded images end to end, and where each lies: [N, views, 2]."""
    spans = []
    position = 0
    with (target / "images.bin").open("wb") as stream:
        for views in images:
            for data in views:
                stream.write(data)
                spans.append((position, len(data)))
                position += len(data)
    np.save(target / "spans.npy", np.array(spans, np.int64).reshape(len(images), -1, 2))


def write_beton(folder: Path, peers: str) -> None:
    """Write data.beton with the peers' Python, if that has ffcv.

    Raises:
        subprocess.CalledProcessError: It has, and could not.
    """
    found = subprocess.run([peers, "-c", "import ffcv"], capture_output=True, check=False)
    if found.returncode == 0:
        subprocess.run(
            [peers, "-m", "contest.beton", str(folder)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            check=True,
            capture_output=True,
        )
