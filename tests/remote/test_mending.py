"""A store in a bucket that is damaged: what the errors advise, and what docs/remote.md says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.remote.bucket_builds import COMMITS, Place, Undisturbed, build_into, run
from tests.remote.buckets import Inside
from viewstore.errors import FormatError
from viewstore.files.remedy import on_a_disk, remedy_at
from viewstore.files.working_copy import PREFIX, store_at
from viewstore.store.verify_remote import verify_remote

SHARD = 3
RECORD = f"{COMMITS}/{SHARD:06d}.json"
MENDING = "docs/remote.md: Mend a store"


def flip(inside: Inside, name: str) -> None:
    data = bytearray(inside.read(name))
    data[len(data) // 2] ^= 4
    inside.write(name, bytes(data))


def of_shard(inside: Inside, suffix: str) -> str:
    """Return the name of the blob of the shard that ends so."""
    (name,) = (
        each
        for each in inside.names()
        if each.startswith(f"views/simclr/{SHARD:06d}") and each.endswith(suffix)
    )
    return name


DAMAGES: dict[str, Callable[[Inside], None]] = {
    "pixels flipped": lambda inside: flip(inside, of_shard(inside, ".tar")),
    "pixels gone": lambda inside: inside.remove(of_shard(inside, ".tar")),
    "params flipped": lambda inside: flip(inside, of_shard(inside, ".params")),
    "record flipped": lambda inside: flip(inside, RECORD),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_whose_record_is_removed_is_built_again(
    place: Place, source: str, undisturbed: Undisturbed, executions: list[int], damage: str
) -> None:
    build_into(place.url, source)
    executions.clear()
    DAMAGES[damage](place.inside)
    place.inside.remove(RECORD)
    done = run("build", "--generator", "simclr", "--out", place.url, "--view-set", "simclr")
    assert done.exit_code == 0, done.output
    place.check(undisturbed)


def test_a_copy_that_was_repaired_takes_the_place_of_the_store(
    place: Place, source: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """By the steps of a program that copies what differs, and removes what is gone."""
    build_into(place.url, source)
    for damage in ("pixels flipped", "record flipped"):
        DAMAGES[damage](place.inside)
    before = place.inside.objects()
    for name, data in before.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert run("verify", str(tmp_path / "copy"), "--repair").exit_code == 0
    after = {
        path.relative_to(tmp_path / "copy").as_posix(): path.read_bytes()
        for path in (tmp_path / "copy").rglob("*")
        if path.is_file() and "params.zarr" not in path.parts
    }
    for name in sorted(after, key=lambda name: name == "manifest.json"):
        if before.get(name) != after[name]:
            place.inside.write(name, after[name])
    for name in set(before) - set(after):
        place.inside.remove(name)
    assert list(verify_remote(place.url, level="content")) == []
    assert run("finalise", place.url).exit_code == 0
    assert undisturbed.store_id in run("finalise", place.url).output
    assert build_into(place.url, source).outcomes == ()


def test_files_that_are_gone_are_made_again_by_the_next_build(
    place: Place, source: str, undisturbed: Undisturbed, executions: list[int]
) -> None:
    build_into(place.url, source)
    executions.clear()
    DAMAGES["pixels gone"](place.inside)
    error = run("finalise", place.url).exception
    assert isinstance(error, FormatError)
    assert str(error.fix).startswith("run the same build command again")
    done = run("build", "--generator", "simclr", "--out", place.url, "--view-set", "simclr")
    assert done.exit_code == 0, done.output
    assert executions == [SHARD]
    place.check(undisturbed)


def test_errors_advise_nothing_that_a_bucket_cannot(place: Place, source: str) -> None:
    build_into(place.url, source, slice_of=(0, 1))
    DAMAGES["record flipped"](place.inside)
    error = run("finalise", place.url).exception
    assert isinstance(error, FormatError)
    assert place.url in str(error.where)
    assert "viewstore verify STORE --repair" in str(error.fix)
    assert MENDING in str(error.fix)
    assert place.url not in str(error.fix)


def test_what_verify_finds_is_mended_on_a_disk(place: Place, source: str) -> None:
    build_into(place.url, source)
    DAMAGES["pixels flipped"](place.inside)
    mend = on_a_disk("viewstore verify STORE --repair")
    assert f"mend it with: {mend}" in run("verify", place.url).output


def test_errors_of_workers_on_other_hosts_name_the_bucket_too(place: Place) -> None:
    elsewhere = f"/scratch/{PREFIX}ab_12cd3/store"
    with pytest.raises(FormatError) as caught, store_at(place.url) as (root, _):
        raise FormatError(
            f"{root}/a and {elsewhere}/b",
            where=f"{elsewhere}/views",
            fix=f"viewstore rm {elsewhere} simclr",
        )
    error = caught.value
    assert str(error) == f"{place.url}/a and {place.url}/b"
    assert (error.where, error.fix) == (
        f"{place.url}/views",
        on_a_disk("viewstore rm STORE simclr"),
    )


@pytest.mark.parametrize("place", ["views", "s3://bucket/views", "https://host/views"])
def test_a_command_that_writes_to_a_folder_alone_is_advised_for_a_folder(place: str) -> None:
    for command in ("verify {} --repair", "rm {} old", "mv {} a b", "refresh {}"):
        fix = f"viewstore {command.format(place)}"
        assert (remedy_at(place, fix) == fix) == (place == "views")
    for command in ("finalise {}", "gc {}", "inspect {}"):
        fix = f"viewstore {command.format(place)}"
        assert remedy_at(place, fix) == fix
