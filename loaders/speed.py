"""How fast a loader is on this machine, and how fast bare loops over the same views are."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewstore.costs.measure import rate_of, sample_views
from viewstore.loaders.batches.batch import Batch
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.pipeline.threads import ONE_OPENCV_THREAD
from viewstore.loaders.plan.asked import Views
from viewstore.loaders.plan.usable import leave_out
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

SAMPLE_VIEWS = 128
SOURCE_IMAGES = 32
COPIED_AT_ONCE = 256
COPIES_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of a loader.

    Attributes:
        first_batch_seconds: From its construction, in this process.
        samples_per_second: After a warm-up epoch.
        wait_share: Share of the time that the caller waited for a batch.
        render_seconds: For a sample with all threads at work: crops, flips and colours.
        slots: Views of a sample.
    """

    first_batch_seconds: float
    samples_per_second: float
    wait_share: float
    render_seconds: float
    slots: int


def loader_speed(
    store: Store, views: Views, *, batch_size: int, threads: int, seconds: float
) -> Speed:
    """Measure a loader: whole epochs, or parts of a long one, for some seconds.

    Views that were not made give way to others: no option of `bench` could ask for that.
    """
    began = time.perf_counter()
    with ViewLoader(
        store, views, batch_size=batch_size, num_threads=threads, missing="resample"
    ) as loader:
        batches = (batch for _ in itertools.count() for batch in loader)
        slots = len(next(batches).views)
        first = time.perf_counter() - began
        _iterate(batches, seconds=seconds, least=len(loader) - 1)
        before = loader.stats()
        samples, spent = _iterate(batches, seconds=seconds, least=1)
        after = loader.stats()
        batches.close()
    return Speed(
        first_batch_seconds=first,
        samples_per_second=samples / spent,
        wait_share=(after["wait_seconds"] - before["wait_seconds"]) / spent,
        render_seconds=(after["render_seconds"] - before["render_seconds"]) / samples / threads,
        slots=slots,
    )


def _iterate(batches: Iterator[Batch], *, seconds: float, least: int) -> tuple[int, float]:
    """Return samples and seconds of `seconds` and at least `least` batches.

    Fewer than `least` batches where those would take ten times as long.
    """
    samples = count = 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or (
        count < least and spent < 10 * seconds
    ):
        samples += len(next(batches))
        count += 1
    return samples, spent


def bare_rate(view_set: ViewSet, *, threads: int, seconds: float) -> float:
    """Return the views per second that threads copy from memory in shuffled order, or decode."""
    pixels = np.stack(sample_views(view_set, SAMPLE_VIEWS))
    if not view_set.codec.encoded:
        return _together(_copies(pixels), COPIED_AT_ONCE, threads=threads, seconds=seconds)
    payloads = [view_set.codec.encode(view) for view in pixels]
    decode = view_set.codec.decode
    ONE_OPENCV_THREAD.begin()
    try:
        return _together(
            lambda: [decode(each) for each in payloads],
            len(payloads),
            threads=threads,
            seconds=seconds,
        )
    finally:
        ONE_OPENCV_THREAD.end()


def _copies(pixels: NDArray[np.uint8]) -> Callable[[], object]:
    """Return what gathers views from memory that is too large for the caches of the processor."""
    flat = pixels.reshape(len(pixels), -1)
    repeats = max(1, COPIES_BYTES // flat.nbytes)
    many = np.tile(flat, (repeats, 1))
    rng = np.random.default_rng(0)
    orders = [rng.integers(0, len(many), COPIED_AT_ONCE) for _ in range(8)]
    order = itertools.cycle(orders)

    def copy() -> None:
        out = np.empty((COPIED_AT_ONCE, flat.shape[1]), np.uint8)
        np.take(many, next(order), axis=0, out=out, mode="clip")

    return copy


def _together(step: Callable[[], object], views: int, *, threads: int, seconds: float) -> float:
    """Return the views per second of threads that all run `step`, which makes `views`."""
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(rate_of, step, seconds=seconds) for _ in range(threads)]
        return views * sum(job.result() for job in jobs)


def source_rate(store: Store, *, threads: int, seconds: float) -> float:
    """Return the source images per second that threads read and decode."""
    readable, _ = leave_out(store, None, (), online=True)
    readable = np.arange(store.num_samples) if readable is None else readable
    spread = np.linspace(0, len(readable) - 1, SOURCE_IMAGES).astype(np.int64)
    rows = readable[spread].tolist()
    return _together(
        lambda: [store.source.image(row) for row in rows],
        len(rows),
        threads=threads,
        seconds=seconds,
    )
