"""A store of more files than a process may open is read all the same, here and over a URL."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewstore.build.request import BuildRequest
from viewstore.build.run import build

SHARDS = 72
DESCRIPTORS = 64

PROGRAM = f"""
import mmap, pathlib, resource, sys
import numpy as np
import viewstore
from viewstore.files.cache_settings import CacheSettings
from viewstore.loaders import ViewLoader
from viewstore.loaders.read.set_reader import ViewSetReader
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader

store, source, cache = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
local = viewstore.open(store)
expected = np.stack(list(local.view_sets["hard"]))
rows = np.arange({SHARDS})
for limit in (None, 1 << 30, 0):
    found = local
    if limit is not None:
        settings = CacheSettings(directory=pathlib.Path(cache), limit_bytes=limit)
        found = viewstore.open("local://" + store, cache=settings)
    views = found.view_sets["hard"]
    assert views.remote == (limit is not None)
    assert np.array_equal(np.stack(list(views)), expected)
    assert len(views.params.rows("crop_box", rows)) == len(views.params["flip"]) == {SHARDS}
    for mapped in (True, False):
        reader = ViewSetReader(views, mapped=mapped)
        out = np.empty((len(rows), *reader.shape), np.uint8)
        for _ in range(2):
            reader.read(rows, np.ones((len(rows), 1), np.int64), [out])
            assert np.array_equal(out, expected[:, 1])
    with ViewLoader(found, "hard,hard", batch_size=12, num_threads=2) as loader:
        assert sum(len(batch.index) for batch in loader) == {SHARDS}
images = SourceReader(open_source(source).table)
assert len([images.image(row) for row in range({SHARDS})]) == {SHARDS}

kept = []
try:
    for shard in local.view_sets["hard"].shards.values():
        with open(shard.path, "rb") as file:
            kept.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
except OSError as error:
    print("naive:", error.strerror)
"""


@pytest.fixture(scope="module")
def crumbs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in shards of one row each."""
    out = tmp_path_factory.mktemp("remote") / "crumbs"
    request = BuildRequest(
        generator="simclr",
        out=out,
        view_set="hard",
        source="digits",
        limit=SHARDS,
        shard_rows=1,
        settings={"height": 8, "width": 8, "views": 2},
        workers=1,
    )
    build(request)
    return out


@pytest.fixture
def tars(tmp_path: Path) -> str:
    """As many tars of one image each."""
    for number in range(SHARDS):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(file, "png")
        with tarfile.open(tmp_path / f"{number:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            member = tarfile.TarInfo(f"{number:03d}.png")
            member.size = file.tell()
            tar.addfile(member, io.BytesIO(file.getvalue()))
    return f"{tmp_path}/{{000..{SHARDS - 1:03d}}}.tar"


def test_more_files_than_descriptors_are_read(crumbs: Path, tars: str, tmp_path: Path) -> None:
    """Python's own maps keep a descriptor each: a reader of those would end early."""
    command = [sys.executable, "-c", PROGRAM, str(crumbs), tars, str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == ""
    assert done.stdout == "naive: Too many open files\n"
    assert done.returncode == 0
