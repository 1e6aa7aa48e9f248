"""The benchmark of the read-through server measures what came from the origin, and first bytes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.test_loaders import module

serve_through = module("serve_through")


def test_jobs_read_an_origin_once_and_first_bytes_are_measured(tmp_path: Path) -> None:
    small = ["--samples", "16", "--jobs", "3", "--rounds", "1", "--latency", "0"]
    serve_through.main([*small, "--out", str(tmp_path / "through.json")])
    found = json.loads((tmp_path / "through.json").read_text())
    assert found["targets"] == {
        "cold_origin_bytes": 1.01,
        "warm_origin_bytes": 0.0,
        "first_byte": 1.5,
    }
    assert 0.99 < found["jobs"]["cold_origin_bytes"] <= 1.01
    assert found["jobs"]["warm_origin_bytes"] == 0
    assert {len(each) for each in found["first_byte"]["seconds"].values()} == {2}
    assert found["first_byte"]["ratio"] > 0
