"""Measurements of this machine: cold reads, copies, decoding, and sizes of encoded views.

`stats`, dry runs and `bench` call it; estimate.py and bottleneck.py compute from what it returns.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.cores import usable_cores
from viewstore.costs.disk_space import existing_folder, free_bytes
from viewstore.costs.estimate import CodecCost, Machine, encoded_row_bytes, raw_row_bytes, set_bytes
from viewstore.format.plan import Plan
from viewstore.images.codec import Codec, make_codec
from viewstore.images.params import ParamsAlone
from viewstore.store.view_set import ViewSet

READ_BYTES = 256 << 20
CHUNK_BYTES = 4 << 20
LEAST_READ_BYTES = 8 << 20  # less says more about the first seek than about the disk
SCRATCH_BYTES = 64 << 20
COPY_BYTES = 32 << 20
SECONDS = 0.25
MOST_VIEWS = 128  # that are encoded or decoded to learn sizes and rates


def machine_at(folder: Path, files: Sequence[Path] = ()) -> Machine:
    """Measure this machine, and its disk where `folder` lies.

    Args:
        folder: Where the store is, or will be.
        files: Files there that may be read cold; without enough of them a temporary one is
            written beside `folder` and removed again.
    """
    rate = disk_rate(files)
    if rate is None:
        rate = _scratch_rate(existing_folder(folder.absolute().parent))
    return Machine(
        cores=usable_cores(),
        memory_bytes=free_memory(),
        free_bytes=free_bytes(folder),
        disk_bytes_per_second=rate,
        copy_bytes_per_second=copy_rate(),
    )


def free_memory() -> int:
    """Return the bytes of memory that are free or can be freed."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def disk_rate(files: Iterable[Path]) -> float | None:
    """Return bytes per second of reading files that were dropped from the page cache.

    None if there is too little to read, or the system cannot drop it.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    read, seconds = 0, 0.0
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            while chunk := os.read(descriptor, CHUNK_BYTES):
                read += len(chunk)
            seconds += time.perf_counter() - began
        finally:
            os.close(descriptor)
        if read >= READ_BYTES:
            break
    return read / seconds if read >= LEAST_READ_BYTES and seconds else None


def _scratch_rate(folder: Path) -> float | None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".viewstore-") as file:
            file.write(os.urandom(SCRATCH_BYTES))
            file.flush()
            os.fsync(file.fileno())
            return disk_rate([Path(file.name)])
    except OSError:
        return None


def copy_rate() -> float:
    """Return bytes per second that one core copies within memory."""
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.zeros(COPY_BYTES, np.uint8)
    return COPY_BYTES * rate_of(lambda: np.copyto(target, source), seconds=0.1)


def rate_of(step: Callable[[], object], *, seconds: float = SECONDS) -> float:
    """Return how often `step` runs in a second, over `seconds` and at least one run."""
    step()
    count = 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not count:
        step()
        count += 1
    return count / spent


def decode_rate(codec: Codec, payloads: Sequence[bytes], *, seconds: float = SECONDS) -> float:
    """Return the views that one core decodes in a second; `payloads` are encoded views."""
    return len(payloads) * rate_of(
        lambda: [codec.decode(each) for each in payloads], seconds=seconds
    )


def codec_costs(
    view_set: ViewSet,
    *,
    plan: Plan | None = None,
    seconds: float = SECONDS,
    rendered: float | None = None,
) -> dict[str, CodecCost]:
    """Return the costs of the view set's own codec, of raw, and of jpg unless it is encoded.

    Args:
        view_set: Its views are read, at most 128 of them.
        plan: The costs are those of a view set with this plan; None means that of `view_set`.
        seconds: How long decoding is measured.
        rendered: Views/s that one core renders, where the views could be stored as params.
    """
    plan = plan or view_set.plan
    if plan.kind == "columns":
        return {plan.form: _params_cost(plan, None)}
    pixels = sample_views(view_set)
    own = view_set.codec
    others = ["raw"] if own.encoded else ["raw", "jpg"]
    costs = {}
    if rendered is not None or own.name == ParamsAlone.name:
        costs[ParamsAlone.name] = _params_cost(plan, rendered or render_rate(view_set, seconds))
    for name in dict.fromkeys([own.name, *others]):
        if name in costs:
            continue
        codec = own if name == own.name else make_codec(name)
        costs[name] = _cost(codec, pixels, view_set, plan, seconds)
    return costs


def _cost(
    codec: Codec, pixels: Sequence[NDArray[np.uint8]], view_set: ViewSet, plan: Plan, seconds: float
) -> CodecCost:
    members = len(codec.members(plan.views))
    if not codec.encoded:
        return CodecCost(
            codec=codec.name,
            view_bytes=plan.height * plan.width * plan.channels,
            set_bytes=set_bytes(plan, raw_row_bytes(plan), members),
            decode_views_per_second=None,
        )
    payloads = [codec.encode(each) for each in pixels]
    sizes = [len(each) for each in payloads]
    if codec.name == view_set.codec.name:
        sizes = _stored_sizes(view_set)
    return CodecCost(
        codec=codec.name,
        view_bytes=sum(sizes) / len(sizes),
        set_bytes=set_bytes(plan, encoded_row_bytes(plan, sizes), members),
        decode_views_per_second=decode_rate(codec, payloads, seconds=seconds),
    )


def render_rate(view_set: ViewSet, seconds: float = SECONDS) -> float:
    """Return the views that one core renders in a second, source images decoded: a recipe's."""
    built = [row for shard in view_set.shards.values() for row in shard.rows]
    rows = itertools.cycle(built[:: max(1, len(built) // MOST_VIEWS)])
    return view_set.num_views * rate_of(lambda: view_set[next(rows)], seconds=seconds)


def _params_cost(plan: Plan, rate: float | None) -> CodecCost:
    """Return the costs of params alone; `rate` is that at which views are rendered from them."""
    return CodecCost(
        codec=ParamsAlone.name if rate else plan.form,
        view_bytes=sum(column.row_bytes for column in plan.columns) / plan.views,
        set_bytes=set_bytes(plan, 0, 0),
        decode_views_per_second=rate,
    )


def _stored_sizes(view_set: ViewSet) -> list[int]:
    """Return the size of every encoded view of a view set."""
    names = view_set.plan.members
    columns = [index for index, name in enumerate(names) if name.startswith("v")]
    sizes: Any = view_set.members[:, columns]["size"]
    found: list[int] = sizes[sizes > 0].tolist()
    return found


def sample_views(view_set: ViewSet, most: int = MOST_VIEWS) -> list[NDArray[np.uint8]]:
    """Return at most `most` views, each uint8 [H, W, C], of evenly spread rows that were built."""
    built = [row for shard in view_set.shards.values() for row in shard.rows]
    count = min(len(built), max(1, most // view_set.num_views))
    rows = [built[index] for index in np.linspace(0, len(built) - 1, count).astype(int).tolist()]
    return [view for row in rows for view in view_set[row]][:most]
