"""What all tests share."""

from pathlib import Path

import pytest


@pytest.fixture
def shared() -> Path:
    """The folder of fixtures beside the repository; a test that wants it skips without it."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder of shared fixtures beside the repository")
    return folder
