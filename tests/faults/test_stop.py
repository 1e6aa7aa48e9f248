"""A stop at any moment of a build ends it with 4 or 130, or 0 if it was done: never in a heap."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.viewstore.small_stores import build_small, whole_id, write_npz

DRIVER = Path(__file__).with_name("stop_driver.py")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs the proc file system")
@pytest.mark.parametrize(
    ("number", "moments", "workers", "warm"),
    [
        pytest.param("SIGTERM", 24, 1, True, id="work"),
        pytest.param("SIGTERM", 6, 1, False, id="imports"),
        pytest.param("SIGTERM", 3, 2, True, id="pool"),
        pytest.param("SIGINT", 6, 1, True, id="work, Ctrl-C"),
        pytest.param("SIGINT", 6, 1, False, id="imports, Ctrl-C"),
        pytest.param("SIGINT", 8, 2, True, id="pool, Ctrl-C"),
    ],
)
def test_a_signal_at_any_moment_is_a_stop_or_comes_too_late(
    tmp_path: Path, number: str, moments: int, workers: int, warm: bool
) -> None:
    source = write_npz(tmp_path / "images.npz")
    arguments = [str(tmp_path), source, str(moments), str(workers), str(int(warm)), number]
    done = subprocess.run(
        [sys.executable, str(DRIVER), *arguments], check=True, capture_output=True, text=True
    )
    whole, *ends = json.loads(done.stdout)
    stopped = {"SIGTERM": 4, "SIGINT": 130}[number]
    assert whole["code"] == 0, whole
    assert [end for end in ends if end["code"] not in (0, stopped)] == []
    assert [end for end in ends if "Traceback" in end["said"]] == []
    said = [("error[VS501]" in end["said"]) == (end["code"] == stopped) for end in ends]
    assert all(said), ends
    assert ends[0]["code"] == stopped
    for end in ends[::4]:
        store = Path(end["store"])
        build_small(store, source, shard_rows=4)
        whole_id(store)
