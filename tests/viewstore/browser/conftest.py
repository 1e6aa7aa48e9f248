"""A real browser: Debian's Chromium through playwright, and a server of the pages for it.

`.ci/browser` installs both, and axe-core; elsewhere these tests skip and say what is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.viewstore.told_store import build_told

REPO = Path(__file__).parents[3]
CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(os.environ.get("VIEWSTORE_AXE", REPO / "build" / "axe" / "package" / "axe.min.js"))
ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 60


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running Chromium. While playwright runs, no other event loop can in this thread."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("needs playwright: .ci/browser installs it")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: .ci/browser installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    if not AXE.exists():
        pytest.skip("needs axe-core: .ci/browser fetches it")
    return AXE.read_text()


@dataclass
class Visit:
    """A tab of the browser, and what went wrong in it.

    Attributes:
        page: Playwright's page.
        address: Of the Overview of the store.
        problems: Messages of the console, errors of scripts, dialogs, answers of an error, and
            requests to another place.
    """

    page: Any
    address: str
    problems: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Open a page of the store, by its address below the Overview."""
        self.page.goto(self.address + path)

    def watch(self) -> None:
        """Begin to note what goes wrong."""
        place = urlsplit(self.address).netloc

        def refuse(dialog: Any) -> None:  # noqa: ANN401
            self.problems.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        def asked(request: Any) -> None:  # noqa: ANN401
            url = urlsplit(request.url)
            if url.scheme != "data" and url.netloc != place:
                self.problems.append(f"request to {request.url}")

        def answered(response: Any) -> None:  # noqa: ANN401
            if response.status >= 400:
                self.problems.append(f"{response.status} for {response.url}")

        self.page.on("console", lambda message: self.problems.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("dialog", refuse)
        self.page.on("request", asked)
        self.page.on("response", answered)


Open = Callable[..., Any]


@pytest.fixture
def visit(chromium: Any) -> Open:  # noqa: ANN401
    """Open a tab of its own on a store; keywords go to playwright's new_context."""

    @contextmanager
    def opened(address: str, **context: Any) -> Iterator[Visit]:  # noqa: ANN401
        made = chromium.new_context(**({"viewport": {"width": 1300, "height": 900}} | context))
        made.set_default_timeout(SECONDS * 1000)
        visiting = Visit(made.new_page(), address)
        visiting.watch()
        try:
            yield visiting
        finally:
            made.close()

    return opened


@contextmanager
def serving(*stores: object, root_path: str = "") -> Iterator[str]:
    """Serve stores, with options, as `viewstore serve` does; give the address that it prints."""
    command = [sys.executable, "-m", "viewstore", "serve", *map(str, stores), "--port", "0"]
    command += ["--root-path", root_path] if root_path else []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        assert "http://" in first, first + process.stderr.read()
        yield next(word for word in first.split() if word.startswith("http://")).rstrip("/")
    finally:
        process.terminate()
        process.wait(SECONDS)
        process.stderr.close()


@pytest.fixture(scope="session")
def sites(shown_stores: dict[str, Path]) -> Iterator[dict[str, str]]:
    """The addresses of the Overview of each of the stores that are looked at, by name."""
    with serving(*(f"{name}={path}" for name, path in shown_stores.items())) as address:
        yield {name: f"{address}/inspect/{name}/" for name in shown_stores}


@pytest.fixture(scope="session")
def shown_stores(
    tmp_path_factory: pytest.TempPathFactory, digits: Path, searched: Path, hostile: Path
) -> dict[str, Path]:
    """Stores that between them have data for every page, by the name they are served under."""
    found = {"digits": digits, "searched": searched, "hostile": hostile}
    found["told"] = build_told(tmp_path_factory.mktemp("told") / "s")
    return found
