"""The commands of the page on serving run, each against the server that stands before it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.certificates import write_certificates
from tests.test_docs import SHORTER
from tests.viewstore.serve.servers import Server, serving
from viewstore.cli.serve import serve
from viewstore.serve.limits import Running
from viewstore.serve.metrics import Metrics

PAGE = Path(__file__).parents[3] / "docs" / "serve.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with what an administrator would have put there."""
    monkeypatch.chdir(tmp_path)
    write_certificates(tmp_path)
    return tmp_path


def here(text: str, server: Server | None) -> str:
    """Return a block of the page for tiny data and the server that runs."""
    for pattern, shorter in SHORTER.items():
        text = re.sub(pattern, shorter, text)
    text = text.replace("data.example:8765", "localhost:8765").replace("0.0.0.0", "127.0.0.1")
    return text if server is None else text.replace("8765", str(server.port))


def ended(server: Server) -> int:
    """Ask a server to end as a machine does that shuts down; return its exit code."""
    server.signal(signal.SIGTERM)
    return server.wait()


def test_every_block_of_the_page_on_serving_runs(folder: Path) -> None:
    """In order; a block that serves ends the server before it, and the last ends with 0."""
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    whole = [block for block in blocks if "store.view_set" not in block[1] or "open" in block[1]]
    assert len(whole) == len(blocks) - 1  # the line for stock webdataset has a test of its own
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SSL_CERT_FILE": str(folder / "authority.pem")}
    server: Server | None = None
    served = 0
    with ExitStack() as stack:
        for language, block in whole:
            text = here(block, server)
            if text.startswith("viewstore serve "):
                if server is not None:
                    assert ended(server) == 0, server.log
                server = stack.enter_context(serving(*shlex.split(text)[2:]))
                served += 1
                continue
            program = ["bash", "-euc"] if language == "sh" else [sys.executable, "-c"]
            done = subprocess.run(
                [*program, text], env=environment, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, (text, done.stderr)
        assert server is not None
        assert ended(server) == 0, server.log
    assert served == 3
    assert (folder / "run" / "encoder.safetensors").is_file()


def test_the_metrics_of_the_page_are_those_of_the_server() -> None:
    """Each with its labels, and none is left out."""
    shown = re.findall(r"`(viewstore_[a-z_]+?)(?:_total)?(?:\{([a-z,]+)\})?`", PAGE.read_text())
    registry = Metrics("1", Running()).registry
    counted = {each.name for each in registry.collect()}
    assert {name for name, _ in shown} == counted
    for name, labels in shown:
        collector = registry._names_to_collectors[name]
        assert ",".join(collector._labelnames) == labels


def test_the_defaults_of_the_page_are_those_of_the_command() -> None:
    defaults = {each.opts[0]: str(each.default) for each in serve.params}
    shown = re.findall(r"`(--[a-z-]+)`(?: seconds)? \((\d+)\)", PAGE.read_text())
    assert {name for name, _ in shown} == {"--max-streams", "--max-streams-per-client", "--drain"}
    for name, text in shown:
        assert float(defaults[name]) == float(text)
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE.read_text()))
    others = {"--web", "--get", "--netrc"}  # of inspect, of curl
    trained = {"--generator", "--limit", "--out", "--views", "--strategy", "--epochs"}
    assert named - others - trained <= set(defaults)
