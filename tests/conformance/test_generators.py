"""One suite over all generators; a new row of their table is tested without a line here."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conformance.generator_rows import (
    CASES,
    DESCRIBING,
    generator_of,
    planned_settings,
    render,
    world_of,
)
from viewstore.generators import make_settings
from viewstore.generators.conformance.checks import digest, generator_checks
from viewstore.plugins import Check

REPO = Path(__file__).parents[2]
REPLAYED = "the recipe renders the views"


@cache
def checks(case: str) -> list[Check]:
    return generator_checks(
        planned_settings(case),
        world_of(case),
        read=lambda plan: make_settings(generator_of(case), plan),
        elsewhere=lambda: elsewhere()[case],
    )


@cache
def elsewhere() -> dict[str, list[str]]:
    """Return what another process makes, of all cases: its imports take longer than they do."""
    program = [sys.executable, "-m", "tests.conformance.generator_rows"]
    done = subprocess.run(program, cwd=REPO, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_generator_is_pure_and_keeps_its_plan(case: str) -> None:
    found = {check.name: check.run() for check in checks(case)}
    assert {name: differs for name, differs in found.items() if differs} == {}
    assert len(found) == (9 if REPLAYED in found else 8)


def test_what_has_a_recipe_is_replayed() -> None:
    replayed = {case for case in CASES if checks(case)[-1].name == REPLAYED}
    assert {"simclr", "dino", "digits", "heavy", "randaugment"} < replayed
    assert not replayed & {"w-search", "import", "embed"}


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_seed_where_something_is_drawn(case: str) -> None:
    drawn = digest(render(case, [0], seed=4)[0]) != digest(render(case, [0])[0])
    nothing = case in ("recon", "import") or generator_of(case) in DESCRIBING - {"hard"}
    assert drawn == (not nothing)
