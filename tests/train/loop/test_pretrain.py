"""The loop: resumable to the bit, refusing before it reads, stopping where losses break."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError, DivergedError, StoppedError
from viewstore.files.tensors import read_with_config, write_with_config
from viewstore.progress import Fact, Silent
from viewstore.train.encoder_file import load_encoder
from viewstore.train.loop.checkpoint import KIND, TrainState, load_checkpoint, save_checkpoint
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.loop.pretrain import TrainResult, check_views, pretrain
from viewstore.train.loop.run import Feed, RunOptions
from viewstore.train.loop.watch import Losses
from viewstore.train.methods.base import Frame
from viewstore.train.methods.simclr import SimCLR, SimCLRSettings
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import Network, NetworkSettings
from viewstore.train.strategies.base import Slot, Strategy
from viewstore.train.strategies.standard import Standard
from viewstore.train.strategies.table import strategy_of

ROLES = ("expert", "expert", "generated")
EPOCH_STEPS = 3
BATCH = 8


@dataclass
class View:
    pixels: Tensor
    params: dict[str, Any] = field(default_factory=dict)
    parent_slot: int = -1
    colourless: bool = False


@dataclass
class Batch:
    views: list[View]
    index: Tensor
    state: dict[str, Any]


class MemoryLoader:
    """Noisy copies of random images, drawn by (epoch, step): what a loader does, in memory."""

    def __init__(self, views: int = 3, *, brightness: int = 255) -> None:
        self.views = views
        self.brightness = brightness
        self.epoch = self.step = 0
        self.reads = 0

    def __iter__(self) -> Iterator[Batch]:
        while self.step < EPOCH_STEPS:
            self.reads += 1
            yield self.batch()
        self.epoch, self.step = self.epoch + 1, 0

    def batch(self) -> Batch:
        generator = torch.Generator().manual_seed(100 * self.epoch + self.step)
        shape = (self.views, BATCH, 3, 16, 16)
        pixels = torch.randint(self.brightness, shape, generator=generator, dtype=torch.uint8)
        index = torch.arange(BATCH) + BATCH * self.step
        self.step += 1
        state = {"epoch": self.epoch, "step": self.step}
        return Batch([View(view) for view in pixels], index, state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.step = state["epoch"], state["step"]
        if self.step == EPOCH_STEPS:
            self.epoch, self.step = self.epoch + 1, 0


@dataclass
class Report(Silent):
    total: int = 0
    views: int = 0
    facts: dict[str, Fact] = field(default_factory=dict)
    ended: bool = False

    def begin(self, label: str, total: int, unit: str, *, settle: int = 0) -> None:
        assert (label, unit) == ("train", "views")
        self.total = total

    def advance(self, count: int = 1, **facts: Fact) -> None:
        self.views += count
        self.facts |= facts

    def end(self) -> None:
        self.ended = True


CONFIG = PretrainConfig(
    views=("simclr", "simclr", "w-search"),
    method=SimCLRSettings(negatives="other"),
    strategy=strategy_of("a2", {}),
    network=NetworkSettings(backbone="conv3", in_channels=1, projector=(16, 8)),
    optim=OptimSettings(name="sgd", lr=0.1, warmup_epochs=1),
    epochs=2,
    batch_size=BATCH,
)


def feed(loader: MemoryLoader | None = None, roles: tuple[str, ...] = ROLES) -> Feed:
    return Feed(
        loader=loader or MemoryLoader(),
        slots=tuple(Slot(role, 16, frozenset(), -1, role) for role in roles),
        epoch_steps=EPOCH_STEPS,
        num_rows=EPOCH_STEPS * BATCH,
        size=16,
        policy="simclr",
        store_id="ab" * 32,
    )


def run(
    out: Path, config: PretrainConfig = CONFIG, *, report: Report | None = None, **options: object
) -> TrainResult:
    values: dict[str, Any] = {"out": out, "checkpoint_seconds": 1e9} | options
    return pretrain(config, feed(), RunOptions(**values), report or Silent())


def stopping_after(steps: int) -> Callable[[], bool]:
    """A request to stop that comes while the given step of this process runs."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) == steps


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_run_stopped_at_any_step_ends_as_if_it_never_had(tmp_path: Path, optimizer: str) -> None:
    config = replace(CONFIG, optim=replace(CONFIG.optim, name=optimizer, lr=0.01))
    whole = run(tmp_path / "whole", config)
    for steps in range(1, 6):
        out = tmp_path / f"stopped-{steps}"
        with pytest.raises(StoppedError, match=f"training stopped after step {steps} of 6"):
            run(out, config, stop=stopping_after(steps))
        torch.manual_seed(steps)  # each process starts from another generator
        resumed = run(out, config)
        assert (resumed.resumed_at, resumed.steps) == (steps, 6)
        assert files(out) == files(tmp_path / "whole")
        assert resumed.history == whole.history


def test_a_run_stopped_every_step_ends_as_if_it_never_had(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    for _ in range(5):
        with pytest.raises(StoppedError):
            run(tmp_path / "out", stop=lambda: True)
    run(tmp_path / "out", stop=lambda: True)  # the last step is done: nothing is left to stop
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_run_killed_between_checkpoints_goes_on_from_the_last(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill() -> bool:
        raise Killed

    run(tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(tmp_path / "out", stop=stopping_after(2))
    with pytest.raises(Killed):
        run(tmp_path / "out", stop=kill)
    assert run(tmp_path / "out").resumed_at == 2
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_finished_run_reads_nothing_more(tmp_path: Path) -> None:
    first = run(tmp_path)
    (tmp_path / "encoder.safetensors").unlink()
    loader = MemoryLoader()
    again = pretrain(CONFIG, feed(loader), RunOptions(out=tmp_path), Silent())
    assert loader.reads == 0
    assert again.history == first.history
    assert load_encoder(again.encoder).size == 16


def test_a_run_is_checkpointed_while_it_goes(tmp_path: Path) -> None:
    seen = []

    def look() -> bool:
        seen.append((tmp_path / "checkpoint.safetensors").exists())
        return False

    run(tmp_path, checkpoint_seconds=0.0, stop=look)
    assert seen == [False, *[True] * 5]


def test_other_settings_are_refused_naming_them(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, stop=lambda: True)
    before = files(tmp_path)
    other = replace(CONFIG, strategy=strategy_of("a2", {"alpha": 0.25}), epochs=3)
    with pytest.raises(ConfigError, match="other settings") as caught:
        run(tmp_path, other)
    assert caught.value.code == "VS103"
    assert caught.value.why == "epochs was 2, is 3; strategy.alpha was 0.5, is 0.25"
    assert files(tmp_path) == before


def test_another_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, stop=lambda: True)
    other = replace(feed(), store_id="cd" * 32)
    with pytest.raises(ConfigError) as caught:
        pretrain(CONFIG, other, RunOptions(out=tmp_path), Silent())
    assert (caught.value.why or "").startswith("store was 'abab")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, stop=lambda: True)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        run(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"step": -1}, {"history": []}, {"loader": None}, {"monitors": {"low": -1}}]
)
def test_a_run_with_a_damaged_state_says_where_it_is_and_what_to_do(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    file = read_with_config(path, KIND)
    write_with_config(path, KIND, file.tensors, file.config | changes)
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path)
    assert (caught.value.where, caught.value.exit_code) == (str(path), 3)
    assert "remove it to begin again" in (caught.value.fix or "")


def test_refusals_come_before_any_data_is_read(tmp_path: Path) -> None:
    loader = MemoryLoader(2)
    with pytest.raises(ConfigError, match="strategy a2 needs two views and at least one generated"):
        pretrain(CONFIG, feed(loader, ROLES[:2]), RunOptions(out=tmp_path / "o"), Silent())
    short = replace(feed(loader), epoch_steps=0)
    with pytest.raises(ConfigError, match="batch size must be at most the 0 samples, got 8"):
        pretrain(CONFIG, short, RunOptions(out=tmp_path / "o"), Silent())
    assert loader.reads == 0
    assert not (tmp_path / "o").exists()


def slots(*roles: str, columns: tuple[str, ...] = ()) -> tuple[Slot, ...]:
    return tuple(Slot(role, 16, frozenset(columns)) for role in roles)


def fix_of(config: PretrainConfig, views: tuple[Slot, ...]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_views(config, views, 100)
    return [part for part in str(caught.value.fix).split("; or ") if "give --strategy" in part]


def test_other_strategies_are_advised_where_views_are_wrong_and_they_are_as_good() -> None:
    two = slots("expert", "expert", columns=("crop_box", "flip"))
    advised = fix_of(CONFIG, two)
    assert 1 <= len(advised) <= 2
    assert not any("--strategy a2," in each for each in advised)
    for name in (each.split()[2].rstrip(",") for each in advised):
        check_views(replace(CONFIG, strategy=strategy_of(name, {})), two, 100)
    given = replace(CONFIG, strategy=strategy_of("a2", {"anchors": "first"}))
    assert all("--strategy hexa," in each for each in fix_of(given, two))  # which has it too


def test_no_other_strategy_is_advised_where_the_method_is_wrong() -> None:
    whole = replace(CONFIG, method=method_of("barlow-twins", {}))
    assert fix_of(whole, slots("expert", "expert", "generated")) == []


def test_a_loss_that_is_not_finite_ends_the_run_naming_its_step(tmp_path: Path) -> None:
    steep = replace(CONFIG, optim=OptimSettings(lr=1e30))
    with pytest.raises(DivergedError, match="the loss must be finite, got nan at step 1") as caught:
        run(tmp_path, steep)
    assert not isinstance(caught.value, ConfigError)
    assert "another --out with a lower --lr" in (caught.value.fix or "")
    assert set(files(tmp_path)) == {"config.json"}


class Unkeepable(SimCLR):
    """A method with a mask, of a type that checkpoints do not hold."""

    def __init__(self, network: Network, settings: SimCLRSettings, frame: Frame) -> None:
        super().__init__(network, settings, frame)
        self.register_buffer("mask", torch.ones(3, dtype=torch.bool))


class UnkeepableSettings(SimCLRSettings):
    def make(self, network: Network, frame: Frame) -> SimCLR:
        return Unkeepable(network, self, frame)


def test_the_first_checkpoint_is_tried_before_anything_is_read(tmp_path: Path) -> None:
    loader = MemoryLoader()
    config = replace(CONFIG, method=UnkeepableSettings(negatives="other"))
    with pytest.raises(ConfigError, match=r"tensor model\.mask is torch\.bool"):
        pretrain(config, feed(loader), RunOptions(out=tmp_path), Silent())
    assert loader.reads == 0
    assert files(tmp_path) == {}


def test_weights_that_are_shared_are_kept(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(tmp_path / "c", TrainState(step=3), {}, model, optimizer)
    with torch.no_grad():
        before = layer.weight.clone()
        layer.weight.zero_()
    assert load_checkpoint(tmp_path / "c", {}, model, optimizer).step == 3
    assert torch.equal(layer.weight, before)


def test_steps_are_an_alternative_to_epochs(tmp_path: Path) -> None:
    report = Report()
    result = run(tmp_path, replace(CONFIG, epochs=None, steps=4), report=report)
    assert (result.steps, len(result.history)) == (4, 1)
    assert report.views == report.total == 4 * BATCH * 3
    assert report.facts["epoch"] == 2


def test_progress_is_of_what_is_left(tmp_path: Path) -> None:
    report = Report()
    with pytest.raises(StoppedError):
        run(tmp_path, report=report, stop=stopping_after(4))
    assert (report.views, report.total, report.ended) == (4 * BATCH * 3, 6 * BATCH * 3, True)
    report = Report()
    run(tmp_path, report=report)
    assert report.views == report.total == 2 * BATCH * 3
    assert set(report.facts) == {"epoch", "loss", "lr"}


def test_the_encoder_carries_what_its_reader_needs(tmp_path: Path) -> None:
    encoder = load_encoder(run(tmp_path, command="viewstore train x", half=True).encoder)
    settings = encoder.settings
    assert (settings.backbone, settings.projector, settings.size) == ("conv3", (16, 8), 16)
    assert (settings.mean, settings.std, settings.policy) == ((0.5,), (0.5,), "simclr")
    assert settings.provenance["command"] == "viewstore train x"
    assert settings.provenance["settings"]["optim"]["name"] == "sgd"


def test_training_makes_the_two_views_of_a_sample_agree(tmp_path: Path) -> None:
    class Copies(MemoryLoader):
        def batch(self) -> Batch:
            batch = super().batch()
            base = torch.randint(
                255, (BATCH, 3, 16, 16), generator=torch.Generator().manual_seed(9)
            )
            for view in batch.views:
                view.pixels = ((base * 3 + view.pixels) // 4).to(torch.uint8)
            return batch

    config = replace(CONFIG, strategy=Strategy(Standard()), epochs=8, views=("simclr", "simclr"))
    copies = feed(Copies(2), ROLES[:2])
    result = pretrain(config, copies, RunOptions(out=tmp_path), Silent())
    assert result.history[-1] < 0.6 * result.history[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": None}, "the length of the run must be given once"),
        ({"steps": 5}, "the length of the run must be given once"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch size must be at least 2"),
        ({"holdout": 1}, "holdout must be at least 2"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_settings_that_make_no_run_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "sdg"}, "optimizer must be one of sgd, adam, adamw"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"weight_decay": -1.0}, "weight decay must be at least 0"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"schedule": "linear"}, "schedule must be cosine or constant"),
        ({"warmup_epochs": -1}, "warm-up must be at least 0"),
    ],
)
def test_settings_of_no_optimizer_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimSettings(**change)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    optim = OptimSettings(lr=0.5, warmup_epochs=2)
    run_length = {"total_steps": 20, "epoch_steps": 5, "batch_size": 512}
    rates = [optim.rate(step, **run_length) for step in range(21)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[15] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = replace(optim, schedule="constant", warmup_epochs=0)
    assert {constant.rate(step, **run_length) for step in range(20)} == {1.0}


def test_a_run_borrows_the_generator_of_the_process(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    run(tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_several_processes_do_not_train_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=f"{name} says that 2 processes train") as caught:
        run(tmp_path / "out")
    assert "start one process" in (caught.value.fix or "")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv(name, "1")
    assert run(tmp_path / "out").steps == 6


def test_cudnn_is_deterministic_and_on_within_a_step(tmp_path: Path) -> None:
    found: list[tuple[bool, bool]] = []

    def stop() -> bool:
        found.append((torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic))
        return False

    before = torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic
    run(tmp_path, stop=stop)
    assert set(found) == {(True, True)}
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic) == before


def test_losses_are_looked_at_late_where_looking_waits() -> None:
    state = TrainState()
    losses = Losses(state, every=3)
    assert losses.last is None  # which is shown as nothing, and not as a loss of nan
    for step, ended in enumerate([False, False, False, True, False]):
        state.step = step + 1
        losses.add(torch.tensor(float(step)), epoch_ended=ended)
    assert (state.history, state.partial, losses.last) == ([1.5], [], 3.0)
    losses.flush()
    assert (state.partial, losses.last) == ([4.0], 4.0)
    state.step = 7
    losses.add(torch.tensor(1.0), epoch_ended=False)
    state.step = 8
    losses.add(torch.tensor(float("inf")), epoch_ended=False)
    with pytest.raises(DivergedError, match="got inf at step 7"):
        losses.flush()
