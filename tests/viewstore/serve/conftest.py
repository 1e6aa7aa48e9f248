"""A store with view sets of every kind, and a server of it. Nobody changes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loaders.told import tell
from tests.viewstore.serve.servers import Server, serving
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise


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
