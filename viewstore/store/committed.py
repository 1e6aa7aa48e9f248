"""Reads what builders published: plans, commits and manifests; says what is not there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from viewstore.errors import (
    ConfigError,
    FormatError,
    UnavailableError,
    counted,
    near,
    nearest,
    quoted,
    ranges,
)
from viewstore.files import disk
from viewstore.files.local import LOCAL, Files
from viewstore.format.manifest import Commit, Manifest
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.format.plan import MAX_SHARDS, ROUND, VIEW_SET_NAME, Plan
from viewstore.format.records import COMMIT_BYTES, LARGE_BYTES, SMALL_BYTES
from viewstore.images.codec import codec_from_plan

NUMBERED_FILE = re.compile(r"(\d{6})\.json")  # commits, and generations of the manifest


def read_plan(paths: ViewSetPaths, files: Files = LOCAL) -> Plan:
    """Return the plan of a view set. Raises FormatError naming the file."""
    try:
        plan = files.record(paths.plan, SMALL_BYTES, Plan.unpack)
        if plan.view_set != paths.root.name:
            raise FormatError(f"plan is that of view set {plan.view_set!r}")
        _check_members(plan)
    except FormatError as error:  # what mends it stands there
        fix = f"viewstore verify {quoted(paths.root.parents[1])}" if files.cache is None else None
        raise error.located(files.where(paths.plan), fix=fix) from error
    return plan


def _check_members(plan: Plan) -> None:
    """Raise FormatError unless the codec of a plan is known, and makes the members it has."""
    with contextlib.suppress(UnavailableError):  # of a package that is not here: decoders say so
        codec = codec_from_plan(plan.codec)
        if plan.members != codec.members(plan.views):
            raise FormatError(f"plan has members {plan.members}, which {codec.name} does not make")


def read_commit(paths: ViewSetPaths, shard: int, plan: Plan | None = None) -> Commit | None:
    """Return the commit of a shard, or None if there is none.

    `plan` is that of the view set; None: it does not matter which one the shard was made by.

    Raises:
        FormatError: There is a record, but it is damaged, or that of another shard or plan.
    """
    path = paths.commit(shard)
    try:
        commit = Commit.unpack(disk.read_limited(path, COMMIT_BYTES))
        if commit.entry.shard != shard or commit.view_set != paths.root.name:
            raise FormatError(f"commit is that of shard {commit.entry.shard} of {commit.view_set}")
        if plan is not None:
            commit.check(plan)
    except FileNotFoundError:
        return None
    except FormatError as error:
        raise FormatError(
            f"commit of shard {shard} cannot be used: {error}",
            code=error.code,
            where=str(path),
            fix=shards_again(paths.root.parents[1], paths.root.name, [shard]),
        ) from error
    return commit


def committed_shards(paths: ViewSetPaths) -> list[int]:
    """Return the numbers of the shards that have a commit record, ascending."""
    if not paths.commits.is_dir():
        return []
    matches = (NUMBERED_FILE.fullmatch(path.name) for path in paths.commits.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def read_commits(
    paths: ViewSetPaths, plan: Plan, among: Iterable[int] | None = None
) -> dict[int, Commit]:
    """Return the commits of the shards of a plan by number, or those of the shards `among`.

    Raises:
        FormatError: Some are damaged, or not of `plan`; their shards are named.
    """
    if among is None:
        among = (shard for shard in committed_shards(paths) if shard < plan.shards)
    commits, unusable = usable_commits(paths, plan, among)
    if unusable:
        error, *others = unusable.values()
        more = f", nor can {counted(len(others), 'other')} of {plan.view_set}" if others else ""
        raise FormatError(
            f"{error}{more}",
            code=error.code,
            where=error.where,
            why="other settings made the shard, or its record was damaged",
            fix=shards_again(paths.root.parents[1], plan.view_set, unusable, plan.shards),
        ) from error
    return commits


def usable_commits(
    paths: ViewSetPaths, plan: Plan, among: Iterable[int] | None = None
) -> tuple[dict[int, Commit], dict[int, FormatError]]:
    """Return the commits of `plan` by shard, and by shard what is wrong with the other records."""
    commits, unusable = {}, {}
    for shard in committed_shards(paths) if among is None else among:
        try:
            commit = read_commit(paths, shard, plan)
        except FormatError as error:
            unusable[shard] = error
        else:
            if commit is not None:
                commits[shard] = commit
    return commits, unusable


def shards_again(
    store: Path | str, name: str, shards: Collection[int], planned: int = MAX_SHARDS
) -> str:
    """Return the command that makes shards of a view set again, whatever their records say.

    Records of shards beyond those that are `planned` are set aside by a repair of all.
    """
    only = f" --only {ranges(shards)}" if max(shards) < planned else ""
    return f"viewstore verify {quoted(store)} --repair --view-set {name}{only}"


def view_sets(paths: StorePaths) -> list[str]:
    """Return the names of the view sets that have a plan."""
    if not paths.views.is_dir():
        return []
    return sorted(
        path.name
        for path in paths.views.iterdir()
        if VIEW_SET_NAME.fullmatch(path.name) and (path / "plan.json").exists()
    )


def known_view_sets(paths: StorePaths) -> list[str]:
    """Return the names of the view sets that have a plan or that the manifest names."""
    manifest = read_manifest(paths)
    return sorted({*view_sets(paths), *(() if manifest is None else manifest.view_sets)})


def read_manifest(paths: StorePaths, files: Files = LOCAL) -> Manifest | None:
    """Return the newest manifest, or None before the first. Raises FormatError naming the file."""
    if not files.exists(paths.manifest):
        return None
    try:
        return files.record(paths.manifest, LARGE_BYTES, Manifest.unpack)
    except FormatError as error:
        fix = f"viewstore verify {quoted(paths.root)} --repair" if files.cache is None else None
        raise error.located(files.where(paths.manifest), fix=fix) from error


def last_generation(paths: StorePaths) -> int:
    """Return the number of the newest generation, 0 before the first."""
    if not paths.generations.is_dir():
        return 0
    names = (path.name for path in paths.generations.iterdir())
    return max((int(m[1]) for m in map(NUMBERED_FILE.fullmatch, names) if m), default=0)


def remote_manifest(paths: StorePaths, files: Files) -> Manifest:
    """Return the newest manifest of a store at a URL. Raises ConfigError: there is none."""
    manifest = read_manifest(paths, files)
    if manifest is None:
        url = files.where(paths.root)
        served = _served_at(url)
        why = "it is not a store, or no build of it has ended"
        raise ConfigError(
            f"{url} has no manifest.json",
            code="VS202",
            where=files.where(paths.manifest),
            why=why if served is None else f"{why}, or it is the address of pages",
            fix="check the address; it is that of the folder that --out named"
            + ("" if served is None else f", and that of a store of viewstore serve is {served}"),
        )
    return manifest


def _served_at(url: str) -> str | None:
    """Return where `viewstore serve` has a store whose pages may be at `url`; None: nowhere."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "/v1/stores/" in parts.path:
        return None
    root, _, below = f"{parts.path.removesuffix('/v1/stores')}/".partition("/inspect/")
    name = below.partition("/")[0] or "NAME"
    return f"{parts.scheme}://{parts.netloc}{root.rstrip('/')}/v1/stores/{name}"


def is_store(paths: StorePaths) -> bool:
    """Whether a folder is a store, be it one that lost its rows."""
    return paths.sources.is_dir() or paths.manifest.is_file()


def no_store(where: object, *, why: str | None = None, fix: str | None = None) -> ConfigError:
    """Return the error of a path that holds no store."""
    return ConfigError(
        f"there is no store at {where}", code="VS202", where=str(where), why=why, fix=fix
    )


def shards_there(committed: int, plan: Plan) -> str:
    """Return how much of a view set is built, in words."""
    are = "is" if plan.shards == 1 else "are"
    return f"{committed} of {counted(plan.shards, 'shard')} {are} there"


def not_complete(name: str, there: str) -> str:
    """Return what is to be said of a view set of which shards are missing; `there`: how many are.

    From the outside a build that runs looks like one that was stopped.
    """
    return (
        f"view set {name} is not complete: {there}. It is being built, or its build was stopped: "
        f"where none is running, run the same {made_by(name)} command again"
    )


def made_by(name: str) -> str:
    """Return the command that makes a view set of this name."""
    return "refresh" if ROUND.fullmatch(name) else "build"


def build_again(where: object, name: str = "") -> str:
    """Return what to do where a build has not ended, or that of view set `name`."""
    again = f"run the same {made_by(name)} command again: it goes on with what is there"
    last = f"viewstore finalise {quoted(where)}"
    return f"{again}; if it was built in slices, run all of them, then {last}"


def unfinished_view_set(name: str, there: str, where: object) -> ConfigError:
    """Return the error of a view set whose build has not ended; `there` is of `shards_there`."""
    return ConfigError(
        f"view set {name} is not complete: {there}",
        code="VS202",
        where=str(where),
        why="its build was stopped, or is still running",
        fix=build_again(where, name),
    )


def no_view_set(
    name: str,
    known: Iterable[str],
    where: object,
    *,
    why: str | None = None,
    fix: str | None = None,
    making: str | None = None,
) -> ConfigError:
    """Return the error of a view set that the store at `where` lacks; the nearest is named.

    `making`: The fix that makes it, which is not said where another name may have been meant.
    """
    names = list(known)
    return ConfigError(
        f"there is no view set {name!r} in this store; {nearest(name, names)}",
        code="VS102",
        where=str(where),
        why=why,
        fix=fix or (making if near(name, names) is None else None),
    )
