"""Stores of as many rows as are asked for, whose params are drawn and whose pictures are tiny.

All of it is real: source, plan, tars, commits, index and statistics are what `build` writes. Only
the generator is made up. It draws ten columns for a block of rows at once, and its pictures are
noise of 8 px, so that a million samples of eight views are there in minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.columns import Column, Status
from viewstore.generators import GENERATORS, Row
from viewstore.generators.contract import Context, OfSource, Rendered, Sample
from viewstore.plugins import Plugin

SIDE, VIEWS, LABELS, EPS1 = 8, 8, 1000, 0.3
BLOCK = 1024  # rows whose params are drawn at once
SHARD_ROWS = 4096


def make(root: Path, rows: int, *, workers: int = 1) -> Path:
    """Make a store of `rows` samples with view set `made`, 8 views of 8 px; return its folder."""
    root.mkdir(parents=True)
    plugin = Plugin(
        kind="generator", name="made", target=f"{__name__}:Made", package="benchmarks", version="1"
    )
    GENERATORS.data["made"] = Row("", "Made", "noise", {}, plugin)
    rng = np.random.Generator(np.random.Philox(1))
    images = rng.integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(root / "images.npz", images=images, labels=np.arange(rows) % LABELS)
    request = BuildRequest(
        generator="made",
        out=root / "store",
        source=str(root / "images.npz"),
        shard_rows=SHARD_ROWS,
        codec="raw",
        workers=workers,
    )
    try:
        build(request)
    finally:
        del GENERATORS.data["made"]
    return root / "store"


@dataclass(frozen=True, kw_only=True)
class Made(OfSource):
    """Views of noise, with the params of a search that mostly reached `eps1`."""

    VERSION: ClassVar[int] = 1

    views: int = VIEWS
    height: int = SIDE
    width: int = SIDE
    eps1: float = EPS1

    def resolve(self, context: Context) -> ResolvedMade:
        """Return the same settings: nothing is automatic."""
        del context
        return ResolvedMade(**vars(self))

    def reads_source(self) -> bool:
        """Return that no image is looked at."""
        return False


@dataclass(frozen=True, kw_only=True)
class ResolvedMade:
    """What `Made` resolves to."""

    views: int
    height: int
    width: int
    eps1: float

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view."""
        return ("generated",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the ten params columns, by name."""
        forms: dict[str, tuple[str, tuple[int, ...]]] = {
            "blur": ("f4", ()),
            "crop_box": ("f4", (4,)),
            "distance": ("f4", ()),
            "flip": ("u1", ()),
            "gray": ("u1", ()),
            "jitter": ("f4", (4,)),
            "mean_pair_distance": ("f4", ()),
            "min_pair_distance": ("f4", ()),
            "status": ("u1", ()),
            "x_loss": ("f4", ()),
        }
        return tuple(
            replace(Column(name=name, dtype=dtype, shape=shape), shape=(self.views, *shape))
            for name, (dtype, shape) in forms.items()
        )

    def make(self, context: Context) -> MadeGenerator:
        """Return the generator."""
        return MadeGenerator(self, context.seed)


class MadeGenerator:
    """Draws the params of a block of rows at once."""

    def __init__(self, settings: ResolvedMade, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.block = lru_cache(maxsize=2)(self._block)

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield noise and drawn params of each sample, in the order of the samples."""
        for sample in samples:
            number, offset = divmod(sample.index, BLOCK)
            pixels, params = self.block(number)
            of_sample = {name: values[offset] for name, values in params.items()}
            yield Rendered(sample.index, pixels[offset], of_sample)

    def _block(self, number: int) -> tuple[Any, dict[str, Any]]:
        """Return the views of a block of rows, uint8 [B, V, H, W, 3], and their params [B, V]."""
        settings = self.settings
        rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        shape = (BLOCK, settings.views)
        corner, size = rng.uniform(0, 3, (*shape, 2)), rng.uniform(2, 5, (*shape, 2))
        distance = rng.normal(settings.eps1, 0.01, shape)
        least = np.abs(rng.normal(0.2, 0.05, shape))
        missed = np.abs(distance - settings.eps1) > 0.03
        status = np.where(missed, Status.GOAL_NOT_MET, Status.OK)
        status[rng.random(BLOCK) < 1e-3] = Status.FAILED
        params = {
            "blur": np.where(rng.random(shape) < 0.5, rng.uniform(0.1, 2, shape), 0),
            "crop_box": np.concatenate([corner, size], axis=2),
            "distance": np.where(status == Status.FAILED, np.nan, distance),
            "flip": rng.random(shape) < 0.5,
            "gray": rng.random(shape) < 0.2,
            "jitter": rng.uniform(0.6, 1.4, (*shape, 4)),
            "mean_pair_distance": least + 0.1,
            "min_pair_distance": least,
            "status": status,
            "x_loss": rng.gamma(2, 1, shape),
        }
        pixels = rng.integers(0, 256, (*shape, settings.height, settings.width, 3), dtype=np.uint8)
        forms = {column.name: column.numpy_dtype for column in settings.columns()}
        return pixels, {name: values.astype(forms[name]) for name, values in params.items()}
