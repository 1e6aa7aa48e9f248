"""What all tests share: the data beside the project."""

from pathlib import Path

import pytest


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
