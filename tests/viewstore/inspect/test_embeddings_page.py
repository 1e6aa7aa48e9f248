"""The page Embeddings: map, selection, neighbours; links that name just the rows they count."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import numpy as np
import pytest

from tests.viewstore.inspect import looked
from tests.viewstore.inspect.planted import HOSTILE, ROWS, pictures, plant
from tests.viewstore.pages import Page
from viewstore.errors import counted
from viewstore.inspect.embedding_chart import STEP_COLOURS
from viewstore.inspect.embeddings import embedding_named, map_of
from viewstore.inspect.pages.among import rows_among
from viewstore.inspect.pages.site import Site
from viewstore.store.store import open_store

VIEWS = 3
OUTLIERS = 12  # that a page shows


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    score = np.arange(ROWS * VIEWS, dtype=np.float32).reshape(ROWS, VIEWS)
    out = folder / "s"
    plant(out, "p", {"x_score": score}, views=VIEWS, source=pictures(folder / "pictures"))
    rng = np.random.Generator(np.random.Philox(1))
    for name, views, of in (("teacher", VIEWS, "p"), ("images", 1, "source")):
        feature = rng.normal(size=(ROWS, views, 6)).astype(np.float16)
        values = {"feature": feature, "status": np.ones((ROWS, views), np.uint8)}
        plant(out, name, values, of=of, views=views, unpacked=("feature",))
    return out


@pytest.fixture(scope="module")
def site(root: Path) -> Site:
    return looked.site_of(open_store(root))


def facts_of(site: Site, query: str = "") -> dict[str, Any]:
    return looked.facts_of(site, "s", f"embeddings?{query}")


def html_of(site: Site, query: str = "") -> Page:
    return looked.html_of(site, "s", f"embeddings?{query}")


def test_stores_without_features_have_no_tab(tmp_path: Path, site: Site) -> None:
    assert not looked.has_tab(looked.plain_site(tmp_path), "s", "embeddings")
    assert looked.has_tab(site, "s", "embeddings")


def test_cells_link_to_the_samples_that_they_count(site: Site, root: Path) -> None:
    facts, page = facts_of(site), html_of(site)
    counts = [count for row in facts["counts"] for count in row if count]
    assert sum(counts) == facts["points"] == ROWS * VIEWS
    links = [attrs for tag, attrs in page.tags if tag == "a" and attrs.get("class") == "cell"]
    assert len(links) == len(counts)
    total = 0
    for link, count in zip(links, counts, strict=True):
        query = (link["href"] or "").removeprefix("?").partition("#")[0]
        selection = facts_of(site, query)["selection"]
        rows = rows_among(site.facts, open_store(root), selection["among"])
        assert 1 <= len(rows) == selection["rows"] <= count
        assert (link["aria-label"] or "").startswith(f"{counted(count, 'view')},")
        total += count
    assert total == ROWS * VIEWS


def test_a_selection_shows_its_first_samples_and_a_link_to_all(site: Site, root: Path) -> None:
    query = "of=teacher.feature&view=1&x0=-1&x1=9&y0=-9&y1=9"
    selection, page = facts_of(site, query)["selection"], html_of(site, query)
    assert f"{selection['rows']} samples have a view there" in page.text
    assert len(page.images()) == min(12, selection["rows"]) + OUTLIERS
    assert all("/teacher/" not in (image["src"] or "") for image in page.images())
    assert all("/p/1/" in (image["src"] or "") for image in page.images())
    (link,) = (
        attrs["href"]
        for tag, attrs in page.tags
        if tag == "a" and "among=map" in (attrs.get("href") or "")
    )
    fields = dict(parse_qsl((link or "").partition("?")[2]))
    assert fields["view_set"] == "p"
    rows = rows_among(site.facts, open_store(root), fields["among"])
    assert len(rows) == selection["rows"]
    browse = site.get("s", "browse", f"{(link or '').partition('?')[2]}&format=json")
    assert json.loads(browse.body)["count"] == len(rows)
    every = rows_among(site.facts, open_store(root), fields["among"].replace("/1/", "/"))
    assert len(every) > len(rows)  # naive: any view
    for wrong in (
        "x0=1",
        "x0=a&x1=1&y0=1&y1=1",
        "view=9",
        "view=-1",
        "of=none",
        "near=none",
        "colour=x",
    ):
        assert site.get("s", "embeddings", wrong).status in (400, 404), wrong


def test_the_code_makes_the_map_and_selects(site: Site) -> None:
    query = "of=teacher.feature&view=1&x0=-1&x1=9&y0=-9&y1=9"
    found: dict[str, Any] = {}
    exec(compile(html_of(site, query).code, "page", "exec"), found)
    assert len(found["rows"]) == facts_of(site, query)["selection"]["rows"] > 0


def test_an_empty_selection_is_an_answer(site: Site) -> None:
    query = "x0=90&x1=91&y0=0&y1=1"
    assert facts_of(site, query)["selection"]["rows"] == 0
    assert "0 samples have a view there" in html_of(site, query).text


def test_neighbours_are_pictures_in_their_order(site: Site) -> None:
    key = open_store_key(site, 5)
    query = f"near={key}&near_view=2"
    near, page = facts_of(site, query)["near"], html_of(site, query)
    assert (near["view"], near["by_view"], {each["to"] for each in near["samples"]}) == (2, 2, {2})
    assert "View 2 against the views of" in page.text
    cosines = [each["cosine"] for each in near["samples"]]
    assert cosines == sorted(cosines, reverse=True)
    assert len(cosines) == 12
    assert key not in [each["key"] for each in near["samples"]]
    pictures = [
        unquote_plus((image["src"] or "").split("?")[0].split("/")[-1]) for image in page.images()
    ]
    assert pictures[:-OUTLIERS] == [key, *(each["key"] for each in near["samples"])]
    assert {image.get("class") for image in page.images()} == {"small"}  # pixels, as on Browse
    assert f"to view 2, {cosines[0]:.3f}" in page.text


def test_nearest_samples_are_by_any_view_where_none_is_picked(site: Site) -> None:
    key = open_store_key(site, 5)
    query = f"of=teacher.feature&near={key}"
    near, page = facts_of(site, query)["near"], html_of(site, query)
    assert near["by_view"] is None
    assert len({each["to"] for each in near["samples"]}) > 1
    assert near["view"] == near["samples"][0]["to"]  # the view that is marked
    assert "Any of its views, whichever is nearest," in page.text
    best = [each["cosine"] for each in near["samples"]]
    for view in range(VIEWS):
        by_one = facts_of(site, f"{query}&near_view={view}")["near"]["samples"]
        assert all(a["cosine"] <= b for a, b in zip(by_one, best, strict=True))
    assert site.get("s", "embeddings", f"{query}&near_view=9").status == 404


def test_the_asked_sample_and_its_nearest_are_marked_on_the_map(site: Site) -> None:
    query = f"of=teacher.feature&near={open_store_key(site, 5)}"
    near, body = facts_of(site, query)["near"], html_of(site, query)
    found = map_of(embedding_named(site.stores["s"](), "teacher.feature"))
    places = {
        (row, view): point
        for row, view, point in zip(
            found.rows.tolist(), found.views.tolist(), found.xy.tolist(), strict=True
        )
    }
    for each in (near, *near["samples"]):
        assert each["at"] == pytest.approx(places[each["row"], each["view"]])
    rings = [attrs for tag, attrs in body.tags if tag == "circle"]
    assert len(rings) == 1 + len(near["samples"])
    without = html_of(site, "of=teacher.feature")
    assert not [tag for tag, _ in without.tags if tag == "circle"]


def test_outliers_are_pictures_with_their_numbers_and_a_link_to_browse(site: Site) -> None:
    query = "of=teacher.feature&view=1"
    found, page = facts_of(site, query)["outliers"], html_of(site, query)
    distances = [each["distance"] for each in found["samples"]]
    assert len(distances) == OUTLIERS
    assert distances == sorted(distances, reverse=True)
    assert {each["view"] for each in found["samples"]} == {1}
    assert (found["asked"], found["points"]) == (ROWS, ROWS)
    sources = [image["src"] or "" for image in page.images()]
    assert [unquote_plus(each.split("?")[0].split("/")[-1]) for each in sources] == [
        each["key"] for each in found["samples"]
    ]
    assert all("/p/1/" in each for each in sources)
    for distance in distances:
        assert f"{distance:.3f}" in page.text
    (link,) = (
        attrs["href"] or ""
        for tag, attrs in page.tags
        if tag == "a" and "among=outliers" in (attrs.get("href") or "")
    )
    browse = json.loads(site.get("s", "browse", f"{link.partition('?')[2]}&format=json").body)
    assert browse["count"] == found["rows"]
    assert [each["row"] for each in browse["rows"]] == sorted(
        each["row"] for each in found["samples"]
    )
    code: dict[str, Any] = {}
    exec(
        compile(looked.html_of(site, "s", f"browse?{link.partition('?')[2]}").code, "p", "exec"),
        code,
    )
    assert sorted(code["rows"]) == [each["row"] for each in browse["rows"]]
    assert facts_of(site, "of=teacher.feature")["outliers"]["points"] == ROWS * VIEWS
    for wrong in ("outliers/none", "outliers/teacher.feature/x", "outlier/teacher.feature"):
        assert site.get("s", "browse", f"among={wrong}").status == 400, wrong


def open_store_key(site: Site, row: int) -> str:
    return site.stores["s"]().keys[row]


def test_colours_are_classes_or_six_steps(site: Site) -> None:
    classes = facts_of(site)["groups"]
    assert [each["label"] for each in classes] == ["label0", "label1", "label2"]
    assert len({(each["colour"], each["shape"]) for each in classes}) == 3
    steps = facts_of(site, "of=teacher.feature&colour=p.x_score")["groups"]
    assert len(steps) == 6
    assert [each["count"] for each in steps] == [10] * 6
    assert [each["colour"] for each in steps] == list(STEP_COLOURS)
    assert len({each["shape"] for each in steps}) == 6
    same = facts_of(site, "of=teacher.feature&colour=p.status")["groups"]
    assert [(each["label"], each["count"]) for each in same] == [("1", ROWS * VIEWS)]


def test_points_of_the_csv_are_those_of_the_groups(site: Site) -> None:
    page = site.get("s", "embeddings", "format=csv")
    lines = list(csv.reader(page.body.decode().splitlines()))
    assert lines[0] == ["key", "view", "x", "y", "label"]
    assert len(lines) == 1 + ROWS * VIEWS


def test_images_are_shown_by_their_originals(site: Site) -> None:
    query = "of=images.feature&x0=-9&x1=9&y0=-9&y1=9"
    images = html_of(site, query).images()
    assert len(images) == 12 + OUTLIERS
    assert all("/original/" in (image["src"] or "") for image in images)


def test_hostile_keys_are_text_and_nothing_is_inline(site: Site) -> None:
    page = html_of(site, "of=images.feature&x0=-9&x1=9&y0=-9&y1=9")
    near = html_of(site, f"near={open_store_key(site, 0)}")
    text = page.text + near.text
    assert any(each in text for each in HOSTILE)
    for each in (page, near):
        assert not [tag for tag, attrs in each.tags if "style" in attrs or "onerror" in attrs]
        assert [tag for tag, _ in each.tags].count("h1") == 1
        inputs = [
            attrs for tag, attrs in each.tags if tag == "input" and attrs.get("type") != "hidden"
        ]
        assert all("name" in attrs for attrs in inputs)
