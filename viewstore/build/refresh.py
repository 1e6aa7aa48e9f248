"""A new round of a view set: the same, made with newer networks, under the name BASE-rN.

`viewstore refresh` calls it. A round that is stopped or killed is gone on with by the same command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from viewstore.build.request import BuildRequest, Built
from viewstore.build.roles import (
    ROLES,
    WeightFiles,
    check_unneeded,
    files_needed,
    named,
    needed_roles,
    taken_files,
    weights_of,
)
from viewstore.build.run import build
from viewstore.errors import ConfigError, quoted
from viewstore.files import disk
from viewstore.format.paths import StorePaths
from viewstore.format.plan import ROUND, Plan, Weights, round_name
from viewstore.progress import Progress, Silent
from viewstore.store.committed import (
    committed_shards,
    no_view_set,
    read_manifest,
    read_plan,
    view_sets,
)
from viewstore.store.rounds import numbered_rounds

ByRole = Mapping[str, Weights]


def refresh(
    out: Path,
    base: str,
    files: WeightFiles,
    progress: Progress | None = None,
    *,
    of: str | None = None,
    **how: Any,  # noqa: ANN401
) -> Built:
    """Build the next round of a view set, or go on with the newest where it is not finished.

    Its settings, seed and codec are those of the newest round, but for what was taken from the
    networks of that one. What the generator itself would build first is refreshed first, where it
    was made with other networks.

    Args:
        out: Folder of the store.
        base: Name of the view set, which is that of its first round.
        files: Files of networks by role. One that is not given must be packaged, and be the one
            that the newest round was made with.
        progress: Is told how far it is.
        of: View set to start from or describe, where it is another than that of the newest round.
        how: Fields of BuildRequest that say how it is built: source, executor, workers, device,
            slice_of, only, on_error, grace_seconds.

    Raises:
        ConfigError: There is no such view set, nothing is new, a file is missing, or the newest
            round is not finished and was begun with others.
        ViewStoreError: As `build`.
    """
    progress = progress or Silent()
    paths = StorePaths(out)
    with disk.explained(out):
        newest = _newest(paths, base)
        given = _given(newest, files)
        finished = is_finished(paths, newest)
        request = BuildRequest(
            generator=newest.generator["name"],
            out=out,
            view_set=newest.view_set,
            settings={} if of is None else {"of": of},
            files=_needed(newest, files),
            **how,
        )
        if not finished:
            _check_begun_with(paths, newest, given)
            return build(request, progress)
        if of in (None, newest.generator["args"].get("of")):
            _check_new(newest, given)
        before, inputs = _inputs(paths, newest, given, files, how, progress)
        name = round_name(base, newest.round + 1)
        built = build(replace(request, view_set=name, after=newest, inputs=inputs), progress)
        return replace(built, before=(*before, *built.before))


def is_finished(paths: StorePaths, plan: Plan) -> bool:
    """Whether all shards of a view set are committed, and readers see them."""
    manifest = read_manifest(paths)
    entry = None if manifest is None else manifest.view_sets.get(plan.view_set)
    if entry is None or entry.plan_id != plan.id:
        return False
    return len(committed_shards(paths.view_set(plan.view_set))) == plan.shards


def _newest(paths: StorePaths, base: str) -> Plan:
    """Return the plan of the newest round of a view set, finished or not.

    Raises:
        ConfigError: There is no view set of this name, or it names one round.
    """
    rounds = numbered_rounds(view_sets(paths), base)
    match = ROUND.fullmatch(base)
    if match is not None:
        raise ConfigError(
            f"{base} has the name of one round, and a new one follows the newest",
            where=f"--view-set {base}",
            fix=f"--view-set {match[1]}",
        )
    if not rounds:
        raise no_view_set(base, view_sets(paths), paths.root)
    number, name = next(iter(rounds.items()))
    plan = read_plan(paths.view_set(name))
    if plan.round != number:
        raise ConfigError(
            f"view set {name!r} is named as a round of {base!r} and is none",
            where=str(paths.view_set(name).root),
            fix=f"give it another name: viewstore mv {quoted(paths.root)} {name} NEW",
        )
    return plan


def _needed(plan: Plan, files: WeightFiles) -> WeightFiles:
    """Return those of the files that the generator of a plan needs itself."""
    from viewstore.generators import settings_class

    return files_needed(settings_class(plan.generator["name"]).NEEDS, files)


def _given(plan: Plan, files: WeightFiles) -> dict[str, Weights]:
    """Return by role what the next round of a plan would be made with.

    A file that is not given is packaged, and the one of before; one that fits a network which is
    given anew is left out.

    Raises:
        ConfigError: A file is given in vain, is not there, or is not given.
    """
    from viewstore.generators import make_settings

    settings = make_settings(plan.generator["name"], plan.generator["args"])
    check_unneeded(plan.generator["name"], needed_roles(settings), files)
    needs, files = named(settings.NEEDS), taken_files(settings.NEEDS, files)
    found = {each.role: each for each in weights_of(needs, files)}
    for was in plan.weights:
        if was.role not in needs or was.role in files or ROLES[was.role].fits in files:
            continue
        if was.role not in found or found[was.role].sha256 != was.sha256:
            raise ConfigError(
                f"{plan.view_set} was made with the {was.role} {_file(was)}, and none is given",
                code="VS103",
                fix=f"give that file with --{was.role}, or a newer one",
            )
    return found


def _check_begun_with(paths: StorePaths, newest: Plan, given: ByRole) -> None:
    """Raise ConfigError if a round that is not finished was begun with other files."""
    was = _named_weights(newest, given)
    for role in sorted({*was, *given}):
        before, now = was.get(role), given.get(role)
        if before is None or now is None or before.sha256 != now.sha256:
            raise ConfigError(
                f"{newest.view_set} is not finished, and was begun with the {role} "
                f"{_file(before)}, not with {_file(now)}",
                code="VS103",
                where=str(paths.view_set(newest.view_set).root),
                fix=f"finish it with the file it was begun with, or take it out: viewstore rm "
                f"{paths.root} {newest.view_set}",
            )


def _check_new(newest: Plan, given: ByRole) -> None:
    """Raise ConfigError if the next round would be made with the files of the newest."""
    was = _named_weights(newest, given)
    if {role: each.sha256 for role, each in was.items()} != {
        role: each.sha256 for role, each in given.items()
    }:
        return
    with_what = {0: "without networks", 1: "with this file"}.get(len(given), "with these files")
    raise ConfigError(
        f"nothing to refresh: {newest.view_set} was made {with_what}",
        code="VS103",
        fix="give the file of newer weights, with " + " or ".join(f"--{role}" for role in given)
        if given
        else "build with another --seed into another --view-set for other views",
    )


def _named_weights(plan: Plan, given: ByRole) -> dict[str, Weights]:
    """Return by role the files of a plan that a user names."""
    roles = {*given, *named([each.role for each in plan.weights])}
    return {each.role: each for each in plan.weights if each.role in roles}


def _inputs(
    paths: StorePaths,
    newest: Plan,
    given: ByRole,
    files: WeightFiles,
    how: Mapping[str, Any],
    progress: Progress,
) -> tuple[list[Built], dict[str, str]]:
    """Return which rounds of what a generator builds itself go with these files, by role.

    Those that are missing are built, and returned first.
    """
    from viewstore.generators import make_settings

    settings = make_settings(newest.generator["name"], newest.generator["args"])
    built: list[Built] = []
    found: dict[str, str | None] = {}
    for role, wanted in settings.inputs().items():
        view_set = paths.view_set(newest.links[role]["view_set"])
        if wanted.settings is None or not view_set.plan.is_file():
            continue
        first = read_plan(view_set)
        found[role] = _made_with(paths, first, given)
        if found[role] is not None:
            continue
        if how.get("slice_of") is not None or how.get("only") is not None:
            raise ConfigError(
                f"{first.base!r} must be refreshed before parts of {newest.base!r} are: it was "
                "made with other files",
                code="VS103",
                fix=f"viewstore refresh {quoted(paths.root)} --view-set {first.base}, with these "
                "files",
            )
        progress.note(
            f"{newest.base} starts from the view set {first.base!r}, which was made with other "
            "files: refreshing it first"
        )
        needs = needed_roles(make_settings(first.generator["name"], first.generator["args"]))
        own = files_needed(needs, files)
        built.append(refresh(paths.root, first.base, own, progress, **how))
        found[role] = built[-1].plan.view_set
    return built, {role: name for role, name in found.items() if name is not None}


def _made_with(paths: StorePaths, first: Plan, given: ByRole) -> str | None:
    """Return the newest finished round of a view set that was made with these files; None: none.

    `given` may lack the roles that only that view set has.
    """
    for name in numbered_rounds(view_sets(paths), first.base).values():
        plan = read_plan(paths.view_set(name))
        shared = [each for each in plan.weights if each.role in given]
        if all(given[each.role].sha256 == each.sha256 for each in shared) and is_finished(
            paths, plan
        ):
            return name
    return None


def _file(weights: Weights | None) -> str:
    return "none" if weights is None else f"{weights.name} ({weights.sha256[:12]})"
