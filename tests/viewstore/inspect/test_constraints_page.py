"""Constraints: panels, the table and what finds the rows of each line; a goal that is missed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.viewstore.pages import Page
from viewstore.inspect.constraint_lines import (
    Line,
    constraint_lines,
    finding,
    quadrants,
)
from viewstore.inspect.pages.site import Site
from viewstore.inspect.query import Query, understand
from viewstore.store.constraints import (
    NEAR_DUPLICATE,
    Constraints,
    constraints_of,
    pair_bound,
    tally,
)
from viewstore.store.store import Store, open_store
from viewstore.store.verdict import goal_text

WANTED = Constraints(eps1=0.3, eps2=0.4, tolerance=0.02, hinge=False, bound=pair_bound(0.3, 8))


@pytest.fixture(scope="module")
def store(searched: Path) -> Store:
    return open_store(searched)


@pytest.fixture(scope="module")
def facts(store: Store) -> dict[str, Any]:
    answer = Site({"s": lambda: store}).get("s", "constraints", "view_set=w-search&format=json")
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.fixture(scope="module")
def html(store: Store) -> bytes:
    return Site({"s": lambda: store}).get("s", "constraints", "view_set=w-search").body


def made_columns(count: int = 400, shift: float = 0.0) -> dict[str, NDArray[Any]]:
    """Return the columns of a search that met its goals, all distances off by `shift`."""
    rng = np.random.Generator(np.random.Philox(1))
    distance = (0.3 + shift + rng.normal(0, 0.004, (count, 8))).astype(np.float32)
    return {
        "distance": distance,
        "mean_pair_distance": rng.normal(0.42, 0.005, (count, 8)).astype(np.float32),
        "min_pair_distance": rng.uniform(0.2, 0.3, (count, 8)).astype(np.float32),
        "converged": np.ones((count, 8), np.uint8),
    }


def by_what(lines: list[Line]) -> dict[str, Line]:
    return {line.what: line for line in lines}


def test_all_panels_of_the_search_are_there_and_their_charts_have_tables(
    facts: dict[str, Any], html: bytes
) -> None:
    captions = [panel["caption"] for panel in facts["panels"]]
    assert captions == [
        "Distance to the anchor, all views",
        "Distance by view number",
        "Mean distance to the other views",
        "Mean pair distance (up) over distance (across)",
        "Distance to the nearest other view",
        "Steps of the search, of 25 at most",
    ]
    band = facts["panels"][0]["band"]
    assert band == pytest.approx([0.28, 0.32])
    marks = {mark["label"][:4] for mark in facts["panels"][2]["marks"]}
    assert marks == {"eps2", "boun"}
    assert facts["panels"][4]["marks"][0]["value"] == NEAR_DUPLICATE
    assert html.count(b'role="img"') == html.count(b"<details><summary>Numbers") == len(captions)


def test_the_header_names_generator_and_networks_with_their_digests(
    store: Store, facts: dict[str, Any], html: bytes
) -> None:
    text = Page(html).text
    assert facts["generator"]["name"] == "w-search"
    weights = store.view_sets["w-search"].weights
    assert {each["role"] for each in facts["weights"]} >= {"gan", "encoder"}
    assert all(each.sha256 in text for each in weights)
    assert "w-search" in text


def test_each_line_counts_as_the_tally_does_and_its_filter_finds_its_rows(
    store: Store, facts: dict[str, Any]
) -> None:
    view_set = store.view_sets["w-search"]
    wanted = constraints_of(view_set)
    assert wanted is not None
    counts = tally(view_set, wanted)
    lines = {line["what"]: line for line in facts["lines"]}
    assert lines["views within tolerance"]["count"] == counts.within
    assert lines["views too close"]["count"] == counts.too_close
    assert lines["views too far"]["count"] == counts.too_far
    assert lines["views not measured"]["count"] == counts.not_measured
    assert lines["samples not converged"]["count"] == counts.not_converged
    assert (
        lines[f"views within {NEAR_DUPLICATE:g} of another one"]["count"] == counts.near_duplicates
    )
    for line in facts["lines"]:
        found = understand(store, Query(where=line["where"]), view_set).find()
        assert len(found) == line["rows"], line["what"]
    assert any(line["rows"] for line in facts["lines"])
    steps = facts["steps"]
    found = understand(store, Query(where=steps["where"]), view_set).find()
    at_limit = (view_set.params["steps"] >= 25).any(axis=1)
    assert found.page(0, 100) == np.flatnonzero(at_limit).tolist()


def test_distances_on_the_edge_of_tolerance_are_counted_and_found_alike() -> None:
    """The edges are float64 and distances float32: a filter that rounds them finds others."""
    naive_is_wrong = 0
    for eps1 in (0.2, 0.25, 0.3, 0.37):
        wanted = replace(WANTED, eps1=eps1)
        columns = made_columns(4)
        low, high = wanted.band
        edges = [np.float32(low), np.float32(high)]
        edges += [np.nextafter(edge, np.float32(side)) for edge in edges for side in (0, 1)]
        distance = columns["distance"]
        distance[...] = eps1
        distance[:2, :6] = edges
        lines = by_what(constraint_lines(columns, wanted, "s."))
        for what, sign, edge in (("views too close", "<", low), ("views too far", ">", high)):
            test = lines[what].where
            bound = np.float32(test.removeprefix(f"any(s.distance {sign} ").removesuffix(")"))
            found = distance < bound if sign == "<" else distance > bound
            assert int(found.sum()) == lines[what].count > 0
            naive = distance < edge if sign == "<" else distance > edge
            naive_is_wrong += int(naive.sum()) != lines[what].count
    assert naive_is_wrong


def test_a_goal_that_is_met_raises_no_alarm_and_eps1_off_by_a_twentieth_does() -> None:
    said, alarm = finding(made_columns()["distance"], WANTED)
    assert not alarm
    assert said.startswith("100.0 % of the views keep eps1 within 0.02")
    said, alarm = finding(made_columns(shift=0.05)["distance"], WANTED)
    assert alarm
    assert "0.050 above eps1" in said
    assert (
        by_what(constraint_lines(made_columns(shift=0.05), WANTED, "s."))["views too far"].count
        == 3200
    )
    said, alarm = finding(np.full((2, 2), np.nan), WANTED)
    assert (said, alarm) == ("no distance was measured", True)


def test_a_hinge_has_no_views_that_are_too_far() -> None:
    columns = made_columns(shift=0.05)
    lines = by_what(constraint_lines(columns, replace(WANTED, hinge=True), "s."))
    assert "views too far" not in lines
    assert lines["views within tolerance"].count == columns["distance"].size
    assert lines["views within tolerance"].where.startswith("any(s.distance >= ")


def test_rows_that_were_never_built_are_not_said_to_have_missed_their_goal() -> None:
    columns = made_columns(10)
    columns["distance"][:3] = np.nan
    columns["converged"][:3] = 255
    columns["converged"][4, 2] = 0
    lines = by_what(constraint_lines(columns, WANTED, "s."))
    assert lines["views not measured"].rows == 3
    assert (lines["samples not converged"].count, lines["samples not converged"].whole) == (1, 7)


def test_quadrants_hold_every_measured_view_once() -> None:
    columns = made_columns(10)
    columns["distance"][0, 0] = np.nan
    columns["distance"][1, :2] = 0.5
    columns["mean_pair_distance"][1, 1:3] = 0.1
    counts = {(each["within"], each["apart"]): each["count"] for each in quadrants(columns, WANTED)}
    assert sum(counts.values()) == 79
    assert counts[False, True] == 1
    assert counts[False, False] == 1
    assert counts[True, False] == 1
    assert quadrants(columns, replace(WANTED, eps2=None)) == []


def test_the_bound_is_that_of_the_specification_and_eps2_above_it_is_unreachable() -> None:
    bounds = [round(pair_bound(eps1, 8), 3) for eps1 in (0.1, 0.2, 0.3, 0.5)]
    assert bounds == [0.151, 0.301, 0.448, 0.732]
    assert replace(WANTED, eps2=0.45, bound=bounds[2]).unreachable
    assert not WANTED.unreachable


def asked_for(searched: Path, **args: float) -> Page:
    """Return the page of the same views, had their search been asked for something else."""
    store = open_store(searched)
    view_set = store.view_sets["w-search"]
    view_set.index  # noqa: B018  # checked against the plan of its build
    generator = view_set.plan.generator
    plan = replace(view_set.plan, generator={**generator, "args": {**generator["args"], **args}})
    view_set.plan = plan
    return Page(Site({"s": lambda: store}).get("s", "constraints", "view_set=w-search").body)


def test_the_page_says_when_eps1_is_off_and_when_eps2_is_unreachable(
    store: Store, searched: Path
) -> None:
    median = float(np.nanmedian(store.view_sets["w-search"].params["distance"]))
    page = asked_for(searched, eps1=median - 0.05, eps2=1.2)
    assert "! unreachable" in page.text
    assert "0.050 above eps1" in page.text
    assert ("p", {"class": "finding alarm"}) in page.tags
    assert "! unreachable" not in asked_for(searched, eps1=median, eps2=0.1).text


def test_the_tab_is_there_for_searches_alone(store: Store, raw_store: Store) -> None:
    site = Site({"s": lambda: store, "r": lambda: raw_store})
    assert b">Constraints<" in site.get("s", "", "view_set=w-search").body
    assert b">Constraints<" not in site.get("r", "").body
    assert site.get("r", "constraints").status == 404


def test_eps2_is_said_to_be_a_goal_of_the_mean_and_not_of_single_views(
    store: Store, html: bytes
) -> None:
    text = Page(html).text
    assert "eps2 is a goal of the mean over a sample's views and not of single views" in text
    goal = goal_text(store.view_set("w-search"))
    assert "as eps2 0.400 asks" in goal
    assert "in the mean over the views of a sample, not each of them" in goal


def test_only_views_that_are_there_are_linked(store: Store, facts: dict[str, Any]) -> None:
    steps = facts["steps"]
    body = Site({"s": lambda: store}).get("s", "constraints", "view_set=w-search").body.decode()
    assert steps["at_limit"] > 0
    assert ">25 steps</a>" in body
    reached = Site({"s": lambda: store})
    views = store.view_set("w-search")
    answers = {"at_limit": 0, "views": steps["views"], "limit": 25, "where": steps["where"]}
    reached.facts.get(("constraints", views.index.root), lambda: {**facts, "steps": answers})
    body = reached.get("s", "constraints", "view_set=w-search").body.decode()
    assert "took all 25 steps." in Page(body.encode()).text
    assert ">25 steps</a>" not in body
