"""The page on clusters: its commands parse, and each of its recipes builds the same store."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tests.test_docs import write_photographs
from tests.viewstore.cli.stand_ins import environment, install, one_core
from tests.viewstore.commands import invoke, run
from viewstore.build.finalise import finalise
from viewstore.build.repair import withdraw
from viewstore.cli.main import root
from viewstore.format.paths import StorePaths

REPO = Path(__file__).parents[3]
PAGE = (REPO / "docs" / "cluster.md").read_text()
SCALE = (REPO / "docs" / "scale.md").read_text()
README = (REPO / "README.md").read_text()
HERE = {  # what is smaller in the tests
    r"(?<!--size )\b64\b": "2",
    "--shard-rows 512": "--shard-rows 16",
    "seq 0 63": "seq 0 1",
    "node1 node2 node3 node4": "node1 node2",
    r"\$slice/4": "$slice/2",
    r"--nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node1:29500": (
        "--standalone --nproc-per-node 2"
    ),
}
COMMAND = re.compile(r"(?<![\w/'\"])viewstore (?:[^\n>&|)#])+")
RECIPES = ("Slurm", "Kubernetes", "AWS Batch", "torchrun", "ssh, GNU parallel", "Several GPUs")


def blocks(text: str) -> list[str]:
    """Return the sh blocks of a text, with each command on one line."""
    found = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [re.sub(r"\\\n\s*", "", block) for block in found]


def section(heading: str, page: str = PAGE) -> str:
    """Return what stands below a heading, which may be given by its beginning."""
    return re.findall(rf"^#+ {re.escape(heading)}.*?(?=^##|\Z)", page, re.M | re.S)[0]


def here(block: str, store: Path) -> str:
    for pattern, smaller in HERE.items():
        block = re.sub(pattern, smaller, block)
    photos = str(store.with_name("photos"))
    return block.replace("/data/views", str(store)).replace("/data/photos", photos)


def parsed(words: list[str]) -> click.Context:
    """Return what the command line makes of words; nothing is run."""
    found: click.Command = root
    rest = list(words)
    while isinstance(found, click.Group):
        inner = found.get_command(click.Context(found), rest.pop(0))
        assert inner is not None
        found = inner
    return found.make_context(str(found.name), rest)


COMMANDS = [
    match.strip()
    for block in blocks(
        PAGE + section("On a cluster", README) + section("Build it on 8 hosts", SCALE)
    )
    for match in COMMAND.findall(block)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_parses(line: str) -> None:
    _, *words = shlex.split(line.replace("{}", "0"))
    assert not parsed(words).args


def test_the_page_has_the_commands_that_a_cluster_needs() -> None:
    named = {" ".join(shlex.split(line)[1:2]) for line in COMMANDS}
    assert named == {"build", "jobfile", "status", "finalise", "verify", "gc"}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the plan of the page, of forty photographs in three shards."""
    folder = tmp_path_factory.mktemp("cluster")
    write_photographs(folder, 40)
    _, *words = shlex.split(here(blocks(section("1. Plan once"))[0], folder / "s"))
    assert "--plan" in words
    invoke(*words)
    return folder / "s"


@pytest.fixture(scope="module")
def whole_id(planned: Path) -> str:
    """The store id of a build in one process that nothing disturbs."""
    store = Path(shutil.copytree(planned, planned.with_name("whole")))
    invoke("build", "--generator", "simclr", "--out", store, "-j", 1)
    return finalise(store).store_id


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_builds_the_same_store(
    recipe: str, planned: Path, whole_id: str, tmp_path: Path
) -> None:
    """One after the other where there are two; a shard that is lost between them is built again."""
    store = Path(shutil.copytree(planned, tmp_path / "s"))
    install(tmp_path)
    for block in blocks(section(recipe)):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", here(block, store)],
            cwd=tmp_path,
            env=environment(tmp_path, OMP_NUM_THREADS="1"),
            preexec_fn=one_core,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert finalise(store).store_id == whole_id, done.stderr
        withdraw(StorePaths(store).view_set("simclr"), 1)


def test_what_is_missing_is_not_asked_of_a_store_that_is_not_there(tmp_path: Path) -> None:
    """An error of status ends the lines: it is no answer that all is built."""
    install(tmp_path)
    block = blocks(section("Slurm"))[-1]
    assert "status" in block
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here(block, tmp_path / "none")],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no store at" in done.stderr


def test_the_example_of_the_readme_works_with_fifty_photographs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user tries it who has those; nothing is built, so finalise has nothing to publish."""
    monkeypatch.chdir(tmp_path)
    write_photographs(tmp_path, 50)
    (block,) = blocks(section("On a cluster", README))
    lines = [shlex.split(line.partition(" > ")[0], comments=True) for line in block.splitlines()]
    codes = [run(capsys, *words)[0] for _, *words in lines]
    assert codes == [0, 0, 1, 3]


def test_what_comes_after_the_slices_runs(
    planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status before the first shard and after the last, then the end of the page."""
    store = Path(shutil.copytree(planned, tmp_path / "s"))
    (status,) = blocks(section("3. How far is it"))
    words = shlex.split(here(status, store))[1:]
    assert run(capsys, *words)[0] == 1
    for index in range(2):
        slice_of = ("build", "--generator", "simclr", "--out", store, "--shard", f"{index}/2")
        assert run(capsys, *slice_of, "-j", 1)[0] == 0
    (end,) = blocks(section("4. Publish"))
    for line in [*here(end, store).splitlines(), shlex.join(["viewstore", *words])]:
        assert run(capsys, *shlex.split(line)[1:])[0] == 0, line
