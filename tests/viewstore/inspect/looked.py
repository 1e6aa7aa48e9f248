"""Pages of stores, as tests ask for them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.viewstore.pages import Page as Html
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.inspect.pages.page import Page
from viewstore.inspect.pages.site import Site
from viewstore.store.store import Store, open_store


def site_of(*stores: Store | Path) -> Site:
    """Return the pages of stores by their names; of folders the newest generation is shown."""
    found = {}
    folders = {each.name: each for each in stores if isinstance(each, Path)}
    for each in stores:
        found[each.name] = (
            (lambda e=each: open_store(e)) if isinstance(each, Path) else (lambda e=each: e)
        )
    return Site(found, folders)


def facts_of(site: Site, name: str, address: str) -> dict[str, Any]:
    """Return the facts of a page that is there."""
    path, _, query = address.partition("?")
    page = site.get(name, path, f"{query}&format=json" if query else "format=json")
    assert page.status == 200, page.body
    facts: dict[str, Any] = json.loads(page.body)
    return facts


def html_of(site: Site, name: str, address: str) -> Html:
    """Return a page that is there as a browser would find it."""
    page = page_of(site, name, address)
    assert page.status == 200, page.body
    return Html(page.body)


def has_tab(site: Site, name: str, tab: str) -> bool:
    """Return whether a tab is there, by its address and by the row of tabs alike."""
    there = page_of(site, name, tab).status == 200
    assert (f">{tab.title()}</a>" in page_of(site, name, "").body.decode()) == there
    return there


def plain_site(folder: Path) -> Site:
    """Return the pages of a store "s" of plain views, of which nothing is told."""
    build_small(folder / "s", write_npz(folder / "i.npz"))
    return site_of(open_store(folder / "s"))


def page_of(site: Site, name: str, address: str) -> Page:
    """Return the page, picture or file at an address below the store's Overview."""
    path, _, query = address.partition("?")
    return site.get(name, path, query)


def pixels_of(page: Page) -> NDArray[np.uint8]:
    """Return the pixels of a picture, uint8 [H, W, 3]."""
    assert page.status == 200, page.body
    return np.asarray(Image.open(io.BytesIO(page.body)).convert("RGB"))
