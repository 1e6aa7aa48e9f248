"""The stores that the tests of loading read."""

import shutil
from pathlib import Path

import pytest

import viewstore
from tests.loaders.stores import digits_store, photograph_store, photographs
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
    """4 digits: view sets `recon` (1 view) and `w-search` (3 views made from it)."""
    out = tmp_path_factory.mktemp("loaders") / "searched"
    build(
        BuildRequest(
            generator="w-search",
            out=out,
            source="digits",
            limit=4,
            settings={"views": 3, "max_steps": 2},
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
