"""What a view set costs on disk and in every epoch, and which codec suits a machine. Pure.

Bytes follow from the layout (docs/format.md); rates come from whoever measured them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from viewstore.format.chunks import CRC_BYTES
from viewstore.format.plan import Plan
from viewstore.format.tar import BLOCK, END, MEMBER_DTYPE, NPY_BYTES, padded

SHOWN = 2  # views of each sample in an epoch, as most methods take
MEMORY_SHARE = 0.8  # of the free memory may hold views that are read again
UNIT_SECONDS = 600.0
UNIT_BYTES = 1 << 30
LEAST_ROWS, MOST_ROWS, LEAST_SHARDS = 64, 8192, 16

Bound = Literal["disk", "decode", "copy"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured here.

    Attributes:
        cores: CPUs that this process may use.
        memory_bytes: Memory that is free or can be freed.
        free_bytes: Room on the disk of the store.
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
        view_bytes: Of one view, on average.
        set_bytes: Of all shards with their params, and of the derived params.
        decode_views_per_second: By one core; None for raw views, which are only copied.
    """

    codec: str
    view_bytes: float
    set_bytes: int
    decode_views_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """An epoch that shows some views of every sample, read for the first time.

    Attributes:
        views: Shown in all.
        read_bytes: From disk.
        disk_seconds: For reading them; None if the disk was not measured.
        cpu_seconds: For decoding or copying them on all cores.
        bound: What it waits for.
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
        """At most, in the first epoch."""
        return self.views / max(self.disk_seconds or 0.0, self.cpu_seconds)

    @property
    def later_views_per_second(self) -> float:
        """At most, once the views lie in memory if they fit there."""
        return self.views / self.cpu_seconds if self.cached else self.views_per_second


def set_bytes(plan: Plan, row_bytes: float) -> int:
    """Return the bytes of all files of a view set whose rows take `row_bytes` in their tar.

    `row_bytes` is what `raw_row_bytes` or `encoded_row_bytes` return.
    """
    columns = [column.row_bytes * plan.shard_rows + CRC_BYTES for column in plan.columns]
    packed = [
        BLOCK + padded(size)
        for column, size in zip(plan.columns, columns, strict=True)
        if column.pack
    ]
    alone = sum(size for column, size in zip(plan.columns, columns, strict=True) if not column.pack)
    place_bytes = len(plan.members) * MEMBER_DTYPE.itemsize
    places = sum(
        BLOCK + padded(len(plan.shard_range(shard)) * place_bytes + CRC_BYTES)
        for shard in range(plan.shards)
    )
    each_shard = 2 * len(END) + sum(packed) + alone
    derived = plan.shards * sum(columns) + NPY_BYTES + plan.rows * place_bytes
    return round(plan.rows * row_bytes) + places + plan.shards * each_shard + derived


def raw_row_bytes(plan: Plan) -> int:
    """Return the bytes of a row in the tar of a raw view set."""
    pixels = plan.views * plan.height * plan.width * plan.channels
    return BLOCK + plan.json_bytes + BLOCK + padded(NPY_BYTES + pixels)


def encoded_row_bytes(plan: Plan, view_sizes: Sequence[int]) -> float:
    """Return the mean bytes of a row whose views have been encoded to sizes like these."""
    mean = sum(BLOCK + padded(size) for size in view_sizes) / len(view_sizes)
    return BLOCK + plan.json_bytes + plan.views * mean


def epoch(cost: CodecCost, machine: Machine, *, rows: int, view_pixels: int, shown: int) -> Epoch:
    """Return an epoch over `rows` samples that shows `shown` views of each.

    Args:
        cost: The codec.
        machine: Where it runs.
        rows: Samples.
        view_pixels: Height x width x channels of a view.
        shown: Views of each sample.
    """
    views = rows * shown
    read = views * cost.view_bytes
    rate = machine.disk_bytes_per_second
    one_core = cost.decode_views_per_second or machine.copy_bytes_per_second / view_pixels
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


def shard_rows_for(rows: int, *, sample_seconds: float, row_bytes: float) -> int:
    """Return S for a store whose speed was measured: ten minutes of work, at most 1 GiB.

    Small stores get 16 shards all the same, so that several workers can share them.
    """
    by_time = UNIT_SECONDS / max(sample_seconds, 1e-9)
    wanted = min(by_time, UNIT_BYTES / row_bytes, max(LEAST_ROWS, rows // LEAST_SHARDS))
    power = 1 << (max(1, int(wanted)).bit_length() - 1)
    return min(MOST_ROWS, max(LEAST_ROWS, power))


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Which of two codecs to take here, and why."""

    codec: str
    why: str


def advise(raw: CodecCost, encoded: CodecCost, machine: Machine) -> Advice:
    """Return raw where the disk or memory feeds the cores faster than they could decode."""
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
    """Return bytes for people: 3.1 KiB, 12.0 MiB, 4.2 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def cost_facts(
    costs: Mapping[str, CodecCost],
    machine: Machine,
    plan: Plan,
    *,
    shown: int = SHOWN,
) -> dict[str, Any]:
    """Return what each codec costs a view set, and which one suits this machine."""
    shown = min(shown, plan.views)
    pixels = plan.height * plan.width * plan.channels
    facts: dict[str, Any] = {"shown_views": shown, "codecs": {}}
    for name, cost in costs.items():
        one = epoch(cost, machine, rows=plan.rows, view_pixels=pixels, shown=shown)
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
    own = str(plan.codec["name"])
    other = own if own != "raw" else "jpg"
    advice = advise(costs["raw"], costs[other], machine)
    return facts | {"advice": advice.codec, "why": advice.why}
