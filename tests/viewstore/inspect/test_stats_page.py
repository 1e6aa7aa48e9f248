"""Stats: its charts, its links to the rows of a bar, and two columns together."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest

from tests.viewstore.commands import invoke
from tests.viewstore.inspect.planted import ROWS, pictures, plant
from tests.viewstore.pages import Page
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.format.stats import column_stats
from viewstore.inspect.columns import ColumnFilter, column_values
from viewstore.inspect.distributions import bars_of
from viewstore.inspect.pages.site import Site
from viewstore.inspect.query import Query, understand
from viewstore.store.store import Store, open_store


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of simclr views, and what quality says of them."""
    out = tmp_path_factory.mktemp("stats") / "s"
    build_small(out, write_npz(out.parent / "images.npz", rows=40))
    build_small(out, None, generator="quality", settings={"of": "simclr"})
    return open_store(out)


@pytest.fixture(scope="module")
def searched_store(searched: Path) -> Store:
    return open_store(searched)


def page(store: Store, query: str) -> tuple[dict[str, Any], str]:
    """Return the facts of the page, and its HTML."""
    site = Site({"s": lambda: store})
    raw = site.get("s", "stats", f"{query}&format=json")
    html = site.get("s", "stats", query)
    assert raw.status == html.status == 200
    return json.loads(raw.body), html.body.decode()


def rows_of(store: Store, view_set: str, where: str) -> list[int]:
    found = understand(store, Query(where=where), store.view_sets[view_set]).find()
    return found.page(0, store.num_samples)


def columns_of(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{each['view_set']}.{column['name']}": column
        for each in facts["sets"]
        for column in each["columns"]
    }


def test_each_column_has_a_chart_or_words_and_columns_sets_stand_below(described: Store) -> None:
    facts, html = page(described, "view_set=simclr")
    assert [each["view_set"] for each in facts["sets"]] == ["simclr", "quality"]
    columns = columns_of(facts)
    assert columns["simclr.solarize"]["said"] == "the same everywhere: off"
    assert columns["quality.dhash"]["said"].startswith("hashes")
    assert columns["simclr.status"]["panel"] is None
    charts = [name for name, column in columns.items() if column["panel"]]
    assert {"simclr.crop_box.top", "simclr.jitter.hue", "quality.luma_mean"} <= set(charts)
    assert html.count('role="img"') == len(charts)
    assert "the same everywhere: off" in Page(html.encode()).text


def test_every_bar_finds_the_rows_that_have_a_value_in_it(searched_store: Store) -> None:
    """Bounds of bars are float64, values float32: a filter that rounds them would be off."""
    facts, _ = page(searched_store, "view_set=w-search")
    checked = 0
    for name, column in columns_of(facts).items():
        view_set, _, column_name = name.partition(".")
        if column["panel"] is None or "." in column_name:
            continue
        values = column_values(searched_store.view_sets[view_set], column_name)
        for bar in column["panel"]["bars"]:
            if not bar["count"]:
                continue
            last = bar["high"] >= column["max"] * (1 - 1e-12)
            with np.errstate(invalid="ignore"):
                below = values <= column["max"] if last else values < bar["high"]
                inside = (values >= bar["low"]) & below
            assert int(inside.sum()) == bar["count"], name
            wanted = np.flatnonzero(inside.any(axis=1)).tolist()
            assert rows_of(searched_store, "w-search", bar["where"]) == wanted, name
            checked += 1
    assert checked > 40


def test_extremes_and_missing_values_are_links_to_their_rows(searched_store: Store) -> None:
    facts, html = page(searched_store, "view_set=w-search")
    links = {dict(parse_qsl(each)).get("where") for each in _queries(html)}
    for name, column in columns_of(facts).items():
        values = column_values(searched_store.view_sets["w-search"], name.partition(".")[2])
        for end, wanted in (("min", values == column["min"]), ("max", values == column["max"])):
            if end in column["finds"]:
                found = rows_of(searched_store, "w-search", column["finds"][end])
                assert found == np.flatnonzero(wanted.any(axis=1)).tolist()
                assert column["finds"][end] in links
        if column["fill"] and "fill" in column["finds"]:
            missing = np.flatnonzero(np.isnan(values).any(axis=1)).tolist()
            assert rows_of(searched_store, "w-search", column["finds"]["fill"]) == missing


def _queries(html: str) -> list[str]:
    return [unescape(each) for each in re.findall(r'href="\./browse\?([^"]*)"', html)]


def test_bounds_are_moved_so_that_no_stored_number_changes_its_answer() -> None:
    tests = ColumnFilter("s.c")
    bound = 0.3  # float32(0.3) is above it
    near = np.float32(bound)
    values = np.array([np.nextafter(near, np.float32(0)), near], np.float32)
    assert (values.astype(np.float64) < bound).tolist() == [True, False]
    assert tests.below(bound) == "any(s.c < 0.3)"
    assert tests.above(bound) == "any(s.c > 0.29999998)"
    assert (values > np.float32(0.29999998)).tolist() == [False, True]
    naive = values > bound  # numpy compares float32 with 0.3 as a float32
    assert naive.tolist() != (values.astype(np.float64) > bound).tolist()
    whole = ColumnFilter("s.n", per_view=False, floats=False)
    assert whole.at_least(7) == "s.n >= 7"
    assert whole.missing() == "s.n is missing"


def test_bars_of_whole_numbers_ask_for_their_value() -> None:
    stats = bars_of(3, 5, np.histogram([3, 3, 5], 64)[0].tolist())
    tests = ColumnFilter("s.steps", floats=False)
    assert [tests.bar(bar, 5) for bar in stats if bar.count] == [
        "any(s.steps = 3)",
        "any(s.steps = 5)",
    ]


def test_two_columns_together_are_a_density_of_all_their_values(searched_store: Store) -> None:
    facts, html = page(searched_store, "view_set=w-search&x=distance&y=mean_pair_distance")
    grid = facts["together"]
    view_set = searched_store.view_sets["w-search"]
    both = np.isfinite(view_set.params["distance"])
    assert np.array(grid["counts"]).sum() == both.sum()
    assert html.count("<svg") == 1 + len(
        [1 for each in columns_of(facts).values() if each["panel"]]
    )
    assert "<option selected>distance</option>" in html


def test_columns_that_no_view_has_both_of_are_an_answer(described: Store) -> None:
    facts, html = page(described, "view_set=simclr&x=solarize&y=blur")
    assert facts["together"] is None
    assert facts["apart"] == "No view has a value of both solarize and blur."
    assert facts["apart"] in html


def test_columns_of_another_set_and_of_the_sample_go_together_too(described: Store) -> None:
    facts, _ = page(described, "view_set=simclr&x=crop_box.height&y=quality.luma_mean")
    assert np.array(facts["together"]["counts"]).sum() == 40 * 2


def test_an_unknown_column_names_the_nearest(described: Store) -> None:
    site = Site({"s": lambda: described})
    answer = site.get("s", "stats", "view_set=simclr&x=luma_mean&y=flip&format=json")
    assert answer.status == 400
    assert "quality.luma_mean" in json.loads(answer.body)["error"]["message"]


def test_a_column_is_scanned_once_for_a_view_set(described: Store) -> None:
    site = Site({"s": lambda: described})
    site.get("s", "stats", "view_set=simclr")
    kept = len(site.facts)
    site.get("s", "stats", "view_set=simclr")
    assert len(site.facts) == kept > 0


def test_numbers_of_a_page_are_those_of_the_statistics(described: Store) -> None:
    facts, html = page(described, "view_set=simclr")
    view_set = described.view_sets["simclr"]
    stats = column_stats(view_set.plan.column("flip"), view_set.params["flip"])
    assert columns_of(facts)["simclr.flip"]["mean"] == stats.mean
    assert f"mean {stats.mean:.5g}, std {stats.std:.5g}" in Page(html.encode()).text


def test_what_means_off_is_left_out_of_chart_and_mean_and_counted(described: Store) -> None:
    """255 is no place in an order: with it the mean of jitter_order would be beyond 3."""
    facts, html = page(described, "view_set=simclr")
    column = columns_of(facts)["simclr.jitter_order"]
    order = described.view_sets["simclr"].params["jitter_order"]
    numbers = order[order != 255].astype(np.float64)
    assert 0 < len(numbers) < order.size
    assert column["left_out"] == {"word": "off", "value": 255, "count": order.size - len(numbers)}
    assert (column["count"], column["max"]) == (order.size, 3)
    assert column["mean"] == pytest.approx(numbers.mean())
    assert [bar["count"] for bar in column["panel"]["bars"]] == np.bincount(
        numbers.astype(int)
    ).tolist()
    assert f"{order.size - len(numbers):,} off left out" in Page(html.encode()).text
    assert np.nanmax(column_values(described.view_sets["simclr"], "jitter_order")) == 3


def test_values_that_mean_none_are_links_and_extremes_do_not_find_them(tmp_path: Path) -> None:
    twins = np.full((ROWS, 4), 254, np.uint8)
    twins[3, 1], twins[5, 2] = 0, 2
    store = plant(
        tmp_path / "s",
        "p",
        {"twin": twins, "status": np.ones((ROWS, 4), np.uint8)},
        source=pictures(tmp_path / "i"),
        views=4,
    )
    column = columns_of(page(store, "")[0])["p.twin"]
    assert (column["min"], column["max"], column["mean"]) == (0, 2, 1)
    assert column["left_out"]["count"] == ROWS * 4 - 2
    assert rows_of(store, "p", column["finds"]["max"]) == [5]
    assert rows_of(store, "p", column["finds"]["min"]) == [3]
    assert rows_of(store, "p", column["finds"]["left_out"]) == list(range(ROWS))


def test_a_column_without_statistics_is_named_with_the_page_that_shows_it(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    features = rng.normal(size=(ROWS, 2, 128)).astype(np.float32)
    source = pictures(tmp_path / "i")
    store = plant(tmp_path / "s", "p", {"latent": features}, source=source, unpacked=("latent",))
    assert not store.view_sets["p"].plan.column("latent").pack
    facts, html = page(store, "")
    assert facts["sets"][0]["unsummarised"] == [
        {"name": "latent", "numbers": "128 numbers a view", "page": "Embeddings"}
    ]
    assert re.search(r'128 numbers a view: see <a href="\./embeddings', html)
    told = invoke("stats", tmp_path / "s").output
    assert "latent has 128 numbers a view: see Embeddings" in told


def test_components_that_a_sample_tells_of_say_so(
    described: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewstore.inspect.summary.MOST_VALUES", 10)
    said = "bars, mean and percentiles are of 10 of its values"
    assert said not in Page(page(described, "view_set=simclr")[1].encode()).text
    old = open_store(described.root)
    views = old.view_sets["simclr"]
    views.stats = {name: each for name, each in views.stats.items() if "." not in name}
    facts, html = page(old, "view_set=simclr")
    assert columns_of(facts)["simclr.crop_box.top"]["summarised"] == 10
    assert columns_of(facts)["simclr.flip"]["summarised"] == 80
    assert said in Page(html.encode()).text
