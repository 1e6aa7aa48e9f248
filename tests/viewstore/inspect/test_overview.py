"""The page Overview: what is in a store, and how far a build is that runs beside it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.generators.latent_world import write_networks
from tests.loaders.told import tell
from tests.viewstore.commands import invoke
from tests.viewstore.inspect.looked import facts_of, page_of, site_of
from tests.viewstore.pages import HOSTILE, Page
from tests.viewstore.small_stores import SHARD_ROWS, build_small, write_npz, write_photographs
from viewstore.build.finalise import finalise
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.paths import StorePaths
from viewstore.inspect.chosen_rows import choose_rows
from viewstore.inspect.pages.overview import label_filter
from viewstore.inspect.summary import label_counts
from viewstore.inspect.view_set_charts import overview_panels
from viewstore.progress import Fact, Silent
from viewstore.store.store import Store, open_store
from viewstore.store.verdict import verdict_of


def read(path: Path, address: str = "") -> tuple[Page, dict[str, Any]]:
    """Return a page of a store as a browser finds it, and its facts."""
    site = site_of(path)
    page = page_of(site, path.name, address)
    assert page.status == 200, page.body
    return Page(page.body), facts_of(site, path.name, address)


def status_of(path: Path) -> dict[str, Any]:
    """Return what `viewstore status --json` says of view sets."""
    found: dict[str, Any] = json.loads(invoke("status", path, "--json").stdout)["result"]
    return found["view_sets"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("store", ["digits", "searched"])
def test_it_shows_what_is_in_a_store_by_its_facts(
    store: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(store)
    page, facts = read(path)
    opened = open_store(path)
    assert (facts["samples"], facts["store_id"]) == (len(opened), opened.store_id)
    for text in (f"{len(opened):,} samples", opened.store_id):
        assert text in " ".join(page.text.split())
    assert sum(facts["labels"].values()) == len(opened)
    for name, view_set in opened.view_sets.items():
        each = facts["view_sets"][name]
        assert each["bytes"] == view_set.num_bytes
        assert each["seed"] == view_set.plan.seed
        assert sum(each["samples"].values()) == len(view_set)
    picked = opened.view_sets[facts["shown"]]
    shown = [f"{picked.num_bytes:,}", *(weights.sha256 for weights in picked.weights)]
    assert [text for text in shown if text not in page.text] == []


def test_the_verdict_stands_first_and_an_unfit_set_is_an_alarm(
    tmp_path: Path, searched: Path
) -> None:
    """A search that may take one step leaves most views where they began."""
    files = write_networks(tmp_path, samples=6)
    settings = {"views": 3, "eps1": 0.3, "eps2": 0.4, "max_steps": 1, "slots": 6}
    source = str(tmp_path / "images.npz")
    hurried = tmp_path / "store"
    build(
        BuildRequest(
            generator="w-search", out=hurried, source=source, settings=settings, files=files
        )
    )
    for path, word, look in (
        (searched, "usable", "verdict"),
        (hurried, "not fit for use", "verdict alarm"),
    ):
        page, facts = read(path)
        store = open_store(path)
        assert facts["verdict"] == verdict_of(store, [store.view_sets["w-search"]]).to_json()
        assert facts["verdict"]["word"] == word
        assert next(attrs.get("class") for tag, attrs in page.tags if tag == "ul") == look
        assert page.text.index(f"verdict: {word}") < page.text.index("6 samples,")


def test_the_verdict_is_on_all_view_sets_and_that_of_the_picked_one_stands_with_it(
    searched: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    shutil.copytree(searched, out)
    build_small(out, None, view_set="abc", shard_rows=None)
    store = open_store(out)
    page, facts = read(out, "?view_set=abc")
    assert facts["verdict"] == verdict_of(store, store.view_sets.values()).to_json()
    assert list(facts["verdict"]["view_sets"]) == ["abc", "recon", "w-search"]
    assert facts["verdict"]["word"] == "usable"
    assert facts["shown_verdict"] == verdict_of(store, [store.view_sets["abc"]]).to_json()
    assert facts["shown_verdict"]["word"] == "good"  # which is not said of the store
    assert page.text.index("verdict: usable") < page.text.index("verdict: good")
    notebook = Page((store._repr_html_() or "").encode()).text
    assert "verdict: usable" in notebook
    for each in verdict_of(store, store.view_sets.values()).view_sets:
        assert f"{each.view_set}: {each.line()}" in notebook


def test_a_view_set_that_is_being_built_is_shown_by_its_progress(tmp_path: Path) -> None:
    out = tmp_path / "s"
    build_small(out, write_npz(tmp_path / "images.npz"))
    store = open_store(out)
    site = site_of(store)
    assert facts_of(site, "s", "")["building"] == {}
    build_small(out, None, view_set="beside", seed=1, only=(0,))  # while the store is open
    address = "?view_set=beside"
    assert list(facts_of(site, "s", address)["building"]) == ["beside"]
    page = Page(page_of(site, "s", address).body)
    assert "beside 1 of 3 shards" in " ".join(page.text.split())
    links = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a"]
    assert "./browse" in links  # its tabs are those of a view set that has samples
    refused = page_of(site, "s", f"browse{address}")
    assert (refused.status, b"1 of 3 shards are there" in refused.body) == (404, True)
    assert page_of(site, "s", "?view_set=besides").status == 400


def test_a_build_without_a_sign_of_life_has_no_time_left(tmp_path: Path) -> None:
    out = tmp_path / "s"
    build_small(out, write_npz(tmp_path / "images.npz"), only=(1,))
    assert "last commit" in read(out)[0].text
    commit = StorePaths(out).view_set("simclr").commit(1)
    os.utime(commit, (1_700_000_000, 1_700_000_000))
    page, facts = read(out)
    assert facts["building"]["simclr"]["silent"]
    assert "is a builder running?" in page.text
    assert "being built, or stopped" in page.text


def test_charts_say_their_numbers_in_tables(digits: Path) -> None:
    page, facts = read(digits)
    view_set = open_store(digits).view_sets[facts["shown"]]
    assert 1 <= len(facts["histograms"]) <= 5
    assert facts["histograms"] == overview_panels(view_set)
    for each in facts["histograms"]:
        assert any(attrs.get("aria-label") == each["caption"] for _, attrs in page.tags)
        for bar in each["bars"]:
            assert not bar["count"] or f"{bar['count']:,}" in page.text
    sides = np.sqrt(view_set.params["crop_box"][..., 2] * view_set.params["crop_box"][..., 3])
    assert sum(bar["count"] for bar in facts["histograms"][0]["bars"]) == sides.size


def test_six_random_samples_are_those_of_the_seed(digits: Path) -> None:
    page, facts = read(digits, "?seed=3")
    store = open_store(digits)
    assert [row["row"] for row in facts["rows"]] == choose_rows(store, count=6, random=True, seed=3)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    for row in facts["rows"]:
        assert f"./sample/{row['key']}" in links
    assert "?seed=4" in links
    site = site_of(digits)
    pictures = [str(attrs["src"]) for attrs in page.images()]
    assert len(pictures) == 6 * (1 + store.view_sets[facts["shown"]].num_views)
    for place in pictures:
        assert page_of(site, digits.name, place.removeprefix("./")).status == 200


def test_a_seed_that_is_none_is_the_user_s_mistake(digits: Path) -> None:
    for seed in ("-1", "x", "9" * 40):
        assert page_of(site_of(digits), digits.name, f"?seed={seed}").status == 400


def test_columns_sets_stand_under_what_they_describe(tmp_path: Path) -> None:
    out, source = tmp_path / "s", write_npz(tmp_path / "images.npz")
    build_small(out, source)
    build_small(out, source, view_set="wide")
    tell(out, "hard", "simclr", groups=1, choose=1)
    build(BuildRequest(generator="quality", view_set="images", out=out, settings={"of": "source"}))
    page, facts = read(out)
    assert list(facts["view_sets"]) == ["hard", "images", "simclr", "wide"]
    text = " ".join(page.text.partition("View sets")[2].split())
    order = [
        text.index(name) for name in ("simclr 2 (expert)", "columns of simclr", "wide 2 (expert)")
    ]
    assert order == sorted(order)
    assert "images columns of the images" in text
    shown, _ = read(out, "?view_set=hard")
    assert len(shown.images()) == 6 * 3  # the views that it describes


def test_failed_samples_are_a_link_to_their_rows(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "photographs", 9, cut=4)
    build_small(tmp_path / "s", str(source), on_error="skip")
    page, facts = read(tmp_path / "s")
    assert facts["view_sets"]["simclr"]["samples"]["source_unreadable"] == 1
    assert "1 source unreadable" in page.text
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert "./browse?view_set=simclr&where=status+%3D+4" in links


def test_markup_in_keys_and_labels_stays_text(hostile: Path) -> None:
    page, facts = read(hostile)
    assert HOSTILE in page.text
    assert "<script>alert(2)<" in facts["labels"]
    raw = page_of(site_of(hostile), hostile.name, "").body
    assert b"<img src=x" not in raw
    assert b"<script>" not in raw
    assert not [a for _, a in page.tags if any(n == "style" or n.startswith("on") for n in a)]


class Watching(Silent):
    """Compares the page with `status` each time that the build beside it says it went on."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.seen: list[tuple[int, ...]] = []

    def advance(self, count: int = 1, **facts: Fact) -> None:
        status = status_of(self.out)
        shown = facts_of(site_of(self.out), self.out.name, "")["building"]
        for each in (*status.values(), *shown.values()):
            each.pop("last_commit_seconds")  # a second may pass between the two
        assert shown == {name: each for name, each in status.items() if name in shown}
        unfinished = {name for name, each in status.items() if each["missing"]}
        assert unfinished <= set(shown)
        committed = tuple(each["committed"] for each in status.values())
        if not self.seen or self.seen[-1] != committed:
            self.seen.append(committed)
        page = Page(page_of(site_of(self.out), self.out.name, "").body)
        for each in shown.values():
            assert f"{each['committed']} of {each['shards']} shards" in page.text
            assert f"{each['views_done']:,} of {each['views']:,}" in page.text


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_build_beside_the_page_has_the_numbers_of_status_at_each_commit(
    tmp_path: Path, first: bool
) -> None:
    out, source = tmp_path / "s", write_npz(tmp_path / "images.npz", rows=5 * SHARD_ROWS)
    if not first:
        build_small(out, source)
    watching = Watching(out)
    request = {"generator": "simclr", "out": out, "source": source, "shard_rows": SHARD_ROWS}
    settings = {"views": 2, "height": 16, "width": 16}
    build(
        BuildRequest(**request, view_set="beside", settings=settings, workers=1),  # type: ignore[arg-type]
        watching,
    )
    committed = [each[0] for each in watching.seen]
    assert committed == sorted(committed)
    assert {1, 2, 3, 4} <= set(committed)
    assert facts_of(site_of(out), "s", "")["building"] == {}


def test_a_store_without_a_manifest_has_only_the_progress_of_its_build(tmp_path: Path) -> None:
    out = tmp_path / "s"
    build_small(out, write_npz(tmp_path / "images.npz"), only=(1,))
    page, facts = read(out)
    told = status_of(out)
    for each in (told["simclr"], facts["building"]["simclr"]):
        assert each.pop("last_commit_seconds") >= 0
    assert facts == {"building": told}
    assert "1 of 3 shards" in page.text
    assert "Missing: 0,2." in " ".join(page.text.split())
    grid = next(attrs for tag, attrs in page.tags if tag == "svg")
    assert grid["aria-label"] == "3 shards: 2 missing, 0 slow"
    for address in ("sample/0", "stats", "browse?where=x", "picture/0/0/0/0?side=96"):
        refused = page_of(site_of(out), "s", address)
        assert refused.status == 404
    assert b"its build has not ended yet" in page_of(site_of(out), "s", "sample/0").body
    assert page_of(site_of(tmp_path / "s", tmp_path), tmp_path.name, "").status == 404


def test_a_partial_generation_says_how_many_shards_it_has(tmp_path: Path) -> None:
    out = tmp_path / "s"
    build_small(out, write_npz(tmp_path / "images.npz"), only=(0, 2))
    finalise(out, allow_partial=True)
    page, facts = read(out)
    assert "! simclr: 2 of 3 shards" in page.text
    told = status_of(out)
    for each in (told["simclr"], facts["building"]["simclr"]):
        assert each.pop("last_commit_seconds") >= 0
    assert facts["building"] == told
    assert facts["view_sets"]["simclr"]["samples"]["not_built"] == SHARD_ROWS


def test_set_wide_numbers_are_computed_once_for_a_generation(digits: Path) -> None:
    site, store = site_of(open_store(digits)), digits.name
    facts_of(site, store, "")
    made = len(site.facts)
    assert made > 0
    kept = dict(site.facts._values)
    facts_of(site, store, "")
    assert len(site.facts) == made
    assert all(site.facts._values[key] is value for key, value in kept.items())


def test_each_label_is_a_link_to_its_samples(hostile: Path, digits: Path) -> None:
    for path in (hostile, digits):
        page, facts = read(path)
        found = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a" and attrs.get("href")]
        wheres = [each for each in found if "where=label" in each]
        counts = [facts_of(site_of(path), path.name, each[2:])["count"] for each in wheres]
        assert counts == list(facts["labels"].values())


def test_a_label_that_a_filter_cannot_quote_is_told_by_its_number() -> None:
    store = SimpleNamespace(label_names=("a b", "it's", "x" * 4000))
    found = [label_filter(store, each) for each in (*store.label_names, "none", "7")]  # type: ignore[arg-type]
    assert found == ["label = 'a b'", "label = 1", "label = 2", "label is missing", "label = 7"]


@pytest.mark.parametrize("most", [50, 2**31 - 1], ids=["few", "beyond a table"])
def test_labels_are_counted_as_numpy_counts_them(most: int) -> None:
    labels = np.random.default_rng(0).integers(-1, most, 1000).astype(np.int32)
    found = label_counts(cast("Store", SimpleNamespace(labels=labels, label_names=())))
    numbers, counts = np.unique(labels, return_counts=True)
    wanted = {
        str(number) if number >= 0 else "none": count
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    }
    assert found == wanted
