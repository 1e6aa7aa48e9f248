"""The costs of many hosts: arithmetic that a pencil checks, and the script on a small store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.test_loaders import module
from tests.loaders.stores import photographs


def stored(**changes: Any) -> Any:  # noqa: ANN401
    """Return 1,024,000 rows in 1,000 shards; a row is 1,024 + 8 x (512 + 1,024) bytes."""
    facts = {
        "rows": 1_024_000,
        "views": 8,
        "shown": 2,
        "shard_rows": 1024,
        "view_bytes": 1000.0,
        "param_bytes": 100.0,
        "index_bytes": 1000.0,
        "source_bytes": 50.0,
    }
    return module("scale_model").Stored(**facts | changes)


def test_what_is_built_and_kept_adds_up() -> None:
    model = module("scale_model")
    built = model.building(stored(), {"slow": 3.6}, 0.0036)
    assert built["units"] == 1000
    assert built["worker_hours"]["slow"] == pytest.approx(1024)
    assert built["scan_hours"] == pytest.approx(1.024)
    assert (built["put_requests"], built["list_requests"]) == (3000, 3)
    kept = model.keeping(stored(), terabyte_month=10.0)
    tars, members = 1_024_000 * (1024 + 8 * 1536), 1_024_000 * 9 * 16
    assert kept["bytes"]["tars"] == tars
    assert kept["bytes"]["members.npy"] == members
    rest = 1_024_000 * (2 * 100 + 50) + members + 1000 * 1000
    assert kept["total_bytes"] == tars + members + rest
    assert kept["price_a_month"] == pytest.approx((tars + members + rest) / 1e11)


def test_hosts_that_use_little_of_a_shard_meet_the_wall_of_requests() -> None:
    model = module("scale_model")
    site = model.Site(images=1000.0, latency=0.016, bucket_requests=8000.0)
    costs = model.Costs(view=1e-4, range=1e-3, gib=1.0)
    one, eight = (model.streaming(stored(), site, hosts, costs) for hosts in (1, 8))
    assert [each["reads_whole_shards_by_itself"] for each in (one, eight)] == [True, False]
    by_ranges = "ranges of a bucket, global"
    assert one["loads"][by_ranges]["requests in flight"] == pytest.approx(2, rel=0.05)
    assert eight["loads"][by_ranges]["requests of the bucket"] == pytest.approx(8, rel=0.05)
    assert eight["walls"][by_ranges] == "requests of the bucket"
    assert one["epoch_seconds"] == 8 * eight["epoch_seconds"] == 128
    assert eight["fill_seconds_from_one_server"] == 8 * eight["fill_seconds_of_a_host"]


@pytest.mark.slow
def test_the_script_measures_and_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photographs(tmp_path / "photos", 16)
    for name, value in {
        "ROWS": 8192,
        "HOSTS": (1,),
        "REQUESTS": 16,
        "RANGE_BYTES": 1000,
    }.items():
        monkeypatch.setattr(module("scale"), name, value)
    out = tmp_path / "out.json"
    options = ["--photos", str(photos), "--batch", "8", "--out", str(out)]
    module("scale").main([*options, "--images", "500"])
    found = json.loads(out.read_text())
    assert found["assumed"]["images"] == 500
    assert found["measured"]["view_bytes"] > 1000
    assert found["measured"]["opening"]["local"]["own_bytes"] > 0
    host = found["computed_by_shard_rows"]["1024"]["hosts"]["1"]
    assert host["images_a_second_of_all"] == 4000
    assert set(host["walls"]) == set(host["loads"])
