"""A store with shards that take a while to send, and tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.store.store import Store, open_store

TOKEN = "first-token-0123456789"


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of one shard of 25 MB: more than sockets hold of an answer that nobody reads."""
    folder = tmp_path_factory.mktemp("large")
    build_small(
        folder / "large",
        write_npz(folder / "images.npz", rows=40),
        settings={"views": 2, "height": 320, "width": 320},
        shard_rows=40,
        codec="raw",
    )
    return open_store(folder / "large")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with one token."""
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\n")
    return path
