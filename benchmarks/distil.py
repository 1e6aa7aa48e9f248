"""A training step with cached targets: beside a plain one, and a teacher that is run online.

    viewstore build --generator simclr --views 8 --source cifar.tar --out views
    viewstore build --generator embed --of simclr --encoder F --view-set teacher --out views
    python benchmarks/distil.py views --targets teacher.feature --out found.json

A student learns the direction of a target of each view, in three ways that take turns: the target
is the same for all views (`plain`: what a step costs without any), is joined by the loader
(`cached`), or is what a teacher says of the pixels now (`online`). With --pick a fourth shows the
views that a columns set chose, with no target (`picked`). Everything else is one code.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from contest import results, usage
from contest.data import ROOT
from torch import Tensor, nn

from viewstore.files.disk import write_atomic
from viewstore.loaders import Cached, ViewLoader
from viewstore.loaders.batches.batch import Batch
from viewstore.store.store import Store, open_store
from viewstore.train.encoder_file import load_encoder
from viewstore.train.nets.network import BACKBONES, NetworkSettings, seeded_network

SEED = 0
GOAL = 1.05  # of cached over plain


@dataclass(frozen=True, kw_only=True)
class Student:
    """What learns from a batch.

    Attributes:
        network: From pixels to predictions, float32 [B, C, H, W] to [B, D].
        optimizer: Of its weights.
        device: Where it is.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device

    @classmethod
    def make(cls, backbone: str, width: int, device: torch.device) -> Student:
        """Return one with weights drawn by SEED, that predicts `width` numbers."""
        settings = NetworkSettings(backbone=backbone, projector=(width,))
        network = seeded_network(settings, SEED).to(device).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
        return cls(network=network, optimizer=optimizer, device=device)

    def step(self, pixels: Tensor, target: Tensor) -> None:
        """Learn the directions `target` [B, D] of normalised `pixels`."""
        predicted = self.network(pixels)
        loss = 1 - nn.functional.cosine_similarity(predicted, target, dim=1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Teacher:
    """Says what the target of a view is, from its pixels."""

    def __init__(self, path: Path | None, backbone: str, width: int, device: torch.device) -> None:
        """Read the encoder at `path`; without one it is a `backbone` of random weights."""
        if path is None:
            found = seeded_network(NetworkSettings(backbone=backbone), SEED + 1).backbone
        else:
            found = load_encoder(path).network.backbone
        self._network = found.to(device).eval()
        generator = torch.Generator().manual_seed(SEED)
        self._cut = torch.randn(found.width, width, generator=generator).to(device)
        self._same = found.width == width

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return targets [B, D]."""
        features: Tensor = self._network(pixels)
        return features if self._same else features @ self._cut


def batches(loader: ViewLoader) -> Iterator[Batch]:
    """Yield batches for ever."""
    while True:
        yield from loader


def arms(store: Store, options: argparse.Namespace) -> dict[str, Cached]:
    """Return the views of each way to train."""
    name = options.views
    found = {
        "plain": Cached(name, params=("status",)),
        "cached": Cached(name, params=("status", options.targets)),
        "online": Cached(name, params=("status",)),
    }
    if options.pick is not None:
        found["picked"] = Cached(name, params=("status",), pick=options.pick)
    return found


def width_of(store: Store, view: Cached, targets: str) -> int:
    """Return how many numbers a target has."""
    with ViewLoader(store, [view], batch_size=1, num_threads=0) as loader:
        return int(next(iter(loader)).views[0].params[targets].shape[-1])


def measure(store: Store, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of a step of each way, one number for each of its turns."""
    device = torch.device(options.device)
    views = arms(store, options)
    width = width_of(store, views["cached"], options.targets)
    teacher = Teacher(options.teacher, options.teacher_backbone, width, device)
    constant = torch.ones(1, width, device=device)
    found: dict[str, list[float]] = {name: [] for name in views}
    with ExitStack() as stack:
        loaders = {
            name: batches(
                stack.enter_context(
                    ViewLoader(
                        store,
                        [view],
                        batch_size=options.batch_size,
                        missing="resample",
                        num_threads=options.threads,
                    )
                )
            )
            for name, view in views.items()
        }
        students = {name: Student.make(options.student, width, device) for name in views}
        for number in range(-1, options.rounds):
            for name in list(views) if number % 2 else reversed(views):
                began = time.perf_counter()
                for _ in range(options.steps):
                    batch = next(loaders[name]).to(device)
                    (pixels,) = batch.normalised()
                    target = constant.expand(len(batch), width)
                    if name == "cached":
                        stored = batch.views[0].params[options.targets]
                        target = stored.to(device, non_blocking=True).float()
                    elif name == "online":
                        target = teacher(pixels)
                    students[name].step(pixels, target)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if number >= 0:
                    found[name].append((time.perf_counter() - began) / options.steps)
    return found


def summary(repeats: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return the medians of steps, and of their ratios to the plain step of the same turn."""
    ratios = {
        name: statistics.median(
            one / plain for one, plain in zip(seconds, repeats["plain"], strict=True)
        )
        for name, seconds in repeats.items()
    }
    return {
        "seconds_per_step": {n: statistics.median(each) for n, each in repeats.items()},
        "over_plain": ratios,
        "reached": ratios["cached"] <= GOAL,
        "repeats": dict(repeats),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--views", default="simclr", help="view set that the student sees")
    parser.add_argument("--targets", default="teacher.feature", metavar="SET.COLUMN")
    parser.add_argument("--pick", metavar="SET.COLUMN", help="also show views by this choice")
    parser.add_argument("--student", default="resnet18", choices=sorted(BACKBONES))
    parser.add_argument("--teacher", type=Path, help="encoder file  [default: random weights]")
    parser.add_argument("--teacher-backbone", default="resnet18", choices=sorted(BACKBONES))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, help="of the loader  [default: all CPUs]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    load = usage.load()
    found = summary(measure(open_store(options.store), options))
    for name, seconds in found["seconds_per_step"].items():
        ratio = found["over_plain"][name]
        print(f"{name}: {1000 * seconds:.2f} ms a step, {ratio:.3f} of plain", file=sys.stderr)
    if options.out is not None:
        settings = {name: str(value) for name, value in vars(options).items() if name != "out"}
        settings |= {"store": Path(options.store).name}
        provenance = results.provenance(ROOT)
        facts = {"schema": results.SCHEMA, "load": load, **provenance, "settings": settings}
        write_atomic(options.out, json.dumps(facts | found, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
