"""The step with cached targets is measured beside others of the same views and students."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.test_loaders import module
from tests.loaders.families import family_store
from tests.loaders.told import tell

distil = module("distil")


def test_all_ways_take_turns_and_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "store"
    family_store(out, {"cands": 4})
    tell(out, "teacher", "cands", dim=7, groups=2, choose=1)
    path = tmp_path / "found.json"
    small = ["--student", "conv3", "--teacher-backbone", "conv3", "--batch-size", "16"]
    turns = ["--rounds", "2", "--steps", "2", "--threads", "1", "--pick", "teacher"]
    distil.main([str(out), "--views", "cands", *small, *turns, "--out", str(path)])
    found = json.loads(path.read_text())
    assert {name: len(each) for name, each in found["repeats"].items()} == {
        "plain": 2,
        "cached": 2,
        "online": 2,
        "picked": 2,
    }
    assert found["over_plain"]["plain"] == 1
    assert found["settings"]["store"] == "store"


def test_ratios_are_of_one_turn() -> None:
    found = distil.summary({"plain": [1.0, 2.0, 4.0], "cached": [1.1, 2.0, 4.2]})
    assert found["over_plain"] == {"plain": 1, "cached": pytest.approx(1.05)}
    assert found["reached"] == (found["over_plain"]["cached"] <= distil.GOAL)
