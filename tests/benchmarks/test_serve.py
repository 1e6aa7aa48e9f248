"""The benchmark of serving measures the CPU seconds of servers that gave the right bytes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.test_loaders import module

serve = module("serve")


def test_whole_files_and_ranges_are_measured(tmp_path: Path) -> None:
    small = ["--gib", ".1", "--rounds", "2", "--samples", "64", "--connections", "2"]
    serve.main([*small, "--out", str(tmp_path / "serve.json")])
    found = json.loads((tmp_path / "serve.json").read_text())
    assert found["targets"] == {"whole": 0.9, "ranges": 1.2}
    for modes in found["servers"].values():
        for mode in found["targets"]:
            assert len(modes[mode]["repeats"]) == 2
            assert all(each["bytes"] >= 0.05 * serve.GIB for each in modes[mode]["repeats"])
    ours = found["servers"]["viewstore"]
    assert ours["whole"]["cpu_seconds_per_gib"] > 0


def test_ranges_cover_each_file_once_but_for_its_rest() -> None:
    pieces = serve.pieces({"a": (17 << 20) + 5, "b": 100}, "ranges")
    assert [(name, headers["Range"]) for name, _, headers in pieces] == [
        ("a", "bytes=0-8388607"),
        ("a", "bytes=8388608-16777215"),
    ]
    assert serve.pieces({"a": 5}, "whole") == [("a", 5, {})]
