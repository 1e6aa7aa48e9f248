"""Stock webdataset reads every shard; the example shows it."""

import gc
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import webdataset

import viewstore
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.store.view_set import ViewSet

EXAMPLE = Path(__file__).parents[2] / "examples" / "read_with_webdataset.py"


def read_all(views: ViewSet, codec: str) -> int:
    """Read a view set with stock webdataset, compare every view with ours; return the rows."""
    rows = 0
    for sample in webdataset.WebDataset(views.urls(), shardshuffle=False).decode("rgb8"):
        names = ["views.npy"] if codec == "raw" else [f"v{view}.{codec}" for view in range(2)]
        pixels = np.concatenate([sample[name].reshape(-1, 16, 16, 3) for name in names])
        assert np.array_equal(pixels, views[sample["json"]["index"]])
        rows += 1
    return rows


@pytest.mark.parametrize("codec", ["raw", "jpg", "png"])
def test_stock_webdataset_reads_every_shard(tmp_path: Path, codec: str) -> None:
    request = BuildRequest(
        generator="simclr",
        out=tmp_path / "s",
        source="digits",
        limit=150,
        codec=codec,
        settings={"views": 2, "height": 16, "width": 16},
        shard_rows=64,
        workers=1,
    )
    build(request)
    views = viewstore.open(tmp_path / "s").view_sets["simclr"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files open
        assert read_all(views, codec) == 150
        gc.collect()
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "s"), "simclr"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "150 samples, 300 views of (16, 16, 3)\n"
