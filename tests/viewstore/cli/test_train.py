"""The command line of train: which settings options make, and which options are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from tests.viewstore.commands import run
from viewstore.cli.train import config_of, train
from viewstore.cli.train_options import GROUPS, SETTING_OF
from viewstore.errors import ConfigError
from viewstore.train.eval.neighbours import KNN_PRESETS
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.layers import DEFAULT_NAMES
from viewstore.train.loop.logs import LOGS
from viewstore.train.loop.optim import OPTIMIZERS, Schedule
from viewstore.train.loop.scaling import PRECISIONS
from viewstore.train.methods.table import METHODS
from viewstore.train.nets.network import BACKBONES
from viewstore.train.strategies.table import STRATEGIES

ONLINE = ("--views", "simclr,simclr", "--epochs", 1)


def options_of(*arguments: object) -> dict[str, Any]:
    words = ["--out", "run", *map(str, arguments)]
    return train.make_context("train", words).params


def config(*arguments: object) -> PretrainConfig:
    return config_of(options_of(*arguments))


def test_options_are_the_settings_that_they_name() -> None:
    made = config(
        "--views", "cifar,cifar,w-search", "--size", 24, "--where", "index < 9", "--holdout", 4,
        "--missing", "resample", "--method", "simclr", "--temperature", 0.2, "--negatives",
        "other", "--strategy", "a2", "--alpha", 0.25, "--anchors", "first", "--a2-loss", "align",
        "--backbone", "conv3", "--projector", "16,8", "--in-channels", 1, "--optimizer", "adamw",
        "--lr", 0.5, "--weight-decay", 0.25, "--schedule", "constant", "--warmup-epochs", 3,
        "--steps", 7, "--batch-size", 12, "--precision", "fp16", "--seed", 5,
    ).to_json()  # fmt: skip
    assert (made["views"], made["size"], made["where"]) == (
        ("cifar", "cifar", "w-search"), 24, "index < 9",
    )  # fmt: skip
    assert (made["holdout"], made["missing"], made["precision"]) == (4, "resample", "fp16")
    assert (made["epochs"], made["steps"], made["batch_size"], made["seed"]) == (None, 7, 12, 5)
    assert made["method"].items() >= {"temperature": 0.2, "negatives": "other"}.items()
    assert made["strategy"].items() >= {"alpha": 0.25, "anchors": "first", "loss": "align"}.items()
    assert made["network"].items() >= {"backbone": "conv3", "projector": (16, 8)}.items()
    assert made["network"]["in_channels"] == 1
    assert made["optim"].items() >= {"name": "adamw", "lr": 0.5, "weight_decay": 0.25}.items()
    assert made["optim"].items() >= {"schedule": "constant", "warmup_epochs": 3}.items()


def test_options_of_one_strategy_are_its_settings() -> None:
    graded = config(*ONLINE, "--strategy", "graded", "--allow-scale-change").to_json()["strategy"]
    assert graded["allow_scale_change"] is True
    a1 = ("--views", "digits,w-search", "--epochs", 1, "--strategy", "a1", "--a1-flip", 0)
    assert config(*a1).to_json()["strategy"]["a1_flip"] is False
    dssl = config(*ONLINE, "--strategy", "dssl", "--alpha", 0.5).to_json()["strategy"]
    assert dssl["alpha"] == 0.5
    with pytest.raises(ConfigError, match="setting alpha belongs to dssl and a2"):
        config(*ONLINE, "--strategy", "dssl,a2", "--alpha", 0.5)


def test_an_option_of_a_setting_has_no_value_until_it_is_given() -> None:
    options = options_of()
    assert [name for name in SETTING_OF if options[name] is not None] == []
    assert {params.name for params in train.params} >= set(SETTING_OF)


def test_set_reaches_what_has_no_option() -> None:
    made = config(
        *ONLINE, "--set", "method.temperature=.1", "--set", "optim.milestones=[1,2]",
        "--schedule", "steps", "--set", "network.zero_init=true", "--set", "optim.clip=3.",
        "--set", "strategy.standard.pairs_per_sample=2", "--set", "optim={momentum = 0.5}",
    )  # fmt: skip
    assert made.to_json()["method"]["temperature"] == 0.1
    assert (made.optim.milestones, made.optim.clip, made.optim.momentum) == ((1, 2), 3.0, 0.5)
    assert made.network.zero_init
    assert made.to_json()["strategy"]["pairs_per_sample"] == 2


def test_options_count_over_a_file_and_a_file_over_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("epochs = 5\nbatch_size = 64\n[method]\ntemperature = 0.3\n")
    made = config("--preset", "simclr-cifar10", "--config", file, "--batch-size", 32)
    assert (made.epochs, made.batch_size, made.size) == (5, 32, 32)
    assert made.method == METHODS["simclr"](temperature=0.3)  # type: ignore[call-arg]
    (tmp_path / "config.json").write_text(json.dumps(made.to_json()))
    assert config("--config", tmp_path / "config.json") == made


def test_a_preset_is_trained_on_another_backbone_and_strategy() -> None:
    made = config(
        "--preset", "hvp-simclr-imagenet", "--backbone", "conv3", "--strategy", "standard",
        "--views", "simclr,simclr", "--optimizer", "adam",
    )  # fmt: skip
    assert (made.network.backbone, made.strategy.name, made.optim.lr) == ("conv3", "standard", 1e-3)
    assert made.epochs == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*ONLINE, "--lr", 1, "--set", "optim.lr=2"], "optim.lr is given twice: as a flag and"),
        ([*ONLINE, "--set", "seed=1", "--set", "seed=2"], "--set seed is given twice"),
        ([*ONLINE, "--set", "optim.lr=1", "--set", "optim={lr=2}"], "optim.lr is given twice"),
        (
            [*ONLINE, "--strategy", "a2", "--alpha", 1, "--set", "strategy.a2.alpha=2"],
            "setting alpha of a2 is given twice",
        ),
        ([*ONLINE, "--set", "method.temprature=1"], "did you mean 'temperature'?"),
        ([*ONLINE, "--set", "method.temperature=warm"], "must be a finite number, got 'warm'"),
        ([*ONLINE, "--set", "generator.seed=1"], "there is no setting 'generator.seed'"),
        (
            [*ONLINE, "--method", "simsiam", "--temperature", 1],
            "method simsiam has no setting 'temperature'",
        ),
        ([*ONLINE, "--allow-scale-change"], "no setting 'graded.allow_scale_change'"),
        ([*ONLINE, "--anchors", "first"], "strategy standard has no setting 'a2.anchors'"),
        (["--preset", "simsiam"], "there is no preset 'simsiam'; did you mean"),
        (
            ["--preset", "byol-cifar10", "--method", "simsiam"],
            "preset byol-cifar10 is for method byol, and the command line names simsiam",
        ),
        (["--preset", "hvp-simsiam-cifar10", "--strategy", "random"], "views of the run must be"),
        (["--preset", "byol-cifar10", "--alpha", 1], "strategy standard has no setting 'alpha'"),
        (["--config", "nothing.toml"], "settings cannot be read from nothing.toml"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    arguments: list[object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*arguments)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--knn", "ca"], "--knn has no effect without --knn-every"),
        (["--knn-bank", 8], "--knn-bank has no effect without --knn-every"),
        (["--knn-queries", 8], "--knn-queries has no effect without --knn-every"),
        (["--stop-on-collapse"], "--stop-on-collapse has no effect without --knn-every"),
        (["--selection-log"], "--selection-log has no effect on strategy standard"),
        (["--no-selection-log"], "--no-selection-log has no effect on strategy standard"),
        (["--log", "csv,tensorbord"], "did you mean 'tensorboard'?"),
    ],
)
def test_options_without_effect_are_refused(
    arguments: list[object], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = ("--source", "digits", "--out", tmp_path / "run")
    code, _, err = run(capsys, "train", *where, *ONLINE, *arguments)
    assert (code, said in err) == (2, True), err
    assert not (tmp_path / "run").exists()


def said_of(name: str) -> str:
    (option,) = (each for each in train.params if each.name == name)
    assert isinstance(option, click.Option)
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    return " ".join([option.help or "", *map(str, choices)])


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("method", METHODS),
        ("strategy", STRATEGIES),
        ("backbone", BACKBONES),
        ("optimizer", OPTIMIZERS),
        ("schedule", get_args(Schedule)),
        ("precision", PRECISIONS),
        ("log", LOGS),
        ("knn", KNN_PRESETS),
    ],
)
def test_the_help_names_everything_that_there_is(option: str, names: Any) -> None:  # noqa: ANN401
    words = set(re.findall(r"[\w-]+", said_of(option)))
    assert set(names) <= words


def test_the_help_says_which_names_are_the_defaults() -> None:
    for option, setting in SETTING_OF.items():
        if setting in DEFAULT_NAMES:
            assert f"[default: {DEFAULT_NAMES[setting]}]" in said_of(option)


def test_the_help_shows_options_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "train", "--help")
    titles = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert titles == [*GROUPS, "Options"]
    assert out.index("Optimizer:") < out.index("--lr LR") < out.index("Run:")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('optim.lr = "x"', "optim.lr"),
        ("optim.larning_rate = 1", "optim.larning_rate"),
        ('method.name = "simclrr"', "method.name"),
        ('strategy = {name = "a22"}', "strategy.name"),
        ("method.temperatur = 1", "method.temperatur"),
        ("std = [0, 0, 0]", "std"),
    ],
)
def test_a_wrong_value_of_a_file_names_the_file_and_the_key(
    tmp_path: Path, line: str, key: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(line)
    with pytest.raises(ConfigError) as caught:
        config(*ONLINE, "--config", path)
    assert caught.value.where == f"{path}: {key}"


def test_a_wrong_value_of_the_command_line_is_not_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("optim.lr = 1")
    with pytest.raises(ConfigError) as caught:
        config(*ONLINE, "--config", path, "--set", "optim.lr=x")
    assert caught.value.where == "--set optim.lr"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "meta"), "names no device that computes"),
        (("--threads", 10**20), "threads must be at most"),
    ],
)
def test_a_machine_that_cannot_train_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    out = tmp_path / "out"
    code, _, err = run(capsys, "train", "missing", *ONLINE, "--out", out, *arguments)
    assert code == 2
    assert message in err
    assert not out.exists()
