"""What looks at a run leaves it as it is; what it writes is that of a run that never stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import viewstore
from tests.loaders.stores import digits_store
from viewstore.errors import ConfigError, StoppedError
from viewstore.progress import Silent
from viewstore.store.store import Store
from viewstore.train.loop import monitors, watch
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import open_feed
from viewstore.train.loop.monitors import MonitorSettings
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.loop.pretrain import TrainResult, pretrain
from viewstore.train.loop.run import RunOptions
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.selection_file import load_selections
from viewstore.train.strategies.table import strategy_of

WATCHED: dict[str, Any] = {
    "log": ("csv",),
    "log_every": 2,
    "monitor": MonitorSettings(every=1, preset="ca", bank=12, queries=4),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """32 digits of 8 px: 4 steps of 8 an epoch."""
    root: Path = tmp_path_factory.mktemp("watch") / "digits"
    return viewstore.open(digits_store(root, limit=32).root)


def config_of(strategy: str = "hvp", **changes: Any) -> PretrainConfig:  # noqa: ANN401
    views = 4 if strategy == "hvp" else 2
    values: dict[str, Any] = {
        "views": ("online:cifar",) * views,
        "method": method_of("simclr", {}),
        "strategy": strategy_of(strategy, {"log_every": 1} if strategy == "hvp" else {}),
        "network": NetworkSettings(backbone="conv3", projector=(16, 8)),
        "epochs": 2,
        "batch_size": 8,
        "size": 16,
    }
    return PretrainConfig(**values | changes)


def run(store: Store, out: Path, config: PretrainConfig, **options: Any) -> TrainResult:  # noqa: ANN401
    with open_feed(store, config, num_threads=0) as feed:
        values = {"out": out, "checkpoint_seconds": 1e9} | options
        return pretrain(config, feed, RunOptions(**values), Silent())


def stopping_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(1, 1000))
    return lambda: next(asked) == steps


def weights(out: Path) -> bytes:
    return (out / "encoder.safetensors").read_bytes()


def test_a_run_that_is_watched_is_the_run_that_is_not(store: Store, tmp_path: Path) -> None:
    config = config_of()
    run(store, tmp_path / "plain", config, selection=False)
    run(store, tmp_path / "watched", config, **WATCHED)
    assert weights(tmp_path / "plain") == weights(tmp_path / "watched")


def test_what_is_written_is_there_and_says_what_happened(store: Store, tmp_path: Path) -> None:
    run(store, tmp_path, config_of(), **WATCHED)
    readings = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [(each["epoch"], each["step"]) for each in readings] == [(0, 4), (1, 8)]
    assert all(0 <= each["knn"] <= 1 and each["zstd"] > 0 for each in readings)
    with (tmp_path / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["step"]) for line in lines] == [2, 4, 6, 8]
    # 4 probed and 2 trained forwards a step; 2 backwards.
    assert {(line["forwards"], line["backwards"]) for line in lines} == {("6.0", "2.0")}
    assert all(0 <= float(line["min_iou_share"]) <= 1 for line in lines)
    with Image.open(tmp_path / "batch.png") as picture:
        assert picture.width == 4 * 100 - 4
    logged = load_selections(tmp_path / "selection" / "epoch-0001.safetensors")
    assert len(logged) == 32
    assert json.loads((tmp_path / "config.json").read_text())["strategy"]["n_views"] == 4


def test_files_of_a_stopped_run_are_those_of_one_that_never_was(
    store: Store, tmp_path: Path
) -> None:
    config = config_of()
    run(store, tmp_path / "whole", config, **WATCHED)
    for steps in (3, 5):
        out = tmp_path / f"stopped-{steps}"
        with pytest.raises(StoppedError):
            run(store, out, config, stop=stopping_after(steps), **WATCHED)
        run(store, out, config, **WATCHED)
        names = ["curve.jsonl", "checkpoint.safetensors", "encoder.safetensors", "config.json"]
        names += ["selection/epoch-0000.safetensors", "selection/epoch-0001.safetensors"]
        for name in names:
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_steps_that_do_not_choose_are_standard_ones(store: Store, tmp_path: Path) -> None:
    """Those of HVP that choose among two views are, and only the two are read."""
    every = replace(config_of(epochs=None, steps=5), strategy=strategy_of("hvp", {"every": 1000}))
    run(store, tmp_path / "sparse", every, log=("csv",))
    with (tmp_path / "sparse" / "metrics.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["forwards"]) == (6 + 4 * 2) / 5


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_average_their_gradients(store: Store, tmp_path: Path, parts: int) -> None:
    """A sum over samples without batch statistics has the gradient of the whole batch."""
    config = config_of(
        "standard",
        method=method_of("moco-v2", {"queue_size": 16}),
        network=NetworkSettings(
            backbone="vit-ti", patch=8, projector=(16, 8), projector_norm="none"
        ),
        epochs=None,
        steps=2,
    )
    small = replace(config, optim=OptimSettings(accumulate=parts))
    whole = run(store, tmp_path / "whole", config)
    parted = run(store, tmp_path / "parts", small)
    assert parted.history == pytest.approx(whole.history, rel=1e-4)
    assert parted.loss == pytest.approx(whole.loss, rel=1e-4)


def test_checkpoints_of_every_nth_epoch_are_kept(store: Store, tmp_path: Path) -> None:
    run(store, tmp_path, config_of("standard", epochs=4), keep_every=2)
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-e0002.safetensors", "checkpoint-e0004.safetensors"]


def test_a_run_is_extended_where_that_is_asked_for(store: Store, tmp_path: Path) -> None:
    config = config_of("standard", optim=OptimSettings(schedule="constant"))
    run(store, tmp_path / "long", replace(config, epochs=3))
    run(store, tmp_path / "out", config)
    with pytest.raises(ConfigError, match="other settings"):
        run(store, tmp_path / "out", replace(config, epochs=3))
    result = run(store, tmp_path / "out", replace(config, epochs=3), extend=True)
    assert (result.resumed_at, result.steps) == (8, 12)
    first, second = ((tmp_path / name / "train.json").read_bytes() for name in ("out", "long"))
    assert json.loads(first)["history"] == json.loads(second)["history"]


def test_a_collapsed_run_ends_where_that_is_asked_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "LEAST_ZSTD", 10.0)  # so that every reading is one of a collapse
    config = config_of("standard", epochs=4)
    result = run(store, tmp_path / "out", config, stop_on_collapse=True, **WATCHED)
    assert (result.steps, result.collapsed) == (12, True)
    assert run(store, tmp_path / "all", config, **WATCHED).collapsed


def test_a_collapse_is_remembered_by_the_checkpoint(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "LEAST_ZSTD", 10.0)
    config = config_of("standard", epochs=4)
    for begun in (0, 12, 12):
        result = run(store, tmp_path / "out", config, stop_on_collapse=True, **WATCHED)
        assert (result.resumed_at, result.steps, result.collapsed) == (begun, 12, True)
    assert run(store, tmp_path / "out", config, **WATCHED).steps == 16  # where it is not to stop
    for options in (WATCHED, {}):
        assert run(store, tmp_path / "out", config, **options).collapsed


def test_precisions_train(store: Store, tmp_path: Path) -> None:
    losses = {
        precision: run(
            store, tmp_path / precision, config_of("standard", precision=precision)
        ).history
        for precision in ("fp32", "bf16", "fp16")
    }
    for name in ("bf16", "fp16"):
        assert losses[name] == pytest.approx(losses["fp32"], rel=0.1)
        assert losses[name] != losses["fp32"]


def test_the_generators_of_the_process_are_left_alone(store: Store, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(store, tmp_path, config_of(epochs=1), **WATCHED)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_that_cannot_begin_leaves_no_folder(store: Store, tmp_path: Path) -> None:
    config = config_of("standard")
    with pytest.raises(ConfigError, match="--extend has no effect"):
        run(store, tmp_path / "out", config, extend=True)
    some = replace(config, where="index < 30")
    with pytest.raises(ConfigError, match="kNN while training looks at all samples") as caught:
        run(store, tmp_path / "out", some, **WATCHED)
    assert caught.value.where == "--knn-every"
    assert not (tmp_path / "out").exists()


def test_one_of_several_processes_that_stops_says_how_to_go_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "world_size", lambda: 2)
    with pytest.raises(StoppedError) as caught:
        run(store, tmp_path, config_of("standard"), stop=stopping_after(1))
    assert "start torchrun again, with 2 processes" in (caught.value.fix or "")
