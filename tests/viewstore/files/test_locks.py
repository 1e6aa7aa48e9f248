"""Locks that are files: one holder, be it a thread or a process, and no trace of one that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from viewstore.files.locks import LockedError, is_locked, locked

HOLDER = """
import sys
from pathlib import Path
from viewstore.files.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_is_held_is_not_taken_again_even_by_the_same_process(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        assert is_locked(tmp_path / "lock")
        with pytest.raises(LockedError), locked(tmp_path / "lock", wait=False):
            pass
    assert not is_locked(tmp_path / "lock")


def test_a_thread_waits_until_the_lock_is_free(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_an_error_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), locked(tmp_path / "lock"):
        raise ValueError("mine")
    assert not is_locked(tmp_path / "lock")


def test_a_process_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_locked(tmp_path / "lock")
        os.kill(process.pid, signal.SIGKILL)
    assert not is_locked(tmp_path / "lock")
