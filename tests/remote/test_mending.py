"""A store in a bucket that is damaged: what the errors advise, and what docs/remote.md says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.remote.bucket_builds import COMMITS, Place, Undisturbed, build_into, run
from tests.remote.buckets import Inside
from tests.remote.servers import BUCKET
from viewstore.errors import ConfigError, FormatError
from viewstore.files import remedy
from viewstore.files.remedy import on_a_disk, remedy_at
from viewstore.files.working_copy import PREFIX, store_at
from viewstore.store.verify_remote import verify_remote

SHARD = 3
RECORD = f"{COMMITS}/{SHARD:06d}.json"


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


def built_again(url: str) -> tuple[str, str]:
    """The commands that an error advises to have the shard built again."""
    build = f"viewstore build --generator simclr --out {url} --view-set simclr"
    return f"aws s3 rm {url}/{RECORD}", build


def follow(place: Place, advice: str) -> None:
    """Do what is advised; the program that removes the record is not at hand here."""
    remove, build = advice.split(" && ")
    assert (remove, build) == built_again(place.url)
    place.inside.remove(RECORD)
    done = run(*build.split()[1:])
    assert done.exit_code == 0, done.output


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


@pytest.mark.parametrize("command", ["build", "finalise"])
def test_a_build_and_finalise_name_the_damage_and_what_mends_it(
    place: Place, source: str, undisturbed: Undisturbed, command: str
) -> None:
    build_into(place.url, source, slice_of=(0, 1))
    DAMAGES["record flipped"](place.inside)
    words = ["build", "--generator", "simclr", "--out", place.url, "--view-set", "simclr"]
    done = run(*words) if command == "build" else run("finalise", place.url)
    error = done.exception
    assert isinstance(error, FormatError)
    assert str(error.where).startswith(f"{place.url}/views/simclr/")
    assert f"{SHARD:06d}" in str(error.where)
    follow(place, str(error.fix))
    place.check(undisturbed)


@pytest.mark.parametrize("damage", ["pixels flipped", "params flipped"])
@pytest.mark.parametrize("level", ["--deep", "--content"])
def test_what_verify_finds_in_a_bucket_is_built_again(
    place: Place, source: str, undisturbed: Undisturbed, damage: str, level: str
) -> None:
    build_into(place.url, source)
    DAMAGES[damage](place.inside)
    *_, count, advice = run("verify", place.url, level).output.splitlines()
    assert count == "1 fault"
    follow(place, advice.removeprefix("simclr: "))
    place.check(undisturbed)


def test_a_repair_in_a_bucket_names_the_command_that_says_more(s3_endpoint: str) -> None:
    error = run("verify", f"s3://{BUCKET}/x", "--repair").exception
    assert isinstance(error, ConfigError)
    said = f"viewstore verify s3://{BUCKET}/x names the commands that build damaged shards again"
    assert error.fix == said


def test_what_is_no_shard_is_mended_on_a_disk(place: Place, source: str) -> None:
    build_into(place.url, source)
    flip(place.inside, "views/simclr/stats.json")
    mend = on_a_disk("viewstore verify STORE --repair")
    assert f"mend it with: {mend}" in run("verify", place.url).output


@pytest.mark.parametrize(
    ("url", "first"),
    [
        ("s3://b/x y", "aws s3 rm 's3://b/x y/views/a/commits/000007.json' && "),
        ("gs://b/x", "gcloud storage rm gs://b/x/views/a/commits/000007.json && "),
        ("az://b/x", "remove az://b/x/views/a/commits/000007.json, then "),
    ],
)
def test_the_record_is_removed_by_the_program_of_its_cloud(url: str, first: str) -> None:
    assert remedy.built_again(url, "a", 7, "simclr").startswith(f"{first}viewstore build")


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
