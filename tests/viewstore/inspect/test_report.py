"""The report: one page that asks for nothing outside itself."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.pages import HOSTILE, Page
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.inspect.chosen_rows import choose_rows, choose_view_sets, worst_rows
from viewstore.inspect.report import MAX_BYTES, write_report
from viewstore.inspect.sheet import draw_sheet
from viewstore.store.constraints import constraints_of, tally
from viewstore.store.store import Store, open_store


def report_of(path: Path, count: int = 10) -> bytes:
    store: Store = open_store(path)
    return write_report(store, choose_rows(store, count=count), choose_view_sets(store, None))


def assert_self_contained(page: Page) -> None:
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "audio"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "srcset", "xlink:href"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")) or (
                not value
            )
    policy = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


@pytest.mark.parametrize("store", ["digits", "searched", "hostile"])
def test_a_report_asks_for_nothing_outside_itself(
    store: str, request: pytest.FixtureRequest
) -> None:
    raw = report_of(request.getfixturevalue(store))
    page = Page(raw)
    assert_self_contained(page)
    assert b"url(" not in raw
    assert b"@import" not in raw


def test_markup_in_keys_and_labels_stays_text(hostile: Path) -> None:
    raw = report_of(hostile)
    page = Page(raw)
    assert HOSTILE in page.text
    assert "<script>alert(2)<" in page.text
    assert b"<img src=x" not in raw
    assert f"original of <script>alert(2)</{HOSTILE}" in [a["alt"] for a in page.images()]


def test_a_report_shows_every_view_and_box_of_its_rows(digits: Path) -> None:
    page = Page(report_of(digits, count=3))
    assert len(page.images()) == 3 * (1 + 4 + 1 + 12)
    for drawn in ("g", "text"):  # a frame and a number each
        boxes = [
            a for tag, a in page.tags if tag == drawn and str(a.get("class")).startswith("box")
        ]
        assert len(boxes) == 3 * (4 + 12)
    store = open_store(digits)
    for row in choose_rows(store, count=3):
        top, left, height, width = store.view_set("simclr").params["crop_box"][row, 2].tolist()
        place = {"y": top, "x": left, "height": height, "width": width}
        wanted = {name: f"{value:.1f}" for name, value in place.items()}
        assert any(
            tag == "g"
            and attrs.get("class") == "box b2 c2"
            and page.tags[at + 1] == page.tags[at + 2] == ("rect", wanted)
            for at, (tag, attrs) in enumerate(page.tags)
        )


def test_equal_stores_give_equal_bytes(searched: Path) -> None:
    assert report_of(searched) == report_of(searched)


def test_what_made_a_view_stands_under_it(digits: Path) -> None:
    raw = report_of(digits, count=3).decode()
    store = open_store(digits)
    params = store.view_set("simclr").params
    for row in choose_rows(store, count=3):
        if params["jitter_order"][row, 1, 0] != 255:
            brightness = float(params["jitter"][row, 1, 0])
            assert f"<span>brightness {brightness:.3g}" in raw
    assert "solarize 256" not in raw.partition("Samples, spread")[2].partition('id="set-1"')[0]
    assert raw.count("enlarge view") == 3 * (4 + 12)


def test_a_column_that_is_the_same_everywhere_is_a_word_and_no_chart(digits: Path) -> None:
    page = Page(report_of(digits, count=1))
    titles = [a["aria-label"] for tag, a in page.tags if tag == "svg" and a.get("aria-label")]
    assert "histogram of flip" in titles
    assert "histogram of status" not in titles
    assert "The same everywhere: blur 0, solarize off, status 1." in page.text


def test_a_report_says_off_and_takes_no_mean_over_it(digits: Path) -> None:
    text = report_of(digits).decode()
    order = open_store(digits).view_set("simclr").params["jitter_order"]
    mean, off = order[order != 255].mean(), int((order == 255).sum())
    said = f"<b>jitter_order</b> mean {mean:.4g}, std 1.12, {off:,} off left out</figcaption>"
    assert said in text
    assert "solarize off" in text
    assert "solarize 256" not in text


def test_rows_that_missed_their_goal_are_shown_again_the_worst_first(searched: Path) -> None:
    store = open_store(searched)
    view_set = store.view_set("w-search")
    worst = worst_rows(view_set, 5)
    off = np.abs(view_set.params["distance"].astype(np.float64) - 0.3).max(axis=1)
    status = view_set.params["status"].max(axis=1)
    assert len(worst)  # how many miss it differs between processors by one or two
    assert (status[worst] == 2).all()
    assert (np.diff(off[worst]) <= 0).all()
    shown = report_of(searched, count=1).decode().partition("the worst first</h2>")[2]
    assert [row for row in worst if f"row {row}, " not in shown] == []


def test_the_worst_reconstructions_are_those_farthest_from_their_source(searched: Path) -> None:
    view_set = open_store(searched).view_set("recon")
    missed = np.flatnonzero(view_set.params["status"][:, 0] == 2)
    worst = worst_rows(view_set, 20)
    assert sorted(worst) == missed.tolist()
    assert (np.diff(view_set.params["distance"][worst, 0]) <= 0).all()


def test_rows_that_failed_are_worse_than_any_that_missed(tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name in ("a", "b", "c"):
        Image.fromarray(noise).save(source / f"{name}.jpg", quality=95)
    whole = (source / "b.jpg").read_bytes()
    (source / "b.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    out = tmp_path / "store"
    build(BuildRequest(generator="simclr", out=out, source=str(source), on_error="skip"))
    assert worst_rows(open_store(out).view_set("simclr"), 5) == [1]
    assert "source unreadable" in Page(report_of(out, count=1)).text


def test_a_healthy_view_set_has_no_worst_rows(digits: Path) -> None:
    assert worst_rows(open_store(digits).view_set("simclr"), 5) == []
    assert "the worst first" not in Page(report_of(digits, count=1)).text


def test_fifty_rows_fit_into_5_mb_by_smaller_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", images=rng.integers(0, 256, (50, 200, 200, 3), np.uint8))
    build(
        BuildRequest(
            generator="simclr",
            out=tmp_path / "store",
            source=str(tmp_path / "noise.npz"),
            settings={"views": 10, "height": 160, "width": 160},
        )
    )
    raw = report_of(tmp_path / "store", count=50)
    assert 1_000_000 < len(raw) <= MAX_BYTES
    assert len(Page(raw).images()) == 50 * 11


def test_a_report_says_in_words_which_views_miss_their_distance(searched: Path) -> None:
    page = Page(report_of(searched))
    store = open_store(searched)
    counted = tally(store.view_set("w-search"), constraints_of(store.view_set("w-search")))  # type: ignore[arg-type]
    assert page.text.count("too close") - 1 == counted.too_close  # one is the line of the table
    assert "views within tolerance" in page.text
    assert "geometry allows" in page.text


def test_a_report_stands_when_its_source_is_gone(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        file = io.BytesIO()
        Image.fromarray(np.full((80, 80, 3), 7, np.uint8)).save(file, "PNG")
        for name, data in (("a.png", file.getvalue()), ("a.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    source = str(tmp_path / "images.tar")
    build(BuildRequest(generator="simclr", out=tmp_path / "store", source=source))
    Path(source).unlink()
    page = Page(report_of(tmp_path / "store"))
    assert "source not reachable" in page.text
    assert len(page.images()) == 2
    store = open_store(tmp_path / "store")
    assert draw_sheet(store, [0], choose_view_sets(store, None))
