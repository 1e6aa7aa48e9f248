"""A build tried on a few samples: how long the whole would take, and what it would cost.

`viewstore build --dry-run` calls `rehearse`. The samples are built for real, into a scratch store
that is removed again; the store itself is only read.
"""

from __future__ import annotations

import contextlib
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from viewstore.build.adopt import adopt_sources, check_same_generator, fixed_sources
from viewstore.build.placed import placed
from viewstore.build.planning import check_out
from viewstore.build.request import BuildRequest, wanted_shards
from viewstore.build.roles import files_needed, needed_roles
from viewstore.build.rows import build_rows, shard_rows_of
from viewstore.build.run import build
from viewstore.cores import usable_cores
from viewstore.costs.disk_space import check_free_bytes
from viewstore.costs.estimate import CodecCost, Machine, choose_shard_rows
from viewstore.costs.measure import codec_costs, machine_at
from viewstore.errors import StoppedError
from viewstore.files.disk import FREE_SPACE
from viewstore.files.upstream import FOLDER
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.progress import Fact, Progress, Silent
from viewstore.sources.table import SourceTable, take_rows
from viewstore.store.committed import committed_shards, read_plan
from viewstore.store.store import Store, open_store

PERCENTILES = (10, 50, 90)
STRETCHES = 8


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a build would take, as far as its first samples tell.

    Attributes:
        plan: Of the whole build, as far as a few samples tell: calibrated settings may differ.
        sampled: Samples that were built.
        views_per_second: By one worker, the first sample left out.
        percentiles: Views/s of stretches of the build: 10, 50 and 90 % are slower.
        workers: Number of workers that the build would use.
        left: Number of samples that are not committed yet.
        committed: Number of shards that are committed already.
        peak_bytes: Memory of this process at its peak.
        costs: What the codecs make of the views.
    """

    plan: Plan
    sampled: int
    views_per_second: float
    percentiles: tuple[float, ...]
    workers: int
    left: int
    committed: int
    peak_bytes: int
    machine: Machine
    costs: dict[str, CodecCost]

    @property
    def seconds(self) -> float:
        """Time for the samples that are left."""
        return self.left * self.plan.views / (self.views_per_second * self.workers)

    @property
    def best_shard_rows(self) -> int:
        """Best rows per shard of a new store; an existing store cannot change its own."""
        row_bytes = self.costs[self.plan.form].set_bytes / self.plan.rows
        sample_seconds = self.plan.views / self.views_per_second
        return choose_shard_rows(self.plan.rows, row_bytes, sample_seconds=sample_seconds)

    @property
    def unit_seconds(self) -> float:
        """Time for one shard by one worker."""
        return self.plan.shard_rows * self.plan.views / self.views_per_second

    @property
    def unit_bytes(self) -> int:
        """Size of one shard."""
        return self.costs[self.plan.form].set_bytes // self.plan.shards


def rehearse(request: BuildRequest, samples: int, progress: Progress | None = None) -> Rehearsal:
    """Build evenly spread samples in a scratch folder, and measure.

    Raises:
        ConfigError: What the build itself would refuse.
        UnavailableError: The disk has no space for two shards.
    """
    with placed(request) as request:
        return _rehearse(request, samples, progress or Silent())


def _rehearse(request: BuildRequest, samples: int, progress: Progress) -> Rehearsal:
    from viewstore.generators import make_settings

    check_out(request.root)
    paths = StorePaths(request.root)
    table, _ = build_rows(request, paths, progress, keep=False)
    with tempfile.TemporaryDirectory(prefix="viewstore-") as folder:
        scratch = Path(folder) / "store"
        rows = np.linspace(0, len(table.keys) - 1, min(samples, len(table.keys))).astype(np.int64)
        adopt_sources(StorePaths(scratch), take_rows(table, rows), choose_shard_rows(len(rows)))
        clock = _Clock(progress, request.name)
        with _nothing_kept():
            wanted = _scratch_request(request, paths, scratch)
            for each in _made_from(wanted, paths):
                build(each)
            build(wanted, clock)
        trial = open_store(scratch)
        view_set = trial.view_sets[request.name]
        shard_rows = _shard_rows(request, paths, trial, table)
        plan = replace(view_set.plan, rows=len(table.keys), shard_rows=shard_rows)
        made_by = make_settings(plan.generator["name"], plan.generator["args"])
        rate = clock.samples_per_second() * plan.views
        costs = codec_costs(view_set, plan=plan, rendered=rate if made_by.recipe() else None)
    committed = set(committed_shards(paths.view_set(request.name)))
    missing = [shard for shard in wanted_shards(request, plan) if shard not in committed]
    found = Rehearsal(
        plan=plan,
        sampled=len(rows),
        views_per_second=clock.samples_per_second() * plan.views,
        percentiles=tuple(each * plan.views for each in clock.percentiles()),
        workers=max(1, min(request.workers or usable_cores(), len(missing))),
        left=sum(len(plan.shard_range(shard)) for shard in missing),
        committed=len(committed),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        machine=machine_at(request.root),
        costs=costs,
    )
    if found.left:
        check_free_bytes(
            request.root,
            2 * found.unit_bytes,
            needed_by="two shards need",
            fix=f"{FREE_SPACE}, or name an --out on another disk"
            if request.upstream is FOLDER
            else FREE_SPACE,
        )
    return found


def _shard_rows(request: BuildRequest, paths: StorePaths, trial: Store, table: SourceTable) -> int:
    """Return the rows of a shard of the whole build.

    The view set that is built first decides them for a new store: that which another starts from.
    """
    plan = trial.view_sets[request.name].plan
    for link in plan.links.values():
        plan = trial.view_sets[link["view_set"]].plan
    choose = shard_rows_of(request, paths, views=plan.views, height=plan.height, width=plan.width)
    return fixed_sources(paths, table, choose)[0]


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Say of a stop in the block what is true of a dry run: it cannot be gone on with."""
    try:
        yield
    except StoppedError as error:
        raise StoppedError(
            "the dry run was stopped",
            code=error.code,
            why="it keeps nothing, and nothing was written to the store",
            fix="try fewer samples with --sample",
        ) from error


def _scratch_request(request: BuildRequest, paths: StorePaths, scratch: Path) -> BuildRequest:
    """Return the request for the scratch store, with what the stored plan says already."""
    own = paths.view_set(request.name)
    changes: dict[str, object] = {}
    if own.plan.is_file():
        stored = read_plan(own)
        check_same_generator(own, stored, request.generator)
        changes["settings"] = {**stored.generator["args"], **request.settings}
        changes["seed"] = stored.seed if request.seed is None else request.seed
        own_form = None if stored.kind == "columns" else stored.form
        changes["codec"] = request.codec or own_form
    return replace(
        request,
        out=scratch,
        upstream=FOLDER,
        source=None,
        limit=None,
        shard_rows=None,
        only=None,
        slice_of=None,
        workers=1,
        **changes,  # type: ignore[arg-type]
    )


def _made_from(request: BuildRequest, paths: StorePaths) -> Iterator[BuildRequest]:
    """Yield the requests for what a view set is made from, as the store has it: parents first.

    What the store lacks is left to the build itself, which makes it first or refuses.
    """
    from viewstore.generators import make_settings

    for wanted in make_settings(request.generator, request.settings).inputs().values():
        own = paths.view_set(wanted.view_set)
        if own.plan.is_file():
            plan = read_plan(own)
            args = plan.generator["args"]
            needs = needed_roles(make_settings(plan.generator["name"], args))
            first = replace(
                request,
                generator=plan.generator["name"],
                settings=args,
                view_set=plan.view_set,
                seed=plan.seed,
                codec=None if plan.kind == "columns" else plan.form,
                proof=None,
                files=files_needed(needs, request.files),
            )
            yield from _made_from(first, paths)
            yield first


class _Clock:
    """A Progress that passes everything on, and records the time of each sample of a view set."""

    def __init__(self, progress: Progress, view_set: str) -> None:
        self.progress, self.view_set = progress, view_set
        self.note, self.warn, self.end = progress.note, progress.warn, progress.end
        self.label = ""
        self.times: list[tuple[float, int]] = []

    def begin(self, label: str, total: int, unit: str, *, settle: int = 0) -> None:
        self.label = label
        self.progress.begin(label, total, unit, settle=settle)

    def advance(self, count: int = 1, **facts: Fact) -> None:
        if self.label == self.view_set:
            self.times.append((time.perf_counter(), count))
        self.progress.advance(count, **facts)

    def samples_per_second(self) -> float:
        """Return the rate without the first sample, which loads and compiles."""
        counted = sum(done for _, done in self.times[1:])
        return counted / max(self.times[-1][0] - self.times[0][0], 1e-9) if counted else 0.0

    def percentiles(self) -> list[float]:
        """Return samples/s at the percentiles of some stretches of the build."""
        if len(self.times) < 2:
            return [0.0] * len(PERCENTILES)
        moments = np.array([moment for moment, _ in self.times])
        done = np.cumsum([count for _, count in self.times])
        ends = np.unique(np.linspace(0, len(moments) - 1, STRETCHES + 1).astype(np.int64))
        rates = np.diff(done[ends]) / np.maximum(np.diff(moments[ends]), 1e-9)
        return [float(each) for each in np.percentile(rates, PERCENTILES)]
