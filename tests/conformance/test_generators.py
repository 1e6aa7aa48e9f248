"""One suite over all generators; a new row of their table is tested without a line here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.generator_rows import (
    CASES,
    DESCRIBING,
    NUM,
    digest,
    generator_of,
    picture,
    render,
    settings_of,
    stored_settings,
)
from viewstore.generators import GENERATORS, settings_class
from viewstore.generators.contract import Rendered
from viewstore.generators.pixels.expert import ResolvedExpert
from viewstore.images.policies import policies

REPO = Path(__file__).parents[2]
EXPERTS = [name for name, row in GENERATORS.items() if row.settings == "Expert"]


@cache
def all_views(case: str) -> dict[int, Rendered]:
    return render(case, range(NUM))


@pytest.mark.parametrize("case", CASES)
def test_views_are_the_same_in_another_process(case: str) -> None:
    program = [sys.executable, "-m", "tests.conformance.generator_rows", case]
    done = subprocess.run(program, cwd=REPO, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [digest(all_views(case)[row]) for row in range(NUM)]


@pytest.mark.parametrize("case", CASES)
def test_views_do_not_depend_on_their_company_or_order(case: str) -> None:
    backwards = render(case, reversed(range(1, NUM)))
    alone = render(case, [2])
    for row in range(1, NUM):
        assert digest(backwards[row]) == digest(all_views(case)[row])
    assert digest(alone[2]) == digest(all_views(case)[2])


@pytest.mark.parametrize("case", CASES)
def test_settings_resolve_to_themselves_once_nothing_is_automatic(case: str) -> None:
    stored = stored_settings(case)
    assert json.loads(json.dumps(asdict(settings_of(case)))) == stored  # type: ignore[call-overload]
    assert [key for key, value in stored.items() if value is None and key != "calibration"] == []
    assert {field.name for field in fields(settings_class(generator_of(case)))} == set(stored)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_views_and_params_have_the_planned_forms(case: str) -> None:
    settings = settings_of(case)
    columns = {column.name: column for column in settings.columns()}
    assert len(settings.roles()) == settings.views
    assert "status" in columns
    for rendered in all_views(case).values():
        check_pixels(case, rendered)
        for column in columns.values():
            value = np.asarray(rendered.params[column.name])
            assert value.shape == column.shape, column.name
            assert value.dtype == column.numpy_dtype, column.name
        status = rendered.params["status"]
        assert np.isin(status, (1, 3, 4) if case in DESCRIBING else (1, 2, 3)).all()


def check_pixels(case: str, rendered: Rendered) -> None:
    """Views are pictures of the planned size; what describes them has no pixels."""
    settings = settings_of(case)
    if generator_of(case) in DESCRIBING:
        assert rendered.pixels is None
        assert (settings.height, settings.width) == (0, 0)
        return
    assert rendered.pixels is not None
    assert rendered.pixels.shape == (settings.views, settings.height, settings.width, 3)
    assert rendered.pixels.dtype == np.uint8


@pytest.mark.parametrize("case", CASES)
def test_views_that_were_made_have_no_fill_in_their_params(case: str) -> None:
    """A fill means "never written": off is the identity."""
    settings = settings_of(case)
    for rendered in all_views(case).values():
        made = np.isin(rendered.params["status"], (1, 2))
        for column in settings.columns():
            value = np.asarray(rendered.params[column.name])
            if column.views is not None:
                value = value[list(column.views)]
            elif value.shape[:1] == made.shape:
                value = value[made]
            fill = np.isnan(value) if np.isnan(column.fill) else value == column.fill
            assert not fill.any(), column.name


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_seed_where_something_is_drawn(case: str) -> None:
    drawn = digest(render(case, [0], seed=4)[0]) != digest(all_views(case)[0])
    nothing = case in ("recon", "import") or generator_of(case) in DESCRIBING - {"hard"}
    assert drawn == (not nothing)


@pytest.mark.parametrize("name", EXPERTS)
def test_stored_params_replay_expert_views(name: str) -> None:
    settings = settings_of(name)
    assert isinstance(settings, ResolvedExpert)
    size = (settings.height, settings.width)
    pair = [policy.for_size(*size) for policy in policies(settings.policy)]
    for row, rendered in all_views(name).items():
        for view in range(settings.views):
            params = {key: np.asarray(value)[view] for key, value in rendered.params.items()}
            pixels = pair[view % len(pair)].render(picture(row), params, size, "area")
            assert np.array_equal(pixels, rendered.pixels[view])
