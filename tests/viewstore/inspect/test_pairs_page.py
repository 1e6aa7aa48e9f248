"""The page Pairs: which sets it shows, what it says of them, and that keys are text."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.viewstore.inspect import looked
from tests.viewstore.inspect.planted import HOSTILE, ROWS, pictures, plant
from tests.viewstore.inspect.test_pair_losses import VIEWS, planted_hard, tables
from tests.viewstore.pages import Page
from viewstore.errors import ConfigError
from viewstore.inspect.pages.site import Site
from viewstore.inspect.query import Query, sortable, understand
from viewstore.store.store import Store, open_store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Choices of pairs with losses, choices without, attacks, mixtures."""
    folder = tmp_path_factory.mktemp("pairs")
    planted_hard(folder, tables(3))
    rng = np.random.Generator(np.random.Philox(2))
    out, status = folder / "s", np.ones((ROWS, VIEWS), np.uint8)
    picks = np.tile(np.array([[[0, 1, 2]]], np.uint8), (ROWS, 1, 1))
    plant(
        out, "crops", {"selected": picks, "status": status}, of="p", views=VIEWS,
        per={"selected": "choice"},
    )  # fmt: skip
    before = rng.normal(size=(ROWS, 2)).astype(np.float32)
    attack = {
        "loss0": before,
        "loss": before + np.where(np.arange(ROWS) < 12, 1, -1)[:, None].astype(np.float32),
        "delta_norm": np.full((ROWS, 2), 2, np.float32),
        "clipped": np.full((ROWS, 2), 0.25, np.float32),
    }
    plant(out, "attacked", attack, eps=1.0, norm="linf", units="pixel255")
    mixed = {"mix_lambda": np.full((ROWS, 2), 0.75, np.float32)}
    mixed["mix_lambda0"] = mixed["mix_lambda"] - np.float32(0.25)
    plant(out, "mixed", mixed)
    return out


@pytest.fixture(scope="module")
def site(root: Path) -> Site:
    return looked.site_of(open_store(root))


def facts_of(site: Site, query: str = "") -> dict[str, Any]:
    return looked.facts_of(site, "s", f"pairs?{query}")


def html_of(site: Site, query: str = "") -> Page:
    return looked.html_of(site, "s", f"pairs?{query}")


def test_stores_without_pairs_have_no_tab(tmp_path: Path, site: Site) -> None:
    assert not looked.has_tab(looked.plain_site(tmp_path), "s", "pairs")
    assert looked.has_tab(site, "s", "pairs")


def test_a_set_is_picked_by_name_or_by_the_view_set_that_is_shown(site: Site) -> None:
    assert facts_of(site, "set=attacked")["set"] == "attacked"
    assert facts_of(site, "view_set=mixed")["set"] == "mixed"
    assert facts_of(site, "view_set=p")["set"] in ("crops", "hard")
    assert facts_of(site)["sets"] == ["attacked", "crops", "hard", "mixed"]
    wrong = site.get("s", "pairs", "set=hart")
    assert wrong.status == 400
    assert "hard" in Page(wrong.body).text


def test_numbers_of_the_page_are_those_of_its_json(site: Site) -> None:
    facts, page = facts_of(site, "set=hard"), html_of(site, "set=hard")
    pairs = facts["pairs"]
    assert (pairs["groups"], pairs["candidates"], pairs["samples"]) == (2, 4, ROWS)
    assert pairs["agree"] == pairs["scored"] == 2 * ROWS - 1
    for name in ("selected", "easiest", "random", "min_iou"):
        least = pairs["losses"][name]["least_overlap"]
        assert f"{100 * least['share']:.1f} %" in page.text
        assert f"{100 * least['low']:.1f} % to {100 * least['high']:.1f} %" in page.text
        assert f"{100 * least['chance']:.1f} %" in page.text
        assert f"{pairs['losses'][name]['mean']:.4g}" in page.text
    assert pairs["losses"]["min_iou"]["least_overlap"]["word"] == "more often than"
    assert f"{pairs['correlation']:.3f}" in page.text
    for panel in pairs["panels"]:
        assert panel["caption"] in page.text


def test_tables_frame_the_selected_pair_of_each_group(site: Site) -> None:
    facts = facts_of(site, "set=hard&order=row")["samples"]
    assert [each["row"] for each in facts["rows"]] == list(range(6))
    body = site.get("s", "pairs", "set=hard&order=row").body.decode()
    framed = body.count(' framed"')
    assert framed == 2 * sum(len(each["groups"]) for each in facts["rows"])  # both orders
    one = facts["rows"][0]["groups"][1]
    loss = tables(3)["pair_loss"]
    assert one["losses"][0][1] == loss[0, 4, 1]
    assert one["losses"][2][2] is None
    assert one["chosen"]["selected"] == tables(3)["selected"][0, 1].tolist()


def test_only_the_selected_views_are_shown_as_pictures(site: Site) -> None:
    facts = facts_of(site, "set=hard")["samples"]["rows"]
    images = [image["src"] or "" for image in html_of(site, "set=hard").images()]
    views = [image.split("/")[-2] for image in images]
    wanted = []
    for each in facts:
        chosen = {v for group in each["groups"] for v in group["chosen"].get("selected", [])}
        wanted += ["original", *map(str, sorted(chosen))]
    assert views == wanted


@pytest.mark.parametrize(("order", "number"), [("", "loss"), ("&order=spread", "spread")])
def test_pages_go_from_the_greatest_to_the_least(site: Site, order: str, number: str) -> None:
    found = [
        each["numbers"][number]
        for page in range(1, 5)
        for each in facts_of(site, f"set=hard&page={page}{order}")["samples"]["rows"]
    ]
    assert len(found) == ROWS
    assert found == sorted(found, reverse=True)


def test_the_first_order_is_the_loss_of_the_selected_pair(site: Site) -> None:
    samples = facts_of(site, "set=hard")["samples"]
    assert list(samples["orders"]) == ["loss", "spread", "-spread", "row"]  # there is no margin
    loss = tables(3)["pair_loss"].astype(np.float64)
    for each in samples["rows"]:
        losses = []
        for group in each["groups"]:
            if pair := group["chosen"].get("selected"):
                first, second = pair[0] % 4, pair[1] % 4
                both = loss[each["row"], pair[0], second], loss[each["row"], pair[1], first]
                losses.append(sum(both) / 2)
        assert each["numbers"]["loss"] == pytest.approx(max(losses), abs=1e-6)
    text = html_of(site, "set=hard").text
    for words in (*samples["orders"].values(), *samples["meanings"].values()):
        assert words in text
    assert "the loss of each the mean of both orders" in text


def test_losses_are_told_with_digits_that_tell_them_apart(site: Site) -> None:
    body = site.get("s", "pairs", "set=hard&order=row").body.decode()
    for each in facts_of(site, "set=hard&order=row")["samples"]["rows"]:
        for group in each["groups"]:
            known = [value for line in group["losses"] for value in line if value is not None]
            if known:
                assert 10 <= np.ptp(known) * 10 ** group["decimals"] < 1000
                assert f"{known[0]:.{group['decimals']}f}</td>" in body


def test_pages_and_orders_that_are_none_are_refused(site: Site) -> None:
    for query in ("page=0", "page=5", "page=x", "page=%C2%B2", "order=else", "order=margin"):
        assert site.get("s", "pairs", f"set=hard&{query}").status == 400


def test_attacks_say_which_share_rose_and_what_left_the_budget(site: Site) -> None:
    attack, page = facts_of(site, "set=attacked")["attack"], html_of(site, "set=attacked")
    assert attack["share"] == 12 / ROWS
    assert attack["low"] == pytest.approx(0.4460, abs=1e-4)  # Wilson's, 24 of 40
    assert attack["high"] == pytest.approx(0.7365, abs=1e-4)
    assert "60.0 %" in page.text
    assert "! below 95.0 %" in page.text
    assert [each["over"] for each in attack["by_view"]] == [ROWS, ROWS]
    assert f"! {ROWS}" in page.text
    assert attack["clipped"] == 0.25


def test_mixtures_and_choices_without_losses_have_their_numbers(site: Site) -> None:
    mixed = facts_of(site, "set=mixed")["mixture"]
    assert (mixed["mean"], mixed["drawn_mean"], mixed["views"]) == (0.75, 0.5, 2 * ROWS)
    assert "0.75" in html_of(site, "set=mixed").text
    crops = facts_of(site, "set=crops")
    assert crops["pairs"] is None
    assert crops["choices"]["by_view"]["selected"] == [ROWS] * 3 + [0] * (VIEWS - 3)
    assert "Choices by view number" in html_of(site, "set=crops").text


def test_a_set_may_hold_attacks_and_mixtures_at_once(tmp_path: Path) -> None:
    values = dict.fromkeys(("loss0", "loss", "delta_norm"), np.ones((ROWS, 2), np.float32))
    values["mix_lambda"] = np.full((ROWS, 2), 0.5, np.float32)
    store = plant(tmp_path / "s", "p", values, source=pictures(tmp_path / "pictures"))
    facts = facts_of(Site({"s": lambda: store}))
    assert (facts["attack"]["share"], facts["mixture"]["mean"]) == (0, 0.5)


def test_logs_of_a_training_are_shown_by_slots(tmp_path: Path) -> None:
    flip = np.zeros((ROWS, 1), np.uint8)
    source = pictures(tmp_path / "pictures")
    plant(tmp_path / "s", "p", {"flip": flip}, views=1, source=source)
    losses = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
    store = plant(
        tmp_path / "s", "log", {"x_losses": losses, "x_pair": np.full(ROWS, 2, np.uint16)},
        of="source", per=dict.fromkeys(("x_losses", "x_pair"), "sample"), views=1,
        pairs=[(0, 1), (0, 2), (1, 2)],
    )  # fmt: skip
    site = Site({"s": lambda: store})
    facts = facts_of(site, "order=row")
    assert facts["pairs"]["logged"]
    assert facts["samples"]["rows"][0]["groups"][0]["losses"][0] == [None, 0.0, 1.0]
    page = html_of(site)
    assert "slots" in page.text
    assert page.images() == []


def test_rows_are_there_as_csv(site: Site) -> None:
    page = site.get("s", "pairs", "set=hard&order=row&format=csv")
    lines = list(csv.reader(page.body.decode().splitlines()))
    assert lines[0] == ["key", "student", "target", "loss"]
    assert float(lines[2][3]) == pytest.approx(float(tables(3)["pair_loss"][0, 0, 1]))


def test_hostile_keys_are_text_and_nothing_is_inline(site: Site) -> None:
    page = html_of(site, "set=hard&order=row&page=1")
    for number in (2, 3, 4):
        text = html_of(site, f"set=hard&order=row&page={number}").text
        page.text += text
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.text
    for name in ("set=hard", "set=attacked", "set=mixed", "set=crops"):
        tags = html_of(site, name).tags
        assert not [tag for tag, attrs in tags if "style" in attrs or "onerror" in attrs]
        assert "script" not in {tag for tag, attrs in tags if "src" not in attrs}
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_the_code_runs(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    body = html_of(site, "set=hard")
    code = body.code
    exec(compile(code, "page", "exec"), {})
    assert capsys.readouterr().out


@pytest.fixture(scope="module")
def one_group(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Pairs of one group of three views, with a margin and without overlaps."""
    folder, rng = tmp_path_factory.mktemp("one"), np.random.Generator(np.random.Philox(8))
    flip = np.zeros((ROWS, 3), np.uint8)
    plant(folder / "s", "p", {"flip": flip}, source=pictures(folder / "i"), views=3)
    loss = rng.normal(size=(ROWS, 3, 3)).astype(np.float32)
    loss += loss.transpose(0, 2, 1)
    loss[:, np.arange(3), np.arange(3)] = np.nan
    first, second = np.triu_indices(3, 1)
    scored = np.sort(loss[:, first, second], axis=1)
    best = loss[:, first, second].argmax(1)
    values = {
        "pair_loss": loss,
        "selected": np.stack([first[best], second[best]], 1)[:, None].astype(np.uint8),
        "margin": (scored[:, 2] - scored[:, 1])[:, None],
        "status": np.ones((ROWS, 3), np.uint8),
    }
    values["margin"][4] = np.inf  # there was no second pair
    per = {"selected": "choice", "margin": "sample"}
    return plant(folder / "s", "hard", values, of="p", per=per, views=3)


def test_the_greatest_margin_comes_first_and_those_without_a_second_pair_last(
    one_group: Store,
) -> None:
    site = Site({"s": lambda: one_group})
    pages = [facts_of(site, f"order=margin&page={page}")["samples"]["rows"] for page in range(1, 5)]
    rows = [each["row"] for page in pages for each in page]
    margin = one_group.view_sets["hard"].params["margin"][:, 0]
    known = [row for row in range(ROWS) if row != 4]
    assert rows == [*sorted(known, key=lambda row: -margin[row]), 4]
    assert "by how much it leads the second" in html_of(site).text


def test_a_column_of_one_group_can_be_ordered_by_and_asked_for(one_group: Store) -> None:
    margin = one_group.view_sets["hard"].params["margin"][:, 0]
    views = one_group.view_sets["p"]
    found = understand(one_group, Query(where="hard.margin > 0.5", sort="-hard.margin"), views)
    wanted = sorted(np.flatnonzero(margin > 0.5).tolist(), key=lambda row: -margin[row])
    assert found.find().page(0, ROWS) == wanted
    assert found.values("hard.margin", [3]) == [pytest.approx(float(margin[3]))]
    assert "hard.margin" in sortable(one_group, views)
    with pytest.raises(ConfigError, match="selected has 1 x 2 numbers a sample, which the page P"):
        understand(one_group, Query(sort="hard.selected"), views)


def test_without_overlaps_the_table_has_no_empty_columns_and_says_why(one_group: Store) -> None:
    page = html_of(Site({"s": lambda: one_group}))
    assert "hard holds no overlaps of the views of a pair" in page.text
    assert "95 % interval" not in page.text
