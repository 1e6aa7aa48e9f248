"""Folders that hold something else, and what is foreign in the folder of a store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small
from viewstore.build.garbage import collect_garbage
from viewstore.errors import ConfigError
from viewstore.store.verify import verify


def test_a_folder_of_a_name_that_stores_use_is_not_built_into(tmp_path: Path, source: str) -> None:
    for name in ("sources/main.py", "views/holiday.jpg"):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True)
        path.write_text("of the user")
        with pytest.raises(ConfigError, match="not empty and not a store"):
            build_small(tmp_path / "project", source)
        path.unlink()
    assert build_small(tmp_path / "project", source).left == 0


@pytest.mark.parametrize("inner", ["views", "team/views", "tmp", "views/simclr"])
def test_no_store_begins_in_a_folder_around_another(
    tmp_path: Path, source: str, inner: str
) -> None:
    build_small(tmp_path / inner, source)
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=f"{tmp_path} holds the store {tmp_path / inner}$") as e:
        build_small(tmp_path, source)
    assert str(e.value.fix).startswith(f"give {tmp_path / inner} if that store is meant")
    assert sorted(tmp_path.rglob("*")) == there
    assert build_small(tmp_path / inner, source).left == 0


def test_what_is_foreign_in_a_store_is_left_alone(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_small(tmp_path, source)
    foreign = (
        "simclr/plan.json",
        "views/Old/plan.json",
        "tmp/deep/notes.txt",
        "notes.txt",
        "views/simclr/tmp/deep/x",
        "sources/other/x",
    )
    for name in foreign:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    for words in (["status"], ["verify"], ["finalise"], ["gc", "--older-than", "0s"]):
        assert run(capsys, words[0], tmp_path, *words[1:])[0] == 0, words
    assert build_small(tmp_path, source).left == 0
    assert build_small(tmp_path, source, view_set="second").left == 0
    assert [name for name in foreign if (tmp_path / name).read_text() != "{}"] == []


def test_garbage_is_no_store_in_the_scratch_folder(tmp_path: Path, source: str) -> None:
    """A store that was begun there by an earlier version."""
    build_small(tmp_path / "store", source)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", tmp_path / "store" / "tmp", dirs_exist_ok=True)
    assert collect_garbage(tmp_path / "store", older_seconds=0, dry_run=False) == []
    assert list(verify(tmp_path / "store" / "tmp")) == []
