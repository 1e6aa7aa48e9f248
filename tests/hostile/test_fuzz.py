"""Hostile input for every reader of bytes from outside: our errors, little memory, nothing done.

The quick version runs with the other tests, over the same inputs each time. The campaign
(`make test-slow`, or `pytest -m slow -s`) draws new ones for 20 CPU minutes in all.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.hostile.fuzz_readers import NAMES, make_readers
from tests.hostile.fuzzing import Guard, Reader, check

QUICK_INPUTS = 120
CAMPAIGN_CPU_SECONDS = 20 * 60 / len(NAMES)
CAMPAIGN_INPUTS = 300  # of one seed


@pytest.fixture(scope="session")
def fuzz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="session")
def readers(fuzz_folder: Path) -> dict[str, Reader]:
    return make_readers(fuzz_folder)


@pytest.fixture(scope="session")
def session_guard(fuzz_folder: Path) -> Guard:
    """The only hook of this process: it cannot be taken away again."""
    return Guard(fuzz_folder, shared=fuzz_folder)


@pytest.fixture
def guard(session_guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.chdir(tmp_path)
    session_guard.folder = tmp_path
    return session_guard


def run(reader: Reader, guard: Guard, *, inputs: int, number: int | None = None) -> int:
    """Read hostile inputs, the same each time if `number` is None; return how many."""
    count = 0

    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=number is None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.hostile)
    def read(data: bytes) -> None:
        nonlocal count
        count += 1
        check(reader.read, data, guard)

    (read if number is None else seed(number)(read))()
    return count


def test_every_reader_is_fuzzed(readers: dict[str, Reader]) -> None:
    assert sorted(readers) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_input_ends_in_our_errors(
    readers: dict[str, Reader], guard: Guard, name: str
) -> None:
    for data in readers[name].valid:  # else the fuzzing could be of something that never is read
        assert check(readers[name].read, data, guard)
    run(readers[name], guard, inputs=QUICK_INPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_hostile_input_ends_in_our_errors_for_long(
    readers: dict[str, Reader], guard: Guard, name: str
) -> None:
    began, tried = time.process_time(), 0
    for number in itertools.count():
        tried += run(readers[name], guard, inputs=CAMPAIGN_INPUTS, number=number)
        if time.process_time() - began > CAMPAIGN_CPU_SECONDS:
            break
    print(f"\n{name}: {tried} inputs")
