"""Compare: view sets are joined by key, and pictures and numbers are those of their own side."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from tests.viewstore.pages import HOSTILE, Page
from tests.viewstore.small_stores import build_small, write_npz, write_photographs
from viewstore.build.draws import drawn_anew
from viewstore.errors import FormatError
from viewstore.images.policies import policies
from viewstore.inspect.columns import column_values
from viewstore.inspect.comparison import (
    MOST_VALUES,
    difference_of,
    join_keys,
    row_differences,
    same_rows,
)
from viewstore.inspect.numbers import brief
from viewstore.inspect.pages.site import Site
from viewstore.store.store import Store, open_store


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with two view sets of the same policy and other seeds."""
    out = tmp_path_factory.mktemp("both") / "s"
    build_small(out, write_npz(out.parent / "images.npz"))
    build_small(out, None, view_set="other", seed=5)
    return open_store(out)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """Two stores of photographs, of which some are in both, in other rows."""
    folder = tmp_path_factory.mktemp("two")
    photographs = write_photographs(folder / "a" / "images", 12, cut=11)
    (photographs / "11.jpg").unlink()
    others = write_photographs(folder / "b" / "images", 12, cut=11)
    for gone in ("0.jpg", "3.jpg", "11.jpg"):
        (others / gone).unlink()
    (others / "5.jpg").rename(others / "new.jpg")
    for name, source, seed in (("a", photographs, 1), ("b", others, 2)):
        build_small(folder / name / "s", str(source), seed=seed, settings={"views": 2 + seed})
    return open_store(folder / "a" / "s"), open_store(folder / "b" / "s")


def facts_of(site: Site, name: str, query: str) -> dict[str, Any]:
    answer = site.get(name, "compare", f"{query}&format=json")
    found: dict[str, Any] = json.loads(answer.body)
    assert answer.status == 200, found
    return found


def test_keys_are_joined_whatever_their_order() -> None:
    join = join_keys(["b", "a", "x", "c"], ["c", "y", "b", "z", "a"])
    assert join.first.tolist() == [0, 1, 3]
    assert join.second.tolist() == [2, 4, 0]
    assert (join.only_first, join.only_second) == (1, 2)
    nothing = join_keys(["a"], [])
    assert (len(nothing.first), nothing.only_first, nothing.only_second) == (0, 1, 0)
    assert same_rows(3).second.tolist() == [0, 1, 2]


def test_columns_differ_by_means_and_distributions() -> None:
    found = difference_of(np.array([[1.0, 2], [np.nan, 3]]), np.array([[5.0], [7.0]]))
    assert found is not None
    assert (found.first_mean, found.second_mean, found.mean, found.ks) == (2, 6, 4, 1)
    assert found.ks_values == (3, 2)
    assert difference_of(np.full((2, 1), np.nan), np.ones((2, 1))) is None


def test_a_distance_of_many_values_is_taken_of_some_and_says_of_how_many() -> None:
    values = np.linspace(0, 1, MOST_VALUES + 7)
    found = difference_of(values, values[::-1])
    assert found is not None
    assert found.ks_values == (MOST_VALUES, MOST_VALUES)
    assert found.ks < 1e-4


def test_rows_differ_by_their_views_or_by_means_where_they_have_other_numbers_of_views() -> None:
    first = np.array([[1.0, 5], [2, np.nan], [np.nan, np.nan], [4, 4]])
    assert row_differences(first, first + np.array([[0.0, 2]])).tolist()[:2] == [2, 0]
    means = row_differences(first, np.array([[1.0], [4], [1], [4]]))
    assert means[[0, 1, 3]].tolist() == [2, 2, 0]
    assert np.isnan(means[2])


def test_two_view_sets_of_a_store_are_compared_row_by_row(both: Store) -> None:
    site = Site({"s": lambda: both})
    facts = facts_of(site, "s", "view_set=simclr&sort=crop_box.top")
    assert (facts["both"], facts["only_first"], facts["only_second"]) == (20, 0, 0)
    assert [each["key"] for each in facts["plans"]] == ["seed", "view_set"]
    assert facts["plans"][0] == {"key": "seed", "first": 0, "second": 5}
    ours, theirs = (column_values(both.view_sets[n], "crop_box.top") for n in ("simclr", "other"))
    apart = np.abs(ours - theirs).max(axis=1)
    order = np.argsort(-apart, kind="stable")[:12]
    assert [each["first"]["row"] for each in facts["rows"]] == order.tolist()
    assert [each["difference"] for each in facts["rows"]] == apart[order].tolist()
    second = facts_of(site, "s", "view_set=simclr&sort=crop_box.top&page=2")
    assert len(second["rows"]) == 8
    flip = next(each for each in facts["columns"] if each["name"] == "flip")
    assert flip["first_mean"] == pytest.approx(both.view_sets["simclr"].params["flip"].mean())
    assert flip["second_mean"] == pytest.approx(both.view_sets["other"].params["flip"].mean())


def test_two_stores_are_joined_by_key_and_each_picture_is_of_its_own_key(
    two: tuple[Store, Store],
) -> None:
    first, second = two
    site = Site({"a": lambda: first, "b": lambda: second})
    facts = facts_of(site, "a", "with=b/simclr")
    assert (facts["both"], facts["only_first"], facts["only_second"]) == (8, 3, 1)
    assert facts["choices"] == ["b/simclr"]
    wrong = 0
    for each in facts["rows"]:
        key = each["key"]
        assert each["first"]["key"] == each["second"]["key"] == key
        assert first.keys[each["first"]["row"]] == second.keys[each["second"]["row"]] == key
        wrong += each["first"]["row"] != each["second"]["row"]
    assert wrong  # joining by row would have shown samples of other keys
    html = site.get("a", "compare", "with=b/simclr").body
    pictures = [str(image["src"]) for image in Page(html).images()]
    prefixes = set()
    for picture in pictures:
        prefix, _, rest = picture.partition("picture/")
        root, view_set, view, key = rest.partition("?")[0].split("/")
        store = second if prefix.endswith("../b/") else first
        prefixes.add(prefix)
        known = (
            store.view_sets[view_set].index.root
            if view != "original"
            else (store.manifest.sources_id)
        )
        assert known.startswith(root)
        assert unquote(key) in {each["key"] for each in facts["rows"]}
        assert (
            site.get(
                "a" if store is first else "b",
                f"picture/{rest.partition('?')[0]}",
                rest.partition("?")[2],
            ).status
            == 200
        )
    assert len(prefixes) == 2


def test_other_numbers_of_views_are_compared_by_means(two: tuple[Store, Store]) -> None:
    first, second = two
    site = Site({"a": lambda: first, "b": lambda: second})
    facts = facts_of(site, "a", "with=b/simclr&sort=crop_box.left")
    each = facts["rows"][0]
    ours = first.view_sets["simclr"].params["crop_box"][each["first"]["row"], :, 1]
    theirs = second.view_sets["simclr"].params["crop_box"][each["second"]["row"], :, 1]
    assert each["difference"] == pytest.approx(abs(ours.mean() - theirs.mean()))
    assert [row["difference"] for row in facts["rows"]] == sorted(
        (row["difference"] for row in facts["rows"]), reverse=True
    )


def test_policies_that_both_draw_from_are_compared_by_their_values(
    both: Store, tmp_path: Path
) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    for policy in ("moco", "byol"):
        build_small(tmp_path / "s", None, view_set=policy, settings={"policy": policy})
    store = open_store(tmp_path / "s")
    site = Site({"s": lambda: store}, replays=drawn_anew)
    found = facts_of(site, "s", "view_set=simclr&with=moco")["policies"]
    ours, theirs = (asdict(policies(name)[0].for_size(24, 24)) for name in ("simclr", "moco"))
    differ = [name for name in ours if ours[name] != theirs[name]]
    assert found["differ"] == differ
    assert {"brightness", "scale"} & set(differ)
    assert [each["views"] for each in found["first"] + found["second"]] == [[0, 1], [0, 1]]
    html = Page(site.get("s", "compare", "view_set=simclr&with=moco").body)
    assert "Policies that views are drawn from" in html.text
    for name in differ:
        for values in (ours, theirs):
            assert brief(values[name]) in html.text
    views = facts_of(site, "s", "view_set=simclr&with=byol")["policies"]["second"]
    assert [each["views"] for each in views] == [[0], [1]]
    same = Site({"s": lambda: both}, replays=drawn_anew)
    assert facts_of(same, "s", "")["policies"]["differ"] == []
    assert "settings are the same" in Page(same.get("s", "compare", "").body).text
    unknown = Site({"s": lambda: store})  # nothing draws anew
    assert facts_of(unknown, "s", "view_set=simclr&with=moco")["policies"] is None


def test_the_numbers_of_the_page_are_those_of_its_json_and_of_its_csv(both: Store) -> None:
    site = Site({"s": lambda: both})
    query = "view_set=simclr&sort=crop_box.top"
    facts = facts_of(site, "s", query)
    text = Page(site.get("s", "compare", query).body).text
    assert f"{facts['both']} samples are in both by their keys" in text
    for column in facts["columns"]:
        assert f"{column['ks']:.4f}" in text
    lines = site.get("s", "compare", f"{query}&format=csv").body.decode().splitlines()
    assert lines[0] == "key,row,other_row,difference"
    first = facts["rows"][0]
    row = first["first"]["row"]
    assert lines[1] == f"{first['key']},{row},{row},{first['difference']}"


def test_the_code_of_the_page_opens_both(both: Store) -> None:
    html = Site({"s": lambda: both}).get("s", "compare", "view_set=simclr").body.decode()
    code = re.search(r'<pre id="code" tabindex="0">(.*?)</pre>', html, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1].replace("&#39;", "'"), names)
    assert (names["views"].name, names["others"].name) == ("simclr", "other")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("with=nothing", "nothing"),
        ("sort=nothing", "nothing"),
        ("page=0", "page"),
        ("page=x", "page"),
    ],
)
def test_what_is_not_there_is_said(both: Store, query: str, said: str) -> None:
    answer = Site({"s": lambda: both}).get("s", "compare", f"view_set=simclr&{query}&format=json")
    assert answer.status == 400
    assert said in json.loads(answer.body)["error"]["message"]


def test_one_view_set_alone_has_no_tab(raw_store: Store, both: Store) -> None:
    assert Site({"s": lambda: raw_store}).get("s", "compare").status == 404
    assert b">Compare<" not in Site({"s": lambda: raw_store}).get("s", "").body
    assert b">Compare<" in Site({"s": lambda: raw_store, "t": lambda: both}).get("s", "").body


def test_stores_without_a_common_key_are_compared_by_their_plans_alone(
    both: Store, two: tuple[Store, Store]
) -> None:
    site = Site({"a": lambda: two[0], "s": lambda: both})
    query = "with=s/simclr&sort=flip"
    facts = facts_of(site, "a", query)
    assert (facts["both"], facts["only_first"], facts["only_second"]) == (0, 11, 20)
    assert facts["columns"] == facts["rows"] == []
    assert {"rows", "views", "generator.args.views"} <= {each["key"] for each in facts["plans"]}
    assert site.get("a", "compare", query).status == 200


def test_a_store_that_cannot_be_opened_is_left_out(raw_store: Store, both: Store) -> None:
    def broken() -> Store:
        raise FormatError("its manifest is damaged")

    site = Site({"s": lambda: raw_store, "t": broken})
    answer = site.get("s", "compare", "format=json")
    assert answer.status == 404
    assert "Compare has nothing to show here" in json.loads(answer.body)["error"]["message"]
    site = Site({"s": lambda: raw_store, "t": broken, "u": lambda: both})
    assert facts_of(site, "s", "")["choices"] == ["u/other", "u/simclr"]


def test_hostile_keys_are_text(hostile: Path) -> None:
    build_small(hostile.parent / "again", str(hostile.parent / "images"), seed=3)
    stores = open_store(hostile), open_store(hostile.parent / "again")
    site = Site({"s": lambda: stores[0], "t": lambda: stores[1]})
    html = site.get("s", "compare", "with=t/simclr&sort=crop_box.top").body
    page = Page(html)
    assert HOSTILE in page.text
    assert not [tag for tag, _ in page.tags if tag == "script" and "src" not in dict(_)]
    assert all("onerror" not in attrs for _, attrs in page.tags)
