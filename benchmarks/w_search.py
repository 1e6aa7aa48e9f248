"""W-search on one CPU thread: the textbook loop against the slot pool, with the digits networks.

Textbook: one sample at a time, a grouped convolution with one weight per view, stock Adam. Both
search the same views for the same goal. `make bench` prints the figures; `--out` writes them with
the commit, the machine, the command and every repeat.

    python benchmarks/w_search.py --samples 128 --repeats 3 --out benchmarks/results/w_search.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from viewstore.build import compose
from viewstore.build.request import BuildRequest
from viewstore.build.roles import load_models
from viewstore.build.run import build
from viewstore.files.disk import write_atomic
from viewstore.format.paths import StorePaths
from viewstore.generators.contract import Context, Sample
from viewstore.generators.latent.decode import decoder_of, to_pixels, unit_images
from viewstore.generators.latent.engine import ResolvedSearch, WSearchGenerator
from viewstore.generators.latent.goal import distances, is_candidate, view_losses
from viewstore.generators.latent.search import WSearch
from viewstore.images.raw import Raw
from viewstore.sources.record import read_sources
from viewstore.store.published import published_view_sets
from viewstore.store.sample_views import StoredViews

ROLES = ("gan", "encoder")
TEXTBOOK_SAMPLES = 32  # enough for the slow loop: it has no pool that runs dry at the end


@dataclass(frozen=True)
class Repeat:
    """One run over all samples; a view-step is one evaluation of one view with its gradient."""

    seconds: float
    view_steps: int
    views: int

    @property
    def view_steps_per_second(self) -> float:
        return self.view_steps / self.seconds

    @property
    def views_per_second(self) -> float:
        return self.views / self.seconds


def prepare(folder: Path, samples: int) -> tuple[Context, list[Sample]]:
    """Build the view set `recon` of the first digits in `folder`; return what a search wants."""
    build(BuildRequest(generator="recon", out=folder, source="digits", limit=samples, workers=1))
    paths = StorePaths(folder)
    table, _, _ = read_sources(paths)
    models, _ = load_models(ROLES, {})
    recon = published_view_sets(paths)["recon"]
    context = compose.make_context(
        table=table,
        view_set="w-search",
        seed=0,
        codec=Raw(),
        models=models,
        inputs={"parent": recon},
        device="cpu",
    )
    return context, [
        Sample.of(row, context.source_image(row), StoredViews(recon, row)) for row in range(samples)
    ]


def run_pool(settings: ResolvedSearch, context: Context, samples: list[Sample]) -> Repeat:
    """Search all samples in the pool."""
    started = time.perf_counter()
    ended = list(settings.make(context).render(samples))
    seconds = time.perf_counter() - started
    steps = sum(int(one.params["steps"][0]) + 1 for one in ended)
    return Repeat(seconds, steps * settings.views, len(ended) * settings.views)


def run_textbook(settings: ResolvedSearch, context: Context, samples: list[Sample]) -> Repeat:
    """Search the first samples one by one, as the loop is usually written."""
    decode, encoder = decoder_of(context, settings.psi), context.models["encoder"]
    starts = WSearchGenerator(settings, context)
    lr = settings.lr * decode.gan.sigma_w
    steps = 0
    started = time.perf_counter()
    some = samples[:TEXTBOOK_SAMPLES]
    for sample in some:
        start = starts.start(sample)
        latents = start.latents.clone().requires_grad_()
        adam = torch.optim.Adam([latents], lr=lr)
        for _ in range(settings.max_steps + 1):
            steps += 1
            images = decode.gan.synthesis(latents, fused=True)
            measured = distances(encoder(unit_images(images)), start.target[0])
            losses = view_losses(settings, measured)
            adam.zero_grad()
            losses.mean().backward()
            figures = torch.stack([*measured, losses], dim=-1).detach().numpy()
            if is_candidate(settings, figures, tol_search=settings.tol_search):
                break
            adam.step()
        to_pixels(images.detach())
    seconds = time.perf_counter() - started
    return Repeat(seconds, steps * settings.views, len(some) * settings.views)


def measure(*, samples: int, repeats: int, slots: int) -> dict[str, Any]:
    """Return the raw repeats of both, and the ratio of their median speeds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        context, images = prepare(Path(folder) / "store", samples)
        settings = WSearch(slots=slots).resolve(context)
        runs: dict[str, Callable[[ResolvedSearch, Context, list[Sample]], Repeat]] = {
            "textbook": run_textbook,
            "pool": run_pool,
        }
        for run in runs.values():
            run(settings, context, images[:2])
        # In turns, so that a busy machine slows both.
        results: dict[str, list[Repeat]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                results[name].append(run(settings, context, images))
    speed = {
        name: statistics.median(repeat.view_steps_per_second for repeat in of)
        for name, of in results.items()
    }
    return {
        "settings": asdict(settings),
        "samples": samples,
        "repeats": {name: [asdict(repeat) for repeat in of] for name, of in results.items()},
        "view_steps_per_second": speed,
        "views_per_second": {
            name: statistics.median(repeat.views_per_second for repeat in of)
            for name, of in results.items()
        },
        "steps_per_view": {name: of[0].view_steps / of[0].views for name, of in results.items()},
        "ratio": speed["pool"] / speed["textbook"],
    }


def provenance() -> dict[str, Any]:
    """Return what a reader must know to compare figures."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "commit": commit,
        "command": ["python", *sys.argv],
        "machine": {"processor": processor(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def processor() -> str:
    """Return the processor's model, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    found = measure(samples=options.samples, repeats=options.repeats, slots=options.slots)
    for name in ("textbook", "pool"):
        print(
            f"{name:9} {found['view_steps_per_second'][name]:8.0f} view-steps/s "
            f"{found['views_per_second'][name]:8.1f} views/s "
            f"{found['steps_per_view'][name]:6.1f} steps/view"
        )
    print(f"the pool is {found['ratio']:.2f} times as fast per view-step")
    if options.out is not None:
        record = {**provenance(), **found}
        write_atomic(options.out, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")


if __name__ == "__main__":
    main()
