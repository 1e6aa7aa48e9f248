"""How many cores a process may use, by its affinity and the limits of its control groups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from viewstore import cores
from viewstore.cores import cpu_limit, usable_cores

OWN = "0::/pods/one\n"
OLD = "5:memory:/pods/one\n4:cpu,cpuacct:/pods/one\n"


def mounted(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        (OWN, {"pods/one/cpu.max": "400000 100000\n"}, 4.0),
        (OWN, {"pods/one/cpu.max": "250000 100000\n"}, 2.5),
        (OWN, {"pods/one/cpu.max": "max 100000\n"}, None),
        (OWN, {"pods/one/cpu.max": "max 100000", "pods/cpu.max": "300000 100000"}, 3.0),
        (OWN, {"pods/one/cpu.max": "800000 100000", "pods/cpu.max": "300000 100000"}, 3.0),
        (OWN, {"pods/one/cpu.max": "200000 100000", "pods/cpu.max": "300000 100000"}, 2.0),
        (OWN, {"pods/two/cpu.max": "200000 100000"}, None),
        (OWN, {}, None),
        ("0::/\n", {"cpu.max": "150000 50000"}, 3.0),
        (OWN, {"cpu.max": "100000 100000"}, 1.0),  # the path is the host's
        ("0::/../../else\n", {"cpu.max": "200000 100000"}, 2.0),
        (OLD, {"cpu,cpuacct/pods/one/cpu.cfs_quota_us": "-1"}, None),
        (
            OLD,
            {
                "cpu,cpuacct/pods/one/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/pods/one/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/pods/cpu.cfs_quota_us": "350000\n",
                "cpu,cpuacct/pods/cpu.cfs_period_us": "100000\n",
            },
            3.5,
        ),
        (OLD, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        (OLD, {"memory/pods/one/cpu.max": "100000 100000"}, None),
    ],
)
def test_the_narrowest_limit_of_a_group_and_those_around_it(
    tmp_path: Path, groups: str, files: Mapping[str, str], limit: float | None
) -> None:
    assert cpu_limit(groups, mounted(tmp_path, files)) == limit


@pytest.mark.parametrize(
    "text", ["", "four", "1", "1 2 3", "0 100000", "100000 0", "-1 -1", "1.5 1", "\x00", "9" * 5000]
)
def test_garbage_is_no_limit(tmp_path: Path, text: str) -> None:
    files = {"pods/one/cpu.max": text, "pods/cpu.max": "700000 100000"}
    assert cpu_limit(OWN, mounted(tmp_path, files)) == 7.0
    assert cpu_limit(text, tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "usable"), [("max", 8), ("1", 1), ("250000", 3), ("900000", 8), ("800000", 8)]
)
def test_cores_are_those_of_the_affinity_and_of_the_limit_rounded_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, usable: int
) -> None:
    (tmp_path / "groups").write_text("0::/\n")
    mounted(tmp_path, {"cpu.max": f"{quota} 100000\n"})
    monkeypatch.setattr(cores, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores, "MOUNTED", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores() == usable
