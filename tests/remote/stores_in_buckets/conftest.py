"""The same store in a folder and in a bucket, and places for more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.remote.servers import BUCKET
from tests.remote.stores_in_buckets.parts import (
    CHILDREN,
    Run,
)
from tests.viewstore.commands import run as run_command
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.files import working_copy


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_npz(tmp_path_factory.mktemp("source") / "images.npz")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return its exit code, and what it wrote to stdout and stderr."""
    return partial(run_command, capsys)


@pytest.fixture(autouse=True, scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where working copies lie; nothing is left there."""
    folder = tmp_path_factory.mktemp("copies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path_factory.mktemp("cache")))
        yield folder
    assert list(folder.glob(f"{working_copy.PREFIX}*")) == []


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    folder = tmp_path_factory.mktemp("local") / "store"
    for changes in CHILDREN:
        build_small(folder, source, **changes)
    return folder


@pytest.fixture(scope="session")
def whole(s3_endpoint: str, source: str) -> str:
    """The URL of a store in a bucket: simclr, and what is made from it."""
    url = f"s3://{BUCKET}/stores/whole"
    for changes in CHILDREN:
        build_small(url, source, **changes)
    return url


@pytest.fixture
def url(s3_endpoint: str, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/stores/{request.node.name.replace('[', '-').strip(']')}"
