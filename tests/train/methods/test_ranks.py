"""Two processes that train one method: gradients, scores and queues are those of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.methods.rank_process import SETTINGS, step
from tests.train.world import SAMPLES, at, make_method, make_views
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.shuffle import shuffled_order
from viewstore.train.plan import Row

PROCESS = Path(__file__).with_name("rank_process.py")
REPO = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two ranks has seen."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
    }
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
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]


@pytest.mark.parametrize("name", [name for name in SETTINGS if "local" not in name])
def test_a_step_of_two_ranks_is_that_of_one_process(seen: list[dict[str, Any]], name: str) -> None:
    alone = step(name)
    first, second = (each[name] for each in seen)
    assert first["gradients"] == second["gradients"]
    assert first["gradients"] == pytest.approx(alone["gradients"], rel=1e-5, abs=1e-6)
    assert max(map(abs, alone["gradients"])) > 1e-3
    assert first["scores"] + second["scores"] == pytest.approx(alone["scores"], rel=1e-5)
    assert first["buffers"] == second["buffers"]
    assert first["buffers"] == pytest.approx(alone["buffers"], rel=1e-5, abs=1e-6)


def test_local_negatives_are_another_loss(seen: list[dict[str, Any]]) -> None:
    alone = step("simclr, local")
    assert alone == step("simclr")
    assert seen[0]["simclr, local"]["gradients"] != pytest.approx(alone["gradients"], rel=0.01)
    both = zip(seen[0]["simclr, local"]["scores"], alone["scores"], strict=False)
    assert all(of_rank < of_all for of_rank, of_all in both)


def test_keys_are_embedded_in_batches_that_ranks_have_shuffled(seen: list[dict[str, Any]]) -> None:
    method = make_method(MoCoV2Settings(queue_size=3 * SAMPLES))
    views = make_views(("expert", "expert"))
    order = shuffled_order(views.at, SAMPLES)
    assert sorted(order.tolist()) == list(range(SAMPLES))
    assert set(order[: SAMPLES // 2].tolist()) not in ({0, 1, 2, 3}, {4, 5, 6, 7})
    expected = torch.empty(2, SAMPLES, 16)
    for batch in order.chunk(2):
        together = replace(
            views, pixels=tuple(each[batch] for each in views.pixels), sample=views.sample[batch]
        )
        emb = method.encode(together, [Row(0), Row(1)], net="target", mode="probe")
        expected[:, batch] = emb["z"]
    found = torch.cat([torch.tensor(each["keys"]) for each in seen], 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_samples_is_another_in_each_step() -> None:
    orders = [shuffled_order(at(step), 32).tolist() for step in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
