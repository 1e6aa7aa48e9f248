"""Kills each command that writes a store at random instants, and looks at the store after each.

Usage: life_driver.py FOLDER KILLS WRITER SEED. Prints one JSON object: how often each command was
killed, and what was found wrong. Every kill is a SIGKILL: half of them come after a random time,
half directly before a random write. WRITER "naive" is the negative control: its files get their
names first and their bytes afterwards, and the first that a command writes is its last.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
from viewstore.build.garbage import collect_garbage
from viewstore.build.rename import remove_view_set, rename_view_set
from viewstore.build.repair import repair
from viewstore.errors import ViewStoreError
from viewstore.files import disk
from viewstore.format.paths import StorePaths
from viewstore.store.committed import read_manifest, view_sets
from viewstore.store.faults import Fault
from viewstore.store.verify import verify

# Functions of `disk` before which a child may be killed.
WRITES = ("write_temporary", "rename", "link", "put_if_absent", "write_atomic", "unlink", "touch")
MOST_WRITES = 60
SETTLE = 0.4  # how often a killed command is run again to its end before the next one
NAMES = ("first", "second")  # of the view set that comes and goes; `kept` is never touched


@dataclass
class World:
    """A store, what is expected of it, and what was found."""

    store: Path
    source: str
    rng: random.Random
    roots: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    unfinished: str | None = None
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def there(self) -> list[str]:
        return [name for name in view_sets(StorePaths(self.store)) if name in NAMES]


def build(world: World) -> None:
    build_small(world.store, world.source, view_set=(world.there or NAMES)[0], shard_rows=4)


def mend(world: World) -> None:
    faults = list(verify(world.store))
    repair(world.store, faults, workers=1)


def finish(world: World) -> None:
    finalise(world.store, allow_partial=world.rng.random() < 0.5)


def collect(world: World) -> None:
    collect_garbage(world.store, older_seconds=0, dry_run=False)


def take_out(world: World) -> None:
    for name in world.there:
        remove_view_set(world.store, name)


def rename(world: World) -> None:
    old, new = NAMES if "first" in world.there else NAMES[::-1]
    rename_view_set(world.store, old, new)


COMMANDS: Mapping[str, Callable[[World], None]] = {
    "build": build,
    "repair": mend,
    "finalise": finish,
    "gc": collect,
    "rm": take_out,
    "mv": rename,
}


def possible(world: World) -> list[str]:
    """Return the commands that have something to do: what a killed one began comes first."""
    if world.unfinished in ("rm", "mv", "repair"):
        return [world.unfinished]
    if not world.there:
        return ["build", "finalise", "gc"]
    manifest = read_manifest(StorePaths(world.store))
    is_published = manifest is not None and world.there[0] in manifest.view_sets
    return ["build", "finalise", "gc", "rm", "mv", *(["repair"] if is_published else [])]


def damage(world: World) -> None:
    """Cut or change a file of the view set that comes and goes."""
    root = world.store / "views" / world.there[0]
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.stat().st_size]
    kept = ("plan.json", "quarantine", "tmp", "failed")  # no views are rebuilt from these
    path = world.rng.choice([path for path in files if not {path.name, path.parent.name} & {*kept}])
    data = bytearray(path.read_bytes())
    at = world.rng.randrange(len(data))
    data[at] ^= 1 << world.rng.randrange(8)
    path.unlink()  # params may have a second name
    path.write_bytes(data[: at + 1] if world.rng.random() < 0.3 else data)


def in_child(run: Callable[[], object], *, kill_before: int = 0, after: float = 0.0) -> int:
    """Run in a child, and kill it before its n-th write, or after so many seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            if kill_before:
                die_before(kill_before)
            run()
            code = 0
        finally:
            os._exit(code)
    if after:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_before(turn: int) -> None:
    """Kill this process before its n-th call of a function that writes."""
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            nonlocal calls
            calls += 1
            if calls == turn:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in WRITES:
        setattr(disk, name, counted(getattr(disk, name)))


def look(world: World, command: str, *, ended: bool) -> None:
    """Note what is wrong with the store after a command was killed, or has ended."""
    manifest = read_manifest(StorePaths(world.store))
    partial = manifest is not None and not manifest.complete
    for fault in verify(world.store):
        if not _is_expected(fault, command, ended=ended, partial=partial):
            world.wrong.append(f"{command}: {fault.view_set} {fault.kind} {fault.what}")
    entries = {} if manifest is None else manifest.view_sets
    if "kept" not in entries:
        world.wrong.append(f"{command}: kept is gone")
    if ended and command in ("build", "repair") and not set(NAMES) & set(entries):
        world.wrong.append(f"{command}: nothing is published")
    for name, entry in entries.items():
        if manifest is not None and manifest.complete and entry.root != world.roots[name]:
            world.wrong.append(f"{command}: {name} has other views")


def _is_expected(fault: Fault, command: str, *, ended: bool, partial: bool) -> bool:
    """Whether a fault is what an unfinished command leaves for the next one.

    Derived files of a part have the names of those of more shards, which replace them one by one:
    killed there, the view set is faulty until a build or a repair has ended.
    """
    if fault.view_set not in NAMES:
        return False
    if fault.kind == "derived" and partial:
        return not (ended and command in ("build", "repair"))
    return fault.kind in ("orphan", "unpublished") or (command == "repair" and not ended)


def step(world: World) -> None:
    """Kill one command; sometimes run it again to its end."""
    command = world.rng.choice(possible(world))
    if command == "repair" and world.unfinished != "repair":
        damage(world)
    after = kill_before = 0
    if world.rng.random() < 0.5:
        kill_before = world.rng.randint(1, MOST_WRITES)
    else:
        after = world.rng.uniform(0.001, world.seconds[command])
    was_killed = attempt(world, command, kill_before=kill_before, after=after)
    world.kills.update([command] * was_killed)
    world.unfinished = command if was_killed else None
    if was_killed and world.rng.random() < SETTLE:
        attempt(world, command)
        world.unfinished = None


def attempt(world: World, command: str, *, kill_before: int = 0, after: float = 0.0) -> bool:
    """Run a command, look at what it left, and return whether it was killed."""
    seed = world.rng.randrange(1 << 32)

    def run() -> None:
        world.rng.seed(seed)
        COMMANDS[command](world)

    code = in_child(run, kill_before=kill_before, after=after)
    if code not in (0, -signal.SIGKILL):
        world.wrong.append(f"{command} failed")
    look(world, command, ended=code == 0)
    return code == -signal.SIGKILL


def naive_put(path: Path, data: bytes, **_: Any) -> bool:  # noqa: ANN401
    """Give a file its name first."""
    if path.exists():
        return False
    naive_write(path, data)
    return True


def naive_write(path: Path, data: bytes, **_: Any) -> None:  # noqa: ANN401
    """Write half of a file, and be killed."""
    path.write_bytes(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder, kills, writer, seed = sys.argv[1:]
    source = write_npz(Path(folder, "images.npz"))
    world = World(store=Path(folder, "store"), source=source, rng=random.Random(int(seed)))
    build_small(world.store, source, view_set="kept", shard_rows=4)
    build(world)
    manifest = read_manifest(StorePaths(world.store))
    assert manifest is not None
    world.roots = {name: entry.root for name, entry in manifest.view_sets.items()}
    world.roots["second"] = world.roots["first"]
    for command in ("finalise", "gc", "mv", "repair", "rm", "build"):
        if command == "repair":
            damage(world)
        started = time.monotonic()
        attempt(world, command)
        world.seconds[command] = time.monotonic() - started
    if writer == "naive":
        disk.put_if_absent, disk.write_atomic = naive_put, naive_write
    while world.kills.total() < int(kills) or len(world.kills) < len(COMMANDS):
        try:
            step(world)
        except ViewStoreError as error:  # a reader, between two commands, met what is torn
            world.wrong.append(f"a reader: {error}")
        if world.wrong:
            break
    print(json.dumps({"kills": world.kills, "wrong": world.wrong}))


if __name__ == "__main__":
    main()
