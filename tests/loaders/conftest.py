"""The stores that the tests of loading read."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.stores import digits_store, photograph_store, photographs
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.store.store import Store


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """70 digits: view sets `digits` (3 views) and `hard` (4 views), raw, 5 shards."""
    return digits_store(tmp_path_factory.mktemp("loaders") / "digits")


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 JPEG files of several sizes in two class folders."""
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Store:
    """22 photographs: view sets `jpg` and `png` of 2 views."""
    return photograph_store(tmp_path_factory.mktemp("loaders") / "photos", photo_folder)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """4 digits: view sets `recon` (1 view) and `w-search` (3 views made from it).

    Its distances are given: measuring them takes views of all 1,797 digits, twice.
    """
    out = tmp_path_factory.mktemp("loaders") / "searched"
    distances: dict[str, dict[str, Any]] = {
        "recon": {"shift_stop": 0.06},
        "w-search": {"views": 3, "eps1": 0.3},
    }
    for name, settings in distances.items():
        build(
            BuildRequest(
                generator=name,
                out=out,
                source="digits",
                limit=4,
                settings=settings | {"max_steps": 2},
                workers=1,
            )
        )
    return viewstore.open(out)


@pytest.fixture
def copy(tmp_path: Path, digits: Store) -> Store:
    """A copy of the digits store that a test may damage."""
    shutil.copytree(digits.root, tmp_path / "digits")
    return viewstore.open(tmp_path / "digits")


@pytest.fixture
def partial(tmp_path: Path, digits: Store) -> Store:
    """The digits with a third view set of which only shards 0 and 2 were built."""
    out = tmp_path / "partial"
    shutil.copytree(digits.root, out)
    build(
        BuildRequest(
            generator="digits",
            out=out,
            view_set="some",
            settings={"height": 12, "width": 12, "views": 2},
            only=(0, 2),
            workers=1,
        )
    )
    finalise(out, allow_partial=True)
    return viewstore.open(out)


@pytest.fixture(scope="session")
def kindred(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 pictures of 40 px: `simclr` (3 views) and `heavy` (6 views made from them) as recipes of
    24 px, `stored` (3 views) with its pixels.
    """
    folder = tmp_path_factory.mktemp("kindred")
    source = write_npz(folder / "images.npz", rows=24, side=40)
    size = {"height": 24, "width": 24}
    for name, views, codec in (
        ("simclr", 3, "params"),
        ("heavy", 6, "params"),
        ("stored", 3, "raw"),
    ):
        build_small(
            folder / "s",
            str(source) if name != "heavy" else None,
            generator="heavy" if name == "heavy" else "simclr",
            view_set=name,
            codec=codec,
            settings={"views": views} | ({} if name == "heavy" else size),
            shard_rows=8,
            seed=4,
        )
    return viewstore.open(folder / "s")
