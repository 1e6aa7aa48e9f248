"""Whole builds into a bucket, through faults and races: the local store id in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

import viewstore
from tests.remote.bucket_builds import CUT, SHARDS, Behind, Place, Undisturbed, build_into, run
from tests.remote.servers import PATIENCE_SECONDS, Fault, Faults, Gate
from viewstore.build.request import Built
from viewstore.errors import ConfigError, ViewStoreError
from viewstore.store.verify_remote import verify_remote


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))]
)
def test_a_build_through_connections_that_are_cut_ends_with_the_local_id(
    place: Place, source: str, undisturbed: Undisturbed, executions: list[int], seed: int
) -> None:
    place.faults.rate, place.faults.kinds, place.faults.seed = 0.35, CUT, seed
    built = build_into(place.url, source)
    struck = place.faults.struck
    assert [outcome.status for outcome in built.outcomes] == ["committed"] * SHARDS
    assert set(place.faults.done) == {"ok", *CUT}
    assert SHARDS <= len(executions) <= SHARDS + struck
    place.check(undisturbed)


def test_a_build_of_two_workers_through_faults_ends_with_the_local_id(
    place: Place, source: str, undisturbed: Undisturbed
) -> None:
    place.faults.rate, place.faults.kinds = 0.2, (*CUT, "503", "409")
    place.faults.methods = ("PUT",)
    build_into(place.url, source, workers=2)
    place.check(undisturbed)


def test_a_build_that_met_a_dead_bucket_goes_on(
    place: Place, source: str, undisturbed: Undisturbed, executions: list[int]
) -> None:
    """The bucket refuses from the third commit on; the same command later ends the build."""
    place.faults.only, place.faults.methods = "commits/", ("PUT",)
    place.faults.script = [None, None, *["403"] * 100]
    with pytest.raises(ViewStoreError) as caught:
        build_into(place.url, source)
    assert place.url in str(caught.value.where)
    kept = [name for name in place.inside.names() if "/commits/" in name]
    assert len(kept) == 2
    begun = len(executions)
    place.faults.script = []
    build_into(place.url, source)
    assert len(executions) == begun + SHARDS - 2
    place.check(undisturbed)


def test_two_finalisers_at_once_publish_one_generation(
    behind: Behind, source: str, undisturbed: Undisturbed
) -> None:
    place = behind(Gate(only="manifests/000001.json", most=2))
    for half in range(2):
        build_into(place.url, source, slice_of=(half, 2))
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(run, ["finalise"] * 2, [place.url] * 2))
    assert [each.exit_code for each in results] == [0, 0], [each.output for each in results]
    place.check(undisturbed)


@dataclass
class Late(Gate):
    """Holds the first PUT of `only` back until it is opened."""

    def next(self, method: str, path: str, wanted: str | None) -> tuple[Fault | None, float]:
        if method == "PUT" and not self.asked:
            return super().next(method, path, wanted)
        return Faults.next(self, method, path, wanted)


def test_a_finaliser_that_is_late_does_not_bring_an_old_manifest_back(
    behind: Behind, source: str
) -> None:
    late = Late(only="/manifest.json")
    place = behind(late)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(build_into, place.url, source)
        wait_for(lambda: bool(late.asked))
        build_into(place.url, source, view_set="second")
        late.open()
        assert first.result().manifest is not None
    assert set(viewstore.open(place.url).view_sets) == {"simclr", "second"}


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_plan_adopted_by_two_builds_at_once_is_built_once(
    behind: Behind, source: str, undisturbed: Undisturbed
) -> None:
    place = behind(Gate(only="simclr/plan.json", most=2))
    with ThreadPoolExecutor(2) as threads:
        builds = list(threads.map(build_into, [place.url] * 2, [source] * 2))
    outcomes = [outcome for built in builds for outcome in built.outcomes]
    committed = [outcome.shard for outcome in outcomes if outcome.status == "committed"]
    assert sorted(committed) == list(range(SHARDS))
    place.check(undisturbed)


def test_of_two_builds_at_once_with_other_settings_one_is_refused(
    behind: Behind, source: str
) -> None:
    place = behind(Gate(only="simclr/plan.json", most=2))
    refused: list[ConfigError] = []

    def build(seed: int) -> Built | None:
        try:
            return build_into(place.url, source, seed=seed)
        except ConfigError as error:
            refused.append(error)
            return None

    with ThreadPoolExecutor(2) as threads:
        winners = [built for built in threads.map(build, range(2)) if built is not None]
    assert [len(winners), len(refused)] == [1, 1]
    assert refused[0].code == "VS103"
    assert refused[0].fix
    assert viewstore.open(place.url).view_sets["simclr"].plan.id == winners[0].plan.id
    assert list(verify_remote(place.url, level="content")) == []


def test_a_bucket_that_ignores_conditions_is_built_into_by_a_single_writer_alone(
    place: Place, source: str, undisturbed: Undisturbed
) -> None:
    place.faults.ignores_conditions = True
    with pytest.raises(ConfigError, match="second writer") as caught:
        build_into(place.url, source)
    assert "--single-writer" in str(caught.value.fix)
    assert place.inside.names() == []
    build_into(place.url, source, single_writer=True)
    place.check(undisturbed)
