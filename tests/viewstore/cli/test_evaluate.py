"""`viewstore eval` on a random encoder, as a user types it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from safetensors import safe_open

from tests.train.eval import made
from tests.viewstore.commands import run
from viewstore.cli.evaluate import CLASSIFIED, EFFECTS, PROBES, check_options, evaluate
from viewstore.sources.open import open_source
from viewstore.train.encoder_file import EncoderSettings, save_encoder
from viewstore.train.eval.finetune import FINETUNE_PRESETS
from viewstore.train.eval.linear_presets import LINEAR_PRESETS
from viewstore.train.eval.logistic import CONVENTIONS
from viewstore.train.eval.neighbours import KNN_PRESETS, WEIGHTINGS
from viewstore.train.eval.transform import EVAL_FILTERS, EVAL_RESIZES
from viewstore.train.nets.network import seeded_network

COMMON = ["accuracy", "bank", "encoder", "metric", "n", "preset", "probe", "settings"]
RECIPE = [
    "backbone_lr", "batch", "epochs", "factor", "lr", "lr_batch", "milestones", "optimizer",
    "warmup", "weight_decay",
]  # fmt: skip
TRANSFORM = ["filter", "resize", "size"]
TRAINED = ["lr", "recipe", "seed"]
# What is asked for beside --probe; keys beside COMMON and the standard error; keys of `settings`.
ANSWERS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "knn": ([], ["by_k"], ["neighbours", "temperature", "weighting"]),
    "linear": (["--preset", "moco", "--epochs", "1", "--lr", "1"], [], TRAINED),
    "logreg": (["--convention", "mean"], ["mean_per_class"], ["convention", "l2"]),
    "lowshot": (["--shots", "1,2", "--runs", "2"], ["by_shots"], ["runs", "seed", "shots"]),
    "semi": (["--share", ".5", "--epochs", "1"], [], [*TRAINED, "share", "subset"]),
    "finetune": (
        ["--epochs", "1"],
        ["validation", "validation_accuracy"],
        TRAINED,
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source and an encoder of random weights."""
    folder = tmp_path_factory.mktemp("world")
    made.source(folder)
    encoder = made.encoder()
    save_encoder(folder / "encoder.safetensors", encoder.settings, encoder.network)
    return folder


def ask(capsys: pytest.CaptureFixture[str], world: Path, *arguments: object) -> dict[str, Any]:
    """Return what eval answers as JSON, with its exit code."""
    common = ["--json", "--progress", "off", "--threads", "1"]
    where = [world, "--source", world / "halves.npz", *arguments]
    code, out, _ = run(capsys, "eval", *where, *common)
    answer: dict[str, Any] = json.loads(out)
    assert answer["ok"] == (code == 0)
    return {**answer, "code": code}


@pytest.mark.parametrize("probe", CLASSIFIED)
def test_every_probe_answers_with_the_same_keys(
    world: Path, capsys: pytest.CaptureFixture[str], probe: str
) -> None:
    arguments, more, settings = ANSWERS[probe]
    answer = ask(capsys, world, "--holdout", 3, "--probe", probe, *arguments)
    assert answer["code"] == 0, answer
    result = answer["result"]
    assert sorted(result) == sorted([*COMMON, "standard_error", *more])
    assert sorted(result["settings"]) == sorted([*TRANSFORM, *settings])
    assert sorted(result["settings"].get("recipe", RECIPE)) == RECIPE
    assert (result["probe"], result["n"]) == (probe, 14)
    assert 0 <= result["accuracy"] <= 1
    share = result["accuracy"]
    assert result["standard_error"] == pytest.approx((share * (1 - share) / 14) ** 0.5)
    assert len(result["encoder"]) == 64
    presets = {"knn": "monitor", "linear": "moco", "finetune": "hexa-ft"}
    assert result["preset"] == presets.get(probe)


def test_text_says_what_was_measured_and_its_standard_error(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def text(*arguments: object) -> str:
        where = [world, "--source", world / "halves.npz", "--holdout", 3, *arguments]
        code, out, _ = run(capsys, "eval", *where, "--progress", "off", "--threads", "1")
        assert code == 0
        return out

    said = text("--knn", "ca")
    assert said.startswith("knn of 5 neighbours: ")
    assert "% of 14 right (standard error " in said
    assert said.endswith("learnt from 26\n")
    said = text("--probe", "linear", "--preset", "ca-cifar10", "--epochs", 1)
    assert said.startswith("lin_frozen: ")
    assert "mean of 5 probe seeds, standard deviation " in said
    said = text("--probe", "linear", "--preset", "moco", "--epochs", 1, "--lr", 1)
    assert said.startswith("lin: ")
    said = text("--probe", "lowshot", "--shots", "1,3", "--runs", 2)
    assert said.startswith("lowshot of 3 a class: ")
    assert "\n1 a class: " in said
    said = text("--probe", "linear", "--preset", "hexa-cifar", "--epochs", 1)
    assert "chosen on every fifth row of the bank" in said


def test_a_curve_has_a_line_for_each_epoch(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "curve.jsonl"
    arguments = ("--probe", "linear", "--epochs", 3, "--curve", path, "--seed", 4)
    result = ask(capsys, world, "--holdout", 3, *arguments)["result"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["seed"], row["epoch"], row["step"]) for row in rows] == [
        (4, 1, 1), (4, 2, 2), (4, 3, 3),
    ]  # fmt: skip
    assert rows[-1]["value"] == result["accuracy"]


def test_a_subset_is_a_list_of_keys(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = open_source(str(world / "halves.npz")).table.keys
    path = tmp_path / "keys.txt"
    path.write_text("\n".join(keys[row] for row in (1, 2, 4, 7)))
    arguments = ("--holdout", 3, "--probe", "semi", "--epochs", 1, "--subset", path)
    answer = ask(capsys, world, *arguments)
    assert answer["result"]["bank"] == 4
    assert answer["result"]["settings"]["share"] == pytest.approx(4 / 26)
    path.write_text(keys[0])  # one that is asked about
    answer = ask(capsys, world, *arguments)
    assert (answer["code"], answer["error"]["where"]) == (2, str(path))


def test_retrieval_answers_by_protocol(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = open_source(str(world / "halves.npz")).table.keys
    asked = [
        {"key": keys[row], "box": [0, 0, 12, 16], "easy": [keys[4 + row]], "hard": [], "junk": []}
        for row in (0, 1)
    ]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"queries": asked}))
    arguments = ("--probe", "retrieval", "--ground-truth", path)
    result = ask(capsys, world, *arguments)["result"]
    assert sorted(result) == [
        "database", "encoder", "k", "mean_average_precision", "metric", "precision_at_k", "probe",
        "queries", "settings", "standard_error",
    ]  # fmt: skip
    assert result["queries"] == {"E": 2, "M": 2}  # nothing is hard
    assert result["database"] == 38
    code, out, _ = run(
        capsys, "eval", world, "--source", world / "halves.npz", *arguments, "--threads", 1
    )
    assert code == 0
    assert out.startswith("E: mAP ")
    assert "mP@10" in out


def test_a_store_is_probed_by_the_images_it_was_built_from(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = world / "halves.npz"
    build = ["build", "--generator", "simclr", "--source", source, "--views", 1, "-j", 1, "-q"]
    assert run(capsys, *build, "--out", tmp_path / "store")[0] == 0
    plain = ask(capsys, world, "--holdout", 3)
    common = ["--json", "--progress", "off", "--threads", "1", "--holdout", 3]
    code, out, _ = run(capsys, "eval", world, "--source", tmp_path / "store", *common)
    answer = json.loads(out)
    assert (code, answer["result"]) == (0, plain["result"])
    assert answer["store_id"]
    skip = ["--on-error", "skip"]
    code, out, _ = run(capsys, "eval", world, "--source", tmp_path / "store", *common, *skip)
    assert (code, json.loads(out)["error"]["message"]) == (2, "--on-error has no effect on a store")


VALUES = {
    "test": "digits", "holdout": "4", "limit": "30", "eval_resize": "1", "filter": "pil",
    "knn": "ca", "weighting": "uniform", "preset": "moco", "epochs": "1", "lr": "1",
    "batch_size": "8", "curve": "c.jsonl", "seed": "1", "convention": "sum", "shots": "1",
    "runs": "1", "share": ".5", "subset": "keys.txt", "ground_truth": "truth.json",
}  # fmt: skip


@pytest.mark.parametrize("name", EFFECTS)
def test_options_without_effect_are_refused(
    world: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    said = "--" + name.replace("_", "-")
    for probe in PROBES:
        if probe not in EFFECTS[name]:
            answer = ask(capsys, world, "--probe", probe, said, VALUES[name])
            assert answer["code"] == 2
            assert answer["error"]["message"] == f"{said} has no effect on --probe {probe}"


def test_every_option_of_a_probe_is_in_the_table() -> None:
    everywhere = {
        "checkpoint", "source", "probe", "export", "layout", "backbone", "on_error", "device",
        "threads", "verbose", "quiet", "as_json", "progress_form",
    }  # fmt: skip
    assert {each.name for each in evaluate.params} == {*EFFECTS, *everywhere}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--holdout", "3", "--layout", "timm"], "--layout has no effect without --export"),
        (["--export", "a.safetensors"], "--source has no effect with --export"),
        ([], "eval needs --test SRC or --holdout N, one of them"),
        (["--holdout", "3", "--test", "digits"], "eval needs --test SRC or --holdout N, one"),
        (["--holdout", "3", "--probe", "semi"], "--probe semi needs --share X or --subset FILE"),
        (["--holdout", "3", "--probe", "semi", "--share", "2"], "share must be above 0 and at mo"),
        (["--probe", "retrieval"], "--probe retrieval needs --ground-truth FILE"),
        (["--holdout", "3", "--probe", "linear", "--preset", "no"], "preset of linear must be one"),
        (["--holdout", "3", "--probe", "finetune", "--preset", "hvp-ft"], "preset of finetune mus"),
        (["--holdout", "3", "--probe", "linear", "--lr", "0"], "lr must be above 0, got 0.0"),
        (["--holdout", "3", "--probe", "linear", "--seed", "-1"], "seed must be in [0, 2^53)"),
        (["--holdout", "3", "--probe", "lowshot", "--shots", "2,x"], "--shots must be numbers li"),
        (["--holdout", "3", "--probe", "lowshot", "--shots", "99"], "every class must have at lea"),
    ],
)
def test_what_cannot_be_probed_says_why(
    world: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    answer = ask(capsys, world, *arguments)
    assert answer["code"] == 2
    assert answer["error"]["message"].startswith(message)


def test_the_preset_of_another_probe_is_found(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ask(capsys, world, "--holdout", 3, "--probe", "knn", "--preset", "gs")
    assert answer["error"]["fix"] == "give --knn gs in its place"
    answer = ask(capsys, world, "--holdout", 3, "--preset", "moco")
    assert answer["error"]["fix"] == "leave out --preset, or give --probe linear"
    for probe, name, meant in (
        ("linear", "simsiam-cifar10", "simsiam-cifar"),
        ("finetune", "hvp-ft-dino-cifar", "hvp-ft-dino-cifar10"),
    ):
        answer = ask(capsys, world, "--holdout", 3, "--probe", probe, "--preset", name)
        assert answer["error"]["message"].endswith(f"; did you mean '{meant}'?")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--probe", "linear", "--preset", "no"],
        ["--probe", "finetune", "--lr", "0"],
        ["--probe", "semi", "--share", "2"],
        ["--probe", "lowshot", "--shots", "x"],
        ["--probe", "linear", "--seed", "-1"],
    ],
)
def test_options_are_checked_before_the_source_is_read(
    world: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    where = [world, "--source", world / "none.npz", "--holdout", 3, *arguments]
    code, _, err = run(capsys, "eval", *where)
    assert code == 2
    assert "none.npz" not in err


def test_the_choices_of_the_command_are_those_of_the_tables() -> None:
    options = {each.name: each for each in evaluate.params}
    tables = {
        "knn": tuple(KNN_PRESETS),
        "weighting": WEIGHTINGS,
        "convention": CONVENTIONS,
        "eval_resize": EVAL_RESIZES,
        "filter": EVAL_FILTERS,
    }
    for name, table in tables.items():
        kind = options[name].type
        assert isinstance(kind, click.Choice)
        assert set(kind.choices) == set(table), name
    preset = options["preset"]
    assert isinstance(preset, click.Option)
    for name in (*LINEAR_PRESETS, "hexa-ft"):
        assert name in str(preset.help)
    for name in FINETUNE_PRESETS:
        if name != "hexa-ft":
            net, data = name.removeprefix("hvp-ft-").split("-")
            assert net in str(preset.help)
            assert data in str(preset.help)


def test_a_backbone_is_exported_by_the_names_of_another_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = EncoderSettings(
        backbone="resnet18", projector=(8,), size=32, mean=(0.5,) * 3, std=(0.2,) * 3, policy=""
    )
    path, out = tmp_path / "encoder.safetensors", tmp_path / "theirs.safetensors"
    save_encoder(path, settings, seeded_network(settings.network(), 0))
    code, said, _ = run(capsys, "eval", path, "--export", out, "--json")
    answer = json.loads(said)["result"]
    assert (code, sorted(answer)) == (0, ["encoder", "export", "layout", "model_changes"])
    assert answer["model_changes"][0] == "model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)"
    timm = ["--export", tmp_path / "timm.safetensors", "--layout", "timm"]
    code, said, _ = run(capsys, "eval", path, *timm)
    assert said.splitlines() == [
        f"wrote {timm[1]}: resnet18 as timm names it",
        "its stem is that for small images; before a model of timm loads it:",
        *(f"  {line}" for line in answer["model_changes"]),
    ]
    with safe_open(out, "pt") as file:
        assert "layer1.0.conv1.weight" in file.keys()  # noqa: SIM118
        assert file.metadata()["layout"] == answer["layout"] == "torchvision"
    code, _, err = run(capsys, "eval", path, "--export", tmp_path / "theirs.pt")
    assert (code, "--export must end in .safetensors" in err) == (2, True)
    code, _, err = run(capsys, "eval", path)
    assert (code, "eval needs --source SRC, or --export FILE" in err) == (2, True)


def test_a_backbone_of_ones_own_is_probed_where_it_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["from torch import nn", "def plain():", "    return nn.Conv2d(3, 6, 3)"]
    (tmp_path / "ownnet.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    settings = replace(made.encoder().settings, backbone="ownnet:plain")
    network = seeded_network(settings.network(), 0, size=16)
    made.source(tmp_path)
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, settings, network)
    refused = ask(capsys, tmp_path, "--holdout", 3)
    assert "ownnet:plain, which was not allowed" in refused["error"]["message"]
    assert "viewstore eval --backbone ownnet:plain" in refused["error"]["fix"]
    for probe in ("knn", "finetune"):
        epochs = ["--epochs", 1] if probe == "finetune" else []
        own = ["--backbone", "ownnet:plain", "--probe", probe, *epochs]
        assert ask(capsys, tmp_path, "--holdout", 3, *own)["code"] == 0
    other = ask(capsys, world, "--holdout", 3, "--backbone", "ownnet:plain")
    message = "--backbone ownnet:plain has no effect: the encoder's backbone is conv3"
    assert (other["code"], other["error"]["message"]) == (2, message)
    arguments = ["--export", tmp_path / "o.safetensors", "--backbone", "ownnet:plain"]
    code, _, err = run(capsys, "eval", path, *arguments)
    assert code == 2
    assert "load_encoder(path, backbone='ownnet:plain').network.backbone.net" in err


def test_a_probe_ends_at_a_signal(world: Path) -> None:
    command = [sys.executable, "-c", "from viewstore.cli.main import main; main()"]
    arguments = ["--source", "halves.npz", "--holdout", "3", "--threads", "1"]
    probe = ["--probe", "linear", "--preset", "moco", "--epochs", "100000", "--lr", "1"]
    with subprocess.Popen(
        [*command, "--progress", "json", "eval", ".", *arguments, *probe],
        stderr=subprocess.PIPE,
        text=True,
        cwd=world,
    ) as process:
        assert process.stderr is not None
        assert any('"progress": "probe"' in line for line in process.stderr)
        os.kill(process.pid, signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 4, said
    assert "error[VS501]: stopped by SIGTERM" in said


def test_every_command_of_the_page_on_evaluation_is_one() -> None:
    """And its tables name every preset."""
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    commands = re.findall(r"^viewstore eval (.*?)(?:  +#.*)?$", page, re.MULTILINE)
    assert len(commands) > 8
    probes = set()
    for command in commands:
        options = evaluate.make_context("eval", shlex.split(command)).params
        if options["export"] is None:
            options["probe"] = options["probe"] or "knn"
            check_options(options)
            probes.add(options["probe"])
    assert probes == set(PROBES)
    for name in (*LINEAR_PRESETS, *KNN_PRESETS, "hexa-ft"):
        assert f"`{name}`" in page
