"""Every generator in one table: views/s, bytes a view in each form that it allows, what it records.

    python benchmarks/generator_table.py --out benchmarks/results/generators.json
    python benchmarks/generator_table.py --table

Each is built for real with all cores: cut and heavy views of photographs, those that need a network
of digits with small networks, columns of the former. Views/s are those of its default form, columns
count the views they describe. `--table` writes the table of README.md from the JSON file.
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
from table import inserted

from viewstore.build.request import BuildRequest, Built
from viewstore.build.roles import packaged_weights
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.files.disk import write_atomic
from viewstore.generators import GENERATORS
from viewstore.images.codec import CODECS
from viewstore.sources.open import open_source
from viewstore.store.store import open_store

RESULTS = Path(__file__).parent / "results" / "generators.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- generators table: begin -->", "<!-- generators table: end -->"
LATENT = ("recon", "w-search", "w-perturb")
LEARNED = {"viewmaker": "viewmaker", "stn": "stn", "stn-local": "stn"}  # the role of its network
SCORED = ("hard", "adversarial")
ABOUT_IMAGES = ("duplicates", "selection")
OF_DIGITS = (*LATENT, *LEARNED, *SCORED, "selection")
COLUMNS = ("quality", "embed", "hard", *ABOUT_IMAGES)
SIDE = 32  # of the views of learned networks, in pixels
HEADS = ("generator", "from", "views", "views/s", "bytes a view", "records", "beside --generator")
# What each is from, and how it is called beside `viewstore build --generator NAME`.
PAPERS: dict[str, tuple[str, str]] = {
    "simclr": ("SimCLR", ""),
    "simsiam": ("SimSiam", ""),
    "moco": ("MoCo v2", ""),
    "dino": ("DINO", ""),
    "dino-local": ("DINO", ""),
    "digits": ("ours", ""),
    "expert": ("yours", "--policy FILE.toml"),
    "heavy": ("DSSL", "--of moco"),
    "randaugment": ("RandAugment", ""),
    "uniformaugment": ("UniformAugment", ""),
    "jigsaw": ("DSSL", ""),
    "cutmix": ("CutMix, HEXA", "--of moco"),
    "adversarial": ("HEXA", "--of simclr --scorer RUN/checkpoint.safetensors"),
    "hard": ("HVP", "--of simclr --scorer RUN/checkpoint.safetensors"),
    "viewmaker": ("ViewMaker, Constructive Assimilation", "--viewmaker RUN/viewmaker.safetensors"),
    "stn": ("HVP, appendix G", "--stn RUN/stn.safetensors"),
    "stn-local": ("HVP, appendix G", "--stn RUN/stn.safetensors"),
    "recon": ("Constructive Assimilation", "--gan G --encoder F"),
    "w-search": ("Constructive Assimilation", "--gan G --encoder F"),
    "w-perturb": ("Constructive Assimilation", "--gan G"),
    "quality": ("ours", "--of moco"),
    "embed": ("ours", "--of moco --encoder F"),
    "duplicates": ("ours", ""),
    "selection": ("HVP", "--selection RUN/selection/epoch-0000.safetensors"),
    "import": ("ours", "--set files='DIR/{name}.jpg'"),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """How one generator is built.

    Attributes:
        limit: Samples of photographs or digits.
        settings: Of the generator.
        parent: View set that is built first, for it to start from or to describe.
        files: Of networks and the like, by role.
        forms: Whether its views can be stored in several forms.
    """

    limit: int
    parent: str | None = None
    files: dict[str, Path] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    forms: bool = True


def run_of(name: str, folder: Path, options: argparse.Namespace) -> Run:
    """Return how a generator is built here; what it reads is written into `folder`."""
    limit = options.digits if name in OF_DIGITS else options.photographs
    if name in LEARNED:
        return Run(limit=limit, files=learned_network(LEARNED[name], folder))
    if name in SCORED:
        files = {"scorer": packaged_weights("encoder")}
        return Run(
            limit=limit, parent="simclr", settings={"of": "simclr"}, files=files,
            forms=name not in COLUMNS,
        )  # fmt: skip
    if name == "selection":
        files = {"selection": written_selection(folder / "log", limit)}
        return Run(limit=limit, files=files, forms=False)
    if name in (*COLUMNS, "heavy", "cutmix") and name not in ABOUT_IMAGES:
        settings = {"of": "moco"}
        return Run(limit=limit, parent="moco", settings=settings, forms=name not in COLUMNS)
    if name == "expert":
        return Run(limit=limit, settings={"policy": "byol"})
    if name == "import":
        files_of = f"{written_views(folder / 'ready', str(options.photos), limit)}/{{name}}.jpg"
        return Run(limit=limit, settings={"files": files_of})
    return Run(limit=limit, forms=name not in COLUMNS)


def learned_network(role: str, folder: Path) -> dict[str, Path]:
    """Write a network that makes views, as it is before training: how fast it is stays."""
    # Here, as every worker of a build imports this module first.
    from viewstore.train.maker_file import save_maker
    from viewstore.train.nets.spatial_transformer import SpatialTransformer, TransformerShape
    from viewstore.train.nets.view_maker import ViewMaker, ViewMakerShape

    path = folder / f"{role}.safetensors"
    if role == "viewmaker":
        save_maker(path, role, ViewMaker(ViewMakerShape(size=SIDE)), {})
    else:
        save_maker(
            path, role, SpatialTransformer(TransformerShape(size=SIDE, local_size=SIDE // 2)), {}
        )
    return {role: path}


def written_selection(path: Path, rows: int) -> Path:
    """Write what a training of four views chose of each digit: always the first pair."""
    import torch

    from viewstore.train.selection_file import Selections, save_selections

    pairs = torch.combinations(torch.arange(4)).byte()
    log = Selections(
        epoch=0,
        source=open_source("digits", limit=rows).table.images_digest,
        pairs=pairs,
        step=torch.zeros(rows, dtype=torch.int64),
        sample=torch.arange(rows),
        losses=torch.zeros(rows, len(pairs)),
        chosen=torch.zeros(rows, dtype=torch.int64),
        selected=pairs[:1].repeat(rows, 1),
    )
    save_selections(path, log)
    return path


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Build one generator in each form; return its row of the table."""
    run = run_of(name, folder, options)
    source = "digits" if name in OF_DIGITS else str(options.photos)
    found: dict[str, Any] = {"generator": name, "source": Path(source).name, "samples": run.limit}
    bytes_a_view: dict[str, float] = {}
    for form in (None, *(CODECS if run.forms else ())):
        out = folder / f"{name}-{form}"
        try:
            built = _built(name, out, source, run, form)
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


def _built(name: str, out: Path, source: str, run: Run, form: str | None) -> Built:
    request: dict[str, Any] = {"out": out, "source": source, "limit": run.limit, "shard_rows": 16}
    if run.parent is not None:
        build(BuildRequest(generator=run.parent, **request))
    return build(
        BuildRequest(generator=name, settings=run.settings, codec=form, files=run.files, **request)
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


def page_of(text: str, record: dict[str, Any]) -> str:
    """Return a page with the table of a run between its markers; what was not measured has "-"."""
    lines = [f"| {' | '.join(HEADS)} |", "|---|---|---|---:|---|---|---|"]
    rows = {row["generator"]: row for row in record["rows"]}
    for name, (paper, command) in PAPERS.items():
        cells = [f"`{name}`", paper, GENERATORS[name].makes, "-", "-", "-"]
        if (row := rows.get(name)) is not None:
            side = f"{row['size'][0]} px, " if row["size"][0] else ""
            sizes = ", ".join(f"{form} {size:,.0f}" for form, size in row["bytes_a_view"].items())
            rate = f"{row['views_per_second']:,.0f}"
            cells[3:] = [rate, f"{side}{sizes}", ", ".join(row["params"])]
        lines.append(f"| {' | '.join([*cells, f'`{command}`' if command else ''])} |")
    return inserted(text, "\n".join(lines) + "\n", begin=BEGIN, end=END)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=SHARED / "imagenet-sample", metavar="DIR")
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--digits", type=int, default=128)
    parser.add_argument("--only", help="names of generators, for example heavy,jigsaw")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--table", action="store_true", help="write README.md's table, no more")
    options = parser.parse_args()
    if options.table:
        page = page_of(README.read_text(), json.loads(RESULTS.read_text()))
        write_atomic(README, page.encode())
        return
    facts = {"load": usage.load(), **results.provenance(ROOT)}
    found = {row["generator"]: {**row, "measured": facts} for row in rows(options)}
    if options.out is not None:  # rows of other generators stay as they were measured
        before = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
        kept = [row for row in before["rows"] if row["generator"] not in found]
        record = {**before, "schema": results.SCHEMA, "rows": [*kept, *found.values()]}
        write_atomic(options.out, json.dumps(record, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
