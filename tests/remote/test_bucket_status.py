"""`status` of a bucket: what it reads there, and what it says where that cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.remote.bucket_builds import ROWS, SHARDS, Place, Undisturbed, build_into, run
from tests.remote.conftest import IMPATIENT
from tests.remote.servers import BUCKET, Fault
from viewstore.errors import RemoteError
from viewstore.files.bucket import Bucket
from viewstore.files.fetch import Retry
from viewstore.files.working_copy import WorkingCopy, store_at
from viewstore.format.manifest import Commit
from viewstore.format.paths import StorePaths
from viewstore.store.progress import SetProgress, set_progress

VIEW_SET = "views/simclr"


@pytest.fixture
def built(
    place: Place, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A store of ten shards in a bucket, of which nothing is in the cache of this machine."""
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path / "cache"))
    for name, data in undisturbed.objects.items():
        place.inside.write(name, data)
    return place


def progress(place: Place, retry: Retry = IMPATIENT) -> SetProgress:
    """Return how far the build is, asked with little patience once the records are here."""
    with store_at(place.url, rows=False) as (root, _):
        upstream = WorkingCopy(root, Bucket(place.url, retry))
        return set_progress(StorePaths(root), "simclr", upstream)


def commits_of(undisturbed: Undisturbed) -> dict[str, Commit]:
    """Return the commits by the name of the shard's pack."""
    records = {n: data for n, data in undisturbed.objects.items() if "/commits/" in n}
    commits = [Commit.unpack(data) for data in records.values()]
    return {f"{VIEW_SET}/{each.entry.file('params').name}": each for each in commits}


def test_of_each_shard_only_the_bytes_of_its_status_are_read(
    built: Place, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    result = run("--json", "status", built.url)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["result"]["view_sets"]["simclr"]
    assert (facts["samples"], facts["off_goal"], facts["unreadable"]) == (ROWS, 0, [])
    folder = f"/{BUCKET}/{built.inside.prefix}"
    gets = {n.removeprefix(folder): count for n, count in built.faults.gets.items()}
    sizes = {n.removeprefix(folder): size for n, size in built.faults.bytes_read.items()}
    commits = commits_of(undisturbed)
    packs = {name for name in gets if name.endswith(".params")}
    assert {name: gets[name] for name in packs} == dict.fromkeys(commits, 1)
    assert {name: sizes[name] for name in packs} == {
        name: commit.entry.columns["status"][1] for name, commit in commits.items()
    }
    assert sum(sizes[name] for name in packs) < 0.1 * sum(
        commit.entry.file("params").bytes for commit in commits.values()
    )
    others = {Path(name).suffix for name in set(gets) - packs}
    assert others == {"", ".json"}  # the listing of the bucket, and records
    assert not (tmp_path / "cache").exists()


def test_a_view_set_that_is_not_asked_for_costs_nothing(built: Place, source: str) -> None:
    build_into(built.url, source, view_set="other", only=(0,))
    built.faults.gets.clear()
    assert run("status", built.url, "--view-set", "simclr").exit_code == 0
    packs = [name for name in built.faults.gets if name.endswith(".params")]
    assert len(packs) == SHARDS
    assert not any("/other/" in name for name in packs)


@pytest.mark.parametrize("kinds", [("flip",), ("503", "cut", "truncate", "reset", "flip")])
def test_a_broken_network_changes_no_number(built: Place, kinds: tuple[Fault, ...]) -> None:
    expected = progress(built)
    faults = built.faults
    faults.only, faults.rate, faults.kinds = ".params", 0.3, kinds
    patient = replace(IMPATIENT, hash_tries=20)
    assert untimed(progress(built, patient)) == untimed(expected)
    assert faults.done["flip"] > 0


def untimed(found: SetProgress) -> dict[str, Any]:
    return {**vars(found), "last_commit_seconds": None}


def test_bytes_that_stay_wrong_are_no_status(built: Place) -> None:
    built.faults.only, built.faults.rate, built.faults.kinds = ".params", 1.0, ("flip",)
    found = progress(built)
    assert found.unreadable == tuple(range(SHARDS))
    assert (found.samples, found.off_goal, set(found.failed.values())) == (ROWS, 0, {0})


@pytest.mark.parametrize("harm", ["gone", "cut short", "other bytes"])
def test_a_pack_that_cannot_be_read_is_named_and_the_rest_is_told(
    built: Place, undisturbed: Undisturbed, harm: str
) -> None:
    name, commit = list(commits_of(undisturbed).items())[3]
    begin, size, _ = commit.entry.columns["status"]
    data = built.inside.read(name)
    if harm == "gone":
        built.inside.remove(name)
    elif harm == "cut short":
        built.inside.write(name, data[: begin + size - 1])
    else:
        built.inside.write(name, data[:begin] + bytes(size) + data[begin + size :])
    found = progress(built)
    assert found.unreadable == (commit.entry.shard,)
    assert "the status of 1 shard cannot be read: 3" in "\n".join(found.lines())


def test_a_bucket_that_gives_nothing_is_an_error(built: Place) -> None:
    built.faults.only, built.faults.rate, built.faults.kinds = ".params", 1.0, ("403",)
    with pytest.raises(RemoteError, match="did not give views/simclr/") as caught:
        progress(built)
    assert str(caught.value.where).startswith(built.url)
