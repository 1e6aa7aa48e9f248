"""Every link and choice that pages offer leads to a page: a walk over a store of every kind."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.loaders.told import tell
from tests.viewstore.commands import invoke
from tests.viewstore.inspect.looked import facts_of, page_of, site_of
from tests.viewstore.small_stores import build_small, write_photographs
from viewstore.build.draws import drawn_anew
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.inspect.pages.page import Facts, Page, PageRequest, Tab
from viewstore.inspect.pages.site import Site
from viewstore.inspect.pages.tabs import TABS
from viewstore.inspect.told import told_of_image
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


OF_IMAGES = ("duplicates", "images", "qsrc")


def test_every_link_and_choice_leads_to_a_page(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site({store.name: lambda: store}, {store.name: store.root}, replays=drawn_anew)
    walked = list(walk(site, store.name))
    wrong = [
        (address, offered, page.status, page.body[-600:])
        for address, offered, page in walked
        if page.status >= 400
    ]
    assert wrong == []
    assert not caplog.records
    paths = [
        urlsplit(address).path.removeprefix(f"/inspect/{store.name}/") for address, *_ in walked
    ]
    tabs = {"overview" if path == "" else path.partition("/")[0] for path in paths}
    assert tabs == {each.name for each in TABS} - {"constraints"}  # there is no search here


def test_columns_about_images_are_browsed_with_their_originals(store: Store) -> None:
    site = site_of(store)
    for name in OF_IMAGES:
        facts = facts_of(site, store.name, f"browse?view_set={name}")
        assert facts["count"] == ROWS
        for row, each in enumerate(facts["rows"]):
            assert each["view_sets"] == {}
            assert tuple(each["told"]) == told_of_image(store, row)
        page = page_of(site, store.name, f"browse?view_set={name}")
        assert page.body.count(b"/original/") == ROWS
        mean = store.view_sets["qsrc"].params["luma_mean"][0, 0]
        assert f"luma mean {mean:.3g}".encode() in page.body


def test_only_what_has_something_in_common_is_compared(store: Store) -> None:
    site = site_of(store)
    assert facts_of(site, store.name, "compare?view_set=one")["choices"] == ["recipe", "two"]
    for name, others in (("qsrc", ["views-of-one"]), ("hard", ["images"])):
        assert facts_of(site, store.name, f"compare?view_set={name}")["choices"] == others
    page = page_of(site, store.name, "?view_set=duplicates")
    assert page.status == 200
    assert b">Compare<" not in page.body
    assert page_of(site, store.name, "compare?view_set=duplicates").status == 404


def test_one_view_set_and_columns_about_images_are_not_compared(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "pictures", 4, cut=0)
    build_small(tmp_path / "s", str(source), on_error="skip")
    measured(tmp_path / "s", "quality", "qsrc", of="source")
    store = open_store(tmp_path / "s")
    assert b">Compare<" not in page_of(site_of(store), "s", "").body


def test_hashes_of_small_pictures_are_said_to_be_coarse(tmp_path: Path) -> None:
    for side, coarse in ((20, True), (32, False)):
        out, source = tmp_path / f"s{side}", tmp_path / f"{side}.npz"
        np.savez(source, images=np.zeros((4, side, side, 3), np.uint8))
        build_small(out, str(source))
        measured(out, "quality", "quality", of="source")
        measured(out, "quality", "views", of="simclr")
        built = invoke("build", "--generator", "duplicates", "--of", "quality", "--out", out)
        assert "images that look alike: 1 group, 3 samples beyond the first" in built.output
        store = open_store(out)
        kinds = facts_of(site_of(store), store.name, "issues")["kinds"]
        said = {each["kind"]: each["meaning"] for each in kinds}
        words = f"Hashes of pictures of {side} px are coarse"
        assert (words in said["near-duplicate samples"]) == coarse
        assert "Hashes of pictures of 16 px are coarse" in said["equal views"]
        assert "coarse" not in said["dark"]


def test_a_sheet_and_a_report_show_originals_with_what_is_said_of_them(
    root: Path, tmp_path: Path
) -> None:
    sheet, report = tmp_path / "x.png", tmp_path / "x.html"
    arguments = ["inspect", root, "--view-set", "qsrc", "--sheet", sheet, "--html", report]
    assert invoke(*arguments).exit_code == 0
    with Image.open(sheet) as image:
        assert image.text["viewstore:view_set"] == "source"  # type: ignore[attr-defined]
        assert len(set(np.asarray(image.convert("RGB")).reshape(-1, 3)[:, 0].tolist())) > 100
    text = report.read_text("utf-8")
    mean = open_store(root).view_sets["qsrc"].params["luma_mean"][1, 0]
    assert f"luma mean {mean:.3g}" in text
    samples = text.split('id="samples"')[1].split("</section>")[0]
    assert samples.count('alt="original of') == 10


def test_what_looks_alike_stands_together(store: Store) -> None:
    site = site_of(store)
    one, other = (store.keys.row(key) for key in ("4.jpg", "5.jpg"))
    facts = facts_of(site, store.name, "sample/5.jpg")
    assert facts["alike"] == [
        {"view_set": "duplicates", "others": 1, "samples": [{"row": one, "key": "4.jpg"}]}
    ]
    page = page_of(site, store.name, "sample/5.jpg")
    assert b'<a href="../sample/4.jpg">4.jpg</a>' in page.body
    assert facts_of(site, store.name, "sample/1.jpg")["alike"] == []
    kinds = facts_of(site, store.name, "issues")["kinds"]
    found = next(each for each in kinds if each["kind"] == "near-duplicate samples")
    assert "1 group, 1 sample beyond the first of each." in found["meaning"]
    assert "coarse" not in found["meaning"]  # the images have 48 pixels
    link = (
        "browse?view_set=one&amp;where=duplicates.duplicate+%3E%3D+0&amp;sort=duplicates.duplicate"
    )
    assert f'href="./{link}"'.encode() in page_of(site, store.name, "issues").body
    rows = facts_of(site, store.name, link.replace("&amp;", "&"))["rows"]
    assert [each["row"] for each in rows] == [one, other]


def test_columns_about_images_stand_apart(store: Store) -> None:
    body = page_of(site_of(store), store.name, "").body
    of_views, of_images = body.split(b"about the images")
    for name in OF_IMAGES:
        link = f'<a href="?view_set={name}">'.encode()
        assert link in of_images
        assert link not in of_views


def _raise(request: PageRequest) -> Facts:
    raise IndexError("nothing there")


def test_a_bug_is_a_page_that_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Tab(name="broken", title="Broken", facts=_raise, is_tab=False)
    monkeypatch.setattr("viewstore.inspect.pages.site.TABS", (*TABS, broken))
    site = site_of(store)
    page = page_of(site, store.name, "broken")
    assert (page.status, page.media_type) == (500, "text/html")
    for words in ("VS900", "IndexError: nothing there", "this is a bug in viewstore", "report the"):
        assert words.encode() in page.body
    assert b"Traceback" not in page.body
    [record] = caplog.records
    assert "'broken'" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is IndexError
    error = json.loads(page_of(site, store.name, "broken?format=json").body)["error"]
    assert (error["code"], error["message"]) == (
        "VS900", "viewstore failed: IndexError: nothing there"
    )  # fmt: skip
