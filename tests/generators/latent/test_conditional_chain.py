"""A conditional generator from its file to verified views, by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.generators.latent_world import small_encoder, small_gan, source_images
from viewstore.cli.main import main
from viewstore.generators.gan.file import Origin, write_generator
from viewstore.train.encoder_file import save_encoder

CLASSES = 3
SEARCH = ("eps1=0.3", "slots=2", "max_steps=25")

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json", "--progress", "off"])
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def networks(tmp_path: Path) -> list[str]:
    """Write a conditional generator and an encoder; return the options that name them."""
    gan = small_gan(classes=CLASSES)
    encoder = small_encoder(source_images(gan, 64))
    write_generator(tmp_path / "gan.safetensors", gan, Origin(), half=False)
    save_encoder(tmp_path / "encoder.safetensors", encoder.settings, encoder.network)
    return [
        *("--gan", str(tmp_path / "gan.safetensors")),
        *("--encoder", str(tmp_path / "encoder.safetensors")),
    ]


def settings(*assignments: str) -> list[str]:
    return [part for each in assignments for part in ("--set", each)]


def test_a_generated_source_of_classes_needs_no_inversion(
    run: Run, tmp_path: Path, networks: list[str]
) -> None:
    source, store = tmp_path / "src", tmp_path / "store"
    code, told = run("gan", "sample", *networks[:2], "--n", 8, "--seed", 4, "--out", source)
    assert (code, told["result"]["classes"], told["result"]["images"]) == (0, CLASSES, 8)
    options = ["--out", store, "--workers", 1, *networks]
    search = ["--generator", "w-search", "--views", 2, *settings(*SEARCH)]
    code, _ = run("build", *search, "--source", source, *options)
    assert code in (0, 1)  # a random network and 25 steps: not every goal is met
    assert run("build", "--generator", "w-perturb", "--views", 2, *options)[0] == 0
    assert run("verify", store)[0] == 0
    views = viewstore.open(store)
    assert views.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert views.label_names == ("0", "1", "2")
    recon = views.view_set("recon")
    assert recon.plan.generator["args"]["known_latents"] is True
    assert np.unique(recon.params["steps"]).tolist() == [0]
    assert recon.params["anchor_shift"].max() < 1e-5
    assert recon.params["x_invert_mse"].max() == 0
    for name in ("w-search", "w-perturb"):
        assert views.view_set(name)[0].shape == (2, 16, 16, 3)
    assert np.isfinite(views.view_set("w-perturb").params["distance"]).all()


def test_images_with_labels_are_inverted_from_the_means_of_their_classes(
    run: Run, tmp_path: Path, networks: list[str]
) -> None:
    images = source_images(small_gan(classes=CLASSES), 6)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(6) % CLASSES)
    stores = {}
    for start in ("true", "false"):
        store = stores[start] = tmp_path / start
        arguments = ["--source", tmp_path / "images.npz", "--out", store, "--workers", 1]
        chosen = settings(f"class_start={start}", "max_steps=0", "slots=2", "shift_stop=0.05")
        run("gan", "invert", *arguments, *networks, *chosen)
    codes = {s: viewstore.open(p).view_set("recon").params["latent"] for s, p in stores.items()}
    gan = small_gan(classes=CLASSES)
    for row in range(6):
        wanted = gan.class_mean(row % CLASSES).half().numpy()
        np.testing.assert_array_equal(codes["true"][row, 0], wanted[None].repeat(6, 0))
    assert not np.array_equal(codes["true"], codes["false"])


def test_latents_of_another_generator_are_not_taken(
    run: Run, tmp_path: Path, networks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    write_generator(other, small_gan(seed=1), Origin(), half=False)
    source = tmp_path / "src"
    run("gan", "sample", "--gan", other, "--n", 3, "--out", source)
    invert = ["gan", "invert", "--source", source, *networks, *settings("max_steps=1", "slots=2")]
    with pytest.raises(SystemExit):
        main([*map(str, invert), "--workers", "1", "--out", str(tmp_path / "store")])
    said = capsys.readouterr().err
    assert f"made by the generator {small_gan(seed=1).fingerprint[:12]}, this is" in said
    args = viewstore.open(tmp_path / "store").view_set("recon").plan.generator["args"]
    assert (args["known_latents"], args["latents_digest"], args["max_steps"]) == (False, None, 1)
    code, told = run(*invert, *settings("known_latents=true"), "--out", tmp_path / "never")
    assert (code, told["error"]["code"]) == (2, "VS103")
    assert "give the one that made them with --gan" in told["error"]["fix"]
    assert not (tmp_path / "never").exists()


def test_an_image_that_was_swapped_stops_the_build(
    run: Run, tmp_path: Path, networks: list[str]
) -> None:
    source = tmp_path / "src"
    run("gan", "sample", *networks[:2], "--n", 3, "--out", source)
    first, second = source / "0" / "000000.png", source / "1" / "000001.png"
    first.write_bytes(second.read_bytes())
    code, told = run("gan", "invert", "--source", source, *networks, "--out", tmp_path / "never")
    assert code == 2
    assert told["error"]["message"] == ("image 0/000000.png is not the one that its latents made")
    assert not (tmp_path / "never").exists()
    chosen = settings("known_latents=false", "max_steps=1", "slots=2", "shift_stop=2")
    arguments = ["--source", source, *networks, *chosen, "--workers", 1]
    assert run("gan", "invert", *arguments, "--out", tmp_path / "store")[0] == 0  # as is advised
