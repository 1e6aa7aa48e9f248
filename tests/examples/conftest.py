"""Running examples in this process, on the store that the command in their docstrings makes."""

from __future__ import annotations

import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from viewstore.cli import main as cli

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = "viewstore build --generator digits --view-set near --views 4 --limit 512 --out views"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a store of 512 digits with the view set `near`."""
    out = tmp_path_factory.mktemp("examples") / "views"
    words = [str(out) if word == "views" else word for word in shlex.split(COMMAND)[1:]]
    CliRunner().invoke(cli.root, words, catch_exceptions=False)
    return str(out)


@pytest.fixture(autouse=True)
def like_a_fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples seed torch and write beside themselves: neither is seen by other tests."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run an example with arguments; return what it printed of its steps."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run
