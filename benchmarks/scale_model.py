"""What a store of many images costs to build, to keep and to stream: arithmetic, no measurement.

Ranges are those that the loader would ask for: its order, schedule and rule of joining are run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from viewstore.files.eviction import needed_bytes
from viewstore.format.tar import BLOCK, MEMBER_DTYPE
from viewstore.loaders.plan.cut import Cut
from viewstore.loaders.plan.order import Order
from viewstore.loaders.plan.schedule import choose_views
from viewstore.loaders.read.ranged import LEAST_USED_SHARE, REQUESTS, Span, join_spans

STEPS = 20  # of which ranges are counted
PAGE_KEYS = 1000  # names that one LIST request gives
PUTS = 3  # a shard, its pack, its commit: each in one request, whatever its size
TABLES = 12  # columns of the source, members, index: fetched once for a host
PAGE_BYTES, PAGE_ENTRY_BYTES = 4096, 8


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A view set of JPEG views.

    Attributes:
        rows, views, shown: Images, views of each that are kept, and that a step shows.
        shard_rows: Rows of a shard.
        view_bytes: Of a view, without its tar header.
        param_bytes: Of the params of a row.
        index_bytes: Of a shard in index.json.
        source_bytes: Of the columns of the source, for a row.
    """

    rows: int
    views: int
    shown: int
    shard_rows: int
    view_bytes: float
    param_bytes: float
    index_bytes: float
    source_bytes: float

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    @property
    def member_bytes(self) -> float:
        """Of a view in its tar."""
        return BLOCK + math.ceil(self.view_bytes / BLOCK) * BLOCK

    @property
    def row_bytes(self) -> float:
        """Of a row in its tar: its views, and what it says of itself."""
        return 2 * BLOCK + self.views * self.member_bytes

    @property
    def shard_bytes(self) -> float:
        return self.shard_rows * self.row_bytes

    @property
    def members_bytes(self) -> int:
        """Of members.npy."""
        return self.rows * (self.views + 1) * MEMBER_DTYPE.itemsize

    @property
    def pixel_bytes(self) -> float:
        """Of all tars."""
        return self.rows * self.row_bytes


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a site has; all of it is assumed, and yours to set.

    Attributes:
        gpus: Ranks of a host.
        images: Images a second that a GPU trains on.
        batch: Samples of a step for each GPU.
        host_bits, server_bits: Network of a host, and of one file server, bits a second.
        latency: Seconds until a bucket answers.
        bucket_requests: GETs a second that a bucket answers for one job.
        disk_bytes: Reads of a host's own disk, bytes a second.
        cores: Of a host.
    """

    gpus: int = 8
    images: float = 1000.0
    batch: int = 64
    host_bits: float = 25e9
    server_bits: float = 25e9
    latency: float = 0.02
    bucket_requests: float = 5000.0
    disk_bytes: float = 3e9
    cores: int = 64


@dataclass(frozen=True, kw_only=True)
class Costs:
    """CPU seconds that were measured, of one core.

    Attributes:
        view: Of a loader, for a view: read, checked and decoded.
        range: Of `viewstore serve`, for a small range.
        gib: Of `viewstore serve`, for a GiB of whole files.
    """

    view: float
    range: float
    gib: float


def building(stored: Stored, seconds: dict[str, float], scan_seconds: float) -> dict[str, Any]:
    """Return hours of one worker, and requests where the store is built into a bucket.

    `seconds`: Of one worker for a sample, by kind of view.
    """
    return {
        "units": stored.shards,
        "scan_hours": stored.rows * scan_seconds / 3600,
        "worker_hours": {kind: stored.rows * each / 3600 for kind, each in seconds.items()},
        "unit_minutes": {kind: stored.shard_rows * each / 60 for kind, each in seconds.items()},
        "put_requests": PUTS * stored.shards,
        "finalise_get_requests": 2 * stored.shards,  # commits, packs
        "list_requests": math.ceil(PUTS * stored.shards / PAGE_KEYS),
    }


def keeping(stored: Stored, terabyte_month: float) -> dict[str, Any]:
    """Return bytes by kind, and files; `terabyte_month` is a price, in any money."""
    packs = stored.rows * (stored.param_bytes + (stored.views + 1) * MEMBER_DTYPE.itemsize)
    sizes = {
        "tars": stored.pixel_bytes,
        "packs": packs,
        "members.npy": float(stored.members_bytes),
        "index.json": stored.shards * stored.index_bytes,
        "params.zarr": stored.rows * stored.param_bytes,
        "source_columns": stored.rows * stored.source_bytes,
    }
    total = sum(sizes.values())
    return {
        "bytes": sizes,
        "total_bytes": total,
        "shard_bytes": stored.shard_bytes,
        "files_of_readers": 2 * stored.shards + 16,
        "files_in_commits": stored.shards,
        "price_a_month": total / 1e12 * terabyte_month,
    }


def ranges(stored: Stored, world: int, batch: int, shuffle: str) -> dict[str, float]:
    """Return requests and bytes for an image, as a rank asks for them by ranges."""
    order = Order(shuffle=shuffle, num_rows=stored.rows, seed=0, shard_rows=stored.shard_rows)
    cut = Cut(num_rows=stored.rows, global_batch=batch, world_size=world)
    requests = images = taken = 0
    for step in range(min(STEPS, cut.steps)):
        rows = order.rows(cut.positions(step)[0], 0)
        shown = choose_views(0, 0, rows, cached=stored.views, wanted=stored.shown, pick="schedule")
        spans: dict[int, list[Span]] = {}
        for row, views in zip(rows.tolist(), shown.tolist(), strict=True):
            shard, place = divmod(row, stored.shard_rows)
            for view in views:
                start = int(place * stored.row_bytes + 2 * BLOCK + view * stored.member_bytes)
                spans.setdefault(shard, []).append(
                    Span((row, view), start, int(stored.view_bytes), 0)
                )
        groups = [group for each in spans.values() for group in join_spans(each)]
        requests += len(groups)
        taken += sum(max(s.stop for s in group) - group[0].start for group in groups)
        images += len(rows)
    return {"requests": requests / images, "bytes": taken / images}


def streaming(stored: Stored, site: Site, hosts: int, costs: Costs) -> dict[str, Any]:
    """Return what hosts ask of a bucket, of one server and of themselves, by way of reading.

    A load is a demand over what the site has. The largest of a way is its wall if it is above 1:
    training then waits so many times as long.
    """
    world, images = hosts * site.gpus, site.gpus * site.images
    epoch = stored.rows / (images * hosts)
    fill = stored.pixel_bytes * 8 / site.host_bits
    fill_gib = hosts * stored.pixel_bytes / (1 << 30)
    share = stored.shown / stored.views / hosts
    ways: dict[str, dict[str, float]] = {}
    for shuffle in ("global", "block:8"):
        asked = ranges(stored, world, world * site.batch, shuffle)
        requests, bits = asked["requests"] * images, asked["bytes"] * images * 8
        in_flight = {"requests in flight": requests * site.latency / (site.gpus * REQUESTS)}
        ways[f"ranges of a bucket, {shuffle}"] = {
            **in_flight,
            "network of a host": bits / site.host_bits,
            "requests of the bucket": requests * hosts / site.bucket_requests,
        }
        ways[f"ranges of one server, {shuffle}"] = {
            "network of the server": bits * hosts / site.server_bits,
            "one core of serve": requests * hosts * costs.range,
        }
    ways["filling from a bucket in the first epoch"] = {"network of a host": fill / epoch}
    ways["filling from one server in the first epoch"] = {
        "network of the server": hosts * stored.pixel_bytes * 8 / site.server_bits / epoch,
        "one core of serve": fill_gib * costs.gib / epoch,
    }
    ways["filled"] = {
        "disk of a host": stored.shown * stored.view_bytes * images / site.disk_bytes,
        "cores of a host": stored.shown * images * costs.view / site.cores,
    }
    return {
        "world": world,
        "images_a_second_of_all": images * hosts,
        "epoch_seconds": epoch,
        "share_of_a_shard_used_here": share,
        "reads_whole_shards_by_itself": share >= LEAST_USED_SHARE,
        "least_cache_bytes": needed_bytes(math.ceil(stored.shard_bytes), site.gpus),
        "fill_seconds_of_a_host": fill,
        "fill_seconds_from_one_server": hosts * stored.pixel_bytes * 8 / site.server_bits,
        "fill_core_seconds_of_serve": fill_gib * costs.gib,
        "page_table_bytes_of_a_rank": stored.pixel_bytes / PAGE_BYTES * PAGE_ENTRY_BYTES,
        "loads": ways,
        "walls": {way: max(loads, key=lambda name: loads[name]) for way, loads in ways.items()},
    }


def opening(stored: Stored, site: Site, hosts: int, small: int) -> dict[str, float]:
    """Return what all ranks ask for before their first batch.

    `small`: Requests of a rank for files below 1 MiB, which are not kept in the cache.
    """
    tables = stored.members_bytes + stored.rows * stored.source_bytes
    tables += stored.shards * stored.index_bytes
    return {
        "requests": hosts * (site.gpus * small + TABLES),
        "table_bytes_of_a_host": tables,
        "table_bytes_of_all": hosts * tables,
        "pack_requests_of_all": hosts * stored.shards,
    }
