"""The view sets that another one is made from: found, complete, fresh, and the ones planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from viewstore.errors import ConfigError, FormatError, quoted
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.paths import StorePaths
from viewstore.format.plan import MAX_DEPTH, SOURCE, Plan
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import SourceTable
from viewstore.store.committed import (
    build_again,
    committed_shards,
    no_view_set,
    read_plan,
    shards_there,
    view_sets,
)
from viewstore.store.lineage import stale_shards
from viewstore.store.published import linked, published_view_sets
from viewstore.store.view_set import ViewSet

if TYPE_CHECKING:
    from viewstore.generators.contract import Settings

BuildFirst = Callable[[str, Mapping[str, Any]], object]  # builds a view set with these settings


def wanted_inputs(
    name: str,
    paths: StorePaths,
    settings: Settings,
    table: SourceTable,
    build_first: BuildFirst,
    *,
    planned: Mapping[str, str] = {},
    upstream: Upstream = FOLDER,
) -> dict[str, ViewSet]:
    """Return the view sets that view set `name` is made from by these settings, by role.

    Those that are missing, and that the settings say how to make, are built first. `planned` are
    the names of those that a plan has fixed, which may be rounds of what the settings name.

    Raises:
        ConfigError: One is missing or not complete, is stale, or is the view set itself.
    """
    found = {}
    reader = SourceReader(table)
    for role, wanted in settings.inputs().items():
        if not isinstance(wanted.view_set, str):
            raise ConfigError(
                f"{name} is made from a view set by name, got {wanted.view_set!r}",
                fix="give the name as text",
            )
        other = wanted.view_set if wanted.settings is None else planned.get(role, wanted.view_set)
        if other == name:
            raise ConfigError(
                f"view set {other!r} cannot be made from itself",
                fix="name the new view set with --view-set",
            )
        if other == SOURCE:
            raise ConfigError(
                f"{name} starts from the views of a view set, {SOURCE} names the images",
                fix="leave --of out, or give --set derive=from_sample where the generator has it",
            )
        if depth_of(paths, other) >= MAX_DEPTH:
            raise ConfigError(
                f"{name} would be made from {other}, which {MAX_DEPTH} others were made before",
                why=f"view sets are made one from the other at most {MAX_DEPTH} deep",
                fix="start from one that fewer were made before",
            )
        published = published_view_sets(paths, reader, upstream)
        if other not in published and other == wanted.view_set and wanted.settings is not None:
            build_first(other, wanted.settings)
            published = published_view_sets(paths, reader, upstream)
        if other not in published and not paths.view_set(other).plan.is_file():
            raise no_view_set(other, view_sets(paths), paths.root, making=f"build {other!r} first")
        view_set = complete_view_set(paths, name, other, published)
        if view_set.kind == "columns" and role == "parent" and settings.KIND == "pixels":
            raise ConfigError(
                f"{other} has no views to start from, it describes those of {view_set.of}",
                fix=f"start from {view_set.of}",
            )
        found[role] = view_set
        if wanted.parent_as is not None:
            found[wanted.parent_as] = _parent_of(paths, name, view_set, published)
    return found


def _parent_of(
    paths: StorePaths, child: str, view_set: ViewSet, published: dict[str, ViewSet]
) -> ViewSet:
    """Return the view set that `view_set` was made from, of which `child` is made too.

    Raises:
        ConfigError: It has none, another one than is there now, or one that is not complete.
    """
    if view_set.of in (None, SOURCE):
        raise ConfigError(
            f"{child} reads the views that {view_set.name} is about, and it is about none",
            code="VS103",
            fix="name a columns set of another view set",
        )
    check_links(paths, view_set.plan)
    return complete_view_set(paths, child, view_set.of, published)


def parents_of(paths: StorePaths, name: str) -> list[str]:
    """Return the names of the view sets that a view set was made from; none of a damaged one."""
    try:
        links = read_plan(paths.view_set(name)).links.values()
    except (FormatError, FileNotFoundError):  # which is a fault of its own
        return []
    return [link["view_set"] for link in links]


def depth_of(paths: StorePaths, name: str) -> int:
    """Return how many view sets stand before a view set, each made from the one before it."""
    levels, depth = {name}, 0
    while levels and depth <= len(view_sets(paths)):
        above = {parent for each in levels for parent in parents_of(paths, each)}
        levels = {each for each in above if paths.view_set(each).plan.is_file()}
        depth += bool(levels)
    return depth


def planned_inputs(
    paths: StorePaths,
    plan: Plan,
    source: SourceReader | None = None,
    upstream: Upstream = FOLDER,
) -> dict[str, ViewSet]:
    """Return the view sets that a plan links to, by role, as they are now.

    Raises:
        ConfigError: One is gone, is another one than was planned with, or is not complete.
    """
    check_links(paths, plan)
    published = published_view_sets(paths, source, upstream)
    found = {}
    for role, link in plan.links.items():
        found[role] = complete_view_set(paths, plan.view_set, link["view_set"], published)
    return found


def complete_view_set(
    paths: StorePaths, child: str, name: str, published: dict[str, ViewSet]
) -> ViewSet:
    """Return view set `name`, of which `child` can be made.

    Raises:
        ConfigError: It is not complete, or is itself made from other bytes than are there now.
    """
    view_set = published.get(name)
    if view_set is None or not view_set.complete:
        raise unfinished_input(paths, child, name)
    inputs = linked(view_set.plan, published)
    stale = [] if inputs is None else stale_shards(view_set, inputs)
    if stale:
        raise ConfigError(
            f"{child} is made from {name}, of which shard {stale[0]} is stale: "
            f"{view_set.of} has other bytes now",
            code="VS202",
            where=str(paths.view_set(name).root),
            fix=f"viewstore verify {quoted(paths.root)} --repair --view-set {name}",
        )
    return view_set


def unfinished_input(paths: StorePaths, name: str, input: str) -> ConfigError:
    """Return the error of a view set that `name` is made from and that is not complete."""
    committed = len(committed_shards(paths.view_set(input)))
    there = "it was not built"
    if paths.view_set(input).plan.is_file():
        there = shards_there(committed, read_plan(paths.view_set(input)))
    return ConfigError(
        f"{name} is made from {input}, which is not complete: {there}",
        code="VS202",
        where=str(paths.view_set(input).root),
        fix=build_again(paths.root, input),
    )


def check_links(paths: StorePaths, plan: Plan) -> None:
    """Raise ConfigError unless all that a view set is made from is what it was planned with."""
    for role, link in plan.links.items():
        name = link["view_set"]
        linked = paths.view_set(name)
        found = read_plan(linked).id if linked.plan.is_file() else None
        if found != link["plan_id"]:
            made = "was made from" if role == "parent" else f"was made with {role}"
            raise ConfigError(
                f"view set {plan.view_set} {made} another {name!r} than the store has now"
                if found
                else f"view set {plan.view_set} {made} {name!r}, which the store has no longer",
                code="VS103",
                where=str(linked.plan),
                why="its views would be others than those that are stored",
                fix=f"build {name!r} with its former settings, or build into another --view-set",
            )
