"""A view set that is built in slices: its plan as it is stored, and the files that it needs."""

from __future__ import annotations

import shlex
from pathlib import Path

from viewstore.build.going_on import command_words
from viewstore.build.jobfile import SliceJob
from viewstore.build.roles import (
    NAMED,
    WeightFiles,
    check_unneeded,
    function_named,
    networks,
    other_weights,
    taken_files,
    weights_of,
)
from viewstore.costs.disk_space import shard_bytes
from viewstore.errors import ConfigError, counted
from viewstore.files.local import is_url
from viewstore.files.spelling import absolute_path
from viewstore.files.working_copy import store_at
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan, check_view_set_name
from viewstore.shards.place import AUTO
from viewstore.store.committed import is_store, no_store, no_view_set, read_plan, view_sets


def slice_job(
    store: Path | str,
    view_set: str | None,
    files: WeightFiles,
    *,
    slices: int | None,
    at_once: int | None = None,
    gpus: int | None = None,
) -> SliceJob:
    """Return the job that builds a planned view set in slices.

    Args:
        store: Folder of the store, or its URL in a bucket.
        view_set: Name of a view set that has a plan; None is refused.
        files: Files of networks by role, where the packaged ones do not do.
        slices: Number of tasks, at most one for each shard; None is refused.
        at_once: How many of them may run at a time; None: all.
        gpus: That each task asks for; None: one where networks make the views, else none.

    Raises:
        ConfigError: No view set, or number of slices, is given: those that there can be are named.
            There is no plan, it needs a file that is not given, or has fewer shards.
        CheckpointError: A file is another one than the view set was planned with.
        RemoteError: The bucket did not answer.
    """
    place = str(store) if is_url(store) else str(absolute_path(store))
    with store_at(store if is_url(store) else Path(place), rows=False) as (root, _):
        plan = _plan_of(StorePaths(root), view_set)
    view_set = plan.view_set
    if slices is None:
        raise ConfigError(
            f"--slices is missing: in how many tasks shall {view_set} be built?",
            why="a slice takes whole shards",
            fix=f"give --slices {plan.shards}, one for each shard, or fewer",
        )
    if slices > plan.shards:
        raise ConfigError(
            f"{view_set} has {counted(plan.shards, 'shard')}, too few for {slices} slices",
            where=f"--slices {slices}",
            why="a slice takes whole shards: the others would have nothing to do",
            fix=f"give --slices {plan.shards}, or fewer",
        )
    has_networks = bool(networks([each.role for each in plan.weights]))
    if gpus and not has_networks:
        raise ConfigError(
            f"{view_set} is made without networks, and uses no GPU",
            where=f"--gpus {gpus}",
            fix="leave --gpus out",
        )
    named = {
        role: function_named(role, path) or str(absolute_path(path))
        for role, path in _planned_files(plan, files).items()
    }
    command = command_words(plan, place, named)
    if has_networks:
        command += ["--device", AUTO]
    return SliceJob(
        store=place,
        view_set=view_set,
        command=tuple(command),
        slices=slices,
        at_once=slices if at_once is None else at_once,
        gpus=int(has_networks) if gpus is None else gpus,
        shards=plan.shards,
        shard_bytes=shard_bytes(plan),
    )


def _plan_of(paths: StorePaths, name: str | None) -> Plan:
    if name is not None:
        check_view_set_name(name)
    planning = f"--out {shlex.quote(str(paths.root))} --view-set {name or 'NAME'} --plan"
    if not is_store(paths):
        fix = f"viewstore build --generator NAME --source SRC {planning}"
        raise no_store(paths.root, why="slices are built of a plan", fix=fix)
    if name is None:
        names = view_sets(paths)
        raise ConfigError(
            f"--view-set is missing; there are {', '.join(names) or 'none'} in this store",
            where=str(paths.root),
            why="a job file builds one view set",
            fix=f"add --view-set {names[0]}"
            if names
            else f"viewstore build --generator NAME {planning}",
        )
    if not paths.view_set(name).plan.is_file():
        making = f"viewstore build --generator NAME {planning}"
        raise no_view_set(name, view_sets(paths), paths.root, making=making)
    return read_plan(paths.view_set(name))


def _planned_files(plan: Plan, files: WeightFiles) -> WeightFiles:
    """Return the given files by the roles that the plan has; the others are packaged.

    A copy of a packaged file stands for it, and is not named: each node has it in the package.

    Raises:
        ConfigError: One is missing, or not needed.
        CheckpointError: One is another file than the plan's.
    """
    planned = {each.role: each for each in plan.weights if each.role in NAMED}
    check_unneeded(plan.generator["name"], planned, files)
    given = taken_files(tuple(planned), files)
    files = _without_packaged(given)
    found = {each.role: each.sha256 for each in weights_of(tuple(planned), files)}
    for role, weights in planned.items():
        if found.get(role) == weights.sha256:
            continue
        if role in given:
            raise other_weights(plan, role, f"--{role} {given[role]}")
        raise ConfigError(
            f"--{role} is missing: {plan.view_set} was planned with {weights.name}",
            where=f"sha256 {weights.sha256}",
            why="weights are not in the store: each node reads them at the path given here",
            fix=f"add --{role} with the path of that file",
        )
    return files


def _without_packaged(files: WeightFiles) -> WeightFiles:
    """Return the files but for those with the bytes of what the package has for their role."""
    packaged = {each.sha256 for each in weights_of(tuple(files), {})}
    given = {each.role: each.sha256 for each in weights_of(tuple(files), files)}
    return {role: path for role, path in files.items() if given[role] not in packaged}
