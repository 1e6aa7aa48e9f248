"""Two processes train what one does: each its half of every batch, the first one writes."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.loaders.stores import digits_store
from tests.train.loop import train_rank
from viewstore.train.maker_file import load_maker
from viewstore.train.nets.view_maker import ViewMaker

PROCESS = Path(__file__).with_name("train_rank.py")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("two") / "digits"
    return Path(digits_store(root, limit=32).root)


def train_by_two(store: Path, out: Path, method: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = [sys.executable, "-W", "error", str(PROCESS), str(store), str(out), method]
    job = [
        subprocess.Popen(
            arguments,
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in job]
    finally:
        for process in job:
            process.kill()
    assert [process.returncode for process in job] == [0, 0], errors


def logged_losses(out: Path) -> list[float]:
    with (out / "metrics.csv").open() as file:
        return [float(line["loss"]) for line in csv.DictReader(file)]


def check_views_of(*runs: Path) -> None:
    """The networks that make views have learned the same: they change images alike.

    Adam's first steps have one length, whatever the gradient, so weights whose gradients are
    nothing but rounding differ.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 16, 16, generator=generator)
    changes, losses = [], []
    for run in runs:
        network = load_maker(run / "viewmaker.safetensors", "viewmaker")
        assert isinstance(network, ViewMaker)
        noise = torch.rand(4, network.noise_numbers, generator=generator.manual_seed(1))
        changes.append(network.change(images, noise).flatten())
        with (run / "metrics.csv").open() as file:
            losses.append([float(line["adversary_loss"]) for line in csv.DictReader(file)])
    assert float(torch.cosine_similarity(*changes, dim=0)) > 0.999
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("method", list(train_rank.SETTINGS))
def test_two_processes_train_the_weights_of_one(store: Path, tmp_path: Path, method: str) -> None:
    train_rank.train(store, tmp_path / "one", method)
    train_by_two(store, tmp_path / "two", method)
    one, two = (load_file(tmp_path / name / "encoder.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name].allclose(value, rtol=1e-3, atol=1e-5), name
    # What is logged is of the whole batch, not of one half of it.
    records = [json.loads((tmp_path / name / "train.json").read_text()) for name in ("one", "two")]
    assert records[1]["loss"] == pytest.approx(records[0]["loss"], rel=1e-3)
    assert logged_losses(tmp_path / "two") == pytest.approx(
        logged_losses(tmp_path / "one"), rel=1e-3
    )
    if method == "viewmaker":
        check_views_of(tmp_path / "one", tmp_path / "two")
    if method == "moco-v2":
        queues = [
            load_file(tmp_path / name / "checkpoint.safetensors")["model.queue"]
            for name in ("one", "two")
        ]
        assert queues[1].allclose(queues[0], atol=1e-4)
