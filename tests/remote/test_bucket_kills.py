"""Builders into a bucket that are killed at random moments lose nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.remote.bucket_builds import CUT, Place, Undisturbed, build_into
from tests.remote.buckets import Inside
from tests.remote.servers import Faults, proxy, s3_environment

REPO = Path(__file__).parents[2]
DRIVER = "tests.remote.bucket_kill_driver"
VERSIONED = "versions"  # the bucket that tells what was ever written over
NEVER_REPLACED = ("commits/", "plan.json", "sources.json", "manifests/")


@dataclass
class Killed:
    """What a loop of kills left behind."""

    places: list[Place]
    kills: int


Kill = Callable[..., Killed]


@pytest.fixture
def kill(
    s3_endpoint: str, source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Kill]:
    """Kill builders, so many at once, until so many were killed; stores of a bucket of versions.

    Their connections are cut at a rate too.
    """
    folder = f"killed/{zlib.crc32(request.node.name.encode()):08x}"
    faults = Faults()
    stores = count(1)
    with proxy(s3_endpoint, faults) as url:

        def loop(kills: int, builders: int, writer: str, rate: float = 0.0) -> Killed:
            faults.rate, faults.kinds = rate, CUT
            killed = Killed([], 0)
            while killed.kills < kills:
                assert len(killed.places) < kills, f"{killed.kills} kills only"
                seed = next(stores)
                prefix = f"{folder}/{seed}"
                out = f"s3://{VERSIONED}/{prefix}"
                inside = Inside(s3_endpoint, f"{prefix}/", VERSIONED)
                if not killed.places:
                    inside.make_bucket_of_versions()
                killed.places.append(Place(out, faults, inside))
                arguments = (out, source, kills - killed.kills, builders, writer, seed)
                done = subprocess.run(
                    [sys.executable, "-m", DRIVER, *map(str, arguments)],
                    check=True,
                    capture_output=True,
                    text=True,
                    cwd=REPO,
                    env={**os.environ, **s3_environment(url), "TMPDIR": str(tmp_path)},
                )
                assert done.stderr == ""
                killed.kills += int(done.stdout)
            return killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            yield loop


def replaced(inside: Inside) -> list[str]:
    """Return the records that are given once and for all, and were written again or removed."""
    again = [name for name, count in inside.times_written().items() if count > 1]
    return [
        name for name in (*again, *inside.removed()) if any(part in name for part in NEVER_REPLACED)
    ]


@pytest.mark.parametrize(
    ("builders", "kills", "rate"),
    [
        (3, 9, 0.0),
        pytest.param(1, 80, 0.0, marks=pytest.mark.slow),
        pytest.param(3, 120, 0.2, marks=pytest.mark.slow),
    ],
)
def test_builders_that_are_killed_lose_nothing(
    kill: Kill,
    source: str,
    undisturbed: Undisturbed,
    builders: int,
    kills: int,
    rate: float,
) -> None:
    killed = kill(kills, builders, "ours", rate)
    assert killed.kills >= kills
    for place in killed.places:
        build_into(place.url, source)
        assert replaced(place.inside) == []
        place.check(undisturbed)


def test_writers_without_the_condition_are_caught(kill: Kill) -> None:
    """The negative control: the same kills find that records were written over."""
    rounds = (kill(9, 3, "naive") for _ in range(6))
    assert any(replaced(place.inside) for killed in rounds for place in killed.places)
