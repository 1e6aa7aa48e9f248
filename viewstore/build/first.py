"""What must be built before a view set can be: the view sets that its generator starts from.

A whole build makes those that are missing first. A plan and a slice do not: they refuse, and name
the command that does.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from viewstore.build.request import BuildRequest
from viewstore.build.roles import files_needed, needed_roles
from viewstore.errors import ConfigError
from viewstore.format.paths import StorePaths
from viewstore.shards.place import CPU
from viewstore.store.advice import finalise_of
from viewstore.store.committed import (
    committed_shards,
    is_store,
    no_store,
    no_view_set,
    read_plan,
    shards_there,
    view_sets,
)
from viewstore.store.published import published_view_sets

if TYPE_CHECKING:
    from viewstore.generators.contract import Settings


def first_request(request: BuildRequest, name: str, settings: Mapping[str, Any]) -> BuildRequest:
    """Return the request for the view set `name` that a generator reads.

    Only `settings` are not automatic.
    """
    from viewstore.generators import make_settings

    needs = needed_roles(make_settings(name, settings))
    return replace(
        request,
        generator=name,
        view_set=name,
        settings=settings,
        codec=None,
        proof=None,
        files=files_needed(needs, request.files),
        after=None,
        inputs={},
        only=None,
        slice_of=None,
    )


def check_first(
    request: BuildRequest, paths: StorePaths, settings: Settings, planned: Mapping[str, str]
) -> None:
    """Raise ConfigError unless all that would be built first is finished.

    `planned` are the names of inputs that a plan has fixed, by role: those are not built.
    """
    published = published_view_sets(paths, upstream=request.upstream)
    for role, wanted in settings.inputs().items():
        name = wanted.view_set
        if wanted.settings is None or planned.get(role, name) != name:
            continue
        if name not in published or not published[name].complete:
            raise not_built_first(request, paths, name, wanted.settings)


def not_built_first(
    request: BuildRequest, paths: StorePaths, name: str, settings: Mapping[str, Any]
) -> ConfigError:
    """Return the error of a plan or slice whose generator starts from what is not finished."""
    view_set = paths.view_set(name)
    command = build_command(first_request(request, name, settings))
    there, fix = "it has no plan", f"{command} --plan"
    if view_set.plan.is_file():
        plan, committed = read_plan(view_set), len(committed_shards(view_set))
        there = shards_there(committed, plan)
        fix = command
        if committed == plan.shards:
            there, fix = "no manifest names it", finalise_of(paths.root)
    return ConfigError(
        f"view set {name!r} must be finished before {request.name} is planned or built in "
        f"slices: {there}",
        code="VS202",
        where=str(view_set.root),
        why=f"{request.generator} starts from its views; plan it, build it, then go on",
        fix=fix,
    )


def nothing_to_slice(request: BuildRequest, paths: StorePaths) -> ConfigError:
    """Return the error of a slice of what has no plan, and no source to make one from."""
    if not is_store(paths):
        return no_store(
            request.out,
            why="slices are built of a plan; a wrong --out, or a disk that is not mounted, has "
            "none",
            fix=f"{build_command(replace(request, source='SRC'))} --plan",
        )
    return no_view_set(
        request.name,
        view_sets(paths),
        request.out,
        why="slices are built of a plan, which build --plan makes",
        making=f"{build_command(request)} --plan",
    )


def build_command(request: BuildRequest) -> str:
    """Return the command that builds what a request says, without which shards and by whom."""
    words = ["viewstore", "build", "--generator", request.generator, "--out", str(request.out)]
    options = {
        "view-set": None if request.name == request.generator else request.name,
        "source": request.source,
        "limit": request.limit,
        "seed": request.seed,
        "codec": request.codec,
        "shard-rows": request.shard_rows,
        "device": None if request.device == CPU else request.device,
        "on-error": None if request.on_error == "fail" else request.on_error,
        **request.files,
    }
    for option, value in options.items():
        words += [] if value is None else [f"--{option}", str(value)]
    for key, value in request.settings.items():
        words += [] if value is None else ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)
