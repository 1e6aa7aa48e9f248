"""Commands that check and mend a store: verify, gc."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.build.roles import NAMED
from viewstore.cli.command import command, options_of
from viewstore.cli.options import (
    ON_ERROR,
    ONE_VIEW_SET,
    STORE_OR_BUCKET,
    WEIGHTS,
    WORKERS,
    parse_shards,
    weight_files,
)
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError, ViewStoreError, counted, quoted

if TYPE_CHECKING:
    from viewstore.store.faults import Fault


ONLY_WITH_REPAIR = ("only", "failed", "on_error", "workers", *NAMED)
LOOKED_AT = (
    "the records are whole, and every shard file is there in its size; what is in those was not "
    "read, as --deep does"
)
AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@command("verify", example="viewstore verify views --repair")
@click.argument("store")
@click.option("--quick", "level", flag_value="quick", help="Check sizes and records only.")
@click.option(
    "--deep",
    "level",
    flag_value="deep",
    default="deep",
    help="Check every hash and checksum.  [default]",
)
@click.option("--content", "level", flag_value="content", help="Also decode every view.")
@click.option("--repair", is_flag=True, help="Rebuild the damaged shards, and no others.")
@ONE_VIEW_SET
@click.option(
    "--only",
    metavar="K,K-K",
    help="With --repair: rebuild shards of these numbers only, say 17,20-22.",
)
@click.option(
    "--failed", is_flag=True, help="With --repair: also rebuild shards that hold failed samples."
)
@click.option(
    "--on-error",
    type=ON_ERROR,
    help="With --repair: at a source image that cannot be read, fail or skip it."
    "  [default: fail; skip with --failed]",
)
@options_of(WEIGHTS)
@WORKERS
def verify(terminal: Terminal, store: str, **options: Any) -> int:  # noqa: ANN401
    """Prove a store whole: every shard hash, member checksum and params row.

    STORE may be a URL: then all that readers need is fetched, or asked for its size with --quick.
    Exits 1 and names what is not whole. Nothing is written without --repair.
    """
    from viewstore.files.local import is_url, local_path
    from viewstore.files.remedy import is_bucket, on_a_disk

    level, view_set = options["level"], options["view_set"]
    if not options["repair"]:
        given = [name for name in ONLY_WITH_REPAIR if options[name] not in (None, False)]
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{names} has no effect without --repair", fix="add --repair")
    if is_url(store):
        mend = on_a_disk("viewstore verify STORE --repair")
        if options["repair"]:
            if is_bucket(store):
                mend = (
                    f"viewstore verify {quoted(store)} names the commands that build damaged "
                    "shards again"
                )
            raise ConfigError("a store at a URL cannot be repaired", where=store, fix=mend)
        from viewstore.store.verify_remote import verify_remote

        faults = list(verify_remote(store, level=level, only=view_set))
    else:
        mend = f"viewstore verify {quoted(store)} --repair"
        faults = _verify_here(terminal, local_path(store), options)
    lines = [*map(str, faults)] or [
        f"{store}: {LOOKED_AT}" if level == "quick" else f"{store} is whole"
    ]
    if faults:
        lines.append(_to_do(faults, None if options["repair"] else mend))
    origins, told = _origins(store, view_set)
    facts = {"level": level, "faults": [asdict(f) for f in faults], "origins": origins}
    terminal.result(facts, "\n".join([*lines, *told]), ok=not faults)
    return int(bool(faults))


def _origins(store: str, only: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return with what each view set was made, as facts and as lines; nothing of a broken store."""
    from viewstore.inspect.origin import origin_facts, origin_words
    from viewstore.store.store import open_store

    facts: dict[str, Any] = {}
    with contextlib.suppress(ViewStoreError):  # what is wrong was told as a fault
        opened = open_store(store)
        for name in sorted(opened.view_sets):
            if only in (None, name):
                facts[name] = origin_facts(opened, opened.view_sets[name])
    words = {name: "; ".join(origin_words(name, each)) for name, each in facts.items()}
    return facts, [f"{name}: {said}" for name, said in words.items() if said]


def _to_do(faults: list[Fault], mend: str | None) -> str:
    """Return what to do about faults, as lines; `mend` is the command that repairs."""
    lines = [counted(len(faults), "fault")]
    repaired = [fault for fault in faults if fault.fix is None]
    if repaired and mend is not None:
        them = "it" if len(faults) == 1 else "them"
        which = "" if len(repaired) == len(faults) else f" {len(repaired)} of"
        lines[0] += f"; mend{which} {them} with: {mend}"
    for fix, about in _fixes(faults).items():
        lines.append(f"{', '.join(about)}: {fix}")
    return "\n".join(lines)


def _fixes(faults: list[Fault]) -> dict[str, list[str]]:
    """Return what to do by hand, each thing once, and what it is about."""
    found: dict[str, list[str]] = {}
    for fault in faults:
        if fault.fix is not None and fault.view_set not in found.setdefault(fault.fix, []):
            found[fault.fix].append(fault.view_set)
    return found


def _verify_here(terminal: Terminal, store: Path, options: dict[str, Any]) -> list[Fault]:
    """Return the faults of a store of this machine, those that are left if it is to be mended."""
    from viewstore.format.paths import StorePaths
    from viewstore.store.advice import STORE_FOLDER
    from viewstore.store.committed import is_store, no_store
    from viewstore.store.verify import verify as check

    if not is_store(StorePaths(store)):
        raise no_store(store, fix=STORE_FOLDER)
    level, view_set = options["level"], options["view_set"]
    faults = [f for f in check(store, level=level, only=view_set) if f.kind != "orphan"]
    if options["repair"]:
        repaired = _repair(terminal, store, faults, options)
        if repaired:
            terminal.note(f"rebuilt {repaired}")
        faults = [f for f in check(store, level=level, only=view_set) if f.kind != "orphan"]
    return faults


def _repair(
    terminal: Terminal,
    store: Path,
    faults: list[Fault],
    options: dict[str, Any],
) -> str:
    """Mend the faults that the options select; return what was rebuilt, as text."""
    from viewstore.build.repair import failed_shards, repair, take_mended_images
    from viewstore.build.request import check_shards
    from viewstore.format.paths import StorePaths
    from viewstore.store.committed import read_plan, view_sets
    from viewstore.store.faults import Fault

    only = parse_shards(options["only"])
    if only is not None:
        paths = StorePaths(store)
        names = view_sets(paths) if options["view_set"] is None else [options["view_set"]]
        check_shards(only, max(read_plan(paths.view_set(name)).shards for name in names))
    chosen = [f for f in faults if only is None or f.shard is None or f.shard in only]
    if options["failed"]:
        take_mended_images(store, terminal)
        paths = StorePaths(store)
        for name in view_sets(paths) if options["view_set"] is None else [options["view_set"]]:
            chosen += [
                Fault(view_set=name, shard=k, kind="member", path="", what="has failed samples")
                for k in failed_shards(paths.view_set(name))
                if only is None or k in only
            ]
    if not chosen:
        return ""
    done = repair(
        store,
        chosen,
        files=weight_files(options),
        on_error=options["on_error"] or ("skip" if options["failed"] else "fail"),
        workers=options["workers"] or 0,
        progress=terminal,
    )
    return ", ".join(f"{name} {shards}" for name, shards in done.shards.items())


@command("gc", example="viewstore gc views --older-than 24h --dry-run")
@STORE_OR_BUCKET
@click.option(
    "--older-than",
    default="24h",
    show_default=True,
    metavar="AGE",
    help="Spare files that are younger, say 30m, 24h or 2d.",
)
@click.option("--dry-run", is_flag=True, help="Say which files would go, and remove none.")
def gc(terminal: Terminal, store: Path | str, older_than: str, dry_run: bool) -> None:
    """Drop files that no commit names: what killed builds left behind.

    STORE is a folder, or the URL of a bucket, whose clock tells the ages then. It may run beside
    builds: give --older-than no less than the longest shard takes.
    """
    from viewstore.build.garbage import collect_garbage
    from viewstore.files.local import is_url
    from viewstore.files.working_copy import store_at
    from viewstore.format.paths import StorePaths
    from viewstore.store.advice import STORE_FOLDER
    from viewstore.store.committed import is_store, no_store

    match = re.fullmatch(r"(\d{1,9})([smhd])", older_than)
    if match is None:
        raise ConfigError(f"--older-than must be a number and s, m, h or d, got {older_than!r}")
    seconds = int(match[1]) * AGES[match[2]]
    with store_at(store, rows=False) as (root, upstream):
        if not is_store(StorePaths(root)):
            raise no_store(root, fix=STORE_FOLDER)
        gone = collect_garbage(root, upstream, older_seconds=seconds, dry_run=dry_run)
    place = store if is_url(store) else root
    removed = [f"{place}/{path.relative_to(root)}" for path in gone]
    verb = "would remove" if dry_run else "removed"
    terminal.result(
        {"removed": removed, "dry_run": dry_run},
        f"{verb} {counted(len(removed), 'file')}",
    )
