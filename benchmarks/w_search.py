"""W-search on one CPU thread, with the digits networks: textbook loop, Adam's pool, and secant.

Textbook: one sample at a time, a grouped convolution with one weight per view, stock Adam. All
search for the same goal. `make bench` prints the figures; `--out` writes them with the commit, the
machine, the command and every repeat. Speeds are of CPU time, which a busy machine moves less.

What the stored views are is said too: the share that met the goal, and that without Adam; how far
they lie from each other, and their latents from the anchor's (in sigma_w); and how many keep the
class of their sample, by the 5 nearest of the other real digits in the encoder's features.

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viewstore.build import compose
from viewstore.build.request import BuildRequest
from viewstore.build.roles import load_models, weights_of
from viewstore.build.run import build
from viewstore.files.disk import write_atomic
from viewstore.format.columns import Status
from viewstore.format.paths import StorePaths
from viewstore.generators.contract import Context, Sample
from viewstore.generators.latent.decode import (
    decoder_of,
    from_pixels,
    gan_of,
    to_pixels,
    unit_images,
)
from viewstore.generators.latent.engine import ResolvedSearch, WSearchGenerator
from viewstore.generators.latent.goal import distances, is_candidate, view_losses
from viewstore.generators.latent.search import WSearch
from viewstore.images.colours import Pixels
from viewstore.images.raw import Raw
from viewstore.images.resize import resize
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader
from viewstore.sources.record import read_sources
from viewstore.store.published import published_view_sets
from viewstore.store.sample_views import StoredViews

ROLES = ("gan", "encoder")
TEXTBOOK_SAMPLES = 16  # enough for the slow loop: it has no pool that runs dry at the end


@dataclass(frozen=True)
class Repeat:
    """One run over all samples; a view-step is one evaluation of one view with its gradient."""

    seconds: float
    cpu_seconds: float
    view_steps: int
    views: int

    @property
    def view_steps_per_second(self) -> float:
        return self.view_steps / self.cpu_seconds

    @property
    def views_per_second(self) -> float:
        return self.views / self.cpu_seconds


class Clock:
    """Seconds of the wall and of the processor since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def repeat(self, view_steps: int, views: int) -> Repeat:
        """Return the run that ends now."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return Repeat(wall, cpu, view_steps, views)


def prepare(folder: Path, samples: int) -> tuple[Context, list[Sample]]:
    """Build the view set `recon` of the first digits in `folder`; return what a search wants."""
    build(BuildRequest(generator="recon", out=folder, source="digits", limit=samples, workers=1))
    paths = StorePaths(folder)
    table, _, _ = read_sources(paths)
    models = load_models(ROLES, {}, weights_of(ROLES, {}))
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
    """Search all samples in the pool of the solver."""
    clock = Clock()
    ended = list(settings.make(context).render(samples))
    first = 1 if settings.solver == "adam" else 0  # its steps are updates, one less than looks
    steps = sum(int((one.params["steps"] + first).sum()) for one in ended)
    return clock.repeat(steps, len(ended) * settings.views)


def run_textbook(settings: ResolvedSearch, context: Context, samples: list[Sample]) -> Repeat:
    """Search the first samples one by one, as the loop is usually written."""
    gan = gan_of(context)
    decode, encoder = decoder_of(gan, settings.psi, None), context.models["encoder"]
    starts = WSearchGenerator(settings, context)
    lr = settings.lr * decode.gan.sigma_w
    steps = 0
    clock = Clock()
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
    return clock.repeat(steps * settings.views, len(some) * settings.views)


def run_secant(settings: ResolvedSearch, context: Context, samples: list[Sample]) -> Repeat:
    """Search all samples by forward passes."""
    return run_pool(replace(settings, solver="secant"), context, samples)


def described(settings: ResolvedSearch, context: Context, samples: list[Sample]) -> dict[str, Any]:
    """Search once more and return what the stored views are."""
    kept = replace(settings, keep_latents=True)
    ended = sorted(kept.make(context).render(samples), key=lambda one: one.index)
    params = {name: np.stack([one.params[name] for one in ended]) for name in ended[0].params}
    away = params["latent"].astype(np.float32) - params["latent0"].astype(np.float32)[:, None]
    way = np.linalg.norm(away.reshape(*away.shape[:2], -1), axis=-1)
    way /= context.models["gan"].sigma_w
    least = params["min_pair_distance"].min(1)
    return {
        "converged": float((params["status"] == Status.OK).all(1).mean()),
        "off": float(np.abs(params["distance"] - settings.eps1).max()),
        "mean_pair": float(params["mean_pair_distance"].mean()),
        "least_pair_p5": float(np.percentile(least, 5)),
        "way": float(way.mean()),
        "way_p95": float(np.percentile(way, 95)),
        "class_kept": class_kept(context, np.stack([one.pixels for one in ended])),
    }


def by_forwards_alone(settings: ResolvedSearch, context: Context, samples: list[Sample]) -> float:
    """Return the share of samples that meet the goal where Adam may not make a step."""
    alone = replace(settings, solver="secant", max_steps=1)
    ended = list(alone.make(context).render(samples))
    return float(np.mean([(one.params["status"] == Status.OK).all() for one in ended]))


def class_kept(context: Context, views: Pixels) -> float:
    """Return the share of views [N, V, H, W, 3] whose 5 nearest real digits have their class.

    View sets of the digits begin with row 0; a view's own digit is not among its neighbours.
    """
    digits = open_source("digits").table
    reader = SourceReader(digits)
    images = [resize(reader.image(row), *views.shape[2:4]) for row in range(len(digits.keys))]
    encoder, labels = context.models["encoder"], torch.from_numpy(np.array(digits.label))
    with torch.no_grad():
        bank = encoder(from_pixels(np.stack(images), "cpu"))
        found = encoder(from_pixels(views.reshape(-1, *views.shape[2:]), "cpu"))
    own = torch.arange(len(views)).repeat_interleave(views.shape[1])
    near = (found @ bank.T).scatter_(1, own[:, None], -1.0).topk(5, dim=1).indices
    return float((labels[near].mode(1).values == labels[own]).float().mean())


def measure(*, samples: int, repeats: int, slots: int) -> dict[str, Any]:
    """Return the raw repeats of all three, what they made, and the ratios of median speeds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        context, images = prepare(Path(folder) / "store", samples)
        settings = WSearch(slots=slots, solver="adam").resolve(context)
        runs: dict[str, Callable[[ResolvedSearch, Context, list[Sample]], Repeat]] = {
            "textbook": run_textbook,
            "pool": run_pool,
            "secant": run_secant,
        }
        for run in runs.values():
            run(settings, context, images[:2])
        # In turns, so that a busy machine slows all.
        results: dict[str, list[Repeat]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                results[name].append(run(settings, context, images))
        made = {
            "pool": described(settings, context, images),
            "secant": described(replace(settings, solver="secant"), context, images),
        }
        made["secant"]["converged_alone"] = by_forwards_alone(settings, context, images)
    speed = {
        name: statistics.median(repeat.view_steps_per_second for repeat in of)
        for name, of in results.items()
    }
    views = {
        name: statistics.median(repeat.views_per_second for repeat in of)
        for name, of in results.items()
    }
    return {
        "settings": asdict(settings),
        "samples": samples,
        "repeats": {name: [asdict(repeat) for repeat in of] for name, of in results.items()},
        "view_steps_per_second": speed,
        "views_per_second": views,
        "made": made,
        "secant_to_pool": views["secant"] / views["pool"],
        "secant_to_textbook": views["secant"] / views["textbook"],
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
    for name in ("textbook", "pool", "secant"):
        print(
            f"{name:9} {found['view_steps_per_second'][name]:8.0f} view-steps/s "
            f"{found['views_per_second'][name]:8.1f} views/s "
            f"{found['steps_per_view'][name]:6.1f} steps/view"
        )
    print(f"the pool is {found['ratio']:.2f} times as fast per view-step as the textbook loop")
    print(
        f"secant makes {found['secant_to_pool']:.2f} times the views of the pool, "
        f"{found['secant_to_textbook']:.2f} times those of the textbook loop"
    )
    for name, made in found["made"].items():
        print(f"{name:9} " + ", ".join(f"{key} {value:.3f}" for key, value in made.items()))
    if options.out is not None:
        record = {**provenance(), **found}
        write_atomic(options.out, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")


if __name__ == "__main__":
    main()
