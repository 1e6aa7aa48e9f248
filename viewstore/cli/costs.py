"""What a view set costs, in words: shared by `build --dry-run` and `stats`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from viewstore.cli.text import duration
from viewstore.errors import counted

if TYPE_CHECKING:
    from viewstore.build.rehearsal import Rehearsal
    from viewstore.build.request import BuildRequest
    from viewstore.costs.estimate import Machine
    from viewstore.progress import Progress
    from viewstore.store.store import Store
    from viewstore.store.view_set import ViewSet


def dry_run(request: BuildRequest, samples: int, progress: Progress) -> tuple[dict[str, Any], str]:
    """Return what a build would come to, as facts and as text."""
    from viewstore.build.rehearsal import rehearse

    found = rehearse(request, samples, progress)
    facts = _rehearsal_facts(request, found)
    return facts, "\n".join(_rehearsal_lines(facts))


def _rehearsal_facts(request: BuildRequest, found: Rehearsal) -> dict[str, Any]:
    from viewstore.costs.estimate import cost_facts

    plan = found.plan
    return {
        "store": str(request.out),
        "view_set": plan.view_set,
        "samples": plan.rows,
        "views": plan.views,
        "sampled": found.sampled,
        "views_per_second": found.views_per_second,
        "views_per_second_percentiles": list(found.percentiles),
        "workers": found.workers,
        "left_samples": found.left,
        "seconds": found.seconds,
        "shards": plan.shards,
        "shard_rows": plan.shard_rows,
        "best_shard_rows": found.best_shard_rows,
        "shard_seconds": found.unit_seconds,
        "shard_bytes": found.unit_bytes,
        "committed_shards": found.committed,
        "peak_bytes": found.peak_bytes,
        "codec": plan.form,
        "machine": machine_facts(found.machine),
        "costs": cost_facts(found.costs, found.machine, plan),
    }


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Return what was measured of a machine."""
    from dataclasses import asdict

    return asdict(machine)


def _rehearsal_lines(facts: Mapping[str, Any]) -> list[str]:
    from viewstore.costs.estimate import size

    slow, _, fast = facts["views_per_second_percentiles"]
    own = facts["costs"]["codecs"][facts["codec"]]
    views = facts["left_samples"] * facts["views"]
    return [
        f"{facts['view_set']}: {facts['sampled']} of "
        f"{counted(facts['samples'], 'sample')} tried; "
        f"nothing was written to {facts['store']}",
        f"  speed      {facts['views_per_second']:.0f} views/s by each worker, over the whole "
        f"trial; stretches of it ran at {slow:.0f} to {fast:.0f}, the slowest and the fastest "
        "tenth aside",
        f"  time       {duration(facts['seconds'])} for {counted(views, 'view')} with "
        f"{counted(facts['workers'], 'worker')}",
        f"  disk       {size(own['set_bytes'])} as {facts['codec']}; "
        f"{size(facts['machine']['free_bytes'])} free",
        f"  shards     {counted(facts['shards'], 'shard')} of up to "
        f"{counted(facts['shard_rows'], 'sample')}, {size(facts['shard_bytes'])} and "
        f"{duration(facts['shard_seconds'])} each; {facts['committed_shards']} built already"
        + _better_shards(facts),
        f"  memory     {size(facts['peak_bytes'])} at most",
        *cost_lines(facts["costs"], facts["machine"]),
    ]


def _better_shards(facts: Mapping[str, Any]) -> str:
    best = facts["best_shard_rows"]
    if best == facts["shard_rows"]:
        return f"; --shard-rows {best} is best"
    return f"; best for a new store: --shard-rows {best}"


def store_costs(store: Store, view_sets: list[ViewSet]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what was measured here, and the costs of each view set by name.

    Columns alone have none: nobody decodes them.
    """
    from viewstore.costs.estimate import cost_facts
    from viewstore.costs.measure import codec_costs, machine_at

    stored = [view_set for view_set in view_sets if view_set.kind == "pixels"]
    files = [shard.path for view_set in stored for shard in view_set.shards.values()]
    machine = machine_at(store.root, files)
    costs = {
        view_set.name: cost_facts(codec_costs(view_set), machine, view_set.plan)
        for view_set in view_sets
        if view_set.shards and view_set.kind != "columns"
    }
    return machine_facts(machine), costs


def cost_lines(costs: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    """Return the costs of a view set for people."""
    from viewstore.costs.estimate import size
    from viewstore.inspect.text import table

    views = costs["shown_views"]
    head = [
        "codec",
        "view size",
        "set size",
        "read per epoch",
        "disk time",
        "CPU time",
        "views/s at first",
        "views/s later",
        "bound by",
    ]
    rows = [
        [
            name,
            size(each["view_bytes"]),
            size(each["set_bytes"]),
            size(each["epoch_bytes"]),
            _seconds(each["epoch_disk_seconds"]),
            _seconds(each["epoch_cpu_seconds"]),
            f"{each['views_per_second']:.0f}",
            f"{each['later_views_per_second']:.0f}",
            each["bound"],
        ]
        for name, each in costs["codecs"].items()
    ]
    rate = machine["disk_bytes_per_second"]
    disk = "a disk that was not measured" if rate is None else f"a disk of {size(rate)}/s"
    plural = "views" if views > 1 else "view"
    return [
        f"  costs      an epoch of {views} {plural} a sample, {machine['cores']} cores, {disk}; "
        f"best stored as {costs['advice']}"
        + ("" if costs["advice"] == "columns" else f" (--codec {costs['advice']})")
        + f": {costs['why']}",
        *("  " + line for line in table(head, rows)),
        "  At first: the files come from disk. Later: from memory, if all of them fit into it.",
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} s" if value < 60 else duration(value)
