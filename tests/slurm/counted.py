"""A generator that notes each unit that it begins, and takes its time over it where it is told to.

The tests install a copy of this file as a package of its own. What it notes and how long it takes
is no setting, so that the plan of a slow build is that of a fast one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from viewstore.format.columns import Column
from viewstore.generators.contract import Context, OfSource, Rendered, Sample
from viewstore.images.resize import resize
from viewstore.randomness import Op, Stream

BEGUN = Path(__file__).with_name("begun")  # a line for each unit: Slurm's job, and its first row
PAUSE = Path(__file__).with_name("pause")  # seconds that a sample takes


@dataclass(frozen=True, kw_only=True)
class Counted(OfSource):
    """Views whose levels are moved by an amount that is drawn; also what it resolves to."""

    VERSION: ClassVar[int] = 1

    views: int = 1
    height: int = 8
    width: int = 8

    def resolve(self, context: Context) -> Counted:
        return self

    def roles(self) -> tuple[str, ...]:
        return ("expert",) * self.views

    def columns(self) -> tuple[Column, ...]:
        return (Column(name="status", dtype="u1", shape=(self.views,)),)

    def make(self, context: Context) -> Counter:
        return Counter(self, context.stream)


@dataclass(frozen=True)
class Counter:
    settings: Counted
    stream: Stream

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        s = self.settings
        pause = float(PAUSE.read_text())
        for number, sample in enumerate(samples):
            if number == 0:
                job = os.environ.get("SLURM_ARRAY_JOB_ID", "none")
                with BEGUN.open("a") as file:  # one write, which appends whole
                    file.write(f"{job} {sample.index}\n")
            time.sleep(pause)
            moved = self.stream.uniform(Op.CROP, sample.index, np.arange(s.views))[:, 0] * 64
            views = resize(sample.image, s.height, s.width)[None] // 2 + moved[:, None, None, None]
            status = np.ones(s.views, np.uint8)
            yield Rendered(sample.index, views.astype(np.uint8), {"status": status})
