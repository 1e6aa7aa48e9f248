"""The code in the guides runs."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

import viewstore
from tests.viewstore.commands import run
from viewstore.generators.checkpoints.exported import read_module

REPO = Path(__file__).parents[1]
README = REPO / "README.md"
PAGES = ("loading", "tutorial", "ffcv", "tables", "import", "columns", "training", "methods")
PLUGINS = REPO / "docs" / "plugins.md"
LOADING, TUTORIAL, FFCV, TABLES, IMPORT, COLUMNS, TRAINING, METHODS = (
    REPO / "docs" / f"{name}.md" for name in PAGES
)
SHORTER = {  # what the commands of the guides are given here, on tiny photographs
    r"--kimg \S+": "--kimg 0.032",
    r"--steps \d+": "--steps 2",
    r"--epochs \d+": "--epochs 1",
    r"--size \d+": "--size 16",
    r"--limit 256": "--limit 64",
    r"distance < 0.28": "distance < 100",
    r"--generator w-search": "--generator w-search --views 2 --set max_steps=2 --max-missed 100%",
    r"viewstore build (?!.*-j )": "viewstore build -j 1 ",  # workers begin by importing torch
    r"viewstore train (?!.*--batch-size)": "viewstore train --backbone conv3 --batch-size 64 ",
}


def commands_of(text: str) -> list[list[str]]:
    """Return the viewstore commands in the sh blocks of a page, shortened."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    for pattern, shorter in SHORTER.items():
        lines = [re.sub(pattern, shorter, line) for line in lines]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["viewstore"]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_photographs(folder: Path, count: int) -> None:
    """Write small photographs of two classes into the folder `photos` of a folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((32, 24), Image.Resampling.BILINEAR).save(path)


@pytest.mark.filterwarnings("ignore::Warning:lightning")
def test_every_block_of_the_loading_guide_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the store that its commands make, in order and in one namespace."""
    pytest.importorskip("lightning", reason="the guide shows the extra lightning")
    text = LOADING.read_text()
    for words in commands_of(text):
        assert run(capsys, *words)[0] == 0, words
    assert sorted(viewstore.open(folder / "views").view_sets) == ["digits", "hard", "quality"]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 9
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(LOADING), "exec"), names)
    assert [name for name in ("loader", "dataset", "data") if name not in names] == []


def test_every_block_about_recipes_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPO / "docs/recipes.md").read_text()
    for words in commands_of(text):
        assert run(capsys, *words)[0] == 0, words
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/recipes.md", "exec"), names)
    assert names["batch"].views[0].pixels.shape == (16, 3, 16, 16)  # type: ignore[attr-defined]


def test_every_command_of_the_guide_to_gans_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A source is generated, and views are made of it without an inversion."""
    commands = commands_of((REPO / "docs/gan.md").read_text())
    assert [words[0] for words in commands] == ["gan", "build"]
    for words in commands:
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
    recon = viewstore.open(folder / "generated-views").view_set("recon")
    assert len(recon) == 64
    assert recon.params["steps"].max() == recon.params["x_invert_mse"].max() == 0


def test_every_command_of_the_tutorial_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, with fewer steps; what one step writes is what the next one reads."""
    write_photographs(folder, 66)
    commands = commands_of(TUTORIAL.read_text())
    assert [words[0] for words in commands] == [
        "gan", "train", "gan", "build", "inspect", "build", "verify", "train",
    ]  # fmt: skip
    for words in commands:
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
    assert (folder / "trial.html").is_file()
    assert (folder / "run" / "encoder.safetensors").is_file()


def test_every_command_of_the_page_on_gan_training_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order: what is trained is sampled and measured."""
    write_photographs(folder, 66)
    commands = commands_of((REPO / "docs/gan-training.md").read_text())
    assert [words[1] for words in commands] == ["train", "sample", "measure"]
    for words in commands:
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
    assert (folder / "images.png").is_file()


def test_a_decoder_of_ones_own_goes_the_way_of_its_page(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example trains the pair that the commands read; the code exports one of the test's."""
    torch = pytest.importorskip("torch")
    write_photographs(folder, 66)
    text = (REPO / "docs/decoders.md").read_text()
    (line,) = re.findall(r"^python examples/autoencoder\.py (.*)$", text, re.MULTILINE)
    argv = [*shlex.split(line.replace("--size 32", "--size 16")), "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["autoencoder.py", *argv])
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(REPO / "examples/autoencoder.py"), run_name="__main__")
    commands = commands_of(text)
    assert [words[0] for words in commands] == ["train", "build", "inspect"]
    for words in commands:
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
    assert (folder / "trial.png").is_file()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    networks = {"decoder": torch.nn.Linear(3, 8), "encoder": torch.nn.Linear(8, 3)}
    inputs = {"latents": torch.zeros(2, 3), "images": torch.zeros(2, 8)}
    exec(compile(block, "docs/decoders.md", "exec"), {"torch": torch, **networks, **inputs})
    for name, takes in (("decoder", 3), ("encoder", 8)):
        assert read_module(folder / f"{name}.pt2")[1] == (None, takes)


def test_every_command_of_the_page_on_columns_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code comes between the commands, and writes a file that the next one reads."""
    write_photographs(folder, 66)
    text = COLUMNS.read_text()
    blocks = re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL)
    assert [language for language, _ in blocks].count("python") == 1
    ran = []
    for language, block in blocks:
        if language == "python":
            exec(compile(block, str(COLUMNS), "exec"), {})
            continue
        for words in commands_of(f"```sh\n{block}```"):
            code, _, err = run(capsys, *words)
            assert code == 0, (words, err)
            ran.append(words[0])
    hard = ["build", "train", "build", "inspect", "train"]
    crops = ["build", "build", "train", "build", "build"]
    assert ran == ["build"] * 5 + ["stats", "build", "train", *hard, *crops, "refresh"]
    store = viewstore.open(folder / "views")
    assert store.columns_of("cands") == ("hard",)
    assert viewstore.open(folder / "crops").columns_of("dino-local") == ("hard-local",)
    assert store.columns_of("simclr") == ("other", "teacher", "teacher-r2")
    assert store.columns_of("source") == ("duplicates", "of-images", "quality")


def test_every_command_of_the_page_on_training_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order: later ones read the settings of earlier ones, which the page's file begins with."""
    write_photographs(folder, 80)
    text = TRAINING.read_text()
    for language, name in (("toml", "mine.toml"), ("python", "mynet.py")):
        (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        (folder / name).write_text(block)
    monkeypatch.syspath_prepend(folder)
    commands = commands_of(text)
    assert [words[0] for words in commands] == [
        "build", *["train"] * 7, "build", "train", "build", "build", *["train"] * 8, "eval",
        *["train"] * 2, "eval",
    ]  # fmt: skip
    for words in commands:
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
    last = (folder / "run-cosine" / "config.json").read_text()
    assert '"every":2' in last
    assert '"schedule":"cosine"' in last


def test_the_command_for_several_processes_trains(folder: Path) -> None:
    """As the page on training has it: torchrun starts the command that is installed."""
    write_photographs(folder, 66)
    (line,) = re.findall(r"^torchrun --.*$", TRAINING.read_text(), re.MULTILINE)
    for pattern, shorter in SHORTER.items():
        line = re.sub(pattern, shorter, line)
    words = shlex.split(line)
    bin_folder = Path(sys.executable).parent
    assert (bin_folder / "viewstore").is_file()
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bin_folder / words[0], *words[1:]],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "run-two" / "encoder.safetensors").is_file()
    assert done.stdout.count("encoder run-two/encoder.safetensors") == 1


def test_the_four_commands_for_photographs_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as few photographs as the text below them says."""
    write_photographs(folder, 50)
    page = README.read_text()
    section = page[page.index("## Your own photographs") :].partition("\n## ")[0]
    commands = commands_of(section)
    assert [words[0] for words in commands] == ["build", "inspect", "train", "eval"]
    for words in commands:
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
    assert (folder / "views.html").is_file()


def test_the_commands_for_generated_views_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the README that need no address, and those of the page on FFCV."""
    page = README.read_text()
    section = page[page.index("## Generated views") : page.index("## Serve and look")]
    commands = [words for words in commands_of(section) if "s3://bucket/views" not in words]
    first = ["build", "verify", "inspect", "train", "eval", *["export"] * 3]
    assert [words[0] for words in commands] == first
    for words in [*commands, *commands_of(FFCV.read_text())]:
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
    assert (folder / "near.beton").is_file()


def test_every_block_of_the_page_on_tables_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands, Python and SQL, on the store that its first command makes."""
    text = TABLES.read_text()
    for words in commands_of(text):
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, str(TABLES), "exec"), names)
    assert len(names["frame"]) == 4 * 64  # type: ignore[arg-type]
    for question in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
        assert len(duckdb.sql(question).fetchall()) == 10


def test_the_commands_of_the_page_on_imports_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two folders of equal names, and two commands."""
    for name in ("originals", "augmented"):
        write_photographs(folder, 20)
        (folder / "photos").rename(folder / name)
    for path in (folder / "augmented").rglob("*.jpg"):
        Image.open(path).resize((32, 32)).save(path)
    commands = commands_of(IMPORT.read_text())
    assert [words[0] for words in commands] == ["build", "train"]
    for words in commands:
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)


def test_the_method_and_the_strategy_of_the_guide_train(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One namespace for all its blocks; the loss of each epoch falls."""
    build = "build --generator digits --limit 256 --views 1 --codec params -j 1 --out views"
    assert run(capsys, *build.split())[0] == 0
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", METHODS.read_text(), re.DOTALL):
        exec(compile(block, str(METHODS), "exec", dont_inherit=True), names)
    history = names["result"].history  # type: ignore[attr-defined]
    assert history[1] < history[0]


def test_the_guide_to_plugins_builds_and_trains(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are written as they stand there; its package is the example's."""
    text = PLUGINS.read_text()
    soft, entries = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert entries in (REPO / "examples" / "plugin" / "pyproject.toml").read_text()
    (folder / "soft.toml").write_text(soft)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (folder / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    *commands, last = commands_of(text)
    assert [words[0] for words in commands] == ["build", "train", "build"]
    assert last[0] == "conformance"  # tests/examples/test_plugin.py runs it
    for words in commands:
        code_of_exit, _, err = run(capsys, *words)
        assert code_of_exit == 0, (words, err)
    assert set(viewstore.open("views").view_sets) == {"soft", "colours"}
