"""What all tests share: the data beside the project."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own: that of the developer is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures and data beside the repository; skips where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def gan_fixtures(shared: Path) -> Path:
    """The folder of StyleGAN2 files of others; skips where it is absent."""
    folder = shared / "fixtures" / "gan"
    if not folder.is_dir():
        pytest.skip("needs ../shared/fixtures/gan, which is not beside this checkout")
    return folder
