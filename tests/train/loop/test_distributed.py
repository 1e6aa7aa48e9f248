"""Two processes that train as one: exact gradients, rows in order, generators of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.loop.rank_process import LOSSES, gradients, images, network, small
from viewstore.errors import ConfigError, UnavailableError
from viewstore.train.distributed import (
    all_gather_with_gradient,
    all_reduce_mean,
    any_rank,
    gather_rows,
    rank,
    world_size,
)
from viewstore.train.loop.checkpoint import TrainState, load_checkpoint, save_checkpoint
from viewstore.train.loop.distributed import joined

PROCESS = Path(__file__).with_name("rank_process.py")
TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two ranks have written what they saw."""
    folder = tmp_path_factory.mktemp("ranks")
    save_checkpoint(folder / "alone", TrainState(), {}, *small())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = TORCHRUN | {"MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    job = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", str(PROCESS), str(folder)],
            env={**os.environ, **place, "RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in job]
    finally:
        for process in job:
            process.kill()
    assert [process.returncode for process in job] == [0, 0], errors
    return folder


@pytest.fixture(scope="module")
def seen(out: Path) -> list[dict[str, Any]]:
    return [json.loads((out / f"{number}.json").read_text()) for number in range(2)]


@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_of_two_ranks_are_those_of_one_process(
    seen: list[dict[str, Any]], name: str
) -> None:
    loss, wanted = gradients(network().double(), LOSSES[name], images())
    losses, found = zip(*[each["gradients"][name] for each in seen], strict=True)
    assert found[0] == found[1]
    assert found[0] == pytest.approx(wanted, rel=1e-10, abs=1e-12)
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-12)
    assert max(map(abs, wanted)) > 1e-3


def test_a_gather_without_gradient_would_be_found() -> None:
    """The part of the gradient that comes through other rows is no small one."""
    views = images()

    def local(first: Tensor, second: Tensor) -> Tensor:
        halves = zip(first.chunk(2), second.chunk(2), strict=True)
        return torch.stack([LOSSES["ntxent"](u, v) for u, v in halves]).mean()

    _, whole = gradients(network().double(), LOSSES["ntxent"], views)
    _, apart = gradients(network().double(), local, views)
    assert apart != pytest.approx(whole, rel=0.01)


def test_ranks_know_their_place(seen: list[dict[str, Any]]) -> None:
    assert [each["place"] for each in seen] == [[0, 2, "cpu"], [1, 2, "cpu"]]


def test_ranks_exchange_rows_in_order_and_means(seen: list[dict[str, Any]]) -> None:
    for number, each in enumerate(seen):
        assert each["exchanged"] == {
            "rows": [0, 0, 1, 1],
            "needs_gradient": False,
            "mean": [2],
            "kept": number,
            "any": [True, False, True],
        }


def test_a_group_that_exists_outlives_and_our_own_ends(seen: list[dict[str, Any]]) -> None:
    assert [each["again"] for each in seen] == [[0, 2], [1, 2]]
    assert [(each["outlives"], each["left"]) for each in seen] == [(True, True)] * 2


def test_each_rank_goes_on_with_its_own_generator(seen: list[dict[str, Any]]) -> None:
    kept = [each["checkpointed"] for each in seen]
    assert [each["step"] for each in kept] == [2, 2]
    assert [each["drawn"] for each in kept] == [each["drawn_again"] for each in kept]
    assert kept[0]["drawn"] != kept[1]["drawn"]


def test_runs_of_other_numbers_of_processes_are_refused(
    out: Path, seen: list[dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match="by another number of processes") as caught:
        load_checkpoint(out / "checkpoint", {}, *small())
    assert (caught.value.code, caught.value.why) == ("VS103", "processes were 2, are 1")
    assert [each["refused"] for each in seen] == ["processes were 1, are 2"] * 2


def test_alone_nothing_is_exchanged() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert (rank(), world_size()) == (0, 1)
    assert all_gather_with_gradient(rows) is rows
    assert all_reduce_mean(rows) is rows
    assert torch.equal(gather_rows(rows), rows)
    assert not gather_rows(rows).requires_grad
    assert (any_rank(True), any_rank(False)) == (True, False)


@pytest.mark.parametrize(
    "environment", [{}, TORCHRUN | {"WORLD_SIZE": "1"}, {"SLURM_STEP_NUM_TASKS": "1"}]
)
def test_one_process_joins_nothing(environment: dict[str, str]) -> None:
    with joined(environment, "cpu") as ranks:
        assert ranks == (0, 1, torch.device("cpu"))
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("environment", "message", "why"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE says that 4", "RANK and WORLD_SIZE"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS says that 4", "RANK and WORLD_SIZE"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE says that 4", "RANK and MASTER_ADDR and MASTER_PORT"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "WORLD_SIZE says that 2", "MASTER_ADDR must be set"),
        (
            {**TORCHRUN, "WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "4"},
            "SLURM_STEP_NUM_TASKS says that 4 processes train, and not which",
            "same --out",
        ),
    ],
)
def test_launchers_that_tell_the_number_alone_are_refused(
    environment: dict[str, str], message: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught, joined(environment, "cpu"):
        pass
    assert why in (caught.value.why or "")
    assert "start one process" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("change", "device", "message"),
    [
        ({"RANK": "2"}, "cpu", "RANK must be a whole number below 2, got '2'"),
        ({"RANK": "-1"}, "cpu", "RANK must be a whole number below 2, got '-1'"),
        ({"LOCAL_RANK": ""}, "cuda", "LOCAL_RANK must be a whole number"),
        ({"LOCAL_RANK": "2"}, "cuda", "needs a GPU of its own, and there are 2"),
        ({}, "cuda:1", "device must be cuda where several processes train, got cuda:1"),
    ],
)
def test_places_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], device: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=message), joined(TORCHRUN | change, device):
        pass


def test_processes_that_do_not_meet_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = TORCHRUN | {"MASTER_PORT": "none"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UnavailableError, match="the 2 processes of this training cannot talk"),
        joined(environment, "cpu"),
    ):
        pass
    assert not torch.distributed.is_initialized()
