"""How far builds are: counts, rates, hosts and failed samples, from records alone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.commands import run
from tests.viewstore.small_stores import SHARD_ROWS, build_small, write_npz, write_photographs
from viewstore.cli.options import parse_shards
from viewstore.errors import ConfigError, ranges
from viewstore.format.manifest import Commit
from viewstore.format.paths import StorePaths
from viewstore.store.committed import read_commits, read_plan
from viewstore.store.progress import (
    SetProgress,
    duration,
    set_progress,
    store_progress,
)

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def say(paths: StorePaths, shard: int, **changes: object) -> None:
    """Write the commit of a shard again with other facts that enter no id."""
    view_set = paths.view_set("simclr")
    commit = read_commits(view_set, read_plan(view_set))[shard]
    path = paths.view_set("simclr").commit(shard)
    path.chmod(0o644)
    path.write_bytes(replace(commit, **changes).pack())  # type: ignore[arg-type]


@pytest.fixture
def built(tmp_path: Path) -> StorePaths:
    """Five shards of eight rows, the last of one; shard 3 is missing; two hosts, a minute each."""
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz", rows=33), only=(0, 1, 2, 4))
    paths = StorePaths(tmp_path / "s")
    for place, shard in enumerate((0, 1, 2, 4)):
        when = (START + timedelta(minutes=place)).isoformat(timespec="seconds")
        say(paths, shard, host="ab"[place % 2], seconds=[60, 50, 70, 300][place], created=when)
    return paths


def progress(paths: StorePaths, *, after: timedelta = timedelta(minutes=4)) -> SetProgress:
    return set_progress(paths, "simclr", now=START + after)


def test_counts_are_those_of_the_plan_and_the_commits(built: StorePaths) -> None:
    found = progress(built)
    assert (found.shards, found.committed, found.missing) == (5, 4, (3,))
    assert (found.views, found.views_done, found.samples) == (66, 50, 25)
    assert found.worker_hours == 480 / 3600
    assert found.slow == (4,)  # 300 s are more than 3 x 65 s


def test_the_rate_counts_what_came_after_the_first_of_the_last_commits(built: StorePaths) -> None:
    found = progress(built)
    assert found.views_per_second == (8 + 8 + 1) * 2 / 180
    assert found.seconds_left == pytest.approx(16 / found.views_per_second)
    naive = found.views_done / 180  # the first commit's views were made before the time began
    assert naive != found.views_per_second


def test_the_rate_is_that_of_the_last_20_commits(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "images.npz", rows=30)
    build_small(tmp_path / "s", source, shard_rows=1, only=tuple(range(29)))
    paths = StorePaths(tmp_path / "s")
    when = START
    for shard in range(29):
        when += timedelta(seconds=1000 if shard < 10 else 2)
        say(paths, shard, created=when.isoformat())
    assert progress(paths).views_per_second == 19 * 2 / (19 * 2)
    assert progress(paths).seconds_left == 2.0


@pytest.mark.parametrize("created", ["", "yesterday", "2026-13-01T00:00:00"])
def test_a_time_that_cannot_be_read_is_left_out(built: StorePaths, created: str) -> None:
    for shard in (0, 1, 2, 4):
        say(built, shard, created=created)
    found = progress(built)
    assert (found.views_per_second, found.seconds_left) == (None, None)
    assert {host.last_commit for host in found.hosts} == {None}
    assert "not known" in "\n".join(found.lines())


def test_hosts_have_their_units_median_and_last_commit_to_the_minute(built: StorePaths) -> None:
    first, second = progress(built).hosts
    assert (first.name, first.units, first.median_seconds) == ("a", 2, 65)
    assert (second.name, second.units, second.median_seconds) == ("b", 2, 175)
    assert [first.last_commit, second.last_commit] == [
        "2026-01-02T03:06+00:00",
        "2026-01-02T03:07+00:00",
    ]


def test_a_host_that_is_silent_for_three_medians_is_told_in_words(built: StorePaths) -> None:
    def silent(minutes: float) -> list[float | None]:
        after = timedelta(minutes=minutes)
        return [host.silent_seconds for host in progress(built, after=after).hosts]

    assert silent(5.2) == [None, None]  # a: 195 s after 03:06:05
    assert silent(5.3) == [180, None]
    assert silent(12) == [600, 540]
    lines = "\n".join(progress(built, after=timedelta(minutes=12)).lines())
    assert "no commit of a for 10 min, which is more than 3 x its median" in lines


def test_no_host_is_silent_where_nothing_is_missing(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    found = progress(StorePaths(tmp_path / "s"), after=timedelta(days=365 * 9))
    assert [host.silent_seconds for host in found.hosts] == [None]
    assert found.seconds_left == 0


def test_a_build_is_missed_after_three_medians_and_20_seconds_without_a_commit(
    built: StorePaths,
) -> None:
    """By the times of files, not by the clocks of other hosts."""

    def waited(seconds: float, median: float) -> SetProgress:
        for shard in (0, 1, 2, 4):
            say(built, shard, seconds=median)
            when = START.timestamp() - 60 * (4 - shard)
            os.utime(built.view_set("simclr").commit(shard), (when, when))
        return progress(built, after=timedelta(seconds=seconds))

    assert [waited(after, 1).silent for after in (4, 20, 21)] == [False, False, True]
    assert [waited(after, 60).silent for after in (21, 180, 181)] == [False, False, True]
    found = waited(120, 1)
    assert (found.last_commit_seconds, found.seconds_left) == (120, None)
    lines = "\n".join(found.lines())
    assert "no commit for 2 min: is a builder running?" in lines
    assert " left" not in lines
    alive = waited(12, 60)
    assert "last commit 12 s ago" in "\n".join(alive.lines())
    assert alive.seconds_left is not None


def test_a_built_view_set_is_never_missed(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    found = progress(StorePaths(tmp_path / "s"), after=timedelta(days=365 * 9))
    assert (found.silent, found.seconds_left) == (False, 0)
    assert "builder" not in "\n".join(found.lines())


def test_failed_samples_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "photographs", 9, cut=4)
    build_small(tmp_path / "s", str(source), on_error="skip", shard_rows=2)
    found = progress(StorePaths(tmp_path / "s"))
    assert found.failed == {"failed": 0, "source unreadable": 1}
    assert found.off_goal == 0
    assert "of 9 samples 1 source unreadable" in "\n".join(found.lines())


def test_samples_off_their_goal_are_no_failures(searched: Path) -> None:
    for name, found in store_progress(StorePaths(searched)).items():
        status = _worst(searched, name)
        assert found.off_goal == (status == 2).sum()
        assert found.failed == {"failed": int((status == 3).sum()), "source unreadable": 0}


def _worst(root: Path, name: str) -> np.ndarray:  # type: ignore[type-arg]
    from viewstore.store.store import open_store

    return open_store(root).view_set(name).params["status"].max(axis=1)  # type: ignore[no-any-return]


def test_only_plan_commits_and_packs_are_read(built: StorePaths, tmp_path: Path) -> None:
    before = progress(built)
    copy = StorePaths(tmp_path / "copy")
    kept = built.view_set("simclr")
    copy.view_set("simclr").commits.mkdir(parents=True)
    shutil.copy(kept.plan, copy.view_set("simclr").plan)
    for path in [*kept.commits.iterdir(), *kept.root.glob("*.params")]:
        shutil.copy(path, copy.view_set("simclr").root / path.relative_to(kept.root))
    assert progress(copy) == before


@pytest.mark.parametrize("harm", ["gone", "flipped"])
def test_a_pack_that_cannot_be_read_is_named_and_the_rest_is_told(
    built: StorePaths, harm: str
) -> None:
    whole = progress(built)
    view_set = built.view_set("simclr")
    entry = read_commits(view_set, read_plan(view_set))[1].entry
    pack = built.view_set("simclr").root / entry.file("params").name
    data = bytearray(pack.read_bytes())
    data[entry.columns["status"][0]] ^= 1
    pack.unlink()
    if harm == "flipped":
        pack.write_bytes(data)
    found = progress(built)
    assert found.unreadable == (1,)
    assert replace(found, unreadable=()) == whole
    assert "the status of 1 shard cannot be read: 1" in "\n".join(found.lines())


def test_a_view_set_that_is_not_there_names_the_nearest(built: StorePaths) -> None:
    with pytest.raises(ConfigError, match="did you mean 'simclr'"):
        set_progress(built, "simclrr")


@pytest.mark.parametrize("numbers", [[], [3], [0, 1], [17, 20, 21, 22], [1, 3, 5, 6, 9]])
def test_ranges_are_what_only_takes(numbers: list[int]) -> None:
    assert (list(parse_shards(ranges(numbers)) or ()) if numbers else []) == numbers


def test_ranges_and_times_are_short() -> None:
    assert ranges([17, 20, 21, 22]) == "17,20-22"
    assert [duration(seconds) for seconds in (4, 89, 90, 3600, 12_000, 129_700, 200_000)] == [
        "4 s", "89 s", "2 min", "60 min", "3 h 20 min", "1 d 12 h", "2 d 8 h",
    ]  # fmt: skip


def test_status_prints_it_and_keeps_its_exit_codes(
    built: StorePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "status", built.root, "--missing")
    assert code == 1
    assert "simclr: 4 of 5 shards, 0.189 views/s, 85 s left, 0.13 worker-hours" in out
    assert "missing: 3\n" in out
    assert "a: 2 shards, median 65 s, last commit 2026-01-02 03:06 UTC" in out
    code, out, _ = run(capsys, "status", built.root, "--json")
    assert code == 1
    facts = json.loads(out)["result"]["view_sets"]["simclr"]
    assert sorted(facts) == [
        "committed", "failed", "hosts", "last_commit_seconds", "missing", "off_goal", "samples",
        "seconds_left", "shards", "silent", "slow", "unreadable", "unusable", "views", "views_done",
        "views_per_second", "worker_hours",
    ]  # fmt: skip
    assert sorted(facts["hosts"][0]) == [
        "last_commit", "median_seconds", "name", "silent_seconds", "units",
    ]  # fmt: skip
    assert facts["missing"] == [3]


def test_control_characters_of_a_host_never_reach_the_terminal(
    built: StorePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    say(built, 0, host="evil\x1b[2J")
    _, out, _ = run(capsys, "status", built.root)
    assert "\x1b" not in out
    assert "evil" in out


def test_commits_of_this_project_say_their_time(built: StorePaths, tmp_path: Path) -> None:
    build_small(tmp_path / "t", write_npz(tmp_path / "again.npz"))
    view_set = StorePaths(tmp_path / "t").view_set("simclr")
    commits: list[Commit] = list(read_commits(view_set, read_plan(view_set)).values())
    assert len(commits) == -(-20 // SHARD_ROWS)
    assert all(datetime.fromisoformat(each.created).tzinfo for each in commits)


ARRAY = ("--missing", "--format", "slurm", "--slices")


def test_status_prints_what_sbatch_takes_as_an_array(
    built: StorePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in (0, 1):
        built.view_set("simclr").commit(shard).unlink()
    assert run(capsys, "status", built.root, *ARRAY, 9) == (1, "0-1,3\n", "")  # 0, 1 and 3 of 5
    assert run(capsys, "status", built.root, *ARRAY, 3) == (1, "0-1\n", "")
    code, out, _ = run(capsys, "status", built.root, *ARRAY, 3, "--json")
    answer = json.loads(out)["result"]
    assert (code, answer) == (1, {"view_set": "simclr", "slices": 3, "array": "0-1"})


def test_an_array_of_nothing_is_no_line_and_the_note_names_finalise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, source = tmp_path / "s", write_npz(tmp_path / "images.npz")
    build_small(store, source, slice_of=(0, 1))
    assert run(capsys, "status", store, *ARRAY, 4) == (
        0,
        "",
        "all of simclr is built, and not published yet; if no build is running: "
        f"viewstore finalise {store}\n",
    )
    assert run(capsys, "finalise", store)[0] == 0
    assert run(capsys, "status", store, *ARRAY, 4) == (0, "", "no shard of simclr is missing\n")


def test_an_array_is_of_one_view_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, source = tmp_path / "s", write_npz(tmp_path / "images.npz")
    for name in ("first", "second"):
        build_small(store, source, view_set=name, only=(1,))
    code, out, err = run(capsys, "status", store, *ARRAY, 4)
    assert (code, out) == (2, "")
    assert f"{store} has several: first, second" in err
    assert f"viewstore status {store} --view-set first {' '.join(ARRAY)} 4\n" in err
    second = run(capsys, "status", store, "--view-set", "second", *ARRAY, 4)
    assert second == (1, "0,2\n", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "slurm"), "--format slurm needs --missing and --slices N"),
        (("--format", "slurm", "--missing"), "--format slurm needs --slices N"),
        (("--format", "slurm", "--slices", 4), "--format slurm needs --missing"),
        (("--slices", 4), "--slices has no effect without --format slurm"),
        (("--missing", "--format", "lines", "--slices", 4), "--slices has no effect without"),
        (("--missing", "--format", "slurm", "--slices", 0), "--slices"),
        (("--missing", "--format", "pbs"), "'lines', 'slurm'"),
    ],
)
def test_status_ignores_no_option_of_an_array(
    built: StorePaths, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], said: str
) -> None:
    code, out, err = run(capsys, "status", built.root, *options)
    assert (code, out) == (2, "")
    assert said in err


def test_what_an_array_lacks_is_in_the_command_that_is_named(
    built: StorePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = run(capsys, "status", built.root, "--view-set", "simclr", *ARRAY[1:], 4)
    (fix,) = [line.partition("fix: ")[2] for line in err.splitlines() if "fix: " in line]
    program, *words = shlex.split(fix)
    assert program == "viewstore"
    assert run(capsys, *words) == (1, "3\n", "")


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_commit_outside_of_all_years_has_no_time(built: StorePaths, when: str) -> None:
    say(built, 1, created=when)
    assert {host.name: host.last_commit for host in progress(built).hosts}["b"] is not None
