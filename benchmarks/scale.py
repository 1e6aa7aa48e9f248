"""What ImageNet with 8 stored views an image costs to build, to keep and to stream on many hosts.

    python benchmarks/scale.py --out benchmarks/results/scale.json

Measured here: bytes and seconds of views of photographs, what a store of that many rows takes to
open, what small ranges cost `viewstore serve` and a loader. All else is computed (scale_model.py)
from these and from what a site is assumed to have. A simulated store of 1,281,167 rows takes half
a minute and 0.3 GB; --store DIR keeps it for the next time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from contest import results, usage
from contest.data import ROOT, SHARED
from memory import own_bytes
from scale_model import Costs, Site, Stored, building, keeping, opening, ranges, streaming
from serve import ours, take
from simulated import simulate

from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.disk import write_atomic
from viewstore.images.codec import codec_from_plan
from viewstore.images.resize import resize
from viewstore.sources.open import open_source
from viewstore.store.store import Store, open_store

ROWS, VIEWS, SHOWN, SIDE = 1_281_167, 8, 2, 224
HOSTS = (1, 8, 64)
SHARD_ROWS = (512, 1024, 4096)
W_SEARCH_SECONDS = 12.19 * 3600 / 50_000  # of an A100: the paper's, for 8 views of 32 px
RANGE_BYTES = 64 << 10
REQUESTS, CONNECTIONS = 4000, 8
SMALL_FILES = 5  # that each rank asks for: manifest twice, sources, plan, stats
UNLIMITED = 1 << 50


def views_of_photographs(photos: Path, out: Path) -> dict[str, Any]:
    """Build views of photographs in this process; return their bytes and seconds."""
    began = time.process_time()
    count = open_source(str(photos)).table.label.size
    scan = time.process_time() - began
    settings = {"views": VIEWS, "height": SIDE, "width": SIDE}
    began = time.process_time()
    build(
        BuildRequest(
            generator="simclr",
            out=out,
            source=str(photos),
            codec="jpg",
            settings=settings,
            shard_rows=64,
            workers=1,
        )
    )
    seconds = time.process_time() - began - scan
    views = open_store(out).view_sets["simclr"]
    pictures = [number for number, name in enumerate(views.plan.members) if name != "json"]
    return {
        "photographs": count,
        "view_bytes": float(views.members["size"][:, pictures].mean()),
        "whole_picture_bytes": whole_picture_bytes(views.plan.codec, photos),
        "param_bytes": sum(column.row_bytes for column in views.plan.columns),
        "sample_seconds": seconds / count,
        "scan_seconds": scan / count,
    }


def whole_picture_bytes(codec: Any, photos: Path) -> float:  # noqa: ANN401
    """Return the mean bytes of photographs that are resized whole, as generated views are."""
    from PIL import Image

    encode = codec_from_plan(codec).encode
    found = []
    for path in sorted(photos.rglob("*.[jJ]*")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        found.append(len(encode(resize(pixels, SIDE, SIDE))))
    return statistics.mean(found)


def one_rank(place: str, cache: Path) -> dict[str, Any]:
    """Open a store and read a batch, as a rank of 64; return seconds and memory."""
    import torch

    from viewstore.loaders import Cached, ViewLoader

    torch.set_num_threads(1)
    before = own_bytes()["own"]
    clock = time.perf_counter(), time.process_time()
    store = open_store(place, cache=CacheSettings(directory=cache, limit_bytes=UNLIMITED))
    views = [Cached("jpg", n=SHOWN, params=())]
    with ViewLoader(
        store, views, batch_size=4096, rank=0, world_size=64, num_threads=1, resident=False
    ) as loader:
        next(iter(loader))
        return {
            "seconds": time.perf_counter() - clock[0],
            "cpu_seconds": time.process_time() - clock[1],
            "own_bytes": own_bytes()["own"] - before,
            "shared_bytes": own_bytes()["mapped"],
            "open_files": len(list(Path("/proc/self/fd").iterdir())),
        }


def ranks_opened(store: Path) -> dict[str, Any]:
    """Return what a rank takes to open a store here, and over a URL the first and second time."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name, place in (
            ("local", str(store)),
            ("remote, first of its host", f"local://{store}"),
            ("remote, others", f"local://{store}"),
        ):
            command = [sys.executable, __file__, "--one", place, cache]
            done = subprocess.run(command, check=True, capture_output=True)
            found[name] = json.loads(done.stdout)
    return found


def small_ranges(store: Path) -> dict[str, float]:
    """Ask `viewstore serve` for ranges of 64 KiB over several connections."""
    shards = open_store(store).view_sets["simclr"].shards.values()
    place = np.random.Generator(np.random.Philox(1))
    with ours(store) as server:
        todo = []
        for _ in range(REQUESTS):
            blob = list(shards)[place.integers(len(shards))].blob
            start = int(place.integers(blob.bytes - RANGE_BYTES))
            header = {"Range": f"bytes={start}-{start + RANGE_BYTES - 1}"}
            todo.append((f"views/simclr/{blob.name}", RANGE_BYTES, header))
        threads = [
            threading.Thread(target=take, args=[server, todo[number::CONNECTIONS]])
            for number in range(CONNECTIONS)
        ]
        spent, began = usage.cpu_seconds(server.pid), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        cpu = usage.cpu_seconds(server.pid) - spent
    return {"requests_per_second": REQUESTS / seconds, "cpu_seconds_per_request": cpu / REQUESTS}


def loaded(place: str | Path, limit: int, epochs: int) -> float:
    """Return the CPU seconds of this process for an image, by a loader of two views."""
    from viewstore.loaders import Cached, ViewLoader

    with tempfile.TemporaryDirectory() as cache:
        store: Store = open_store(
            place, cache=CacheSettings(directory=Path(cache), limit_bytes=limit)
        )
        views = [Cached("simclr", n=SHOWN, params=())]
        with ViewLoader(store, views, batch_size=8, num_threads=2) as loader:
            list(loader)
            began = time.process_time()
            count = sum(len(batch) for _ in range(epochs) for batch in loader)
            return (time.process_time() - began) / count


def loaders_by_ranges(store: Path) -> dict[str, float]:
    """Return the CPU seconds of a reader for an image, of files and of ranges of a server."""
    with ours(store) as server:
        url = f"http://127.0.0.1:{server.port}{server.before}".rstrip("/")
        return {"files": loaded(store, UNLIMITED, 20), "ranges": loaded(url, 0, 5)}


@contextmanager
def simulated(place: Path | None) -> Iterator[Path]:
    """Make the store of many rows, or take the one that is there."""
    with tempfile.TemporaryDirectory() as scratch:
        root = (place or Path(scratch)) / "in1k"
        if not root.is_dir():
            root.parent.mkdir(parents=True, exist_ok=True)
            simulate(root, ROWS, views=VIEWS, codecs=["jpg"])
        yield root


def measured(photos: Path, place: Path | None) -> dict[str, Any]:
    """Return all that is measured."""
    with tempfile.TemporaryDirectory() as scratch, simulated(place) as many:
        out = Path(scratch) / "photographs"
        columns = sum(path.stat().st_size for path in many.glob("sources/*.npy"))
        index = (many / "views/jpg/index.json").stat().st_size
        return {
            **views_of_photographs(photos, out),
            "index_bytes": index / -(-ROWS // 1024),
            "source_bytes": columns / ROWS,
            "opening": ranks_opened(many),
            "small_ranges": small_ranges(out),
            "loader_cpu_seconds_an_image": loaders_by_ranges(out),
        }


def serve_seconds() -> float:
    """Return the CPU seconds of `viewstore serve` for a GiB, as benchmarks/serve.py measured."""
    served = json.loads((ROOT / "benchmarks/results/serve.json").read_text())
    return float(served["servers"]["viewstore"]["whole"]["cpu_seconds_per_gib"])


def computed(found: dict[str, Any], site: Site, terabyte_month: float) -> dict[str, Any]:
    """Return the costs for each size of shards and number of hosts."""
    seconds = {"crops": found["sample_seconds"], "w-search, paper, A100": W_SEARCH_SECONDS}
    facts = {field.name: found[field.name] for field in fields(Stored) if field.name in found}
    costs = Costs(
        view=found["loader_cpu_seconds_an_image"]["files"] / SHOWN,
        range=found["small_ranges"]["cpu_seconds_per_request"],
        gib=serve_seconds(),
    )
    told: dict[str, Any] = {}
    for shard_rows in SHARD_ROWS:
        stored = Stored(rows=ROWS, views=VIEWS, shown=SHOWN, shard_rows=shard_rows, **facts)
        told[str(shard_rows)] = {
            "build": building(stored, seconds, found["scan_seconds"]),
            "keep": keeping(stored, terabyte_month),
            "ranges_of_an_image": {
                shuffle: ranges(stored, 64, 64 * site.batch, shuffle)
                for shuffle in ("global", "block:8")
            },
            "hosts": {
                str(hosts): {
                    **opening(stored, site, hosts, SMALL_FILES),
                    **streaming(stored, site, hosts, costs),
                }
                for hosts in HOSTS
            },
        }
    return told


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the simulated store here")
    parser.add_argument("--photos", type=Path, default=SHARED / "imagenet-sample", metavar="DIR")
    parser.add_argument("--price", type=float, default=1.0, help="of a terabyte-month, any money")
    for field in fields(Site):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        print(json.dumps(one_rank(options.one[0], Path(options.one[1]))))
        return
    site = Site(**{field.name: getattr(options, field.name) for field in fields(Site)})
    load = usage.load()
    facts = measured(options.photos, options.store)
    found = {
        "schema": 1,
        "load": load,
        **results.provenance(ROOT),
        "measured": facts,
        "assumed": asdict(site),
        "computed_by_shard_rows": computed(facts, site, options.price),
    }
    print(json.dumps(found, indent=1))
    if options.out is not None:
        write_atomic(options.out, json.dumps(found, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
