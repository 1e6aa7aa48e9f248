"""The benchmark of engines measures empty units of each, and says what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.test_loaders import module

engines = module("engines")


def test_empty_units_of_each_engine_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(engines.TARGETS) == {"local pool", "ray"} < set(engines.ENGINES)
    local = {name: each for name, each in engines.ENGINES.items() if name != "ray"}
    monkeypatch.setattr(engines, "ENGINES", local)
    engines.main(["--units", "4", "--rounds", "1", "--out", str(tmp_path / "engines.json")])
    found = json.loads((tmp_path / "engines.json").read_text())
    assert set(found["engines"]) == set(local)
    for works in found["engines"].values():
        assert set(works) == {"nothing", "view"}
        for entry in works.values():
            [repeat] = entry["repeats"]
            assert 0 < entry["seconds_a_unit"] == repeat["seconds_a_unit"]


def test_a_unit_is_measured_after_each_worker_has_answered() -> None:
    clock = engines.Clock(engines.run_local, 2, [10.0, 13.0, 13.5, 14.0, 15.5])
    assert clock.repeat() == {"start_seconds": 3.0, "seconds_a_unit": 1.0}
