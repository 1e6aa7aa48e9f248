"""What a build refuses, it refuses before anything is written; and what is missing is said."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import viewstore
from tests.viewstore.commands import invoke, run
from tests.viewstore.small_stores import ROWS, build_small, write_npz
from viewstore.build import finalise as finalising
from viewstore.build.finalise import finalise
from viewstore.build.rehearsal import rehearse
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, StoppedError
from viewstore.format.paths import StorePaths
from viewstore.progress import Silent
from viewstore.store.verify import verify


def test_a_source_that_the_packaged_generator_cannot_show_leaves_no_store(tmp_path: Path) -> None:
    request = BuildRequest(
        generator="w-search", out=tmp_path / "s", source=write_npz(tmp_path / "i.npz"), workers=1
    )
    with pytest.raises(ConfigError, match="makes images of 1 channel") as caught:
        build(request)
    assert caught.value.why is not None
    assert "the package ships" in caught.value.why
    assert caught.value.fix is not None
    assert "--gan" in caught.value.fix
    assert "viewstore gan train" in caught.value.fix
    assert not (tmp_path / "s").exists()


def test_views_that_are_too_large_leave_no_store(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError):
        build_small(
            tmp_path / "s",
            source,
            settings={"views": 100, "height": 16384, "width": 16384},
            codec="raw",
        )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("kind", ["empty", "filled"])
def test_nobody_is_told_to_build_into_a_folder_of_something_else(tmp_path: Path, kind: str) -> None:
    if kind == "filled":
        (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError) as caught:
        viewstore.open(tmp_path)
    assert caught.value.fix == "give the folder that --out named when the store was built"


def status_of(capsys: pytest.CaptureFixture[str], store: Path) -> str:
    """Return what `viewstore status` prints of a store."""
    return run(capsys, "status", store)[1]


def test_the_last_slice_names_finalise(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s"
    arguments = ("build", "--generator", "simclr", "--source", source, "--out", store)
    arguments += ("--size", "16", "--shard-rows", "8", "-j", "1")
    first = run(capsys, *arguments, "--shard", "0/2")[1]
    assert f"not complete yet: viewstore status {store}" in first
    assert "finalise" not in run(capsys, "status", store)[1]
    last = run(capsys, *arguments, "--shard", "1/2")[1]
    assert f"all slices are built: viewstore finalise {store}" in last
    advice = f"if no build is running: viewstore finalise {store}"
    assert f"all of simclr is built, and not published yet; {advice}" in status_of(capsys, store)
    assert f"fix:   {advice}" in run(capsys, "inspect", store)[2]
    answer = json.loads(run(capsys, "status", store, "--json")[1])
    assert answer["result"]["unpublished"] == ["simclr"]
    assert invoke("finalise", store).exit_code == 0
    assert "finalise" not in run(capsys, "status", store)[1]


def test_a_set_that_was_named_in_part_is_to_be_finalised_when_it_is_built(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s"
    arguments = ("build", "--generator", "simclr", "--source", source, "--out", store)
    arguments += ("--size", "16", "--shard-rows", "8", "-j", "1")
    run(capsys, *arguments, "--shard", "0/2")
    assert invoke("finalise", store, "--allow-partial").exit_code == 0
    run(capsys, *arguments, "--shard", "1/2")
    advice = f"if no build is running: viewstore finalise {store}"
    assert f"all of simclr is built, and not published yet; {advice}" in status_of(capsys, store)
    assert invoke("finalise", store).exit_code == 0
    assert "finalise" not in run(capsys, "status", store)[1]


def test_finalise_is_1_and_names_each_set_that_misses_shards(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is complete is published all the same, and the command that is named builds the rest."""
    store = tmp_path / "a store"
    build_small(store, source)
    build_small(store, source, view_set="second", only=(1,))
    code, out, _ = run(capsys, "finalise", store)
    command = f"viewstore build --generator simclr --out '{store}' --view-set second"
    lines = out.splitlines()
    assert lines[0] == "generation 1: simclr"
    assert lines[-2:] == [
        f"second: 2 of 3 shards are missing; to build: {command}",
        "exit code 1: second not complete (--allow-partial)",
    ]
    assert code == 1
    code, out, _ = run(capsys, "finalise", store, "--json")
    assert (code, json.loads(out)["result"]["missing_shards"]) == (1, {"second": 2})
    code, out, _ = run(capsys, "finalise", store, "--allow-partial")
    assert (code, out.splitlines()[-1]) == (0, lines[-2])
    assert run(capsys, "finalise", store)[0] == 1  # also where a part of it is published
    assert run(capsys, *shlex.split(command)[1:], "-j", 1)[0] == 0
    code, out, _ = run(capsys, "finalise", store)
    assert (code, out.splitlines()[0]) == (0, "generation 3: second, simclr")


def test_finalise_is_1_where_a_view_set_is_gone_from_disk(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        build_small(tmp_path / "s", source, view_set=name)
    shutil.rmtree(tmp_path / "s/views/second")
    code, out, _ = run(capsys, "finalise", tmp_path / "s")
    forgetting = f"viewstore rm {tmp_path}/s second"
    assert out.splitlines()[-2:] == [
        f"second: gone from disk; {forgetting} forgets it",
        "exit code 1: second not complete (--allow-partial)",
    ]
    assert code == 1
    assert run(capsys, *forgetting.split()[1:])[0] == 0
    assert run(capsys, "finalise", tmp_path / "s")[0] == 0


def test_a_build_that_ends_its_own_set_is_0_beside_one_that_is_not_complete(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_small(tmp_path / "s", source, view_set="second", only=(1,))
    command = ("build", "--generator", "simclr", "--out", tmp_path / "s", "--size", 16, "-j", 1)
    assert run(capsys, *command)[0] == 0


def test_a_finalise_reads_no_pack_of_a_view_set_that_is_unchanged(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_small(tmp_path / "s", source)
    packs = []
    real = finalising.unpack_params
    monkeypatch.setattr(
        finalising, "unpack_params", lambda *facts: packs.append(len(facts)) or real(*facts)
    )
    before = finalise(tmp_path / "s")
    assert packs == []
    build_small(tmp_path / "s", source, view_set="second")
    assert len(packs) == 3  # of its own shards
    for name in ("index.json", "stats.json", "params.zarr/status/c/1/0", "index/members.npy"):
        path = tmp_path / "s" / "views" / "simclr" / name
        path.unlink()
        finalise(tmp_path / "s")
        assert path.is_file()
    path = tmp_path / "s" / "views" / "simclr" / "stats.json"
    path.write_bytes(path.read_bytes()[::-1])
    after = finalise(tmp_path / "s")
    assert after.view_sets["simclr"] == before.view_sets["simclr"]
    assert list(verify(tmp_path / "s")) == []


class Stopping(Silent):
    """Stops a build at its first sample."""

    def advance(self, count: int = 1, **facts: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_dry_run_that_is_stopped_says_that_it_keeps_nothing(tmp_path: Path, source: str) -> None:
    request = BuildRequest(
        generator="simclr", out=tmp_path / "s", source=source, workers=1, grace_seconds=0
    )
    with pytest.raises(StoppedError) as caught:
        rehearse(request, 8, Stopping())
    said = f"{caught.value} {caught.value.why} {caught.value.fix}"
    assert "keeps nothing" in said
    assert "committed" not in said
    assert not (tmp_path / "s").exists()


def test_a_dry_run_reports_the_rows_of_the_build(tmp_path: Path, source: str) -> None:
    large = {"settings": {"views": 2, "height": 600, "width": 600}, "codec": "jpg"}
    request = BuildRequest(
        generator="simclr", out=tmp_path / "s", source=source, limit=18, workers=1, **large
    )
    found = rehearse(request, 3)
    built = build(request)
    assert (found.plan.rows, found.plan.shard_rows) == (built.plan.rows, built.plan.shard_rows)
    assert rehearse(request, 3).left == 0
    limit_alone = BuildRequest(generator="simclr", out=tmp_path / "s", limit=18, workers=1)
    assert rehearse(limit_alone, 3).plan.rows == 18


def test_a_build_leaves_the_threads_of_its_caller_alone(tmp_path: Path, source: str) -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(3)
    torch.set_num_threads(3)
    try:
        build_small(tmp_path / "s", source)
        build(BuildRequest(generator="recon", out=tmp_path / "t", limit=2, workers=1))
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (3, 3)
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


def test_rows_are_read_once_for_a_build_and_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewstore.build import rows as running

    opened: list[int | None] = []

    real = running.open_source
    monkeypatch.setattr(
        running,
        "open_source",
        lambda *at, **how: opened.append(how.get("limit")) or real(*at, **how),
    )
    request = BuildRequest(
        generator="w-perturb", out=tmp_path / "s", limit=2, settings={"views": 1}, workers=1
    )
    assert build(request).before
    assert opened == [2, None]  # the rows of both, and the whole source that recon is calibrated on
    assert np.all(viewstore.open(tmp_path / "s").labels[:2] >= 0)
    assert ROWS
    assert StorePaths(tmp_path / "s").sources_record.is_file()


def test_a_dry_run_chooses_the_shards_by_the_size_of_the_views_as_the_build_does(
    tmp_path: Path, source: str
) -> None:
    request = BuildRequest(
        generator="simclr",
        out=tmp_path / "s",
        source=source,
        settings={"views": 2, "height": 3000, "width": 3000},
        codec="jpg",
        limit=2,
        workers=1,
    )
    assert rehearse(request, 2).plan.shard_rows == build(request).plan.shard_rows == 16


def test_a_view_set_of_another_generator_is_refused_before_the_parent_is_built(
    tmp_path: Path,
) -> None:
    build_small(tmp_path / "s", "digits", limit=2)
    request = BuildRequest(generator="w-search", out=tmp_path / "s", view_set="simclr", workers=1)
    for refused in (build, lambda request: rehearse(request, 2)):
        with pytest.raises(ConfigError, match="generator was simclr, is w-search"):
            refused(request)
    assert [path.name for path in (tmp_path / "s" / "views").iterdir()] == ["simclr"]


@pytest.mark.parametrize(
    ("generator", "role", "refused"),
    [("simclr", "gan", True), ("dino", "inverter", True), ("w-perturb", "inverter", False)],
)
def test_a_network_that_nothing_of_a_build_takes_is_refused(
    tmp_path: Path, source: str, generator: str, role: str, refused: bool
) -> None:
    request = BuildRequest(
        generator=generator,
        out=tmp_path / "s",
        source=source,
        files={role: tmp_path / "none"},
        workers=1,
    )
    said = f"--{role} cannot be given: {generator} takes no such network"
    with pytest.raises(ConfigError, match=said if refused else "makes images of|there is no"):
        build(request)
    assert not (tmp_path / "s").exists()
