"""CI says which tests must not be skipped; there a skip of one is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.fixture
def server():
    pytest.skip("needs a server, which is not installed")

@pytest.mark.nginx
def test_by_fixture(server): pass

@pytest.mark.nginx
def test_inside(): pytest.skip("not today")

@pytest.mark.nginx
@pytest.mark.skipif(True, reason="never")
def test_by_mark(): pass

@pytest.mark.nginx
def test_that_runs(): pass

@pytest.mark.nginx
@pytest.mark.xfail(reason="known")
def test_known(): assert False

@pytest.mark.browser
def test_of_another_marker(): pytest.skip("no browser")

def test_without_marker(): pytest.skip("no data")
"""


def outcome(folder: Path, required: str | None) -> str:
    """Run the tests above with the hooks of ours; return what pytest says."""
    path = folder / "test_them.py"
    path.write_text(TESTS)
    environment = {name: text for name, text in os.environ.items() if name != "VIEWSTORE_REQUIRE"}
    environment |= {} if required is None else {"VIEWSTORE_REQUIRE": required}
    words = ["-m", "pytest", "-p", "tests.conftest", "-q", "-rfs", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, *words, "-c", str(REPO / "pyproject.toml"), str(path)],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("required", "counts"),
    [
        (None, "1 passed, 5 skipped, 1 xfailed"),
        ("", "1 passed, 5 skipped, 1 xfailed"),
        ("nginx", "1 failed, 1 passed, 2 skipped, 1 xfailed, 2 errors"),
        ("browser,nginx", "2 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors"),
    ],
)
def test_a_skip_of_a_required_marker_is_a_failure(
    tmp_path: Path, required: str | None, counts: str
) -> None:
    said = outcome(tmp_path, required)
    assert counts in said
    if required:
        assert "needs a server, which is not installed, and VIEWSTORE_REQUIRE names" in said


def test_a_required_marker_must_be_one(tmp_path: Path) -> None:
    assert "VIEWSTORE_REQUIRE names ngnix, which is no marker" in outcome(tmp_path, "ngnix")
