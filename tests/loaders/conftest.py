"""The stores that the tests of loading read."""

from pathlib import Path

import pytest

from tests.loaders.stores import digits_store, photograph_store, photographs
from viewstore.store import Store


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
