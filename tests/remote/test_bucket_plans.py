"""A plan in a bucket that is removed or replaced while it is built, and records of another plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import viewstore
from tests.remote.bucket_builds import COMMITS, SHARDS, Place, Undisturbed, build_into, run
from tests.viewstore.commands import run as main
from viewstore.build.planning import plan
from viewstore.build.request import BuildRequest
from viewstore.errors import ConfigError, FormatError
from viewstore.format.manifest import Commit
from viewstore.shards.engine import Job
from viewstore.shards.local import run_local
from viewstore.shards.unit import Outcome
from viewstore.store.verify_remote import verify_remote

MENDING = "docs/remote.md: Mend a store"


def begin_anew(place: Place, source: str) -> None:
    """Remove all objects, and plan the view set with another seed."""
    for name in place.inside.names():
        place.inside.remove(name)
    settings = {"views": 2, "height": 16, "width": 16}
    plan(
        BuildRequest(
            generator="simclr",
            out=place.url,
            source=source,
            settings=settings,
            shard_rows=40 // SHARDS,
            seed=5,
        )
    )


def commits(place: Place) -> list[str]:
    return [name for name in place.inside.names() if name.startswith(COMMITS)]


@pytest.mark.parametrize("then", ["removed", "replaced"])
def test_a_builder_whose_plan_is_gone_commits_nothing_more(
    place: Place, source: str, executions: list[int], then: str
) -> None:
    def after_two(job: Job) -> Iterator[Outcome]:
        outcomes = run_local(job)
        yield from (next(outcomes), next(outcomes))
        begin_anew(place, source)
        if then == "removed":
            place.inside.remove("views/simclr/plan.json")
        yield from outcomes

    with pytest.raises(ConfigError, match="'simclr' was removed or replaced while") as caught:
        build_into(place.url, source, executor=after_two)
    assert caught.value.where == f"{place.url}/views/simclr/plan.json"
    assert commits(place) == []
    assert executions == [0, 1, 2]


def test_records_of_another_plan_are_refused_and_removed_as_advised(
    place: Place, source: str, undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    """As left by a builder whose plan was replaced between its look and its commit."""
    build_into(place.url, source, slice_of=(0, 1))
    for shard in (3, 4):
        name = f"{COMMITS}/{shard:06d}.json"
        foreign = replace(Commit.unpack(place.inside.read(name)), plan_id="0" * 64)
        place.inside.write(name, foreign.pack())
    fix = (
        f"remove the records of the shards 3-4 from {place.url}/{COMMITS}, such as 000003.json of "
        f"shard 3, and run the build again ({MENDING})"
    )
    for command in ("finalise", "gc"):
        error = run(command, place.url).exception
        assert isinstance(error, FormatError)
        assert (error.where, error.fix) == (f"{place.url}/{COMMITS}/000003.json", fix)
    with pytest.raises(FormatError, match="shard 3 cannot be used: it belongs to another plan"):
        build_into(place.url, source, slice_of=(1, 2))
    code, said, _ = main(capsys, "status", place.url)
    assert (code, "8 of 10 shards" in said, f"mend it with: {fix}" in said) == (1, True, True)
    for shard in (3, 4):
        place.inside.remove(f"{COMMITS}/{shard:06d}.json")
    build_into(place.url, source)
    place.check(undisturbed)


def test_verify_of_a_bucket_reads_its_commit_records(place: Place, source: str) -> None:
    build_into(place.url, source)
    name = f"{COMMITS}/000003.json"
    record = Commit.unpack(place.inside.read(name))
    place.inside.write(name, replace(record, plan_id="0" * 64).pack())
    place.inside.remove(f"{COMMITS}/000005.json")
    found = [(each.kind, each.shard, each.path) for each in verify_remote(place.url)]
    assert found == [
        ("commit", 3, f"{place.url}/{name}"),
        ("missing", 5, f"{place.url}/{COMMITS}/000005.json"),
    ]
    assert viewstore.open(place.url).store_id  # readers go on
