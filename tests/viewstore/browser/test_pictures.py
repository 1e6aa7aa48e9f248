"""Every picture belongs to the key beside it, whatever was sorted, filtered or built."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.viewstore.browser.conftest import Open, Visit, serving
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.store.store import open_store

pytestmark = pytest.mark.browser

ROWS = 30
VIEWS = 2
TOLERANCE = 6  # levels by which JPEG and resizing may change a flat colour
# The mean colour of every picture of every row, with the number of the row that its key names.
COLOURS = """() => [...document.querySelectorAll(".rows > li")].flatMap(row =>
  [...row.querySelectorAll("img")].map(img => {
    if (!img.naturalWidth) return [row.querySelector("h3 a").textContent.trim(), -99, -99, -99];
    const canvas = new OffscreenCanvas(1, 1), context = canvas.getContext("2d");
    context.drawImage(img, img.naturalWidth / 2, img.naturalHeight / 2, 1, 1, 0, 0, 1, 1);
    return [row.querySelector("h3 a").textContent.trim(), ...context.getImageData(0, 0, 1, 1).data];
  }))"""


def colour(row: int) -> tuple[int, int, int]:
    """Return the colour of all pixels of a row: no two rows have one."""
    return 8 * row, 255 - 8 * row, 90 * (row % 3)


def build_colours(
    out: Path, folder: Path, *, view_set: str = "crops", flipped: bool = False
) -> None:
    """Build crops of pictures of one colour each; `flipped`: in the opposite order of rows."""
    order = range(ROWS - 1, -1, -1) if flipped else range(ROWS)
    images = np.stack([np.full((40, 40, 3), colour(row), np.uint8) for row in order])
    folder.mkdir(exist_ok=True)
    np.savez(folder / "images.npz", images=images, labels=np.arange(ROWS))
    settings = {"policy": "crop", "views": VIEWS, "height": 32, "width": 32}
    source = str(folder / "images.npz")
    build(
        BuildRequest(
            generator="expert", view_set=view_set, out=out, source=source, settings=settings
        )
    )


def strangers(visit: Visit, *, flipped: bool = False) -> list[str]:
    """Return the keys beside which a picture of another key stands on the page that is open."""
    visit.page.wait_for_load_state("networkidle")
    visit.page.evaluate(
        "Promise.all([...document.images].map(img => "
        "(img.loading = 'eager', img.decode().catch(() => null))))"
    )
    found = visit.page.evaluate(COLOURS)
    assert len(found) >= 1 + VIEWS
    wrong = []
    for key, *pixel in found:
        row = int(key)
        wanted = colour(ROWS - 1 - row if flipped else row)
        if max(abs(have - want) for have, want in zip(pixel, wanted, strict=False)) > TOLERANCE:
            wrong.append(key)
    return wrong


def walk(visit: Visit) -> list[str]:
    """Sort, filter, page and go back; return the keys that had a picture of another."""
    page = visit.page
    visit.go("browse?n=10")
    wrong = strangers(visit)
    for address in ("browse?n=10&sort=-index", "browse?n=10&where=index > 11&sort=label"):
        visit.go(address)
        wrong += strangers(visit)
    page.click("a[rel=next]")
    wrong += strangers(visit)
    page.go_back()
    page.go_back()
    return wrong + strangers(visit)


def test_sorted_filtered_and_gone_back_each_picture_is_that_of_its_key(
    tmp_path: Path, visit: Open
) -> None:
    build_colours(tmp_path / "s", tmp_path / "source")
    with serving(tmp_path / "s") as address, visit(f"{address}/inspect/s/") as visiting:
        assert walk(visiting) == []


def test_addresses_by_position_would_show_pictures_of_others(tmp_path: Path, visit: Open) -> None:
    """The same walk, with pictures kept by their place on the page: the test above must see it."""
    build_colours(tmp_path / "s", tmp_path / "source")
    kept: dict[tuple[int, str], Any] = {}
    asked: list[str] = []

    def naive(route: Any) -> None:  # noqa: ANN401
        place = (len(asked) % (10 * (1 + VIEWS)), "picture")
        asked.append(route.request.url)
        if place not in kept:
            answer = route.fetch()
            kept[place] = answer.body(), answer.headers["content-type"]
        body, content_type = kept[place]
        route.fulfill(body=body, content_type=content_type)

    with serving(tmp_path / "s") as address, visit(f"{address}/inspect/s/") as visiting:
        visiting.page.route("**/picture/**", naive)
        assert walk(visiting)


def wait_for(visit: Visit, store: Path) -> None:
    """Wait until the server has seen what was built: it looks for that once a second."""
    wanted = open_store(store).store_id
    for _ in range(300):
        found = visit.page.request.get(f"{visit.address}?format=json").json()
        if found.get("store_id") == wanted:
            return
        time.sleep(0.1)
    pytest.fail("the server does not see what was built")


def test_a_store_that_is_built_again_shows_its_own_pictures(tmp_path: Path, visit: Open) -> None:
    build_colours(tmp_path / "s", tmp_path / "source")
    with serving(tmp_path / "s") as address, visit(f"{address}/inspect/s/") as visiting:
        visiting.go("browse?n=10")
        assert strangers(visiting) == []
        build_colours(tmp_path / "s", tmp_path / "source", view_set="more")  # a new generation
        wait_for(visiting, tmp_path / "s")
        visiting.go("browse?n=10&view_set=more")
        assert strangers(visiting) == []
        shutil.rmtree(tmp_path / "s")
        build_colours(tmp_path / "s", tmp_path / "other", flipped=True)
        wait_for(visiting, tmp_path / "s")
        visiting.go("browse?n=10&view_set=crops")
        assert strangers(visiting, flipped=True) == []
