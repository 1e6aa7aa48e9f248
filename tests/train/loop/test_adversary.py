"""The game of a method and a network that makes views: each step does what it is for alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.loop.test_pretrain import MemoryLoader, feed
from tests.train.world import (
    COLUMNS,
    PREPARE,
    SIDE,
    make_method,
    make_views,
    same,
    slots_of,
    snapshot,
)
from viewstore.errors import ConfigError, StoppedError
from viewstore.files.tensors import read_with_config
from viewstore.progress import Silent
from viewstore.train.loop.adversary import Adversary
from viewstore.train.loop.checkpoint import KIND, Trained
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.loop.pretrain import TrainResult, pretrain
from viewstore.train.loop.run import RunOptions
from viewstore.train.maker_file import load_maker
from viewstore.train.methods.base import Method
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import Views

TWO = ("source", "source")
VIEWMAKER = ("viewmaker", {}, TWO, "simclr")
FREE = {"n_locals": 2, "penalty": "none"}  # the loss alone, for which steps are tried
STN = ("stn", FREE, ("source",), "dino")
GAMES = [
    VIEWMAKER,
    ("viewmaker", {"eps": 0.2, "clamp": False}, TWO, "moco-v2"),
    ("viewmaker,a1", {}, ("expert", "source"), "byol"),
    ("viewmaker,a2", {}, ("expert", "expert", "source"), "simsiam"),
    ("viewmaker,a2", {}, ("global", "global", "local", "source"), "dino"),
    ("viewmaker", {}, TWO, "barlow-twins"),
    STN,
    ("stn", {**FREE, "mode": "affine", "own": True}, ("source",), "dino"),
    ("stn", {**FREE, "n_locals": 0, "separate": True}, ("source",), "simclr"),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "moco-v2": {"queue_size": 32},
    "dino": {"outputs": 32},
}
games = pytest.mark.parametrize(("name", "given", "roles", "method"), GAMES)


def config_of(name: str, given: dict[str, Any], method: str, **values: Any) -> PretrainConfig:  # noqa: ANN401
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, **values}
    return PretrainConfig(
        views=("source", "source"),
        method=method_of(method, SETTINGS.get(method, {})),
        strategy=strategy_of(name, given),
        network=NetworkSettings(backbone="conv3", projector=(16, 8)),
        **settings,
    )


def game(
    name: str,
    given: dict[str, Any],
    roles: tuple[str, ...],
    method: str,
    **values: Any,  # noqa: ANN401
) -> tuple[PretrainConfig, Method, Adversary, Views]:
    config = config_of(name, given, method, **values)
    assert config.strategy.maker is not None
    adversary = Adversary(config.strategy.maker, config, slots_of(roles), torch.device("cpu"))
    return config, make_method(config.method), adversary, make_views(roles)


@torch.no_grad()
def loss(config: PretrainConfig, method: Method, adversary: Adversary, views: Views) -> float:
    """The loss of a batch, as the network makes its views now, for a step that trains."""
    made = adversary.maker.make(views, adversary.trained.model).views
    plan = config.strategy.plan(method.annotate(made), method)
    return float(method(plan, "attack").loss)


@games
def test_a_step_of_the_network_raises_the_loss_of_the_batch(
    name: str, given: dict[str, Any], roles: tuple[str, ...], method: str
) -> None:
    """And the method's lowers it, on the same views."""
    config, trained, adversary, views = game(name, given, roles, method)
    before = loss(config, trained, adversary, views)
    made = adversary.play(views, trained, config.strategy)
    assert float(adversary.facts["adversary_loss"]) == pytest.approx(before, abs=1e-5)
    raised = loss(config, trained, adversary, views)
    assert raised > before
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], 1e-3)
    plan = config.strategy.plan(trained.annotate(made), trained)
    embedded = trained(plan)
    assert float(embedded.loss.detach()) == pytest.approx(before, abs=1e-4)
    embedded.loss.backward()
    optimizer.step()
    with torch.no_grad():
        after = trained(config.strategy.plan(trained.annotate(made), trained), "attack").loss
    assert float(after) < before


@games
def test_nothing_of_the_method_changes_by_a_step_of_the_network(
    name: str, given: dict[str, Any], roles: tuple[str, ...], method: str
) -> None:
    config, trained, adversary, views = game(name, given, roles, method)
    for parameter in trained.parameters():  # gradients that a step before has left
        parameter.grad = torch.ones_like(parameter)
    levels = [each.clone() for each in views.pixels]
    before = snapshot(trained)
    weights = [each.clone() for each in adversary.trained.model.parameters()]
    made = adversary.play(views, trained, config.strategy)
    assert same(before, snapshot(trained))
    assert all(map(torch.equal, levels, views.pixels))
    assert not any(each.requires_grad for each in made.pixels)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(weights, adversary.trained.model.parameters(), strict=True)
    ]
    assert sum(moved) > len(moved) / 2


def test_steps_of_the_transformer_and_of_its_method_pull_apart_in_float64() -> None:
    """Small ones of plain gradient descent, from a network that is not the start."""
    config, method, adversary, views = game(*STN)
    network = adversary.trained.model.double()
    method.double()
    mean, std = (torch.tensor(each).double().view(3, 1, 1) for each in (PREPARE.mean, PREPARE.std))
    method.prepare = lambda levels: (levels.double() / 255 - mean) / std  # type: ignore[assignment]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for head in network.heads:  # type: ignore[union-attr]
            torch.nn.init.normal_(head[-1].weight, std=0.02)
    descent = torch.optim.SGD(
        [{"params": list(network.parameters()), "decay": False, "fixed_lr": False}], 1e-5
    )
    adversary.trained = Trained(network, descent)
    adversary._parameters = list(network.parameters())
    adversary._optim = OptimSettings(
        lr=1e-5, schedule="constant", scale_lr=False, weight_decay=0, momentum=0
    )
    before = loss(config, method, adversary, views)
    made = adversary.play(views, method, config.strategy)
    assert loss(config, method, adversary, views) > before + 1e-6
    trained = [each for each in method.parameters() if each.requires_grad]
    plan = config.strategy.plan(method.annotate(made), method)
    gradients = torch.autograd.grad(method(plan, "attack").loss, trained, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter -= 0 if gradient is None else 1e-3 * gradient
        assert float(method(plan, "attack").loss) < before - 1e-6


def test_the_penalty_is_paid_beside_the_loss() -> None:
    """With all the weight on it, a step brings transforms nearer to what it wants."""
    config, method, adversary, views = game("stn", {"n_locals": 2, "eps": 1e6}, ("source",), "dino")
    found = []
    for _ in range(3):
        with torch.no_grad():
            found.append(float(adversary.maker.make(views, adversary.trained.model).penalty))
        adversary.play(views, method, config.strategy)
    assert found[2] < found[1] < found[0]


def test_the_method_trains_on_views_of_before_the_step() -> None:
    config, method, adversary, views = game(*VIEWMAKER)
    with torch.no_grad():
        expected = adversary.maker.make(views, adversary.trained.model).views
    made = adversary.play(views, method, config.strategy)
    assert all(map(torch.equal, made.pixels, expected.pixels))
    with torch.no_grad():
        later = adversary.maker.make(views, adversary.trained.model).views
    assert not torch.equal(made.pixels[2], later.pixels[2])


def test_gradients_of_parts_of_a_batch_are_averaged() -> None:
    """Of a loss without batch norms and negatives: that of the whole batch."""

    def gradients(accumulate: int) -> list[Tensor]:
        optim = OptimSettings(accumulate=accumulate)
        config, method, adversary, views = game(*GAMES[3], optim=optim)
        found: list[Tensor] = []
        step = adversary.trained.optimizer.step

        def seen(*args: Any) -> None:  # noqa: ANN401
            found.extend(p.grad.clone() for p in adversary.trained.model.parameters())  # type: ignore[union-attr]
            step(*args)

        adversary.trained.optimizer.step = seen  # type: ignore[method-assign]
        method.eval()
        made = adversary.play(views, method, config.strategy)
        assert [len(each) for each in made.pixels] == [8] * 4
        return found

    whole, parts = gradients(1), gradients(2)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)


def run(config: PretrainConfig, out: Path, **options: Any) -> TrainResult:  # noqa: ANN401
    roles = {"viewmaker,a2": ("expert", "expert", "source")}.get(config.strategy.name, TWO)
    loader = MemoryLoader(views=len(roles))
    slots = slots_of(roles)
    return pretrain(
        config, replace(feed(loader), slots=slots), RunOptions(out=out, **options), Silent()
    )


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_networks(tmp_path: Path, stop: int) -> None:
    config = config_of("viewmaker", {}, "simclr")
    whole = run(config, tmp_path / "whole", log=("csv",), log_every=1)
    count = iter(range(1, 10))
    with pytest.raises(StoppedError):
        run(config, tmp_path / "parts", log=("csv",), log_every=1, stop=lambda: next(count) == stop)
    parts = run(config, tmp_path / "parts", log=("csv",), log_every=1)
    assert parts.resumed_at == stop
    for name in ("encoder.safetensors", "viewmaker.safetensors", "checkpoint.safetensors"):
        files = [tmp_path / folder / name for folder in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    losses = [
        [line.split(",")[:10] for line in (tmp_path / folder / "metrics.csv").read_text().split()]
        for folder in ("whole", "parts")
    ]
    column = losses[0][0].index("adversary_loss")
    assert [row[column] for row in losses[0]] == [row[column] for row in losses[1]]
    assert all(float(row[column]) > 0 for row in losses[0][1:])
    assert whole.history == parts.history


def test_the_frozen_network_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    config = config_of("viewmaker", {"eps": 0.125}, "simclr")
    run(config, tmp_path, keep_every=1, command="viewstore train ..")
    for file, checkpoint in (
        ("viewmaker.safetensors", "checkpoint.safetensors"),
        ("viewmaker-e0001.safetensors", "checkpoint-e0001.safetensors"),
    ):
        found = load_maker(tmp_path / file, "viewmaker")
        kept = read_with_config(tmp_path / checkpoint, KIND).tensors
        state = found.state_dict()
        assert all(torch.equal(kept[f"adversary.model.{name}"], state[name]) for name in state)
        assert not found.training
        assert not any(parameter.requires_grad for parameter in found.parameters())
        assert found.shape.size == SIDE  # type: ignore[union-attr]
        assert found.shape.eps == 0.125  # type: ignore[union-attr]
    said = read_with_config(tmp_path / "viewmaker.safetensors", "viewmaker").config["provenance"]
    assert said["step"] == 6
    assert said["command"] == "viewstore train .."
    assert said["settings"]["strategy"]["eps"] == 0.125


def test_a_run_of_other_settings_of_the_network_is_refused(tmp_path: Path) -> None:
    run(config_of("viewmaker", {}, "simclr"), tmp_path)
    with pytest.raises(ConfigError, match="the run in this folder had other settings") as caught:
        run(config_of("viewmaker", {"eps": 0.1}, "simclr"), tmp_path)
    assert "strategy.eps was 0.05, is 0.1" in str(caught.value.why)
    with pytest.raises(ConfigError, match="the run in this folder had other settings"):
        run(config_of("standard", {}, "simclr"), tmp_path)


def test_float16_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = config_of("viewmaker", {}, "simclr", precision="fp16")
    loader = MemoryLoader(views=2)
    with pytest.raises(ConfigError, match="strategy viewmaker does not train in fp16") as caught:
        pretrain(
            config,
            replace(feed(loader), slots=slots_of(TWO)),
            RunOptions(out=tmp_path / "run"),
            Silent(),
        )
    assert caught.value.fix == "give --precision bf16, or leave it out"
    assert loader.reads == 0
    assert not (tmp_path / "run").exists()


def test_it_trains_in_bfloat16(tmp_path: Path) -> None:
    run(config_of("viewmaker", {}, "simclr", precision="bf16", epochs=1), tmp_path)
    assert (tmp_path / "viewmaker.safetensors").is_file()


def test_columns_of_the_image_are_those_of_its_views() -> None:
    strategy = strategy_of("viewmaker", {})
    made = strategy.slots(slots_of(TWO))[2:]
    assert [(slot.role, slot.size, slot.parent_slot, slot.name) for slot in made] == [
        ("generated", SIDE, 0, "viewmaker"),
        ("generated", SIDE, 1, "viewmaker"),
    ]
    assert made[0].columns == COLUMNS
