"""Times and bytes of the pages on a large store: opening, filters with orders, thumbnails, memory.

    python benchmarks/pages.py --samples 1000000 --out benchmarks/results/pages.json

The store has 8 views of 8 px and 10 columns a sample (`made.py`); it takes minutes and 4.4 GB, and
--store DIR keeps it for the next time. Thumbnails are made of photographs, in a store of their own.
Each figure that a process gives once (opening, the first page) is taken in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from contest import usage
from contest.data import SHARED
from contest.results import provenance
from made import make

from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.files.disk import write_atomic
from viewstore.inspect.pages.site import Site
from viewstore.store.store import open_store

ROUNDS = 5
# Pairs of a filter and an order: each round asks for another pair, of columns read before.
QUERIES = (
    ("any(distance > 0.31 and flip = 1)", "-x_loss"),
    ("any(blur = 0 and gray = 1) and label < 500", "mean_pair_distance"),
    ("all(distance < 0.33) and any(status = 2)", "-distance"),
    ("x_loss > 9 or any(min_pair_distance < 0.1)", "blur"),
    ("not any(flip = 1) or label in [1, 2, 3]", "-min_pair_distance"),
)
LIMITS = {  # of the specification, milliseconds and bytes
    "open": 1000,
    "first_page": 200,
    "filter_and_order": 300,
    "the_same_again": 100,
    "html_bytes": 120_000,
    "thumbnail_bytes": 12_000,
    "thumbnail_224": 2,
    "thumbnail_96": 1,
}


class Took(NamedTuple):
    """Milliseconds of a clock and of this process on a CPU: they differ on a busy machine."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> tuple[Took, Any]:
    """Return the time and the result of a call."""
    begin, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall = time.perf_counter() - begin
    return Took(1000 * wall, 1000 * (time.process_time() - cpu)), result


def one_process(store: Path) -> dict[str, Any]:
    """Open the store and ask for pages, as a server that has just begun does."""
    opening, opened = timed(lambda: open_store(store))
    site = Site({"made": lambda: opened})

    def page(**fields: str) -> tuple[Took, bytes]:
        took, found = timed(lambda: site.get("made", "browse", urlencode(fields)))
        assert found.status == 200, found.body
        return took, found.body

    first, body = page()
    cold = [page(where=where, sort=sort)[0] for where, sort in QUERIES]
    # The columns are in memory now; other limits are other queries.
    moved = [(where.replace("0.3", "0.29"), sort) for where, sort in QUERIES[:1] + QUERIES[2:3]]
    moved += [(f"{where} and index != 7", sort) for where, sort in QUERIES]
    new, again, sizes = [], [], [len(body)]
    for where, sort in moved:
        took, html = page(where=where, sort=sort)
        new.append(took)
        sizes.append(len(html))
        again.append(page(where=where, sort=sort)[0])
    later = [page(where=where, sort=sort, page="40")[0] for where, sort in moved]
    times = {
        "open": [opening],
        "first_page": [first],
        "filter_and_order_columns_unread": cold,
        "filter_and_order": new,
        "the_same_again": again,
        "page_40": later,
        "worst_first": [page(sort="worst")[0]],
        "random": [page(sort="random", seed="3")[0]],
    }
    return {
        "times": times,
        "html_bytes": max(sizes),
        "column_bytes": site.columns.weight,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "thumbnails": thumbnails(site, body),
    }


def thumbnails(site: Site, html: bytes) -> dict[str, Any]:
    """Ask for the pictures of a page; return their bytes and milliseconds by side."""
    sources = [unescape(each) for each in re.findall(r'<img[^>]* src="([^"]+)"', html.decode())]
    (name,) = site.stores
    found: dict[str, Any] = {}
    for source in sources:
        path, _, query = source.partition("?")
        took, picture = timed(lambda path=path, query=query: site.get(name, path, query))  # type: ignore[misc]
        side = f"{'original' if '/original/' in path else 'view'} {query.removeprefix('side=')}"
        kept = found.setdefault(side, {"milliseconds": [], "bytes": []})
        kept["milliseconds"].append(took.cpu)
        kept["bytes"].append(len(picture.body))
    return {
        side: {
            "pictures": len(each["bytes"]),
            "milliseconds": statistics.median(each["milliseconds"]),
            "most_bytes": max(each["bytes"]),
        }
        for side, each in found.items()
    }


def photographs(source: Path, folder: Path) -> dict[str, Any]:
    """Return what thumbnails of photographs and of their views of 224 px take."""
    request = BuildRequest(
        generator="simclr",
        out=folder / "photographs",
        source=str(source),
        settings={"views": 8, "height": 224, "width": 224},
        codec="jpg",
        limit=48,
    )
    build(request)
    opened = open_store(folder / "photographs")
    site = Site({"photographs": lambda: opened})
    return thumbnails(site, site.get("photographs", "browse", "n=24").body)


@contextmanager
def made_store(place: Path | None, samples: int) -> Iterator[tuple[Path, float]]:
    """Make the store, or take the one that is there; yield its folder and the seconds it took."""
    with tempfile.TemporaryDirectory() as scratch:
        root = place or Path(scratch) / "made"
        if (root / "store").is_dir():
            yield root / "store", 0.0
        else:
            took, made = timed(lambda: make(root, samples, workers=1))
            yield made, took.wall / 1000


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the store here")
    parser.add_argument("--photos", type=Path, default=SHARED / "imagenet-sample", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="processes of their own")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        print(json.dumps(one_process(options.one)))
        return
    load = usage.load()
    with made_store(options.store, options.samples) as (store, seconds):
        command = [sys.executable, __file__, "--one", str(store)]
        rounds = [
            json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            for _ in range(options.rounds)
        ]
    found: dict[str, Any] = {
        "schema": 1,
        **provenance(Path(__file__).parents[1]),
        "load_before": load,
        "samples": options.samples,
        "made_in_seconds": seconds,
        "limits": LIMITS,
        "medians": {
            name: _median([took for each in rounds for took in each["times"][name]])
            for name in rounds[0]["times"]
        },
        "rounds": rounds,
    }
    if options.photos.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            found["photographs"] = photographs(options.photos, Path(folder))
    shown = {name: found.get(name) for name in ("medians", "photographs")}
    shown |= {name: rounds[0][name] for name in rounds[0] if name != "times"}
    print(json.dumps(shown, indent=1))
    if options.out is not None:
        write_atomic(options.out, json.dumps(found, indent=1).encode() + b"\n")


def _median(times: list[list[float]]) -> dict[str, float]:
    """Return the medians of times that another process told, as JSON has a `Took`."""
    wall, cpu = zip(*times, strict=True)
    return {"wall": statistics.median(wall), "cpu": statistics.median(cpu)}


if __name__ == "__main__":
    main()
