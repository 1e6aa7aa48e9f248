"""Stores that are served, servers of them, and tokens. Nobody changes the stores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loaders.told import tell
from tests.viewstore.serve.servers import Server, serving
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
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


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with raw pixels, jpg, a recipe and columns with a file of their own."""
    folder = tmp_path_factory.mktemp("kinds")
    source = write_npz(folder / "images.npz")
    build_small(folder / "kinds", source)
    build_small(folder / "kinds", source, codec="jpg", view_set="jpgs")
    build_small(folder / "kinds", source, codec="params", view_set="recipe")
    tell(folder / "kinds", "teacher", "simclr")
    return folder / "kinds"


@pytest.fixture(scope="session")
def server(kinds: Path) -> Iterator[Server]:
    with serving(kinds) as running:
        yield running


@pytest.fixture(scope="session")
def two_generations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One store in its first generation, without its last shard, and in its second, with it."""
    folder = tmp_path_factory.mktemp("generations")
    first, second = folder / "first" / "s", folder / "second" / "s"
    build_small(first, write_npz(folder / "images.npz"))
    shutil.rmtree(first / "manifests")
    (first / "manifests").mkdir()
    (first / "manifest.json").unlink()
    last = first / "views" / "simclr" / "commits" / "000002.json"
    last.rename(folder / "000002.json")
    finalise(first, allow_partial=True)
    shutil.copytree(first, second)
    shutil.copy(folder / "000002.json", second / "views" / "simclr" / "commits")
    finalise(second)
    return first, second


@pytest.fixture
def live(two_generations: tuple[Path, Path], tmp_path: Path) -> Path:
    """The store in its first generation, as it may be changed."""
    return Path(shutil.copytree(two_generations[0], tmp_path / "s"))
