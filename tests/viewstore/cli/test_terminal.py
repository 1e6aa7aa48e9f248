"""The terminal as the Progress of a command: lines, a bar, and nothing that a store may steer."""

import contextlib
import json
import os
import pty
import subprocess
import sys

import pytest

from viewstore.cli import lines
from viewstore.cli.bar import Bar
from viewstore.cli.terminal import ProgressForm, Terminal
from viewstore.progress import tracked

BAR = """
from viewstore.cli.terminal import Terminal
from viewstore.progress import tracked
terminal = Terminal()
with tracked(terminal, "views\\x07[b]", 8, "samples"):
    terminal.advance(3, loss=0.25, name="\\x1b[2J")
    terminal.note("bell \\x07")
"""


def work(terminal: Terminal) -> None:
    with tracked(terminal, "simclr", 4, "samples"):
        terminal.advance(1, loss=0.51234)
        terminal.advance(2)
        terminal.advance(1, loss=0.25)


def test_json_lines_have_these_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """At the first unit and at the last; other programs read them."""
    work(Terminal(progress_form="json"))
    first, last = map(json.loads, capsys.readouterr().err.splitlines())
    assert list(last) == ["progress", "unit", "done", "total", "per_second", "left", "loss"]
    assert (first["done"], first["loss"]) == (1, 0.51234)
    assert (last["progress"], last["unit"], last["done"], last["total"]) == (
        "simclr", "samples", 4, 4,
    )  # fmt: skip
    assert (last["left"], last["loss"]) == (0.0, 0.25)


def test_plain_lines_are_for_logs(capsys: pytest.CaptureFixture[str]) -> None:
    work(Terminal())
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("simclr: 1/4 samples  ")
    assert "samples/s  loss 0.5123" in first
    assert last.startswith("simclr: 4/4 samples  ")
    assert last.endswith("samples/s  loss 0.25")


def test_no_time_left_is_shown_before_the_rate_tells_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool of 2 samples: their ends say nothing of the next ones."""
    monkeypatch.setattr(lines, "PLAIN_SECONDS", 0.0)
    terminal = Terminal(progress_form="json")
    with tracked(terminal, "w-search", 4, "samples", settle=2):
        for _ in range(4):
            terminal.advance()
    told = [json.loads(line)["left"] for line in capsys.readouterr().err.splitlines()]
    assert told[:2] == [None, None]
    assert told[2] > 0
    assert told[3] == 0.0
    plain = Terminal()
    with tracked(plain, "w-search", 4, "samples", settle=2):
        for _ in range(3):
            plain.advance()
    first, second, third = capsys.readouterr().err.splitlines()
    assert ("left" in first, "left" in second, "left" in third) == (False, False, True)


def test_a_bar_shows_no_time_left_before_it_knows_it() -> None:
    bar = Bar("w-search", 8, "samples", settle=2)
    column = bar.progress.columns[-1]
    (task,) = bar.progress.tasks
    bar.advance(2, {})
    assert str(column.render(task)) == ""  # type: ignore[attr-defined]
    bar.advance(1, {})
    assert str(column.render(task)) != ""  # type: ignore[attr-defined]
    bar.end()


@pytest.mark.parametrize(("form", "verbosity"), [("off", 0), ("json", -1)])
def test_progress_may_be_silent(
    capsys: pytest.CaptureFixture[str], form: ProgressForm, verbosity: int
) -> None:
    work(Terminal(progress_form=form, verbosity=verbosity))
    assert capsys.readouterr().err == ""


def test_a_bar_shows_text_of_a_store_escaped_and_leaves_stdout_alone() -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", BAR],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(leader, 1 << 16):
            shown += part
    os.close(leader)
    out, _ = process.communicate()
    text = shown.decode()
    assert (process.returncode, out) == (0, b"")
    assert "views\\x07[b]" in text
    assert "3/8" in text.replace(" ", "")
    assert "bell \\x07\r\n" in text
    assert "\x07" not in text
    assert "\x1b[2J" not in text
