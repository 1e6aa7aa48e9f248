"""The package of examples/plugin, installed for a test in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
PACKAGE, MODULE = "viewstore-example", "viewstore_example"
METADATA, ENTRIES = (
    f"{MODULE}-0.1.0.dist-info/{name}" for name in ("METADATA", "entry_points.txt")
)


def install(folder: Path) -> Path:
    """Install the package by pip, without a network, and return the folder where it lies."""
    source, site = folder / "source", folder / "site"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__", "build"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    offline = ["--no-build-isolation", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([*pip, *offline, str(source)], check=True, capture_output=True)
    return site


def changed(site: Path, folder: Path, name: str, before: str, after: str) -> Path:
    """Return a copy of an installed package, with other text in one of its files."""
    other = folder / "site"
    shutil.copytree(site, other, ignore=shutil.ignore_patterns("__pycache__"))
    text = (other / name).read_text()
    assert before in text
    (other / name).write_text(text.replace(before, after))
    return other


@contextmanager
def installed(*sites: Path) -> Iterator[None]:
    """Have what lies in these folders installed in a block."""
    with pytest.MonkeyPatch.context() as patch:
        for site in sites:
            patch.syspath_prepend(str(site))
        try:
            yield
        finally:
            for name in [each for each in sys.modules if each.partition(".")[0] == MODULE]:
                del sys.modules[name]
