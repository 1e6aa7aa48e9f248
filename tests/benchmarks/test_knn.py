"""Nearest neighbours are timed on features that have something to find."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.test_loaders import module

knn = module("knn")


def test_repeats_memory_and_settings_are_written(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    small = ["--bank", "400", "--queries", "80", "--width", "16", "--preset", "ca"]
    knn.main([*small, "--threads", "1", "--rounds", "2", "--out", str(path)])
    found = json.loads(path.read_text())
    assert len(found["repeats"]) == 2
    assert found["settings"]["bank"] == "400"
    assert found["reached"] == (found["seconds"] < knn.GOAL_SECONDS)
    assert found["grown_bytes"] >= 0
    (accuracy,) = found["accuracy"].values()
    assert 0.2 < accuracy <= 1


def test_features_of_two_seeds_have_the_same_centres() -> None:
    one, other = knn.features(200, 8, 1), knn.features(200, 8, 2)
    assert (one.features[0] != other.features[0]).any()
    assert one.features.shape == other.features.shape == (200, 8)
