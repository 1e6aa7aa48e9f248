"""The seam to the disk: what it refuses is explained, and file systems without links will do."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

import viewstore
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.repair import repair
from viewstore.errors import StoppedError, UnavailableError
from viewstore.files import disk
from viewstore.store.verify import verify


def refusing(number: int) -> Callable[..., NoReturn]:
    """Return a call of the operating system that always fails."""

    def call(*arguments: object, **options: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_stop_that_can_be_resumed(number: int) -> None:
    error = disk.explain(OSError(number, os.strerror(number), "x"), Path("store"))
    assert isinstance(error, StoppedError)
    assert (error.code, error.exit_code, error.where) == ("VS302", 4, "store")
    assert "run the same command again" in str(error.fix)


def test_a_refusal_names_the_file_it_is_about() -> None:
    error = disk.explain(OSError(errno.EACCES, os.strerror(errno.EACCES), "x"), Path("store"))
    assert isinstance(error, UnavailableError)
    assert (error.code, error.exit_code, error.where) == ("VS302", 3, "x")
    assert str(error) == "the system refused: Permission denied"
    assert error.fix == disk.RIGHTS
    assert disk.explain(OSError(errno.EROFS, "")).fix == disk.WRITABLE
    assert disk.explain(OSError(errno.EIO, "")).fix is None
    assert disk.explain(OSError(errno.EIO, os.strerror(errno.EIO))).where is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_no_fault_of_the_store(number: int) -> None:
    error = disk.explain(OSError(number, os.strerror(number), "x"), Path("store"))
    assert "ulimit -n" in str(error.fix)


def test_a_terminal_that_went_away_is_no_failure_of_the_disk() -> None:
    with pytest.raises(BrokenPipeError), disk.explained(Path("store")):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.mark.parametrize("number", [0, errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_record_is_put_once_with_and_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    if number:
        monkeypatch.setattr(os, "link", refusing(number))
    path, scratch = tmp_path / "record", tmp_path / "scratch"
    scratch.mkdir()
    assert disk.put_if_absent(path, b"first", scratch=scratch)
    assert not disk.put_if_absent(path, b"second", scratch=scratch)
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o444
    assert list(scratch.iterdir()) == []


def test_a_record_that_does_not_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refusing(errno.ENOSPC))
        with pytest.raises(OSError, match="No space"):
            disk.put_if_absent(tmp_path / "record", b"first", scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_does_not_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"first")
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    monkeypatch.setattr(os, "fsync", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        disk.link(tmp_path / "source", tmp_path / "target", scratch=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("module", "call", "turn"),
    [(shutil, "copyfileobj", 1), (os, "fchmod", 2), (os, "fsync", 2), (os, "rename", 1)],
)
def test_a_kill_leaves_no_torn_record_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str, turn: int
) -> None:
    """The process dies in one of the calls that copy the record and name the copy."""
    scratch, target = tmp_path / "tmp", tmp_path / "record"
    scratch.mkdir()
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    child = os.fork()
    if child == 0:
        real, calls = getattr(module, call), itertools.count(1)

        def killed(*arguments: Any) -> Any:  # noqa: ANN401
            if next(calls) == turn:
                if call == "copyfileobj":
                    arguments[1].write(b"a r")
                    arguments[1].flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        monkeypatch.setattr(module, call, killed)
        disk.put_if_absent(target, b"a record", scratch=scratch)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not target.exists()
    assert disk.put_if_absent(target, b"a record", scratch=scratch)
    assert target.read_bytes() == b"a record"


def test_one_of_many_gets_a_name_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(os, "link", refusing(errno.ENOTSUP))
    for turn in range(20):
        path = tmp_path / f"record{turn}"
        texts = [bytes([65 + each]) * 100 for each in range(8)]

        def put(data: bytes, path: Path = path) -> bool:
            return disk.put_if_absent(path, data, scratch=scratch)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(put, texts))
        assert won.count(True) == 1
        assert path.read_bytes() == texts[won.index(True)]


def test_another_failure_of_a_link_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"first")
    monkeypatch.setattr(os, "link", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        disk.link(tmp_path / "source", tmp_path / "target", scratch=tmp_path)


def test_a_store_can_live_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exFAT, many network and FUSE file systems."""
    source = write_npz(tmp_path / "images.npz")
    identity = build_small(tmp_path / "linked", source).manifest
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    store = tmp_path / "s"
    assert build_small(store, source).manifest == identity
    shard = next((store / "views" / "simclr").glob("000001-*.tar"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-512])
    repair(store, list(verify(store)), workers=1)
    assert list(verify(store)) == []
    assert viewstore.open(store).view_sets["simclr"].complete


def test_the_age_of_a_file_of_somebody_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"")
    os.utime(path, (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refusing(errno.EACCES))
        disk.touch(path)
    disk.touch(path)
    assert path.stat().st_mtime > 0
