"""Browse: the page of a query, its JSON and CSV, its errors, and what it weighs."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

import numpy as np
import pytest

from tests.benchmarks.test_loaders import module
from viewstore.errors import ConfigError
from viewstore.inspect.pages.page import Page
from viewstore.inspect.pages.site import Site
from viewstore.inspect.query import Query, understand
from viewstore.store.store import Store, open_store


class Read(HTMLParser):
    """A page as a browser reads it: its text, and the attributes of each tag."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.status, self._in = "", "", ""
        self.feed(page.body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if dict(attrs).get("role") == "status":
            self._in = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._in:
            self._in = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in:
            self.status += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and all(attrs.get(each) == value for each, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def site(digits: Path, searched: Path, hostile: Path) -> Site:
    paths = {"digits": digits, "searched": searched, "hostile": hostile}
    return Site({name: partial(open_store, path) for name, path in paths.items()})


def get(site: Site, name: str, **fields: Any) -> Page:  # noqa: ANN401
    return site.get(name, "browse", urlencode(fields))


def facts(site: Site, name: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    found: dict[str, Any] = json.loads(get(site, name, **fields, format="json").body)
    return found


def rows(site: Site, name: str, **fields: Any) -> list[int]:  # noqa: ANN401
    return [each["row"] for each in facts(site, name, **fields)["rows"]]


def test_a_page_shows_the_rows_of_a_query_in_their_order(site: Site, digits: Path) -> None:
    store = open_store(digits)
    fields = {"view_set": "simclr", "where": "any(flip = 1) and label < 7", "sort": "-blur"}
    page = Read(get(site, "digits", **fields))
    query = Query(where=fields["where"], sort="-blur")
    found = understand(store, query, store.view_sets["simclr"]).find()
    shown = [int(each["id"][1:]) for each in page.all("li") if "id" in each]
    assert shown == found.page(0, 24) == rows(site, "digits", **fields)
    assert f"{len(found)} of 80 samples, 1 to 24" in page.status
    links = [each["href"] for each in page.all("a") if "/sample/" in each.get("href", "")]
    assert [unquote(link.split("sample/")[1].split("?")[0]) for link in links] == [
        store.keys[row] for row in shown
    ]


def test_pages_follow_each_other_and_every_row_stands_on_one(site: Site) -> None:
    found: list[int] = []
    fields = {"view_set": "wide", "sort": "-blur"}
    page = Read(get(site, "digits", **fields))
    for number in range(1, 5):
        found += rows(site, "digits", **fields, page=number)
        following = page.all("a", rel="next")
        assert len(following) == 2 * (number < 4)  # above and below
        if following:
            assert following[0]["href"].startswith("?")
            page = Read(site.get("digits", "browse", following[0]["href"][1:]))
    assert sorted(found) == list(range(80))
    assert rows(site, "digits", **fields, page=9) == []
    first = Read(get(site, "digits", **fields, page=2)).all("a", rel="prev")[0]["href"]
    assert "page" not in first
    assert len(rows(site, "digits", n=100)) == 80
    assert len(rows(site, "digits", n=7)) == 7


def test_a_chip_removes_its_term_and_says_what_was_understood(site: Site) -> None:
    where = "flip = 1 and label < 7"
    page = Read(get(site, "digits", view_set="simclr", where=where, page=2))
    assert "any(flip = 1)" in page.text
    removing = {each["aria-label"]: each["href"] for each in page.all("a") if "aria-label" in each}
    fields = parse_qs(removing["remove any(flip = 1)"][1:])
    assert fields == {"where": ["label < 7"], "view_set": ["simclr"]}
    (field,) = page.all("input", name="where")
    assert field["value"] == where


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"where": "flipp = 1"}, "did you mean"),
        ({"where": "flip = "}, "must have a number"),
        ({"where": "flip = 1 " * 300}, "at most 2048 bytes"),
        ({"where": f"flip = {'1' * 33}"}, "at most 32 characters"),
        ({"sort": "nothing"}, "sort must name a column"),
        ({"page": "0"}, "page must be a whole number from 1"),
        ({"page": "1e3"}, "page must be a whole number"),
        ({"n": "-2"}, "n must be a whole number"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": "9" * 16}, "seed"),
    ],
)
def test_an_error_stands_beside_the_field(site: Site, fields: dict[str, str], message: str) -> None:
    answer = get(site, "digits", view_set="simclr", **fields)
    page = Read(answer)
    assert answer.status == 400
    assert message in page.text
    (field,) = page.all("input", name="where")
    assert (field["value"], field["aria-describedby"]) == (fields.get("where", ""), "wrong")
    assert len(page.all("dl", id="wrong")) == 1
    told = get(site, "digits", view_set="simclr", **fields, format="json")
    assert told.status == 400
    error = json.loads(told.body)["error"]
    assert error["status"] == 400
    assert message in error["message"]


def test_a_query_that_takes_too_long_is_answered_503(digits: Path) -> None:
    site = Site({"digits": lambda: open_store(digits)})
    site.query_seconds = -1
    answer = get(site, "digits", view_set="simclr", where="flip = 1")
    assert answer.status == 503
    assert "takes more than -1 s" in Read(answer).text
    site.query_seconds = 60
    assert get(site, "digits", view_set="simclr", where="flip = 1").status == 200


def test_an_empty_result_is_an_answer(site: Site) -> None:
    answer = get(site, "digits", view_set="simclr", where="index > 100", sort="-blur")
    assert answer.status == 200
    assert "0 of 80 samples" in Read(answer).status
    assert facts(site, "digits", view_set="simclr", where="index > 100")["rows"] == []


def test_every_number_of_the_page_is_one_of_its_json(site: Site) -> None:
    fields = {"view_set": "w-search", "where": "distance > 0.01", "sort": "-distance"}
    told = facts(site, "searched", **fields)
    page = Read(get(site, "searched", **fields))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    shown = re.findall(r"d = (\d\.\d{3})", text)
    cells = [view for row in told["rows"] for view in row["view_sets"]["w-search"]]
    assert shown == [f"{each['distance']:.3f}" for each in cells if each["distance"] is not None]
    assert len(shown) > 5
    notes = [each["note"] for each in cells if each["note"]]
    assert re.findall(r"! ([a-z ]+[a-z])", text) == notes
    assert f"{told['count']} of {told['samples']} samples" in page.status
    assert [f"row {each['row']}, label {each['label']}" for each in told["rows"]] == re.findall(
        r"row \d+, label \w+", text
    )


def test_boxes_lie_where_the_params_say_with_number_colour_and_dash(
    site: Site, digits: Path
) -> None:
    boxes = open_store(digits).view_sets["simclr"].params["crop_box"][0]
    page = Read(get(site, "digits", view_set="simclr", where="index = 0"))
    (drawing,) = page.all("svg")
    assert drawing["viewbox"] == "0 0 16 16"
    sides = ("y", "x", "height", "width")
    drawn = {tuple(each[side] for side in sides) for each in page.all("rect")}
    assert drawn == {tuple(f"{value:.1f}" for value in box) for box in boxes.tolist()}
    classes = {each["class"] for each in page.all("g")}
    assert classes == {f"box b{view} c{view}" for view in range(4)}
    assert not any("style" in attrs for _, attrs in page.tags)


def test_csv_has_a_line_for_each_row_and_a_cell_for_each_view(site: Site, digits: Path) -> None:
    params = open_store(digits).view_sets["simclr"].params
    fields = {"view_set": "simclr", "where": "solarize >= 0 and key != '0003'", "sort": "label"}
    answer = get(site, "digits", **fields, format="csv")
    assert (answer.media_type, answer.download) == ("text/csv", "browse.csv")
    header, *lines = csv.reader(io.StringIO(answer.body.decode()))
    views = [f"solarize.{view}" for view in range(4)]
    assert header == ["key", "row", "label", "height", "width", *views]
    assert [int(line[1]) for line in lines] == rows(site, "digits", **fields)
    for line in lines:
        assert list(map(int, line[5:])) == params["solarize"][int(line[1])].tolist()
    assert len(lines) == 24


def test_the_printed_code_selects_these_rows(site: Site) -> None:
    for fields in (
        {"view_set": "simclr", "where": "any(flip = 1) and key != 'a\"b'", "sort": "-blur"},
        {"view_set": "wide", "sort": "random", "seed": "7", "page": "2"},
        {"view_set": "wide", "page": "4", "n": "23"},
    ):
        page = get(site, "digits", **fields)
        found = re.search(r'<pre id="code" tabindex="0">(.*?)</pre>', page.body.decode(), re.DOTALL)
        assert found is not None
        names: dict[str, Any] = {}
        exec(unescape(found[1]), names)
        assert names["rows"] == rows(site, "digits", **fields)
        assert len(names["rows"]) > 0


def test_presets_and_random_lead_to_answers(site: Site) -> None:
    page = Read(get(site, "searched", view_set="w-search"))
    links = [each.get("href", "") for each in page.all("a")]
    paragraphs = [link for link in links if link.startswith("./browse")]
    assert len(paragraphs) >= 5
    for link in paragraphs:
        path, _, query = link.removeprefix("./").partition("?")
        assert site.get("searched", path, query).status == 200, link
    assert any("sort=worst" in link for link in paragraphs)
    assert any("sort=random&seed=1" in link for link in paragraphs)
    again = Read(get(site, "searched", view_set="w-search", sort="random", seed=1))
    assert any("seed=2" in each.get("href", "") for each in again.all("a"))


def test_a_result_is_made_once_and_found_again(digits: Path) -> None:
    site = Site({"digits": lambda: open_store(digits)})
    fields = {"view_set": "simclr", "where": "flip = 1", "sort": "-blur"}
    first = get(site, "digits", **fields).body
    assert len(site.results) == 1
    site.query_seconds = -1  # it would be refused
    assert get(site, "digits", **{**fields, "where": "any( flip = 1 )"}).status == 200
    assert get(site, "digits", **fields).body == first
    assert len(site.results) == 1


def test_hostile_keys_are_text(site: Site, hostile: Path) -> None:
    keys = list(open_store(hostile).keys)
    page = Read(get(site, "hostile"))
    assert all(key in page.text for key in keys)
    assert "iframe" not in {tag for tag, _ in page.tags}
    scripts = [attrs.get("src") for tag, attrs in page.tags if tag == "script"]
    assert scripts == ["./static/keys.js", "./static/link.js"]
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    sources = [each["src"] for each in page.all("img")]
    assert all(source.startswith("picture/") for source in sources)
    assert all("{" not in source and "<" not in source for source in sources)
    for key in keys:
        assert sum(f"/{quote(key, safe='')}?" in source for source in sources) == 3


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 samples of eight views."""
    made: Path = module("made").make(tmp_path_factory.mktemp("many") / "made", 20_000)
    return made


def test_pages_keep_their_budget_of_bytes(many: Path) -> None:
    site = Site({"many": lambda: open_store(many)})
    for fields in (
        {},
        {"where": "any(distance > 0.31 and flip = 1)", "sort": "-x_loss"},
        {"sort": "worst"},
        {"page": "700", "sort": "blur"},
    ):
        answer = get(site, "many", **fields)
        page = Read(answer)
        assert len(page.all("img")) == 24 * 9
        assert len(answer.body) < 120_000, (fields, len(answer.body))
    for source in [each["src"] for each in page.all("img")][:18]:
        path, _, query = source.partition("?")
        assert len(site.get("many", path, query).body) <= 12_000
    assert site.columns.weight <= site.columns.limit


def test_an_address_of_many_fields_is_refused(site: Site) -> None:
    assert site.get("digits", "browse", "a=1&" * 100).status == 400
    with pytest.raises(ConfigError):
        understand(open_store(site.stores["digits"]().location), Query(where="a" * 3000), None)


def test_the_page_of_a_small_store_is_as_it_was(raw_store: Store) -> None:
    """Golden: what changes here on purpose is written anew, and looked at in a browser."""
    site = Site({"s": lambda: raw_store})
    page = get(site, "s", where="index in [3, 17] and flip is not missing", sort="-label")
    main = re.search(r"<main.*</main>", page.body.decode(), re.DOTALL)
    assert main is not None
    found = re.sub(r"\b[0-9a-f]{16}\b", "ROOT", main[0]) + "\n"
    assert found == (Path(__file__).parent / "golden" / "browse.html").read_text()


def test_a_row_says_which_view_decided_its_place(digits: Path) -> None:
    site = Site({"s": lambda: open_store(digits)})
    for sort, choose in (("-blur", np.argmax), ("blur", np.argmin)):
        facts = json.loads(get(site, "s", sort=sort, format="json").body)
        text = get(site, "s", sort=sort).body.decode()
        for each in facts["rows"]:
            assert each["by_view"] == choose(each["values"]["blur"])
            assert f"by view {each['by_view']}" in text
    for sort in ("", "key", "random"):
        assert b"by view" not in get(site, "s", sort=sort).body
