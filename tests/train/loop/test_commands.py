"""`viewstore train` and `viewstore eval` on a small real store, as a user types them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.viewstore.small_stores import write_photographs
from viewstore.build.roles import packaged_weights
from viewstore.cli.main import main
from viewstore.cli.sources import SKIP_FIX
from viewstore.loaders.loader import ViewLoader
from viewstore.sources.open import open_source
from viewstore.train.encoder_file import load_encoder
from viewstore.train.loop.checkpoint import NAME
from viewstore.train.source_store import store_of_source

VIEWSTORE = [sys.executable, "-c", "from viewstore.cli.main import main; main()"]
SMALL = ["--backbone", "conv3", "--projector", "16,8", "--batch-size", "8", "--threads", "1"]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of two classes: bright left or bright right."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (40, 16, 16, 3), np.uint8)
    labels = np.arange(40) % 3 % 2
    images[labels == 0, :, :8] += 120
    images[labels == 1, :, 8:] += 120
    path = tmp_path_factory.mktemp("source") / "halves.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="session")
def store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cached views of each image."""
    out = tmp_path_factory.mktemp("store") / "views"
    build = ["build", "--generator", "simclr", "--view-set", "cached", "--views", "4"]
    with pytest.raises(SystemExit) as ended:
        main([*build, "--source", str(source), "--out", str(out), "-j", "1", "-q"])
    assert ended.value.code == 0
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Run a command in this process; return its exit code and its JSON."""
    with pytest.raises(SystemExit) as ended:
        main(["--json", "--progress", "off", *map(str, arguments)])
    code = ended.value.code
    assert isinstance(code, int)
    return code, json.loads(capsys.readouterr().out)


def train(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, answer = run(capsys, "train", *arguments, *SMALL)
    assert code == 0, answer
    result: dict[str, Any] = answer["result"]
    return result


@pytest.mark.parametrize(
    ("strategy", "views", "policy"),
    [
        ("standard", "cifar,cifar", "cifar"),
        ("standard", "cached,cached", "simclr"),
        ("a2", "cifar,cifar,cached", "cifar"),
    ],
)
def test_an_encoder_is_trained_on_online_and_cached_views(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    strategy: str,
    views: str,
    policy: str,
) -> None:
    result = train(
        capsys, store, "--views", views, "--strategy", strategy, "--epochs", 2, "--out", tmp_path
    )
    assert result["steps"] == 10
    assert len(result["history"]) == 2
    encoder = load_encoder(result["encoder"])
    assert (encoder.size, encoder.policy) == (16, policy)
    settings = encoder.settings.provenance["settings"]
    assert settings["method"]["negatives"] == "both"
    assert encoder.settings.provenance["store"] == viewstore.open(store).store_id


def test_a_source_is_enough_for_online_views(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--source", source, "--views", "cifar,cifar", "--steps", 6)
    first = train(capsys, *where, "--out", tmp_path / "a", "--holdout", 4, "--half")
    assert first["steps"] == 6
    again = train(capsys, *where, "--out", tmp_path / "a", "--holdout", 4, "--half")
    assert again["resumed_at"] == 6
    code, answer = run(
        capsys, "train", *where, *SMALL, "--out", tmp_path / "a", "--holdout", 5, "--lr", 0.1
    )
    assert code == 2
    assert answer["error"]["code"] == "VS103"
    assert answer["error"]["why"] == "holdout was 4, is 5; optim.lr was 0.03, is 0.1"


def test_a_filter_chooses_the_samples(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = (store, "--views", "cached,cached", "--epochs", 1, "--out", tmp_path / "a")
    assert train(capsys, *chosen, "--where", "index < 16")["steps"] == 2
    code, answer = run(capsys, "train", *chosen, *SMALL, "--where", "index < 24")
    assert code == 2
    assert answer["error"]["why"] == "where was 'index < 16', is 'index < 24'"
    code, answer = run(capsys, "train", *chosen, *SMALL, "--where", "hardness < 1")
    assert code == 2
    assert "hardness" in answer["error"]["message"]


def test_held_out_rows_are_not_trained_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--views", "cifar,cifar", "--epochs", 1, "--holdout", 2)
    train(capsys, "--source", source, *where, "--out", tmp_path / "a")
    with np.load(source) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    images[::2] = 255 - images[::2]
    np.savez(tmp_path / "other.npz", images=images, labels=labels)
    train(capsys, "--source", tmp_path / "other.npz", *where, "--out", tmp_path / "b")
    first, second = (load_encoder(tmp_path / out / "encoder.safetensors") for out in "ab")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("published", [False, True])
def test_a_view_set_whose_build_has_not_ended_says_how_far_it_is(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], published: bool
) -> None:
    """Beside a view set that is finished, which is all that the manifest of the store names."""
    out = tmp_path / "views"
    build = ["build", "--source", source, "--out", out, "--shard-rows", 16, "-j", 1]
    assert run(capsys, *build, "--generator", "simclr", "--view-set", "whole")[0] == 0
    run(capsys, *build, "--generator", "simclr", "--view-set", "part", "--only", "0,2")
    if published:
        run(capsys, "finalise", out, "--allow-partial")
    for views in ("part,part", "cached:part,whole"):
        code, answer = run(
            capsys, "train", out, "--views", views, "--epochs", 1, "--out", tmp_path / "run", *SMALL
        )
        assert (code, answer["error"]["code"]) == (2, "VS202")
        assert "part is not complete: 2 of 3 shards are there" in answer["error"]["message"]
        assert "run the same build command again" in answer["error"]["fix"]
    assert train(capsys, out, "--views", "whole,whole", "--epochs", 1, "--out", tmp_path / "run")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 4), (signal.SIGINT, 130)])
def test_a_run_ended_by_a_signal_goes_on_to_the_same_end(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    arguments = [str(store), "--views", "cifar,cached", "--epochs", "40"]
    train(capsys, *arguments, "--out", tmp_path / "whole")
    out = tmp_path / "stopped"
    command = [*VIEWSTORE, "--progress", "json", "train", *arguments, *SMALL, "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert '"done"' in process.stderr.readline()
        os.kill(process.pid, number)
        said = process.stderr.read()
    assert process.returncode == code, said
    assert "error[VS501]: training stopped after step" in said
    assert "run the same command again to go on: viewstore --progress json train" in said
    assert not (out / "encoder.safetensors").exists()
    assert 0 < train(capsys, *arguments, "--out", out)["resumed_at"] < 200
    assert (out / NAME).read_bytes() == (tmp_path / "whole" / NAME).read_bytes()


def test_the_loader_of_a_source_has_statistics(source: Path) -> None:
    feed_store = store_of_source(open_source(str(source)).table)
    with ViewLoader(feed_store, views="cifar,cifar", batch_size=8) as loader:
        next(iter(loader))
        assert loader.stats()["samples"] >= 8


def test_a_preset_is_trained_extended_and_repeated_from_its_own_settings(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a monitor, and the checkpoints of epochs."""
    preset = ("--source", source, "--preset", "hvp-simsiam-cifar10", "--size", 16)
    looks = ("--knn-every", 1, "--knn", "ca", "--knn-bank", 16, "--knn-queries", 8)
    first = ("--out", tmp_path / "a", "--keep-every", 2, *looks)
    result = train(capsys, *preset, *first, "--epochs", 2)
    assert list(result) == [
        "preset", "encoder", "maker", "method", "strategy", "views", "steps", "resumed_at", "loss",
        "history", "collapsed", "seconds", "views_per_second",
    ]  # fmt: skip
    assert (result["preset"], result["method"]) == ("hvp-simsiam-cifar10", "simsiam")
    assert (result["strategy"], result["views"]) == ("hvp", ["cifar"] * 4)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "batch.png", "checkpoint-e0002.safetensors", "checkpoint.safetensors", "config.json",
        "curve.jsonl", "encoder.safetensors", "metrics.csv", "selection", "train.json",
    }  # fmt: skip
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (written["optim"]["lr"], written["network"]["backbone"]) == (0.06, "conv3")

    again = ("--source", source, "--config", tmp_path / "a" / "config.json")
    repeated = ("train", *again, "--out", tmp_path / "b", "--no-selection-log", "--threads", 1)
    assert run(capsys, *repeated)[0] == 0
    assert not (tmp_path / "b" / "selection").exists()
    encoders = [load_encoder(tmp_path / out / "encoder.safetensors") for out in "ab"]
    for one, other in zip(*(encoder.parameters() for encoder in encoders), strict=True):
        assert (one == other).all()

    code, answer = run(capsys, "train", *preset, *SMALL, *first, "--epochs", 3)
    assert (code, answer["error"]["code"]) == (2, "VS103")
    assert "--extend" in answer["error"]["fix"]
    longer = train(capsys, *preset, *first, "--epochs", 3, "--extend")
    assert (longer["resumed_at"], longer["steps"]) == (10, 15)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("dssl-simsiam-cifar10", []),
        ("dssl-fig4-d", []),
        ("dssl-fig4-g", []),
        ("gs-simclr-cifar10", []),
        ("hexa-moco-cifar10", []),
        ("hexa-ablation-dc", ["--set", "local_size=8", "--set", "method.prototypes=[4,4,4]"]),
    ],
)
def test_presets_train_on_their_online_views(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, others: list[str]
) -> None:
    arguments = ("--source", source, "--preset", name, "--size", 16, "--steps", 2, *others)
    result = train(capsys, *arguments, "--out", tmp_path)
    assert (result["steps"], result["preset"]) == (2, name)


def test_a_run_that_collapses_ends_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On black images, which have one embedding."""
    labels = np.arange(32) % 2
    np.savez(tmp_path / "black.npz", images=np.zeros((32, 16, 16, 3), np.uint8), labels=labels)
    where = ("--source", tmp_path / "black.npz", "--views", "cifar,cifar", "--epochs", 5)
    looks = ("--knn-every", 1, "--knn-bank", 16, "--knn-queries", 8)
    stop = ("train", *where, *looks, *SMALL, "--stop-on-collapse", "--out", tmp_path / "a")
    code, answer = run(capsys, *stop)
    assert (code, answer["ok"]) == (1, True)
    assert answer["result"]["collapsed"] is True
    assert len(answer["result"]["history"]) == 3
    goes_on = train(capsys, *where, *looks, "--out", tmp_path / "b")
    assert (goes_on["collapsed"], len(goes_on["history"])) == (True, 5)


@pytest.mark.parametrize("probe", ["knn", "linear", "logreg"])
def test_a_trained_encoder_is_probed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], probe: str
) -> None:
    train(capsys, "--source", source, "--views", "digits,digits", "--epochs", 8, "--out", tmp_path)
    for where in (["--holdout", 4], ["--test", source]):
        asked = ["--knn", "ca", *where] if probe == "knn" else where
        code, answer = run(capsys, "eval", tmp_path, "--source", source, "--probe", probe, *asked)
        assert code == 0
        assert answer["result"]["n"] == (10 if "--holdout" in where else 40)
        assert answer["result"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--views", "cifar", "--epochs", "1"], "VS101", "trains on at least 2 views, got 1"),
        (["--views", "cifar,cifr", "--epochs", "1"], "VS102", "did you mean 'cifar'"),
        (["--views", "cifar,cifar"], "VS101", "the length of the run must be given once"),
        (
            ["--views", "cifar,cifar", "--epochs", "1", "--strategy", "a2"],
            "VS101",
            "strategy a2 needs two views and at least one generated",
        ),
        (
            ["--views", "cifar,cifar", "--epochs", "1", "--alpha", "1"],
            "VS102",
            "strategy standard has no setting 'alpha'",
        ),
        (["--views", "cifar,cifar", "--epochs", "1", "--method", "byle"], "VS102", "no method"),
        (
            ["--views", "cifar,cifar", "--epochs", "1", "--projector", "wide"],
            "VS101",
            "network.projector must be whole numbers, separated by commas",
        ),
        (
            ["--views", "cifar,cifar", "--epochs", "1", "--batch-size", "64"],
            "VS101",
            "batch size must be at most the 40 samples, got 64",
        ),
        (
            ["--views", "cifar,cifar", "--epochs", "1", "--device", "cuda:99"],
            "VS301",
            "device cuda:99 cannot be used",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: str,
    message: str,
) -> None:
    exit_code, answer = run(
        capsys, "train", store, "--backbone", "conv3", *arguments, "--out", tmp_path / "run"
    )
    assert exit_code == (3 if code == "VS301" else 2)
    assert answer["error"]["code"] == code
    assert message in answer["error"]["message"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("strategy", "views", "other"),
    [("a2", "cifar,cached", "standard")],
)
def test_a_strategy_that_takes_these_views_is_named(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    strategy: str,
    views: str,
    other: str,
) -> None:
    arguments = [store, "--views", views, "--strategy", strategy, "--epochs", 1]
    code, answer = run(capsys, "train", *arguments, "--out", tmp_path / "run", *SMALL)
    assert code == 2
    assert f"give --strategy {other}, which takes" in answer["error"]["fix"]
    assert "the role of a view says what made it" in answer["error"]["why"]


def test_probing_what_is_not_an_encoder_says_what_to_do(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = ("--source", source, "--holdout", 4)
    code, answer = run(capsys, "eval", tmp_path, *probe)
    assert (code, answer["error"]["why"]) == (2, "nothing is there")
    (tmp_path / NAME).touch()
    code, answer = run(capsys, "eval", tmp_path, *probe)
    assert answer["error"]["fix"] == "run the same train command again"
    code, answer = run(capsys, "eval", source, *probe)
    assert (code, answer["error"]["code"]) == (3, "VS210")
    code, answer = run(capsys, "eval", tmp_path, "--source", source)
    assert (code, answer["error"]["why"]) == (
        2,
        "a probe must not be asked about what it learnt from",
    )


def test_the_packaged_encoder_knows_digits_it_was_not_trained_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder = packaged_weights("encoder")
    probe = ("--source", "digits", "--holdout", 4, "--probe", "linear", "--threads", 1)
    code, answer = run(capsys, "eval", encoder, *probe)
    assert code == 0
    assert answer["result"]["accuracy"] > 0.985
    settings = load_encoder(encoder).settings
    assert (settings.policy, settings.size, settings.in_channels) == ("digits", 16, 1)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two class folders of four photographs: one of them is cut, and one in no format we read."""
    for folder in ("a", "b"):
        write_photographs(tmp_path / "photos" / folder, 5, cut=4)
    (tmp_path / "photos" / "b" / "4.jpg").rename(tmp_path / "photos" / "b" / "4.jp2")
    return tmp_path / "photos"


def test_images_of_a_source_that_cannot_be_read_are_skipped_on_demand(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--source", photographs, "--views", "simclr,simclr", "--size", 16, "--epochs", 1)
    code, answer = run(capsys, "train", *where, "--out", tmp_path / "a", *SMALL)
    assert (code, answer["error"]["code"]) == (3, "VS205")
    assert answer["error"]["fix"] == SKIP_FIX
    skip = ("--on-error", "skip")
    code, answer = run(capsys, "train", *where, *skip, "--out", tmp_path / "b", *SMALL)
    assert (code, answer["result"]["steps"]) == (0, 1)
    skipped, unread = answer["warnings"]
    assert skipped == "1 image cannot be read and is left out: a/4.jpg"
    assert unread.startswith("1 file was not read: 1 .jp2")
    probe = ("eval", tmp_path / "b", "--source", photographs)
    code, answer = run(capsys, *probe, "--holdout", 2)
    assert (code, answer["error"]["fix"]) == (3, SKIP_FIX)
    for asked in (["--holdout", 2], ["--test", photographs]):
        code, answer = run(capsys, *probe, *asked, *skip)
        assert code == 0
        assert len(answer["warnings"]) == 2 * (1 + ("--test" in asked))


def test_what_a_store_cannot_show_is_skipped_without_asking(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = (store, "--views", "cached,cached", "--steps", 1, "--out", tmp_path)
    code, answer = run(capsys, "train", *where, "--on-error", "skip")
    assert (code, answer["error"]["message"]) == (2, "--on-error has no effect on a store")


@pytest.mark.parametrize("view", ["cached:simclr", "cached:simclr+flip", "cached:simclr-r2"])
def test_images_alone_have_no_view_sets(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], view: str
) -> None:
    arguments = ("--source", source, "--views", f"{view},simclr", "--steps", 1)
    code, answer = run(capsys, "train", *arguments, "--out", tmp_path / "out", *SMALL)
    assert (code, answer["error"]["code"]) == (2, "VS102"), answer
    assert "there is no view set" in answer["error"]["message"]
    assert not (tmp_path / "out").exists()
