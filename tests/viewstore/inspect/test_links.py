"""Every link and choice that pages offer leads to a page: a walk over a store of every kind."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import pytest

from tests.loaders.told import tell
from tests.viewstore.inspect.looked import site_of
from tests.viewstore.small_stores import build_small, write_photographs
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.inspect.pages.page import Page
from viewstore.inspect.pages.site import Site
from viewstore.store.store import Store, open_store

MOST = 1000  # addresses of a walk
BASE = "http://here/inspect/"
ROWS = 20


class Offers(HTMLParser):
    """What a page leads to: links, pictures, and each choice of its forms."""

    def __init__(self, address: str, raw: bytes) -> None:
        super().__init__()
        self.address = address
        self.found: list[str] = []
        self._action = ""
        self._fields: dict[str, str] = {}
        self._choices: list[tuple[str, str]] = []
        self._select = ""
        self._option: str | None = None
        self._chosen = False
        self.feed(raw.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in ("a", "img") and (target := given.get("href") or given.get("src")):
            self.found.append(urljoin(self.address, target))
        if tag == "form" and given.get("method") == "get":
            self._action = urljoin(self.address, given.get("action", "")).partition("?")[0]
            self._fields, self._choices = {}, []
        if tag == "input" and "name" in given:
            self._fields[given["name"]] = given.get("value", "")
        if tag == "select":
            self._select = given["name"]
        if tag == "option":
            self._option, self._chosen = given.get("value"), "selected" in given
            if self._option is not None:
                self._take(self._option)

    def handle_data(self, data: str) -> None:
        if self._select and self._option is None and data.strip():
            self._take(data.strip())

    def _take(self, value: str) -> None:
        self._choices.append((self._select, value))
        if self._chosen or self._select not in self._fields:
            self._fields[self._select] = value

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        if tag == "form" and self._action:
            for name, value in [("", ""), *self._choices]:
                fields = {**self._fields, **({name: value} if name else {})}
                if "key" not in fields:  # which a person types
                    self.found.append(f"{self._action}?{urlencode(fields)}")
            self._action = ""


def walk(site: Site, name: str) -> Iterator[tuple[str, str, Page]]:
    """Yield an address, where it was first offered, and its page, from the Overview on."""
    begin = f"{BASE}{name}/"
    waiting, seen = deque([(begin, "")]), {begin}
    for _ in range(MOST):
        if not waiting:
            return
        address, offered = waiting.popleft()
        parts = urlsplit(address)
        store, _, path = parts.path.removeprefix(urlsplit(BASE).path).partition("/")
        page = site.get(store, path, parts.query)
        yield address, offered, page
        if page.media_type != "text/html":
            continue
        for each in Offers(address, page.body).found:
            other = each.partition("#")[0]
            if other.startswith(BASE) and other not in seen:
                seen.add(other)
                waiting.append((other, address))


def measured(out: Path, generator: str, name: str, **settings: str) -> None:
    request = {"generator": generator, "view_set": name, "out": out, "settings": settings}
    build(BuildRequest(**request, workers=1, on_error="skip"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pixels twice, a recipe, columns about views and images, choices, features, an open build."""
    folder = tmp_path_factory.mktemp("links")
    out, source = folder / "s", write_photographs(folder / "pictures", ROWS, cut=3)
    (source / "4.jpg").write_bytes((source / "5.jpg").read_bytes())
    build_small(out, str(source), view_set="one", on_error="skip")
    build_small(out, None, view_set="two", seed=1, on_error="skip")
    build_small(out, None, view_set="recipe", codec="params", on_error="skip")
    build_small(out, None, view_set="open", only=(0,), seed=2, on_error="skip")
    measured(out, "quality", "views-of-one", of="one")
    measured(out, "quality", "qsrc", of="source")
    measured(out, "duplicates", "duplicates", of="qsrc")
    tell(out, "hard", "one", groups=1, choose=2)
    tell(out, "images", "source")
    return out


@pytest.fixture
def store(root: Path) -> Store:
    return open_store(root)


def test_every_link_and_choice_leads_to_a_page(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        wrong = [
            (address, offered, page.status, page.body[-600:])
            for address, offered, page in walk(site_of(store), store.name)
            if page.status >= 400
        ]
    assert wrong == []
    assert not caplog.records
