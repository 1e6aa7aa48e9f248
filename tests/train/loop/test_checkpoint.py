"""The file of a run that goes on."""

import hashlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.train.groups import Group, one_group
from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import read_with_config, write_with_config
from viewstore.train.loop.checkpoint import (
    KIND,
    NAME,
    TrainState,
    check_progress,
    check_settings,
    kept_path,
    load_checkpoint,
    save_checkpoint,
)
from viewstore.train.loop.optim import OPTIMIZERS, OptimSettings
from viewstore.train.loop.scaling import Precision, Scaling
from viewstore.train.nets.network import NetworkSettings, seeded_network


@pytest.mark.skipif(torch.cuda.is_available(), reason="the state of a GPU is in the file too")
def test_bytes_of_a_checkpoint_are_frozen(tmp_path: Path) -> None:
    """A run is resumed from the files of an earlier version."""
    settings = NetworkSettings(backbone="conv3", in_channels=1, projector=(128, 64))
    network = seeded_network(settings, 0)
    optimizer = OptimSettings(name="adam", weight_decay=0).make(one_group(network))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with torch.no_grad():
        for number, value in enumerate(network.state_dict().values()):
            value.fill_(number / 4)
    state = TrainState(step=3, loader={"epoch": 1}, history=[1.5], partial=[0.25])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_checkpoint(
            tmp_path / "c", state, {"seed": 1, "views": ("simclr", "simclr")}, network, optimizer
        )
    digest = hashlib.sha256((tmp_path / "c").read_bytes()).hexdigest()
    assert digest == "d168ad5a3711dad5c604267e010b82ea93d50568dc247862ddc2f894d387cff3"
    file = read_with_config(tmp_path / "c", KIND)
    del file.config["digest"]  # the bytes of versions that wrote none
    write_with_config(tmp_path / "c", KIND, file.tensors, file.config)
    digest = hashlib.sha256((tmp_path / "c").read_bytes()).hexdigest()
    assert digest == "3742f068291082742f8ab9f295f14c9484cc232987953d6af8ad2f57a1ef5465"


LENGTH = {"total_steps": 6, "epoch_steps": 2, "batch_size": 256}
PATIENT = OptimSettings(lr=0.1, schedule="constant")
SETTINGS: dict[str, Any] = {"epochs": 3, "steps": None, "optim": asdict(PATIENT), "seed": 1}


class Run:
    """A small run with dropout, whose gradients some parameters of the optimizer lack."""

    def __init__(self, optim: OptimSettings, precision: Precision = "fp32") -> None:
        self.optim = optim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
        unused = nn.Linear(2, 2)
        self.model.append(unused)
        groups = [
            Group([self.model[0].weight, *unused.parameters()]),
            Group([self.model[0].bias], decay=False, adapt=False),
            Group(list(self.model[2].parameters()), fixed_lr=True),
        ]
        self.optimizer = optim.make(groups)
        self.scaling = Scaling(precision, torch.device("cpu"))
        self.state = TrainState()

    def train(self, steps: int) -> None:
        for step in range(self.state.step, steps):
            self.optim.apply(self.optimizer, step, **LENGTH)
            self.optimizer.zero_grad()
            x = torch.full((3, 4), math.sin(step))
            self.scaling.backward(self.model[:3](x).square().sum())
            taken = self.scaling.step(self.optimizer, clip=self.optim.clip)
            self.state.step = step + 1
            self.state.monitors = {"skipped": [*self.state.monitors.get("skipped", []), not taken]}

    def save(self, path: Path) -> None:
        self.state.scaler = self.scaling.state_dict()
        save_checkpoint(path, self.state, SETTINGS, self.model, self.optimizer)

    def load(self, path: Path, **options: bool) -> None:
        self.state = load_checkpoint(path, SETTINGS, self.model, self.optimizer, **options)
        self.scaling.load_state_dict(self.state.scaler)


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, "fp32") for name in OPTIMIZERS] + [("lars", "fp16"), ("adamw", "fp16")],
)
def test_runs_go_on_bitwise_from_every_step(
    tmp_path: Path, name: str, precision: Precision
) -> None:
    optim = OptimSettings(name=name, lr=0.1, clip=1.0, weight_decay_end=0.1, warmup_epochs=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        whole = Run(optim, precision)
        for step in range(6):
            whole.save(tmp_path / f"{step}")
            whole.train(step + 1)
        whole.save(tmp_path / "whole")
        for step in range(6):
            torch.manual_seed(step + 2)
            resumed = Run(optim, precision)
            resumed.load(tmp_path / f"{step}")
            resumed.train(6)
            resumed.save(tmp_path / "resumed")
            assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert resumed.state == whole.state
    assert bool(whole.state.scaler) == (precision == "fp16")
    assert whole.state.monitors == {"skipped": [False] * 6}


class Counting(torch.optim.SGD):
    """An optimizer that counts its steps in numbers, and has nothing of some parameters."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step(closure)
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            state = self.state[parameter]
            state["count"] = state.get("count", 0) + 1
            state["mean"] = 0.5 * state["count"]
            state["nothing"] = None if number else torch.zeros(())


def counted(steps: int) -> tuple[nn.Module, Counting]:
    model = nn.Linear(2, 2)
    optimizer = Counting(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    return model, optimizer


def test_numbers_of_an_optimizer_are_kept_with_their_types(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", TrainState(), {}, *counted(3))
    model, optimizer = counted(0)
    load_checkpoint(tmp_path / "c", {}, model, optimizer)
    found = list(optimizer.state.values())
    assert [(state["count"], state["mean"]) for state in found] == [(3, 1.5)] * 2
    assert {type(state["count"]) for state in found} == {int}
    assert ["nothing" in state for state in found] == [True, False]


def test_values_that_no_file_holds_are_refused(tmp_path: Path) -> None:
    model, optimizer = counted(1)
    optimizer.state[next(model.parameters())]["count"] = "three"
    with pytest.raises(ConfigError, match=r"value 0\.count of the optimizer is 'three'"):
        save_checkpoint(tmp_path / "c", TrainState(), {}, model, optimizer)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_an_epoch_has_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / NAME
    assert kept_path(path, 10) == tmp_path / "checkpoint-e0010.safetensors"
    assert kept_path(path, 12345) == tmp_path / "checkpoint-e12345.safetensors"
    run = Run(PATIENT)
    run.save(kept_path(path, 0))
    run.load(kept_path(path, 0))
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint-e0000.safetensors"]


def test_a_run_goes_on_for_longer_where_asked(tmp_path: Path) -> None:
    """At a constant rate it ends as one that was as long from the beginning."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        whole = Run(PATIENT)
        whole.train(4)
        save_checkpoint(
            tmp_path / "c", whole.state, {**SETTINGS, "epochs": 2}, whole.model, whole.optimizer
        )
        whole.train(6)
        resumed = Run(PATIENT)
        with pytest.raises(ConfigError, match="other settings") as caught:
            resumed.load(tmp_path / "c")
        assert caught.value.why == "epochs was 2, is 3"
        assert (caught.value.fix or "").startswith("give --extend to go on for longer")
        resumed.load(tmp_path / "c", extend=True)
        resumed.train(6)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"epochs": 4}, False),
        ({"epochs": 3}, False),
        ({"epochs": 2}, True),
        ({"epochs": None, "steps": 9}, True),
        ({"epochs": 4, "seed": 2}, True),
    ],
)
def test_only_the_length_may_grow(change: dict[str, Any], refused: bool) -> None:
    now = {**SETTINGS, **change}
    if not refused:
        check_settings(SETTINGS, now, Path("c"), extend=True)
        return
    with pytest.raises(ConfigError, match="other settings") as caught:
        check_settings(SETTINGS, now, Path("c"), extend=True)
    assert "--extend" not in (caught.value.fix or "")
    assert ("epochs" in (caught.value.why or "")) == (change["epochs"] != 4)


@pytest.mark.parametrize("optim", [{"schedule": "cosine"}, {"weight_decay_end": 0.4}])
def test_rates_that_fall_to_the_end_are_named_where_the_end_moves(optim: dict[str, Any]) -> None:
    before = {**SETTINGS, "optim": SETTINGS["optim"] | optim}
    now = {**before, "epochs": 4}
    with pytest.raises(ConfigError, match="other settings") as caught:
        check_settings(before, now, Path("c"))
    assert (caught.value.why or "").startswith("epochs was 3, is 4; rates fall to the end of a run")
    check_settings(before, now, Path("c"), extend=True)


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({"optimizer.9.exp_avg": torch.zeros(1)}, {}, "optimizer has 2 parameters, not one 9"),
        ({"optimizer.-1.exp_avg": torch.zeros(1)}, {}, "optimizer has 2 parameters, not one -1"),
        ({"optimizer.x.exp_avg": torch.zeros(1)}, {}, "invalid literal for int"),
        ({"optimizer.0.momentum_buffer": torch.zeros(9)}, {}, r"must be \(2, 2\), got \(9,\)"),
        ({}, {"numbers": {"7.count": 1}}, "optimizer has 2 parameters, not one 7"),
        ({}, {"numbers": {"0.count": "1"}}, r"checkpoint\.numbers\.0\.count must be int \| float"),
        ({}, {"monitors": [1]}, "checkpoint.monitors must be dict"),
        ({}, {"scaler": 1.0}, "checkpoint.scaler must be dict"),
        ({}, {"scale": 1.0}, "they differ in scale"),
        ({"random.torch": torch.zeros(3)}, {}, "does not fit its own settings"),
        ({"random.torch": torch.zeros((), dtype=torch.uint8)}, {}, "does not fit its own settings"),
    ],
)
def test_files_that_are_not_of_this_run_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], message: str
) -> None:
    path = tmp_path / "c"
    model, optimizer = counted(1)
    save_checkpoint(path, TrainState(), {}, model, optimizer)
    file = read_with_config(path, KIND)
    del file.config["digest"]  # as files of earlier versions
    write_with_config(path, KIND, file.tensors | tensors, file.config | config)
    before = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, {}, model, optimizer)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_flipped_bit_of_any_tensor_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "c"
    model, optimizer = counted(1)
    save_checkpoint(path, TrainState(), {}, model, optimizer)
    whole = path.read_bytes()
    begins = 8 + int.from_bytes(whole[:8], "little")
    for place in range(begins, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="checkpoint is damaged") as caught:
            load_checkpoint(path, {}, model, optimizer)
        assert caught.value.where == str(path)
        assert "remove it" in (caught.value.fix or "")
    path.write_bytes(whole)
    load_checkpoint(path, {}, model, optimizer)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": 5},
        {"step": 6},
        {"history": []},
        {"partial": []},
        {"loader": None},
        {"loader": {"epoch": 1, "step": 2}},
        {"loader": {"epoch": "1", "step": 1}},
        {"loader": {}},
        {"step": 0, "history": [], "partial": []},
    ],
)
def test_a_state_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    whole: dict[str, Any] = {
        "step": 4, "loader": {"epoch": 1, "step": 1}, "history": [1.0], "partial": [1.0],
    }  # fmt: skip
    check_progress(TrainState(), 3, Path("c"))
    check_progress(TrainState(**whole), 3, Path("c"))
    with pytest.raises(CheckpointError, match="contradicts itself") as caught:
        check_progress(TrainState(**whole | changes), 3, Path("c"))
    assert (caught.value.where, caught.value.exit_code) == ("c", 3)


def test_numbers_of_processes_and_lists_are_said_alike() -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings({"views": ["a"], "processes": 2}, {"views": ("b", "c")}, Path("c"))
    assert caught.value.why == "processes was 2, is 1; views was ['a'], is ['b', 'c']"
    check_settings({"processes": 1}, {}, Path("c"))
    with pytest.raises(ConfigError, match="other settings") as caught:
        check_settings({}, {"processes": 2}, Path("c"))
    assert caught.value.why == "processes was 1, is 2"
    assert "start as many processes as before" in (caught.value.fix or "")


def test_a_file_without_generators_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    model, optimizer = counted(1)
    save_checkpoint(path, TrainState(), {}, model, optimizer)
    file = read_with_config(path, KIND)
    del file.tensors["random.torch"], file.config["digest"]
    write_with_config(path, KIND, file.tensors, file.config)
    with pytest.raises(CheckpointError, match="does not fit its own settings: 'torch'"):
        load_checkpoint(path, {}, model, optimizer)
