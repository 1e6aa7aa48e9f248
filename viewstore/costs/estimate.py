"""What a view set costs on disk and in an epoch; which codec and shard rows to choose. Pure.

Builds, dry runs and `stats` call it. Bytes follow from the layout (docs/format.md); rates come
from the caller, which took them from measure.py or from a trial build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from viewstore.format.chunks import CRC_BYTES
from viewstore.format.plan import Plan
from viewstore.format.tar import BLOCK, END, MEMBER_DTYPE, NPY_BYTES, padded

VIEWS_PER_SAMPLE = 2  # that an epoch takes, as most methods do
MEMORY_SHARE = 0.8  # of the free memory may hold views that are read again
MOST_SHARD_SECONDS = 600.0
MOST_SHARD_BYTES = 1 << 30
HEAD_BYTES = 1024  # at most, of an encoded view
LEAST_ROWS, MOST_ROWS, LEAST_SHARDS = 64, 8192, 16
MOST_ROWS_UNMEASURED = 1024

Bound = Literal["disk", "decode", "copy"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured of a machine; `measure.machine_at` makes it.

    Attributes:
        cores: CPUs that this process may use.
        memory_bytes: Memory that is free or can be freed.
        free_bytes: Bytes that are free on the disk of the store.
        disk_bytes_per_second: Cold reads from that disk; None if they could not be measured.
        copy_bytes_per_second: Copies within memory, by one core.
    """

    cores: int
    memory_bytes: int
    free_bytes: int
    disk_bytes_per_second: float | None
    copy_bytes_per_second: float


@dataclass(frozen=True, kw_only=True)
class CodecCost:
    """What one codec makes of the views of a view set.

    Attributes:
        codec: Its name.
        view_bytes: Mean bytes of one view.
        set_bytes: Bytes of all shards with their params, and of the derived params.
        decode_views_per_second: By one core, of params the views that it renders; None for raw
            views, which are only copied.
    """

    codec: str
    view_bytes: float
    set_bytes: int
    decode_views_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The first epoch over a view set: what it reads, and what it waits for.

    Attributes:
        views: Number of views, over all samples.
        read_bytes: Bytes read from disk.
        disk_seconds: Time to read them; None if the disk was not measured.
        cpu_seconds: Time to decode or copy the views on all cores.
        bound: What takes longest.
        cached: Whether later epochs find the views in memory.
    """

    views: int
    read_bytes: int
    disk_seconds: float | None
    cpu_seconds: float
    bound: Bound
    cached: bool

    @property
    def views_per_second(self) -> float:
        """Upper bound of the rate of the first epoch."""
        return self.views / max(self.disk_seconds or 0.0, self.cpu_seconds)

    @property
    def later_views_per_second(self) -> float:
        """Upper bound of the rate of later epochs, whose views lie in memory if they fit."""
        return self.views / self.cpu_seconds if self.cached else self.views_per_second


def set_bytes(plan: Plan, row_bytes: float, members: int | None = None) -> int:
    """Return the bytes of a view set: shards, params and member table; records are left out.

    Args:
        plan: Of the view set.
        row_bytes: Bytes of a row in its tar, from `raw_row_bytes` or `encoded_row_bytes`; 0
            without one.
        members: Files of a row in its tar; None means as planned.
    """
    columns = [column.row_bytes * plan.shard_rows + CRC_BYTES for column in plan.columns]
    sizes = list(zip(plan.columns, columns, strict=True))
    packed = [size for column, size in sizes if column.pack]
    alone = sum(size for column, size in sizes if not column.pack)
    members = len(plan.members) if members is None else members
    index_row_bytes = members * MEMBER_DTYPE.itemsize
    indexes = sum(
        BLOCK + padded(len(plan.shard_range(shard)) * index_row_bytes + CRC_BYTES)
        for shard in range(plan.shards)
    )
    files = 2 if members else 1  # the tar of pixels, if there is one, and the pack of params
    each_shard = files * len(END) + sum(BLOCK + padded(size) for size in packed) + alone
    # The zarr chunk of a column in a file of its own is that file, by another name.
    derived = plan.shards * sum(packed) + NPY_BYTES + plan.rows * index_row_bytes
    return round(plan.rows * row_bytes) + indexes + plan.shards * each_shard + derived


def most_bytes(plan: Plan) -> int:
    """Return an upper bound of the bytes of a view set: no codec makes more of a view than raw.

    But for the head of its file. It is exact where views are stored raw, and params alone.
    """
    if plan.kind != "pixels":
        return set_bytes(plan, 0, 0)
    if plan.form == "raw":
        return set_bytes(plan, raw_row_bytes(plan))
    view = plan.height * plan.width * plan.channels + HEAD_BYTES
    return set_bytes(plan, encoded_row_bytes(plan, [view]))


def raw_row_bytes(plan: Plan) -> int:
    """Return the bytes of a row in the tar of a raw view set."""
    pixels = plan.views * plan.height * plan.width * plan.channels
    return BLOCK + plan.json_bytes + BLOCK + padded(NPY_BYTES + pixels)


def encoded_row_bytes(plan: Plan, view_sizes: Sequence[int]) -> float:
    """Return the mean bytes of a row in the tar of an encoded view set.

    `view_sizes` are the bytes of some of its views, one or more.
    """
    mean = sum(BLOCK + padded(size) for size in view_sizes) / len(view_sizes)
    return BLOCK + plan.json_bytes + plan.views * mean


def epoch(
    cost: CodecCost, machine: Machine, *, rows: int, view_pixels: int, views_per_sample: int
) -> Epoch:
    """Return what an epoch over `rows` samples takes, with `views_per_sample` views of each.

    `view_pixels` is height x width x channels of a view.
    """
    views = rows * views_per_sample
    read = views * cost.view_bytes
    rate = machine.disk_bytes_per_second
    one_core = cost.decode_views_per_second or machine.copy_bytes_per_second / max(
        1, view_pixels or cost.view_bytes
    )
    cpu = views / (one_core * machine.cores)
    from_disk = None if rate is None else read / rate
    by_cpu: Bound = "copy" if cost.decode_views_per_second is None else "decode"
    return Epoch(
        views=views,
        read_bytes=round(read),
        disk_seconds=from_disk,
        cpu_seconds=cpu,
        bound="disk" if from_disk is not None and from_disk > cpu else by_cpu,
        cached=cost.set_bytes <= MEMORY_SHARE * machine.memory_bytes,
    )


def choose_shard_rows(
    rows: int, row_bytes: float = 1, *, sample_seconds: float | None = None
) -> int:
    """Return the rows of a shard for a new store, a power of two.

    A shard is at most 1 GiB and, where the speed is known, ten minutes of work. A small store
    gets 16 shards if these have 64 rows or more, so that several workers can share it.

    Args:
        rows: Rows of the store.
        row_bytes: Bytes of a row in its shard; raw pixels are an upper bound.
        sample_seconds: Time that one worker takes for a sample, if it was measured: the result
            is then in 64..8192, whatever the bytes. Without it, it is at most 1024.
    """
    limits = [max(LEAST_ROWS, rows // LEAST_SHARDS), MOST_SHARD_BYTES / row_bytes]
    if sample_seconds is None:
        least, most = 1, MOST_ROWS_UNMEASURED
    else:
        least, most = LEAST_ROWS, MOST_ROWS
        limits.append(MOST_SHARD_SECONDS / max(sample_seconds, 1e-9))
    largest = max(least, int(min(most, *limits)))
    return 1 << (largest.bit_length() - 1)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Which of two codecs to take here, and why."""

    codec: str
    why: str


def advise(raw: CodecCost, encoded: CodecCost, machine: Machine) -> Advice:
    """Return which of two codecs to take: raw where disk or memory outrun decoding.

    `encoded` is the cost of a codec that decodes; its rate must have been measured.
    """
    other = encoded.codec
    if raw.set_bytes > machine.free_bytes:
        return Advice(codec=other, why=f"raw needs {size(raw.set_bytes)}, more than is free")
    if raw.set_bytes <= MEMORY_SHARE * machine.memory_bytes:
        return Advice(codec="raw", why="all of it stays in memory after the first epoch")
    rate = machine.disk_bytes_per_second
    if rate is None:
        return Advice(codec=other, why="the disk could not be measured, and memory is too small")
    assert encoded.decode_views_per_second is not None
    from_disk = rate / raw.view_bytes
    decoded = machine.cores * encoded.decode_views_per_second
    facts = (
        f"the disk reads {from_disk:.0f} raw views/s, {machine.cores} cores decode {decoded:.0f}"
    )
    return Advice(codec="raw" if from_disk > decoded else other, why=facts)


def size(count: float) -> str:
    """Return a number of bytes as text: 3.1 KiB, 12.0 MiB, 4.2 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def cost_facts(costs: Mapping[str, CodecCost], machine: Machine, plan: Plan) -> dict[str, Any]:
    """Return what each codec costs a view set, and which one suits this machine.

    Args:
        costs: By name: that of the plan's codec, and those of raw and another one.
        machine: Where the view set is read.
        plan: Of the view set.
    """
    views = min(VIEWS_PER_SAMPLE, plan.views)
    pixels = plan.height * plan.width * plan.channels
    facts: dict[str, Any] = {"shown_views": views, "codecs": {}}
    for name, cost in costs.items():
        one = epoch(cost, machine, rows=plan.rows, view_pixels=pixels, views_per_sample=views)
        facts["codecs"][name] = {
            "view_bytes": cost.view_bytes,
            "set_bytes": cost.set_bytes,
            "decode_views_per_second": cost.decode_views_per_second,
            "epoch_bytes": one.read_bytes,
            "epoch_disk_seconds": one.disk_seconds,
            "epoch_cpu_seconds": one.cpu_seconds,
            "bound": one.bound,
            "cached": one.cached,
            "views_per_second": one.views_per_second,
            "later_views_per_second": one.later_views_per_second,
        }
    own = plan.form
    if plan.kind == "columns":
        return facts | {"advice": own, "why": "columns are stored in one way"}
    other = own if own != "raw" else "jpg"
    advice = advise(costs["raw"], costs[other], machine)
    return facts | {"advice": advice.codec, "why": advice.why}
