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
    NUM,
    digest,
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
def all_views(name: str) -> dict[int, Rendered]:
    return render(name, range(NUM))


@pytest.mark.parametrize("name", GENERATORS)
def test_views_are_the_same_in_another_process(name: str) -> None:
    program = [sys.executable, "-m", "tests.conformance.generator_rows", name]
    done = subprocess.run(program, cwd=REPO, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [digest(all_views(name)[row]) for row in range(NUM)]


@pytest.mark.parametrize("name", GENERATORS)
def test_views_do_not_depend_on_their_company_or_order(name: str) -> None:
    backwards = render(name, reversed(range(1, NUM)))
    alone = render(name, [2])
    for row in range(1, NUM):
        assert digest(backwards[row]) == digest(all_views(name)[row])
    assert digest(alone[2]) == digest(all_views(name)[2])


@pytest.mark.parametrize("name", GENERATORS)
def test_settings_resolve_to_themselves_once_nothing_is_automatic(name: str) -> None:
    stored = stored_settings(name)
    assert json.loads(json.dumps(asdict(settings_of(name)))) == stored  # type: ignore[call-overload]
    assert [key for key, value in stored.items() if value is None and key != "calibration"] == []
    assert {field.name for field in fields(settings_class(name))} == set(stored)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", GENERATORS)
def test_views_and_params_have_the_planned_forms(name: str) -> None:
    settings = settings_of(name)
    columns = {column.name: column for column in settings.columns()}
    assert len(settings.roles()) == settings.views
    assert "status" in columns
    for rendered in all_views(name).values():
        shape = (settings.views, settings.height, settings.width, 3)
        assert rendered.pixels.shape == shape
        assert rendered.pixels.dtype == np.uint8
        for column in columns.values():
            value = np.asarray(rendered.params[column.name])
            assert value.shape == column.shape, column.name
            assert value.dtype == column.numpy_dtype, column.name
        assert np.isin(rendered.params["status"], (1, 2, 3)).all()


@pytest.mark.parametrize("name", GENERATORS)
def test_views_that_were_made_have_no_fill_in_their_params(name: str) -> None:
    """A fill means "never written": off is the identity."""
    settings = settings_of(name)
    for rendered in all_views(name).values():
        made = np.isin(rendered.params["status"], (1, 2))
        for column in settings.columns():
            value = np.asarray(rendered.params[column.name])
            if column.views is not None:
                value = value[list(column.views)]
            elif value.shape[:1] == made.shape:
                value = value[made]
            fill = np.isnan(value) if np.isnan(column.fill) else value == column.fill
            assert not fill.any(), column.name


@pytest.mark.parametrize("name", GENERATORS)
def test_draws_follow_the_seed(name: str) -> None:
    other = render(name, [0], seed=4)[0]
    drawn = not np.array_equal(other.pixels, all_views(name)[0].pixels)
    assert drawn == (name not in ("recon", "import"))  # which draw nothing


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
