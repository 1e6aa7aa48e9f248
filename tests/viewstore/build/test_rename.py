"""View sets are taken out and renamed: whole or not at all, and what is gone is named."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.viewstore.commands import invoke, run
from tests.viewstore.small_stores import build_small, whole_id
from viewstore.build.adopt import adopt_plan
from viewstore.build.finalise import finalise
from viewstore.build.rename import remove_view_set, rename_view_set
from viewstore.build.repair import repair, withdraw
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, FormatError
from viewstore.files import disk
from viewstore.format.paths import StorePaths
from viewstore.shards.engine import Job
from viewstore.shards.local import run_local
from viewstore.shards.unit import Outcome
from viewstore.store.committed import read_plan, view_sets
from viewstore.store.verify import verify


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    """A store of two view sets, of which each test changes a copy."""
    store = tmp_path_factory.mktemp("two") / "s"
    build_small(store, source)
    build_small(store, source, generator="moco")
    return store


@pytest.fixture
def two(tmp_path: Path, built: Path) -> Path:
    """A store of two view sets."""
    return Path(shutil.copytree(built, tmp_path / "s"))


def pixels(store: Path, name: str) -> np.ndarray:
    return np.stack(list(viewstore.open(store).view_set(name)))


def begun_from_another(store: Path) -> None:
    """Make `moco` start from `simclr`, as far as its plan says."""
    paths = StorePaths(store)
    plan = read_plan(paths.view_set("moco"))
    parent = {"view_set": "simclr", "plan_id": read_plan(paths.view_set("simclr")).id}
    disk.write_atomic(paths.view_set("moco").plan, replace(plan, parent=parent).pack())


def test_a_view_set_is_taken_out(two: Path) -> None:
    alone = viewstore.open(two).view_set("simclr").plan.id
    manifest = remove_view_set(two, "moco")
    assert manifest is not None
    assert list(manifest.view_sets) == ["simclr"]
    assert list(verify(two)) == []
    assert not (two / "views" / "moco").exists()
    assert [path.name for path in (two / "tmp").iterdir() if path.is_dir()] == []
    assert viewstore.open(two).view_set("simclr").plan.id == alone
    with pytest.raises(ConfigError, match="no view set 'moco'"):
        remove_view_set(two, "moco")
    remove_view_set(two, "simclr")
    assert viewstore.open(two).view_sets == {}
    assert list(verify(two)) == []


def test_a_view_set_that_is_begun_is_taken_out(two: Path, source: str) -> None:
    build_small(two, source, view_set="third", only=(1,))
    before = viewstore.open(two).store_id
    remove_view_set(two, "third")
    assert viewstore.open(two).store_id == before
    assert list(verify(two)) == []


def test_a_renamed_view_set_is_the_same_views(two: Path, source: str) -> None:
    before = pixels(two, "moco")
    rename_view_set(two, "moco", "hard")
    assert list(viewstore.open(two).view_sets) == ["hard", "simclr"]
    assert (pixels(two, "hard") == before).all()
    assert list(verify(two, level="content")) == []
    again = build_small(two, source, generator="moco", view_set="hard")
    assert again.samples == 0  # the same settings go on with it


def test_a_renamed_view_set_is_rebuilt_as_it_was(two: Path) -> None:
    before = pixels(two, "moco")
    names = sorted(path.name for path in (two / "views" / "moco").glob("*.tar"))
    rename_view_set(two, "moco", "hard")
    rename_view_set(two, "hard", "harder")
    shard = next((two / "views" / "harder").glob("000001-*.tar"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-512])
    repair(two, list(verify(two)), workers=1)
    assert list(verify(two, level="content")) == []
    assert (pixels(two, "harder") == before).all()
    assert sorted(path.name for path in (two / "views" / "harder").glob("*.tar")) == names


def test_a_build_of_what_was_renamed_is_not_begun_again(two: Path, source: str) -> None:
    rename_view_set(two, "moco", "hard")
    with pytest.raises(ConfigError, match="it was renamed to 'hard'"):
        build_small(two, source, generator="moco")
    assert build_small(two, source, generator="moco", view_set="hard").samples == 0
    assert build_small(two, source, generator="moco", view_set="moco").samples == 20
    assert (pixels(two, "moco") == pixels(two, "hard")).all()


def test_a_view_set_that_gets_its_first_name_again_is_the_first_one(two: Path) -> None:
    before = viewstore.open(two).store_id
    rename_view_set(two, "moco", "hard")
    assert viewstore.open(two).store_id != before
    rename_view_set(two, "hard", "moco")
    assert viewstore.open(two).store_id == before


def test_a_view_set_that_is_begun_goes_on_under_another_name(two: Path, source: str) -> None:
    whole = pixels(two, "moco")
    remove_view_set(two, "moco")
    build_small(two, source, generator="moco", only=(0,))
    rename_view_set(two, "moco", "hard")
    assert build_small(two, source, generator="moco", view_set="hard").samples == 12
    assert (pixels(two, "hard") == whole).all()


def test_a_view_set_that_is_published_in_part_is_so_under_another_name(
    two: Path, source: str
) -> None:
    build_small(two, source, view_set="third", only=(0,))
    assert not finalise(two, allow_partial=True).complete
    manifest = rename_view_set(two, "third", "fourth")
    assert manifest is not None
    assert set(manifest.view_sets) == {"simclr", "moco", "fourth"}
    assert not manifest.complete


@pytest.mark.parametrize(
    ("new", "said"), [("simclr", "there is a view set 'simclr' already"), ("A/b", "must match")]
)
def test_a_name_that_is_taken_or_none_is_refused(two: Path, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        rename_view_set(two, "moco", new)
    assert list(verify(two)) == []


def test_a_view_set_that_another_starts_from_stays(two: Path) -> None:
    begun_from_another(two)
    with pytest.raises(ConfigError, match="cannot be taken out: 'moco' starts from it"):
        remove_view_set(two, "simclr")
    with pytest.raises(ConfigError, match="cannot be renamed: 'moco' starts from it"):
        rename_view_set(two, "simclr", "other")
    remove_view_set(two, "moco")
    remove_view_set(two, "simclr")


def test_its_own_name_is_refused(two: Path) -> None:
    before = pixels(two, "moco")
    with pytest.raises(ConfigError, match="'moco' has this name already"):
        rename_view_set(two, "moco", "moco")
    assert (pixels(two, "moco") == before).all()
    assert list(verify(two)) == []


@pytest.mark.parametrize("only", [(0,), (0, 1)])
def test_another_view_set_of_the_same_settings_is_not_merged(
    two: Path, source: str, only: tuple[int, ...]
) -> None:
    """Its plan is that of a renaming that was begun; its shards tell them apart."""
    rename_view_set(two, "moco", "hard")
    build_small(two, source, generator="moco", view_set="moco", only=only)
    withdraw(StorePaths(two).view_set("hard"), 0)
    names = sorted(path.name for path in (two / "views").rglob("*.tar"))
    for old, new in (("hard", "moco"), ("moco", "hard")):
        with pytest.raises(ConfigError, match=f"there is a view set '{new}' already"):
            rename_view_set(two, old, new)
    assert sorted(path.name for path in (two / "views").rglob("*.tar")) == names


def test_a_folder_with_shards_of_another_view_set_is_not_filled(two: Path) -> None:
    shutil.copytree(two / "views" / "simclr", two / "views" / "hard")
    (two / "views" / "hard" / "plan.json").unlink()
    with pytest.raises(ConfigError, match="there is a folder with shards but no plan 'hard'"):
        rename_view_set(two, "moco", "hard")
    assert len(pixels(two, "moco")) == 20


def test_a_view_set_that_is_gone_keeps_its_name(two: Path) -> None:
    shutil.rmtree(two / "views" / "simclr")
    with pytest.raises(ConfigError, match="there is a view set 'simclr' already"):
        rename_view_set(two, "moco", "simclr")
    assert set(viewstore.open(two).view_sets) == {"moco"}


@pytest.mark.parametrize("lacks", ["000001-*.tar", "commits/000001.json", "index.json"])
def test_what_is_damaged_keeps_its_name_until_it_is_mended(two: Path, lacks: str) -> None:
    before = pixels(two, "moco")
    next((two / "views" / "moco").glob(lacks)).unlink()
    with pytest.raises(ConfigError, match=r"cannot be renamed: .* is missing") as caught:
        rename_view_set(two, "moco", "hard")
    assert caught.value.fix == f"mend it first: viewstore verify {two} --repair --view-set moco"
    assert not (two / "views" / "hard").exists()
    repair(two, list(verify(two)), workers=1)
    rename_view_set(two, "moco", "hard")
    assert (pixels(two, "hard") == before).all()


@pytest.mark.parametrize("how", ["rm", "mv"])
def test_a_builder_says_that_its_view_set_was_taken_away(two: Path, source: str, how: str) -> None:
    def meanwhile(job: Job) -> Iterator[Outcome]:
        if how == "rm":
            remove_view_set(two, "third")
        else:
            rename_view_set(two, "third", "fourth")
        yield from run_local(job)

    build_small(two, source, view_set="third", only=(0,))
    with pytest.raises(ConfigError, match="'third' was taken out or renamed while it was built"):
        build_small(two, source, view_set="third", executor=meanwhile)
    assert {fault.kind for fault in verify(two)} <= {"unpublished"}
    names = {"rm": ["moco", "simclr"], "mv": ["fourth", "moco", "simclr"]}
    assert view_sets(StorePaths(two)) == names[how]


def test_a_child_does_not_begin_without_its_parent(two: Path) -> None:
    begun_from_another(two)
    plan = read_plan(StorePaths(two).view_set("moco"))
    shutil.rmtree(two / "views" / "moco")
    shutil.rmtree(two / "views" / "simclr")
    with pytest.raises(ConfigError, match="'simclr', from which moco starts, was taken out"):
        adopt_plan(StorePaths(two).view_set("moco"), plan)
    assert not (two / "views" / "moco").exists()


STEPS = ("rename", "link", "put_if_absent", "write_atomic", "remove_tree")


def killed_at(call: str, turn: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child that is killed at its n-th `call`; return whether it was."""
    child = os.fork()
    if child == 0:
        real, calls = getattr(disk, call), []

        def dying(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            calls.append(call)
            if len(calls) == turn:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(disk, call, dying)
        action()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("call", STEPS)
def test_a_kill_leaves_the_old_view_set_or_the_new_one(two: Path, call: str) -> None:
    expected = pixels(two, "moco")
    kills = 0
    for turn in range(1, 30, 3):
        if not killed_at(call, turn, lambda: rename_view_set(two, "moco", "hard")):
            break
        kills += 1
        store = viewstore.open(two)
        assert "simclr" in store.view_sets
        found = [name for name in ("moco", "hard") if name in store.view_sets]
        assert found
        assert all((pixels(two, name) == expected).all() for name in found)
        if (two / "views" / "moco").is_dir():
            rename_view_set(two, "moco", "hard")
        assert list(viewstore.open(two).view_sets) == ["hard", "simclr"]
        rename_view_set(two, "hard", "moco")
        whole_id(two)
    assert kills


@pytest.mark.parametrize("call", ["rename", "put_if_absent", "write_atomic", "remove_tree"])
def test_a_kill_leaves_a_view_set_whole_or_takes_it_out(
    two: Path, tmp_path: Path, call: str
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(two, whole)
    kills = 0
    for turn in range(1, 10):
        shutil.rmtree(two)
        shutil.copytree(whole, two)
        if not killed_at(call, turn, lambda: remove_view_set(two, "moco")):
            break
        kills += 1
        assert "simclr" in viewstore.open(two).view_sets
        if (two / "views" / "moco").is_dir():
            remove_view_set(two, "moco")
        whole_id(two)
        assert list(viewstore.open(two).view_sets) == ["simclr"]
        assert [path.name for path in (two / "tmp").iterdir() if path.is_dir()] == []
    assert kills


def test_a_view_set_that_is_gone_is_named_and_the_others_stay(
    two: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(two / "views" / "moco")
    code, out, err = run(capsys, "inspect", two)
    assert (code, "simclr" in out) == (0, True)
    assert "view set moco is gone from disk" in err
    with pytest.raises(FormatError, match="'moco' is gone from disk") as caught:
        viewstore.open(two).view_set("moco")
    assert caught.value.fix == f"build it again, or take it out: viewstore rm {two} moco"
    faults = list(verify(two))
    assert [(fault.view_set, fault.kind) for fault in faults] == [("moco", "gone")]
    assert list(verify(two, only="moco")) == faults
    assert list(verify(two, only="simclr")) == []
    build_small(two, source, view_set="third")  # does not hide it
    assert [(fault.view_set, fault.kind) for fault in verify(two)] == [("moco", "gone")]


def test_what_is_gone_does_not_keep_the_others_from_repair(two: Path) -> None:
    shutil.rmtree(two / "views" / "moco")
    next((two / "views" / "simclr").glob("000001-*.tar")).unlink()
    repair(two, list(verify(two)), workers=1)
    assert [(fault.view_set, fault.kind) for fault in verify(two)] == [("moco", "gone")]
    assert len(pixels(two, "simclr")) == 20


@pytest.mark.parametrize("mend", ["rm", "build"])
def test_what_is_gone_is_forgotten_or_built_again(two: Path, source: str, mend: str) -> None:
    before = viewstore.open(two).store_id
    shutil.rmtree(two / "views" / "moco")
    if mend == "rm":
        assert invoke("rm", two, "moco").exit_code == 0
    else:
        build_small(two, source, generator="moco")
        assert viewstore.open(two).store_id == before
    assert list(verify(two)) == []


def test_the_commands_say_what_is_left(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "mv", two, "moco", "hard")[:2] == (
        0,
        "moco is called hard now; the store has hard, simclr\n",
    )
    assert run(capsys, "rm", two, "hard")[:2] == (0, "hard is taken out; the store has simclr\n")
    code, _, err = run(capsys, "rm", two, "simclrr")
    assert code == 2
    assert "did you mean 'simclr'?" in err
    assert run(capsys, "rm", two.parent, "simclr")[0] == 2


def test_a_parent_that_is_gone_is_built_again(tmp_path: Path) -> None:
    request = BuildRequest(
        generator="w-perturb", out=tmp_path / "s", limit=2, settings={"views": 1}, workers=1
    )
    (before,) = build(request).before
    shutil.rmtree(tmp_path / "s" / "views" / "recon")
    (after,) = build(replace(request, view_set="second")).before
    assert after is not None
    assert after.plan == before.plan
    assert list(verify(tmp_path / "s")) == []
