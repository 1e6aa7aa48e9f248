"""`viewstore gan`: what the commands accept, write and refuse."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.viewstore.small_stores import write_photographs
from viewstore.build.roles import packaged_weights
from viewstore.cli.main import main
from viewstore.generators.gan.file import Origin, read_generator, write_generator
from viewstore.generators.gan.inverter import load_inverter
from viewstore.generators.gan.keyed import keyed_generator
from viewstore.generators.gan.settings import GanSettings
from viewstore.generators.gan.training import initialise
from viewstore.generators.latent.generated_source import LATENTS_FILE, read_latents
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.sources.open import open_source
from viewstore.train.encoder_file import EncoderSettings, save_encoder
from viewstore.train.nets.network import seeded_network

Run = Callable[..., tuple[int, dict[str, Any], str]]

SMALL = ["--set", "channels=4", "--set", "latent_dim=6", "--set", "mapping_layers=1"]


def network(*, classes: int = 0) -> StyleGAN2:
    shape = GanSettings(latent_dim=6, mapping_layers=1, channels=4).architecture(8, 1)
    if classes:
        changed = {"c_dim": classes, "embed_width": 6}
        shape = type(shape)(**{**{n: getattr(shape, n) for n in shape.__slots__}, **changed})
    made = StyleGAN2(shape)
    initialise(made, keyed_generator("test", 0))
    return made.requires_grad_(False)


@pytest.fixture
def gan_file(tmp_path: Path) -> Path:
    path = tmp_path / "gan.safetensors"
    write_generator(path, network(), Origin(licence_note="for tests only"), half=False)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        with pytest.raises(SystemExit) as ended:
            main(["gan", *map(str, arguments), "--json", "--progress", "off"])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(out), err

    return call


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_generator_is_trained_and_written(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"
    options = ["--holdout", 4, "--limit", 60, "--kimg", 0.1, "--batch", 8, "--threads", 1, *SMALL]
    code, told, err = run("train", "--part", "generator", *options, "--out", out)
    assert code == 0
    assert err.count("Fréchet distance") == 1
    opened = read_generator(out)
    assert opened.network.fingerprint == told["result"]["fingerprint"]
    assert (opened.network.res, opened.network.channels) == (16, 1)
    provenance = opened.origin.provenance
    assert provenance["settings"]["kimg"] == 0.1
    assert (provenance["source"], provenance["holdout"], provenance["limit"]) == ("digits", 4, 60)
    assert provenance["metrics"]["frechet"] == pytest.approx(told["result"]["frechet"])
    again = tmp_path / "again.safetensors"
    run("train", "--part", "generator", *options, "--out", again)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("part", ["generator", "inverter"])
def test_a_training_that_a_launcher_started_beside_others_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ["--source", "digits", "--limit", 40, "--out", tmp_path / "new.safetensors"]
    code, told, _ = run("train", "--part", part, *options)
    assert (code, told["error"]["where"]) == (2, "WORLD_SIZE")
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_a_training_does_not_read_are_said(run: Run, tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 9, cut=8)
    (tmp_path / "photos" / "8.jpg").rename(tmp_path / "photos" / "8.jp2")
    options = ["--size", 8, "--kimg", 0.01, "--batch", 4, *SMALL, "--out", tmp_path / "new"]
    _, told, _ = run("train", "--part", "generator", "--source", tmp_path / "photos", *options)
    (warning,) = told["warnings"]
    assert warning.startswith("1 file was not read: 1 .jp2")


def test_held_out_rows_do_not_matter(run: Run, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    prints = []
    for name in ("first", "second"):
        source = tmp_path / f"{name}.npz"
        np.savez(source, images=images)
        images[::4] = 0
        out = tmp_path / f"{name}.safetensors"
        options = ["--source", source, "--holdout", 4, "--kimg", 0.02, "--batch", 8, *SMALL]
        _, told, _ = run("train", "--part", "generator", *options, "--out", out)
        prints.append(told["result"]["fingerprint"])
    assert prints[0] == prints[1]
    assert read_generator(out).network.channels == 3


def test_inverter_is_trained_and_written(run: Run, tmp_path: Path, gan_file: Path) -> None:
    settings = EncoderSettings(
        backbone="conv3",
        in_channels=1,
        projector=(16, 8),
        size=8,
        mean=(0.5,),
        std=(0.25,),
        policy="digits",
    )
    encoder = tmp_path / "encoder.safetensors"
    save_encoder(encoder, settings, seeded_network(settings.network(), 0), half=True)
    out = tmp_path / "inverter.safetensors"
    options = ["--source", "digits", "--limit", 40, "--holdout", 4, "--steps", 3, "--batch", 4]
    files = ["--gan", gan_file, "--encoder", encoder, "--out", out]
    code, told, err = run("train", "--part", "inverter", *options, *files)
    assert code == 0
    assert "for tests only" in err
    inverter = load_inverter(out)
    assert inverter.shape.generator == read_generator(gan_file).network.fingerprint
    assert inverter.provenance["metrics"]["measured_on"] == "held-out images"
    assert 0 < told["result"]["pixel_mse"] < 4
    assert 0 < told["result"]["shift_mean"] <= told["result"]["shift_p95"] <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kimg", 1, "--set", "kimg=2"], "kimg is given twice"),
        (["--set", "gama=2"], "no setting 'gama'; did you mean 'gamma'?"),
        (["--set", "gamma=much"], "gamma must be a number, got 'much'"),
        (["--set", "group=5"], "batch must be a multiple of group 5, got 32"),
        (["--steps", 3], "no setting 'steps'"),
        (["--gan", "x"], "--gan does not belong to --part generator"),
        (["--source", "nowhere"], "source nowhere cannot be used"),
        (["--size", 24], "power of two from 4 to 1024, got 24 x 24"),
        (["--limit", 20], "there must be at least 32 images, got 20"),
    ],
)
def test_training_settings_that_do_not_fit_are_refused(
    run: Run, tmp_path: Path, arguments: list[object], message: str
) -> None:
    out = tmp_path / "never"
    code, told, _ = run("train", "--part", "generator", *arguments, "--out", out)
    assert code == 2
    assert message in told["error"]["message"]
    assert not out.exists()


def test_state_does_not_belong_to_an_inverter(run: Run, tmp_path: Path) -> None:
    arguments = ["--state", tmp_path / "s", "--out", tmp_path / "o"]
    code, told, _ = run("train", "--part", "inverter", *arguments)
    assert (code, told["error"]["code"]) == (2, "VS101")


@pytest.mark.parametrize("noise", ["const", "none"])
def test_images_of_z_are_those_of_the_network(
    run: Run, tmp_path: Path, gan_file: Path, noise: str
) -> None:
    z = np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32)
    out = tmp_path / "images.npy"
    files = ["--gan", gan_file, "--z", saved(tmp_path / "z.npy", z), "--out", out]
    code, told, err = run("sample", *files, "--noise", noise, "--truncation", 0.7)
    images = np.load(out, allow_pickle=False)
    generator = read_generator(gan_file).network
    wanted = generator.synthesis(generator.mapping(torch.from_numpy(z), psi=0.7), noise=noise)
    np.testing.assert_allclose(images, wanted.clamp(-1, 1), rtol=0, atol=1e-5)
    assert (code, images.dtype, told["result"]["shape"]) == (0, np.float32, [150, 1, 8, 8])
    assert "for tests only" in err


@pytest.mark.parametrize("layers", [False, True])
def test_images_of_w_are_those_of_the_network(
    run: Run, tmp_path: Path, gan_file: Path, layers: bool
) -> None:
    size = (3, 4, 6) if layers else (3, 6)
    w = np.random.default_rng(0).normal(size=size)
    out = tmp_path / "images.npy"
    run("sample", "--gan", gan_file, "--w", saved(tmp_path / "w.npy", w), "--out", out)
    codes = torch.from_numpy(w.astype(np.float32))
    codes = codes if layers else codes[:, None].repeat(1, 4, 1)
    wanted = read_generator(gan_file).network.synthesis(codes).clamp(-1, 1)
    np.testing.assert_allclose(np.load(out), wanted, rtol=0, atol=1e-5)


def test_labels_are_numbers_or_one_hot_rows(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "gan"
    write_generator(path, network(classes=3), Origin(), half=False)
    z = saved(tmp_path / "z.npy", np.ones((2, 6), np.float32))
    numbers = saved(tmp_path / "numbers.npy", np.array([2, 0]))
    rows = saved(tmp_path / "rows.npy", np.eye(3)[[2, 0]])
    files = ["--gan", path, "--z", z]
    run("sample", *files, "--labels", numbers, "--out", tmp_path / "a.npy")
    run("sample", *files, "--labels", rows, "--out", tmp_path / "b.npy")
    images = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(images, np.load(tmp_path / "b.npy"))
    assert not np.allclose(images[0], images[1])
    code, told, _ = run("sample", *files, "--out", tmp_path / "c.npy")
    assert code == 2
    assert told["error"]["message"] == "this generator is conditional (3 classes): give --labels"
    for wrong, message in (
        (np.array([0, 3]), "--labels must be in [0, 3), got 0 to 3"),
        (np.array([0, 1, 2]), "--labels must be class numbers [2] or one-hot rows [2, 3]"),
        (np.ones((2, 3)), "one-hot rows [2, 3], got [2, 3]"),
    ):
        labels = saved(tmp_path / "wrong.npy", wrong)
        code, told, _ = run("sample", *files, "--labels", labels, "--out", tmp_path / "c.npy")
        assert code == 2
        assert message in told["error"]["message"]
    assert not (tmp_path / "c.npy").exists()


@pytest.mark.parametrize(
    ("flag", "array", "message"),
    [
        ("--z", np.ones((2, 5)), "--z must be [N, 6], got [2, 5]"),
        ("--z", np.ones((2, 6), np.int64), "--z must hold floats, got int64"),
        ("--z", np.full((2, 6), np.inf), "--z must hold finite numbers"),
        ("--z", np.full((2, 6), 1e300), "--z must hold finite numbers"),
        ("--z", np.array([{"a": 1}]), "--z must be a .npy file of numbers: Object arrays"),
        ("--w", np.ones((2, 5)), "--w must be [N, 6] or [N, 4, 6], got [2, 5]"),
        ("--w", np.ones((2, 3, 6)), "--w must be [N, 6] or [N, 4, 6], got [2, 3, 6]"),
        ("--w", np.float64(1), "--w must be [N, 6] or [N, 4, 6], got []"),
    ],
)
def test_latents_that_do_not_fit_are_refused(
    run: Run, tmp_path: Path, gan_file: Path, flag: str, array: np.ndarray, message: str
) -> None:
    path = saved(tmp_path / "latents.npy", array)
    out = tmp_path / "never.npy"
    code, told, _ = run("sample", "--gan", gan_file, flag, path, "--out", out)
    assert code == 2
    assert message in told["error"]["message"]
    assert told["error"]["where"] == str(path)
    assert not out.exists()


def test_files_that_are_no_array_are_refused(run: Run, tmp_path: Path, gan_file: Path) -> None:
    whole = saved(tmp_path / "whole.npy", np.ones((50, 6))).read_bytes()
    np.savez(tmp_path / "many.npz", a=np.ones(3))
    for data in (b"", b"text", whole[:-1], (tmp_path / "many.npz").read_bytes()):
        path = tmp_path / "z.npy"
        path.write_bytes(data)
        code, told, _ = run("sample", "--gan", gan_file, "--z", path, "--out", tmp_path / "o.npy")
        assert (code, told["error"]["where"]) == (2, str(path))
    absent = tmp_path / "absent.npy"
    code, told, _ = run("sample", "--gan", gan_file, "--z", absent, "--out", tmp_path / "o.npy")
    assert (code, told["error"]["message"]) == (2, "--z cannot be read: No such file or directory")


def test_sample_wants_one_kind_of_latents(run: Run, tmp_path: Path, gan_file: Path) -> None:
    z = saved(tmp_path / "z.npy", np.ones((1, 6)))
    for latents in ([], ["--z", z, "--w", z]):
        code, told, _ = run("sample", "--gan", gan_file, *latents, "--out", tmp_path / "o.npy")
        assert (code, told["error"]["message"]) == (2, "give exactly one of --z, --w and --n")
    labels = ["--labels", saved(tmp_path / "c.npy", np.array([0]))]
    for flag, message in (("--z", "not conditional"), ("--w", "--labels belongs to --z")):
        files = ["--gan", gan_file, flag, z, *labels]
        code, told, _ = run("sample", *files, "--out", tmp_path / "o.npy")
        assert code == 2
        assert message in told["error"]["message"]


def test_conversion_to_f32_keeps_every_bit(run: Run, tmp_path: Path, gan_file: Path) -> None:
    out = tmp_path / "copy"
    code, told, err = run("convert", gan_file, "--out", out)
    assert (code, told["result"]["largest_difference"]) == (0, 0)
    assert read_generator(out).network.fingerprint == read_generator(gan_file).network.fingerprint
    assert "for tests only" in err
    assert read_generator(out).origin.licence_note == "for tests only"


def test_conversion_to_f16_says_how_far_images_move(
    run: Run, tmp_path: Path, gan_file: Path
) -> None:
    out = tmp_path / "half"
    code, told, _ = run("convert", gan_file, "--out", out, "--dtype", "f16")
    assert code == 0
    assert 0 < told["result"]["largest_difference"] < 0.05
    assert out.stat().st_size < gan_file.stat().st_size
    first = out.read_bytes()
    run("convert", out, "--out", out, "--dtype", "f16")
    assert out.read_bytes() == first


def test_conversion_of_something_else_fails(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(b"not a network")
    code, told, _ = run("convert", path, "--out", tmp_path / "o")
    assert (code, told["error"]["code"]) == (3, "VS210")
    assert "Nothing from the file was executed" in told["error"]["message"]
    assert not (tmp_path / "o").exists()


def test_licence_of_an_nvidia_file_is_named_when_it_is_opened(
    run: Run, tmp_path: Path, gan_fixtures: Path
) -> None:
    file = gan_fixtures / "nv_cifar32_uncond.pkl"
    code, told, err = run("convert", file, "--out", tmp_path / "own")
    assert (code, told["result"]["family"]) == (0, "stylegan2-ada-pytorch")
    assert "NVIDIA Source Code License" in err


VIEWSTORE = [sys.executable, "-c", "from viewstore.cli.main import main; main()"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 4), (signal.SIGUSR1, 4), (signal.SIGINT, 130)]
)
def test_a_stopped_training_keeps_its_state_and_names_what_goes_on(
    run: Run, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    state, out = tmp_path / "state", tmp_path / "gan.safetensors"
    options = ["train", "--part", "generator", "--limit", "40", "--batch", "8", "--kimg", "500"]
    options += [*SMALL, "--state", str(state), "--out", str(out), "--threads", "1"]
    command = [*VIEWSTORE, "--progress", "json", "gan", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while '"done"' not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == code, said
    assert "error[VS501]: training stopped after step" in said
    assert f"where: {state}" in said
    assert "run the same command again to go on: viewstore --progress json gan train" in said
    assert "everything committed" not in said
    steps = int(said.partition("after step ")[2].partition(" of")[0])
    options[options.index("--kimg") + 1] = str((steps + 1) * 8 / 1000)
    assert run(*options)[0] == 0  # one step more, and it is done


@pytest.mark.parametrize(("suffix", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("JPEG", "JPEG")])
def test_images_are_drawn_by_seed_and_shown_as_a_picture(
    run: Run, tmp_path: Path, gan_file: Path, suffix: str, kind: str
) -> None:
    out = tmp_path / f"images.{suffix}"
    code, told, _ = run("sample", "--gan", gan_file, "--n", 5, "--seed", 3, "--out", out)
    assert (code, told["result"]["shape"]) == (0, [5, 1, 8, 8])
    with Image.open(out) as picture:
        assert picture.format == kind
        pixels = np.asarray(picture)
    side = 64  # each of 8 x 8 pixels is shown eight times as large, 3 across and 2 down
    assert pixels.shape == (2 * side + 2, 3 * side + 4, 3)
    generator = read_generator(gan_file).network
    made = generator.synthesis(generator.sample(5, 3), noise="const").clamp(-1, 1)
    levels = ((made[3, 0] + 1) * 127.5).round().numpy().astype(np.uint8)
    shown = pixels[side + 2 :, :side].astype(int)
    enlarged = levels.repeat(8, axis=0).repeat(8, axis=1)[..., None]
    assert np.abs(shown - enlarged).mean() <= (0 if kind == "PNG" else 12)


def test_drawn_images_are_an_array_in_npy(run: Run, tmp_path: Path, gan_file: Path) -> None:
    out = tmp_path / "images.npy"
    assert run("sample", "--gan", gan_file, "--n", 4, "--out", out)[0] == 0
    generator = read_generator(gan_file).network
    made = generator.synthesis(generator.sample(4, 0), noise="const").clamp(-1, 1)
    np.testing.assert_allclose(np.load(out), made.numpy(), atol=1e-6)


def test_a_conditional_network_draws_its_classes_in_turn(run: Run, tmp_path: Path) -> None:
    conditional = network(classes=3)
    path, out = tmp_path / "gan.safetensors", tmp_path / "images.npy"
    write_generator(path, conditional, Origin(), half=False)
    assert run("sample", "--gan", path, "--n", 4, "--out", out)[0] == 0
    codes = conditional.sample(4, 0, torch.tensor([0, 1, 2, 0]))
    made = conditional.synthesis(codes, noise="const").clamp(-1, 1)
    np.testing.assert_allclose(np.load(out), made.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", 4, "--out", "x.gif"], "--out must end in .npy or .png or .jpg or .jpeg"),
        (["--n", 4, "--z", "z.npy", "--out", "x.npy"], "give exactly one of --z, --w and --n"),
        (["--z", "z.npy", "--seed", 1, "--out", "x.npy"], "--seed belongs to --n"),
    ],
)
def test_latents_and_files_that_make_no_sense_are_refused(
    run: Run, gan_file: Path, options: list[object], message: str
) -> None:
    code, told, _ = run("sample", "--gan", gan_file, *options)
    assert code == 2
    assert told["error"]["message"].startswith(message)


def test_a_training_shows_what_it_makes_and_says_what_its_distance_means(
    run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "gan.safetensors"
    options = ["--limit", 40, "--kimg", 0.02, "--batch", 8, *SMALL, "--out", out]
    code, told, _ = run("train", "--part", "generator", *options)
    result = told["result"]
    assert (code, result["grid"]) == (0, str(tmp_path / "gan.png"))
    with Image.open(result["grid"]) as picture:
        assert picture.size == (8 * 64 + 7 * 2,) * 2
    assert result["frechet_features"] == "39 principal components of pixels"  # of 40 images
    assert 0 < result["frechet_reference"] < result["frechet"]


def test_a_file_that_cannot_be_written_is_refused_before_training(run: Run, tmp_path: Path) -> None:
    code, told, _ = run("train", "--part", "generator", "--limit", 40, "--out", tmp_path)
    assert (code, told["error"]["message"]) == (
        2,
        f"--out must name a file, and {tmp_path} is a folder",
    )


def test_a_name_without_an_ending_is_a_new_source(run: Run, tmp_path: Path, gan_file: Path) -> None:
    out = tmp_path / "src"
    arguments = ["--gan", gan_file, "--n", 4, "--seed", 3, "--truncation", 0.5, "--out", out]
    code, told, _ = run("sample", *arguments)
    generator = read_generator(gan_file).network
    assert (code, told["result"]) == (
        0,
        {
            "source": str(out),
            "images": 4,
            "size": 8,
            "classes": 0,
            "fingerprint": generator.fingerprint,
        },
    )
    latents = read_latents(out / LATENTS_FILE)
    assert (latents.psi, latents.seed) == (0.5, 3)
    codes = generator.w_avg + 0.5 * (generator.sample(4, 3)[:, :1] - generator.w_avg)
    torch.testing.assert_close(latents.codes, codes.half())
    code, told, _ = run("sample", *arguments)
    assert (code, told["error"]["where"]) == (2, str(out))
    assert "is there already" in told["error"]["message"]


def test_latents_that_are_given_make_a_source_too(run: Run, tmp_path: Path, gan_file: Path) -> None:
    w = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    out = tmp_path / "src"
    files = ["--gan", gan_file, "--w", saved(tmp_path / "w.npy", w)]
    assert run("sample", *files, "--out", out)[0] == 0
    latents = read_latents(out / LATENTS_FILE)
    np.testing.assert_array_equal(latents.codes.numpy(), w.astype(np.float16))
    assert latents.seed is None
    code, told, _ = run("sample", *files, "--noise", "none", "--out", tmp_path / "never")
    assert (code, told["error"]["where"]) == (2, "--noise none")
    assert not (tmp_path / "never").exists()


def test_chosen_classes_are_the_labels_of_a_source(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "gan"
    write_generator(path, network(classes=3), Origin(), half=False)
    for labels in (np.array([2, 0]), np.eye(3)[[2, 0]]):
        out = tmp_path / f"src{labels.ndim}"
        files = ["--gan", path, "--n", 2, "--labels", saved(tmp_path / "c.npy", labels)]
        assert run("sample", *files, "--out", out)[0] == 0
        assert open_source(str(out)).table.keys == ("0/000001.png", "2/000000.png")
        assert open_source(str(out)).table.label.tolist() == [0, 2]


def test_an_inversion_reports_its_quantiles_and_its_worst(run: Run, tmp_path: Path) -> None:
    if not packaged_weights("gan").is_file():
        pytest.skip("the weights for the digits are not in this checkout: make demo-weights")
    options = ["--source", "digits", "--limit", 3, "--workers", 1, "--out", tmp_path / "views"]
    chosen = ["--set", "max_steps=1", "--set", "slots=2", "--max-missed", "100%"]
    code, told, _ = run("invert", *options, *chosen)
    found = told["result"]["inversion"]
    assert code == 0
    assert found["samples"] == 3
    assert 0 < found["mse"]["p50"] <= found["mse"]["p95"] < 4
    assert 0 < found["shift"]["p50"] <= found["shift"]["p95"] <= 2
    assert 0 <= found["off_goal"] <= 1
    shifts = [each["shift"] for each in found["worst"]]
    assert len(shifts) == 3
    assert shifts == sorted(shifts, reverse=True)
    assert {each["key"] for each in found["worst"]} == {"0000", "0001", "0002"}


def test_one_picture_in_a_folder_can_be_inverted(run: Run, tmp_path: Path) -> None:
    if not packaged_weights("gan").is_file():
        pytest.skip("the weights for the digits are not in this checkout: make demo-weights")
    (tmp_path / "one").mkdir()
    gray = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(gray).save(tmp_path / "one" / "mine.png")
    options = ["--source", tmp_path / "one", "--workers", 1, "--out", tmp_path / "views"]
    chosen = ["--set", "max_steps=1", "--set", "slots=1", "--max-missed", "100%"]
    code, told, err = run("invert", *options, *chosen)
    assert code == 0
    assert [each["key"] for each in told["result"]["inversion"]["worst"]] == ["mine.png"]
    assert "there are source images of 8 pixels, the generator makes 16" in err
