"""Recipe sets against the raw sets that would have been stored, and against online views.

    python benchmarks/recipes.py equal --photos DIR --small SRC     # every bit, bytes a view
    python benchmarks/recipes.py speed --photos DIR                 # interleaved with online views

The first builds each generator with a recipe twice, from photographs and from small images, and
compares all views; the second loads a recipe set of crops beside the same crops drawn online (the
work of workload B), and a multi-crop pair (that of E), in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from contest import results, usage
from contest.data import ROOT, SHARED

from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.files.disk import write_atomic
from viewstore.generators import GENERATORS, make_settings
from viewstore.loaders import Cached, Online, ViewLoader
from viewstore.loaders.plan.asked import AnyView
from viewstore.store.store import Store, open_store

FORMS = ("raw", "params", "jpg")


def with_recipes() -> list[str]:
    """Return the names of the generators whose views can be stored as params."""
    needing = {"import": {"files": "{key}"}}  # settings without which there are none
    return [
        name
        for name in GENERATORS
        if make_settings(name, needing.get(name, {})).recipe() is not None
    ]


def built(out: Path, source: str, name: str, form: str, **changes: Any) -> Store:  # noqa: ANN401
    """Build the view set `name`, and what it starts from, in one form."""
    request: dict[str, Any] = {"generator": name, "out": out, "source": source, "codec": form}
    for wanted in make_settings(name, changes.get("settings", {})).inputs().values():
        first = {"generator": wanted.view_set, "codec": "raw", "settings": {}, "view_set": None}
        build(BuildRequest(**(request | changes | first)))
    build(BuildRequest(**(request | changes)))
    return open_store(out)


def compare(folder: Path, source: str, limit: int) -> Iterator[dict[str, Any]]:
    """Build and compare each generator; yield what was found."""
    for name in with_recipes():
        stores = {
            form: built(folder / f"{name}-{form}", source, name, form, limit=limit)
            for form in FORMS
        }
        raw, params = (stores[form].view_sets[name] for form in ("raw", "params"))
        differing = sum(not np.array_equal(params[row], raw[row]) for row in range(len(raw)))
        views = len(raw) * raw.num_views
        yield {
            "generator": name,
            "source": Path(source).name,
            "samples": len(raw),
            "views": views,
            "size": [raw.height, raw.width],
            "differing_samples": differing,
            "bytes_a_view": {form: _on_disk(store, name) / views for form, store in stores.items()},
        }


def _on_disk(store: Store, name: str) -> int:
    """Return the bytes of all files of a view set; linked ones count once."""
    files = {
        path.stat().st_ino: path.stat().st_size
        for path in store.paths.view_set(name).root.rglob("*")
        if path.is_file()
    }
    return sum(files.values())


def equal(options: argparse.Namespace) -> dict[str, Any]:
    """Compare every generator on photographs and on small images."""
    found = []
    for source, limit in ((options.photos, options.samples), (options.small, options.rows)):
        with tempfile.TemporaryDirectory() as folder:
            for each in compare(Path(folder), str(source), limit):
                found.append(each)
                sizes = ", ".join(f"{k} {v:.0f} B" for k, v in each["bytes_a_view"].items())
                print(
                    f"{each['generator']}: {each['views']} views of {each['samples']} samples, "
                    f"{each['differing_samples']} samples differ; a view on disk: {sizes}",
                    file=sys.stderr,
                )
    return {"equal": found}


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Measure recipe slots beside online slots of the same work, in turns."""
    crop = {"policy": "crop", "height": 224, "width": 224, "views": 8, "filter": "area"}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        out, source = Path(name) / "store", str(options.photos)
        built(out, source, "simclr", "params", view_set="crops", settings=crop)
        built(out, source, "dino", "params")
        store = built(out, source, "dino-local", "params", settings={"views": 8})
        for title, recipe, online, batch in (
            ("B", [Cached("crops", n=2)], [Online("crop", n=2, size=224)], 128),
            (
                "E",
                [Cached("dino", n=2), Cached("dino-local", n=8)],
                [Online("dino", n=2, size=224), Online("dino-local", n=8, size=96)],
                64,
            ),
        ):
            loaders = {
                kind: stack.enter_context(_loader(store, views, batch))
                for kind, views in (("recipe", recipe), ("online", online))
            }
            rates = _in_turns(loaders, options.rounds, options.seconds)
            pairs = zip(rates["recipe"], rates["online"], strict=True)
            entry = {
                "views_per_second": {k: statistics.median(v) for k, v in rates.items()},
                "repeats": rates,
                "ratio": statistics.median(one / other for one, other in pairs),
            }
            found[title] = entry
            print(
                f"{title}: recipe {entry['views_per_second']['recipe']:,.0f}, online "
                f"{entry['views_per_second']['online']:,.0f} views/s, ratio {entry['ratio']:.3f}",
                file=sys.stderr,
            )
    return {"speed": found}


def _loader(store: Store, views: list[AnyView], batch_size: int) -> ViewLoader:
    return ViewLoader(store, views, batch_size=min(batch_size, store.num_samples))


def _in_turns(
    loaders: dict[str, ViewLoader], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Return views/s of each loader: `rounds` turns of at least `seconds` after a first epoch."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(-1, rounds):
        names = list(loaders) if number % 2 else list(reversed(loaders))
        for name in names:
            views, began = 0, time.perf_counter()
            while (spent := time.perf_counter() - began) < seconds:
                for batch in loaders[name]:
                    views += len(batch.views) * len(batch)
            if number >= 0:
                found[name].append(views / spent)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["equal", "speed"])
    parser.add_argument("--photos", type=Path, default=SHARED / "imagenet-sample", metavar="DIR")
    parser.add_argument("--small", default=str(SHARED / "cifar10" / "test.tar"), metavar="SRC")
    parser.add_argument("--samples", type=int, default=200, help="photographs to compare")
    parser.add_argument("--rows", type=int, default=10_000, help="small images to compare")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="least length of a turn")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    load = usage.load()
    found = equal(options) if options.what == "equal" else speed(options)
    if options.out is not None:
        facts = {"schema": results.SCHEMA, "load": load, **results.provenance(ROOT), **found}
        write_atomic(options.out, json.dumps(facts, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
