"""Ranks that die: the job goes on, on other worlds, as if nothing was; or it ends, and says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.faults.rank_driver import make, steps
from tests.loaders.stores import digits_store
from viewstore.store.store import Store

DRIVER = Path(__file__).with_name("rank_driver.py")
State = dict[str, Any] | None
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return digits_store(tmp_path_factory.mktemp("ranks") / "digits")


def begin(
    store: Path,
    out: Path,
    *,
    world: int,
    state: State = None,
    die_after: int = 0,
    meet: bool = False,
) -> list[subprocess.Popen[str]]:
    """Begin all ranks of a job."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    arguments = [str(store), str(out), json.dumps(state), str(die_after), str(int(meet))]
    return [
        subprocess.Popen(
            [sys.executable, str(DRIVER), *arguments],
            env={**os.environ, **place, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def seen(out: Path, world: int) -> Lines:
    """Return the steps that every rank has seen: digests over all ranks, and the state after."""
    ranks = [
        [json.loads(line) for line in (out / f"{rank}.jsonl").read_text().splitlines()]
        for rank in range(world)
    ]
    return [
        {"digests": [d for part in parts for d in part["digests"]], "state": parts[0]["state"]}
        for parts in zip(*ranks, strict=False)
    ]


def run(store: Path, out: Path, *, world: int, state: State = None, die_after: int = 0) -> Lines:
    """Run a job to its end, or until the rank that is to die has died; return what was seen."""
    job = begin(store, out, world=world, state=state, die_after=die_after)
    errors = [process.communicate(timeout=300)[1] for process in job]
    wanted = [-signal.SIGKILL if die_after and rank == 1 else 0 for rank in range(world)]
    assert [process.returncode for process in job] == wanted, errors
    return seen(out, world)


def trace(lines: Lines) -> list[list[str]]:
    return [line["digests"] for line in lines]


def test_killed_ranks_resume_on_other_worlds_as_if_undisturbed(
    store: Store, tmp_path: Path
) -> None:
    """Killed twice in three epochs, in the middle of one, each time with batches under way."""
    with make(store) as loader:
        whole = trace(list(steps(loader, None)))
    assert len(whole) == 18
    first = run(store.root, tmp_path / "two", world=2, die_after=4)
    second = run(store.root, tmp_path / "three", world=3, state=first[-1]["state"], die_after=5)
    assert (len(first), len(second)) == (4, 5)
    third = run(store.root, tmp_path / "one", world=1, state=second[-1]["state"])
    assert trace(first + second + third) == whole
    # Naive: a state of the batches that were made ahead, of the seen ones less, of the epoch.
    for change in ({"step": 5}, {"step": 2}, {"epoch": 0, "step": 0}):
        state = {**second[-1]["state"], **change}
        assert state != second[-1]["state"]
        with make(store) as loader:
            naive = trace(list(steps(loader, state)))
        assert trace(first + second) + naive != whole


@pytest.mark.parametrize("damaged", [True, False])
def test_a_corrupt_shard_stops_all_ranks(store: Store, tmp_path: Path, damaged: bool) -> None:
    """They end by themselves, though only the rank that meets it can tell."""
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    if damaged:
        views = viewstore.open(copy).view_sets["hard"]
        path = views.shards[2].path
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[int(views.members[35, -1]["offset"]) + 200] ^= 1
        path.write_bytes(data)
    job = begin(copy, tmp_path / "out", world=2, meet=True)
    try:
        first_to_fail = job[0].communicate(timeout=300)[1], job[0].returncode
        other = job[1].communicate(timeout=300)[1], job[1].returncode
    finally:
        for process in job:
            process.kill()
    outcomes = [first_to_fail, other]
    if not damaged:
        assert [code for _, code in outcomes] == [0, 0], outcomes
        return
    assert [code for _, code in outcomes] == [1, 1]
    named = ["row 35 of hard, shard 2, does not match its CRC-32" in text for text, _ in outcomes]
    assert sorted(named) == [False, True]
