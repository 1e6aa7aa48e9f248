"""Every generator in one table: views/s, bytes a view in each form that it allows, what it records.

    python benchmarks/generator_table.py --out benchmarks/results/generators.json

Each is built for real with all cores: cut and heavy views of photographs, latent ones of digits,
columns of the former. Views/s are those of its default form, columns count the views they describe.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contest import results, usage
from contest.data import ROOT, SHARED
from PIL import Image

from viewstore.build.request import BuildRequest, Built
from viewstore.build.roles import packaged_weights
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.files.disk import write_atomic
from viewstore.generators import GENERATORS
from viewstore.images.codec import CODECS
from viewstore.store.store import open_store

LATENT = ("recon", "w-search", "w-perturb")
COLUMNS = ("quality", "embed", "duplicates", "hard")


@dataclass(frozen=True, kw_only=True)
class Run:
    """How one generator is built.

    Attributes:
        limit: Samples of photographs or digits.
        settings: Of the generator.
        forms: Whether its views can be stored in several forms.
    """

    limit: int
    settings: dict[str, Any] = field(default_factory=dict)
    forms: bool = True


def run_of(name: str, options: argparse.Namespace) -> Run:
    """Return how a generator is built here."""
    if name in LATENT:
        return Run(limit=options.digits)
    if name in COLUMNS:
        of = {} if name == "duplicates" else {"of": "moco"}
        return Run(limit=options.photographs, settings=of, forms=False)
    if name == "heavy":
        return Run(limit=options.photographs, settings={"of": "moco"})
    if name == "import":
        return Run(limit=options.photographs, settings={"files": ""})
    return Run(limit=options.photographs)


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Build one generator in each form; return its row of the table."""
    run = run_of(name, options)
    source = "digits" if name in LATENT else str(options.photos)
    settings = dict(run.settings)
    if name == "import":
        settings["files"] = f"{written_views(folder / 'ready', source, run.limit)}/{{name}}.jpg"
    found: dict[str, Any] = {"generator": name, "source": Path(source).name, "samples": run.limit}
    bytes_a_view: dict[str, float] = {}
    for form in (None, *(CODECS if run.forms else ())):
        out = folder / f"{name}-{form}"
        try:
            built = _built(name, out, source, run.limit, settings, form)
        except ConfigError as refused:
            found.setdefault("refused", {})[form or "default"] = str(refused)
            continue
        store = open_store(out)
        view_set = store.view_sets[name]
        views = len(view_set) * view_set.num_views
        if form is None:
            found |= {
                "form": view_set.plan.form,
                "views": views,
                "size": [view_set.height, view_set.width],
                "seconds": built.seconds,
                "views_per_second": views / built.seconds,
                "params": list(view_set.params),
            }
        bytes_a_view[form or view_set.plan.form] = view_set.num_bytes / views
    return found | {"bytes_a_view": bytes_a_view}


def _built(
    name: str, out: Path, source: str, limit: int, settings: dict[str, Any], form: str | None
) -> Built:
    request: dict[str, Any] = {"out": out, "source": source, "limit": limit, "shard_rows": 16}
    files = {"encoder": packaged_weights("encoder")} if name == "hard" else {}
    if settings.get("of") == "moco":
        build(BuildRequest(generator="moco", **request))
    return build(
        BuildRequest(generator=name, settings=settings, codec=form, files=files, **request)
    )


def written_views(folder: Path, source: str, limit: int) -> Path:
    """Write pictures of 224 px, named as the first photographs, as if others had made them."""
    out = folder.with_name("ready-store")
    build(
        BuildRequest(generator="moco", out=out, source=source, limit=limit, settings={"views": 1})
    )
    store = open_store(out)
    for row, views in enumerate(store.view_sets["moco"]):
        path = (folder / store.keys[row]).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(views[0]).save(path, quality=90)
    return folder


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the generators that were asked for, one after the other."""
    for name in options.only.split(",") if options.only else GENERATORS:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(name, Path(folder), options)
        sizes = " ".join(f"{form} {size:,.0f}" for form, size in row["bytes_a_view"].items())
        print(
            f"{name:14} {row['views_per_second']:8,.1f} views/s as {row['form']}; bytes: {sizes}; "
            f"params: {', '.join(row['params'])}",
            file=sys.stderr,
        )
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=SHARED / "imagenet-sample", metavar="DIR")
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--digits", type=int, default=128)
    parser.add_argument("--only", help="names of generators, for example heavy,jigsaw")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    load = usage.load()
    table = list(rows(options))
    if options.out is not None:
        facts = {"schema": results.SCHEMA, "load": load, **results.provenance(ROOT)}
        write_atomic(options.out, json.dumps({**facts, "rows": table}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
