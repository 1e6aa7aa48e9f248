"""`viewstore gan train` and `gan measure`: classes, states, grids, distances."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from viewstore.build.roles import packaged_weights
from viewstore.cli.gan_images import Pictures, shown
from viewstore.cli.main import main
from viewstore.generators.gan.file import read_generator
from viewstore.generators.stylegan2.codes import keyed_normal

Run = Callable[..., tuple[int, dict[str, Any], str]]

SMALL = ["--set", "channels=4", "--set", "latent_dim=6", "--set", "mapping_layers=1"]
SMALL += ["--batch", 8, "--threads", 1]
CLASSES = 3


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        with pytest.raises(SystemExit) as ended:
            main(["gan", *map(str, arguments), "--json", "--progress", "off"])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(out), err

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An array of 24 colour images of 8 pixels, of three classes."""
    path = tmp_path / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(24) % CLASSES)
    return path


def training(source: Path, out: Path, *, kimg: float = 0.04) -> list[object]:
    options = ["train", "--part", "generator", "--source", source, "--kimg", kimg, *SMALL]
    return [*options, "--set", "snapshot_kimg=0.016", "--out", out]


def test_a_conditional_generator_is_trained_on_the_labels_of_the_source(
    run: Run, tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "gan.safetensors"
    code, told, _ = run(*training(source, out), "--set", "conditional=true")
    assert (code, told["result"]["classes"]) == (0, CLASSES)
    opened = read_generator(out)
    assert opened.network.c_dim == CLASSES
    assert opened.origin.provenance["settings"]["conditional"] is True
    assert opened.origin.provenance["classes"] == CLASSES
    assert run("sample", "--gan", out, "--n", 6, "--out", tmp_path / "six.npy")[0] == 0
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size == (8 * 66 - 2, CLASSES * 66 - 2)  # 8 x 8 are shown as 64 x 64


def test_names_of_classes_are_kept(run: Run, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    out = tmp_path / "gan.safetensors"
    run(*training(tmp_path / "photos", out), "--set", "conditional=true")
    assert read_generator(out).origin.provenance["classes"] == ["cat", "dog"]


def test_a_source_without_labels_is_refused_with_advice(run: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "images.npz", tmp_path / "gan.safetensors"
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    np.savez(source, images=images)
    code, told, _ = run(*training(source, out), "--set", "conditional=true")
    assert code == 2
    assert "they have no labels" in told["error"]["message"]
    assert "take a source with labels" in told["error"]["fix"]
    assert [path.name for path in tmp_path.iterdir()] == ["images.npz"]
    assert run(*training(source, out))[0] == 0


def test_rows_of_a_grid_are_classes_of_the_same_latents(
    run: Run, tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "gan.safetensors"
    run(*training(source, out), "--set", "conditional=true")
    network = read_generator(out).network
    images = shown(network)
    assert images.shape == (8 * CLASSES, 3, 8, 8)
    z = keyed_normal(8, network.z_dim, 0)
    for label in range(CLASSES):
        codes = network.mapping(z, torch.full((8,), label))
        wanted = network.synthesis(codes).clamp(-1, 1).numpy()
        np.testing.assert_allclose(images[8 * label : 8 * label + 8], wanted, atol=1e-6)


@pytest.mark.parametrize("kept", ["newest", "all"])
def test_pictures_are_kept_as_asked(run: Run, tmp_path: Path, source: Path, kept: str) -> None:
    folder = tmp_path / "out"
    assert run(*training(source, folder / "gan.safetensors"), "--grids", kept)[0] == 0
    found = sorted(path.name for path in folder.iterdir())
    series = [f"gan-{seen:09d}.png" for seen in (16, 32, 40)] if kept == "all" else []
    assert found == sorted([*series, "gan.png", "gan.safetensors"])
    if kept == "all":
        newest = (folder / "gan.png").read_bytes()
        assert newest == (folder / "gan-000000040.png").read_bytes()
        assert newest != (folder / "gan-000000016.png").read_bytes()


def test_distances_are_told_in_each_fifth_whatever_was_resumed(
    run: Run, tmp_path: Path, source: Path
) -> None:
    _, _, whole = run(*training(source, tmp_path / "a", kimg=0.4))
    told = [line for line in whole.splitlines() if "kimg: Fréchet" in line]
    assert [line.split(" kimg")[0] for line in told] == ["0.1", "0.2", "0.2", "0.3", "0.4"]
    state = tmp_path / "state"
    run(*training(source, tmp_path / "b", kimg=0.2), "--state", state)
    _, _, second = run(*training(source, tmp_path / "b", kimg=0.4), "--state", state)
    rest = [line for line in second.splitlines() if "kimg: Fréchet" in line]
    assert rest == told[2:]
    assert f"going on from the state in {state}" in second


def test_the_distance_in_the_file_says_all_that_it_depends_on(
    run: Run, tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "gan.safetensors"
    _, told, err = run(*training(source, out))
    metrics = read_generator(out).origin.provenance["metrics"]
    assert metrics["frechet_features"] == "23 principal components of pixels"
    assert (metrics["frechet_images"], metrics["frechet_reference_images"]) == (24, 12)
    assert metrics["frechet_reference"] > 0
    assert "are much too large" in err
    _, again, _ = run("measure", "--gan", out, "--source", source)
    for name in ("frechet", "frechet_reference", "frechet_features", "frechet_seed"):
        assert again["result"][name] == pytest.approx(metrics[name]), name
    assert told["result"]["frechet"] == metrics["frechet"]


def test_a_distance_is_measured_in_the_features_of_an_encoder(run: Run) -> None:
    encoder = packaged_weights("encoder")
    code, told, _ = run("measure", "--features", encoder, "--n", 100, "--seed", 3)
    result = told["result"]
    assert (code, result["frechet_images"], result["frechet_seed"]) == (0, 100, 3)
    assert result["frechet_features"].startswith(f"features of the encoder {encoder.name}, sha256 ")
    assert (result["frechet_dimensions"], result["frechet_reference_images"]) == (128, 50)
    assert result["frechet"] > 0
    assert run("measure", "--features", encoder, "--n", 100, "--seed", 3)[1]["result"] == result
    assert run("measure", "--features", encoder, "--n", 100)[1]["result"] != result


def test_held_out_rows_are_measured_alone(run: Run, tmp_path: Path, source: Path) -> None:
    out = tmp_path / "gan.safetensors"
    run(*training(source, out), "--set", "conditional=true")
    code, told, _ = run("measure", "--gan", out, "--source", source, "--holdout", 4)
    assert (code, told["result"]["frechet_images"]) == (0, 6)
    assert told["result"]["classes"] == "of the source"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", 3], "needs at least 4 images, got 3"),
        (["--features", "nowhere.pt2"], "--features must be pixels or the file of an encoder"),
        (["--source", "nowhere"], "source nowhere cannot be used"),
    ],
)
def test_what_cannot_be_measured_is_refused(run: Run, options: list[object], message: str) -> None:
    code, told, _ = run("measure", *options)
    assert code == 2
    assert message in told["error"]["message"]


def test_images_of_a_class_that_the_network_lacks_are_compared_with_each_class_in_turn() -> None:
    from viewstore.cli.gan_images import has_classes

    network = read_generator(packaged_weights("gan")).network
    levels = np.zeros((3, 1, 16, 16), np.uint8)
    for labels in ([0, 1, -1], [0, 1, 3]):
        found = Pictures(levels=levels, labels=np.array(labels), names=())
        assert not has_classes(network, found)


@pytest.mark.parametrize(
    "option", [["--features", "x.pt2"], ["--grids", "all"], ["--preset", "cifar"]]
)
def test_options_of_a_generator_do_not_belong_to_an_inverter(
    run: Run, tmp_path: Path, option: list[str]
) -> None:
    code, told, _ = run("train", "--part", "inverter", *option, "--out", tmp_path / "o")
    assert code == 2
    assert "belong to --part inverter" in told["error"]["message"]


def test_presets_are_begun_with(run: Run, tmp_path: Path, source: Path) -> None:
    out = tmp_path / "gan.safetensors"
    arguments = [*training(source, out, kimg=0.016), "--preset", "cifar", "--set", "group=4"]
    assert run(*arguments)[0] == 0
    settings = read_generator(out).origin.provenance["settings"]
    assert (settings["augment"], settings["ema_kimg"], settings["gamma"]) == ("ada", 500.0, 0.01)
    assert (settings["channels"], settings["kimg"], settings["group"]) == (4, 0.016, 4)


VIEWSTORE = [sys.executable, "-c", "from viewstore.cli.main import main; main()"]


def test_a_training_that_was_killed_goes_on_without_any_option(
    run: Run, tmp_path: Path, source: Path
) -> None:
    out, folder = tmp_path / "out" / "gan.safetensors", tmp_path / "out"
    arguments = [*map(str, training(source, out, kimg=400)), "--set", "conditional=true"]
    command = [*VIEWSTORE, "--progress", "off", "gan", *arguments]
    state = folder / "gan.state.safetensors"
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    code, told, _ = run(*arguments, "--set", "gamma=3")
    assert (code, told["error"]["code"]) == (2, "VS103")
    assert f"gamma is 3, but the training in {state} has 0.1" in told["error"]["message"]
    arguments[arguments.index("400")] = "0.016"
    code, _, err = run(*arguments)
    assert code == 0
    assert f"going on from the state in {state}" in err
    assert not state.exists()
    assert out.exists()


@pytest.mark.parametrize("name", ["gan.safetensors", "gan.png"])
def test_the_state_has_a_file_of_its_own(run: Run, tmp_path: Path, source: Path, name: str) -> None:
    out = tmp_path / "gan.safetensors"
    code, told, _ = run(*training(source, out, kimg=1), "--state", tmp_path / name)
    assert (code, told["error"]["code"]) == (2, "VS101")
    assert "--state must be a file of its own" in told["error"]["message"]
    assert not out.exists()


def test_a_state_is_not_taken_for_a_shorter_training(
    run: Run, tmp_path: Path, source: Path
) -> None:
    state = tmp_path / "kept.safetensors"
    first = training(source, tmp_path / "a.safetensors", kimg=0.064)
    assert run(*first, "--state", state)[0] == 0
    shorter = training(source, tmp_path / "b.safetensors", kimg=0.032)
    code, told, _ = run(*shorter, "--state", state)
    assert (code, told["error"]["code"]) == (2, "VS103")
    assert "and kimg=0.032 ends at" in told["error"]["message"]


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_as_one_that_never_was(
    run: Run, tmp_path: Path, source: Path
) -> None:
    extra = ["--set", "conditional=true", "--set", "augment=ada", "--set", "ada_kimg=0.2"]
    extra += ["--set", "ada_target=0.1", "--grids", "all"]
    whole, broken = tmp_path / "whole" / "gan.safetensors", tmp_path / "broken" / "gan.safetensors"
    assert run(*training(source, whole, kimg=1), *extra)[0] == 0
    options = map(str, [*training(source, broken, kimg=1), *extra])
    command = [*VIEWSTORE, "--progress", "off", "gan", *options]
    state, drawn, kills = broken.with_suffix(".state.safetensors"), random.Random(0), 0
    while not broken.exists():
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        before = state.read_bytes() if state.exists() else b""
        while process.poll() is None and not (state.exists() and state.read_bytes() != before):
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.5))
        if process.poll() is None and kills < 4:
            process.kill()
            kills += 1
        process.wait()
    assert kills >= 2
    assert broken.read_bytes() == whole.read_bytes()
    names = {path.name for path in whole.parent.iterdir()}
    assert names == {path.name for path in broken.parent.iterdir() if path.suffix != ".tmp"}
    for name in names:
        assert (broken.parent / name).read_bytes() == (whole.parent / name).read_bytes(), name
    shutil.rmtree(broken.parent)
    options = [*training(source, broken, kimg=1), *extra, "--seed", "1"]
    assert run(*options)[0] == 0
    assert broken.read_bytes() != whole.read_bytes()  # what is compared can differ
