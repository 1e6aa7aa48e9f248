"""The command that measures a store: bench."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.options import NUMBER, POSITIVE, STORE
from viewstore.cli.terminal import Terminal
from viewstore.cores import usable_cores
from viewstore.errors import ConfigError, counted
from viewstore.progress import tracked

if TYPE_CHECKING:
    from viewstore.costs.estimate import Machine
    from viewstore.loaders import Cached, Online
    from viewstore.loaders.speed import Speed
    from viewstore.store.store import Store

    Group = list[Cached | Online]


QUIET_LOAD = 0.5


@command("bench", example="viewstore bench views --views simclr,simclr,w-search")
@STORE
@click.option(
    "--views",
    metavar="LIST",
    help="Load batches of these views, named as for train."
    "  [default: each view set alone, 2 views]",
)
@click.option(
    "--batch-size",
    type=POSITIVE,
    default=256,
    show_default=True,
    metavar="B",
    help="Load B samples in a batch.",
)
@click.option(
    "--threads",
    type=POSITIVE,
    metavar="N",
    help="Load with N threads.  [default: all that may be used]",
)
@click.option(
    "--seconds",
    type=NUMBER,
    default=2.0,
    show_default=True,
    metavar="S",
    help="Measure each figure for S seconds.",
)
def bench(terminal: Terminal, store: Path, **options: Any) -> None:  # noqa: ANN401
    """Measure how fast this store loads here, and say what bounds it.

    The limit is what a bare loop over the same views does: copies or decodes, no loader.
    """
    from viewstore.costs.measure import machine_at
    from viewstore.store.store import open_store

    opened = open_store(store)
    terminal.store_id = opened.store_id
    load = os.getloadavg()[0]
    if load >= QUIET_LOAD:
        terminal.warn(f"the load is {load:.1f}: other processes take a share of these figures")
    if not 0 < options["seconds"] < math.inf:
        raise ConfigError(f"--seconds must be above 0 and finite, got {options['seconds']}")
    groups = _groups(opened, options["views"])
    threads = options["threads"] or usable_cores()
    files = [shard.path for each in opened.view_sets.values() for shard in each.shards.values()]
    machine = machine_at(opened.root, files)
    found = {}
    with tracked(terminal, "bench", len(groups), "loaders"):
        for name, views in groups.items():
            found[name] = _measured(
                opened,
                views,
                machine,
                batch_size=min(options["batch_size"], opened.num_samples),
                threads=threads,
                seconds=options["seconds"],
            )
            terminal.advance()
    facts = {"threads": threads, "load": load, "machine": asdict(machine), "loaders": found}
    terminal.result(facts, "\n".join(_lines(found, facts)))


def _groups(store: Store, views: str | None) -> dict[str, Group]:
    """Return the views to measure, by what they are called."""
    from viewstore.loaders import Cached
    from viewstore.loaders.plan.asked import parse_views

    if views is not None:
        return {views: parse_views(views, store.names)}
    groups: dict[str, Group] = {
        name: [Cached(name, n=min(2, view_set.num_views))]
        for name, view_set in store.view_sets.items()
        if view_set.complete and view_set.kind != "columns"
    }
    if not groups:
        raise ConfigError(
            f"there is no complete view set in {store.location}", fix="give --views, or build one"
        )
    return groups


def _measured(
    store: Store,
    views: Group,
    machine: Machine,
    *,
    batch_size: int,
    threads: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the rate of a loader, its limit, and what bounds it."""
    from viewstore.costs.bottleneck import judge
    from viewstore.loaders.speed import loader_speed

    speed = loader_speed(store, views, batch_size=batch_size, threads=threads, seconds=seconds)
    parts = _parts(store, views, machine, speed, threads=threads, seconds=seconds)
    verdict = judge(parts)
    return {
        "batch_size": batch_size,
        "slots": speed.slots,
        "views_per_second": speed.samples_per_second * speed.slots,
        "samples_per_second": speed.samples_per_second,
        "limit_views_per_second": speed.slots / parts.limit,
        "share_of_limit": parts.share_of_limit,
        "first_batch_seconds": speed.first_batch_seconds,
        "wait_share": speed.wait_share,
        "sample_seconds": asdict(parts),
        "bound": verdict.bound,
        "advice": verdict.advice,
    }


def _parts(
    store: Store,
    views: Group,
    machine: Machine,
    speed: Speed,
    *,
    threads: int,
    seconds: float,
) -> Any:  # noqa: ANN401
    """Return where the time of a sample goes."""
    from viewstore.costs.bottleneck import Parts
    from viewstore.costs.estimate import MEMORY_SHARE
    from viewstore.loaders import Cached
    from viewstore.loaders.speed import bare_rate, source_rate
    from viewstore.store.rounds import newest_round

    seconds = seconds / 2
    copy = decode = read_bytes = 0.0
    set_bytes = 0
    online = False
    for view in views:
        view_set = newest_round(store, view.name) if isinstance(view, Cached) else None
        if not isinstance(view, Cached) or view_set is None or view_set.kind == "recipe":
            online = True
            continue
        spent = view.n / bare_rate(view_set, threads=threads, seconds=seconds)
        if view_set.codec.encoded:
            decode += spent
        else:
            copy += spent
        set_bytes += view_set.num_bytes
        read_bytes += view.n * view_set.num_bytes / (len(view_set) * view_set.num_views)
    if online:
        decode += 1 / source_rate(store, threads=threads, seconds=seconds)
        sizes = store.table.size
        set_bytes += int(sizes.sum())
        read_bytes += float(sizes.mean())
    stays = set_bytes <= MEMORY_SHARE * machine.memory_bytes
    rate = machine.disk_bytes_per_second
    return Parts(
        loader=1 / speed.samples_per_second,
        copy=copy,
        decode=decode,
        disk=0.0 if stays or rate is None else read_bytes / rate,
        render=speed.render_seconds,
    )


def _lines(found: Mapping[str, Any], facts: Mapping[str, Any]) -> Sequence[str]:
    """Return the figures for people."""
    from viewstore.costs.estimate import size

    rate = facts["machine"]["disk_bytes_per_second"]
    disk = "the disk was not measured" if rate is None else f"the disk reads {size(rate)}/s cold"
    lines = [f"{counted(facts['threads'], 'thread')}; {disk}"]
    for name, each in found.items():
        lines += [
            "",
            f"{name}, batches of {each['batch_size']}",
            f"  loader     {each['views_per_second']:.0f} views/s "
            f"({each['samples_per_second']:.0f} samples/s)",
            f"  limit      {each['limit_views_per_second']:.0f} views/s; the loader reaches "
            f"{each['share_of_limit']:.2f} of it",
            f"  first      {each['first_batch_seconds']:.2f} s to the first batch; "
            f"{each['wait_share']:.0%} of the time was waiting",
            f"  bound      {each['bound']}: {each['advice']}",
        ]
    return lines
