"""SIGTERM at any moment of a build ends it with 4, or 0 where it was done: never in a heap."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.viewstore.small_stores import build_small, whole_id, write_npz

DRIVER = Path(__file__).with_name("stop_driver.py")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs the proc file system")
@pytest.mark.parametrize(
    ("moments", "workers", "warm"),
    [
        pytest.param(24, 1, True, id="work"),
        pytest.param(6, 1, False, id="imports"),
        pytest.param(3, 2, True, id="pool"),
    ],
)
def test_sigterm_at_any_moment_is_4_or_0(
    tmp_path: Path, moments: int, workers: int, warm: bool
) -> None:
    source = write_npz(tmp_path / "images.npz")
    arguments = [str(tmp_path), source, str(moments), str(workers), str(int(warm))]
    done = subprocess.run(
        [sys.executable, str(DRIVER), *arguments], check=True, capture_output=True, text=True
    )
    whole, *ends = json.loads(done.stdout)
    assert whole["code"] == 0, whole
    assert [end for end in ends if end["code"] not in (0, 4)] == []
    assert [end for end in ends if "Traceback" in end["said"]] == []
    assert [end for end in ends if ("error[VS501]" in end["said"]) != (end["code"] == 4)] == []
    assert ends[0]["code"] == 4
    for end in ends[::4]:
        store = Path(end["store"])
        build_small(store, source, shard_rows=4)
        whole_id(store)
