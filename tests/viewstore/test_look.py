"""What people see of a store: summary, statistics, contact sheet, report, charts."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tests.generators.latent_world import small_encoder, small_gan, source_images
from viewstore.building import BuildRequest, build
from viewstore.charts import Bar, Mark, Range, bars_of, histogram, ranges, scatter
from viewstore.cli import root
from viewstore.compose import WeightFiles
from viewstore.constraints import Constraints, constraints_of, pair_bound, tally
from viewstore.errors import ConfigError
from viewstore.finalise import finalise
from viewstore.generators.gan_file import Origin, write_generator
from viewstore.report import MAX_BYTES, write_report
from viewstore.rows import choose_rows, choose_view_sets, read_row
from viewstore.sheet import CELL, draw_sheet, fit, lay_out
from viewstore.store import Store, open_store
from viewstore.train.encoder_file import save_encoder

HOSTILE = "a<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two view sets of crops."""
    out = tmp_path_factory.mktemp("look") / "digits"
    build(BuildRequest(generator="simclr", out=out, settings={"views": 4}, limit=80))
    build(BuildRequest(generator="simclr", view_set="wide", out=out, settings={"views": 12}))
    return out


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with W-search views of a random generator: few of them converge."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("searched")
    gan = small_gan()
    encoder = small_encoder(source_images(gan, 64))
    write_generator(folder / "gan.safetensors", gan, Origin(), half=False)
    save_encoder(folder / "encoder.safetensors", encoder.settings, encoder.network)
    np.savez(folder / "images.npz", images=source_images(gan, 6), labels=np.arange(6) % 2)
    build(
        BuildRequest(
            generator="w-search",
            out=folder / "store",
            source=str(folder / "images.npz"),
            settings={"views": 3, "eps1": 0.3, "eps2": 0.4, "max_steps": 25, "slots": 6},
            files=WeightFiles(
                gan=folder / "gan.safetensors", encoder=folder / "encoder.safetensors"
            ),
        )
    )
    yield folder / "store"
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose keys and labels are markup."""
    folder = tmp_path_factory.mktemp("hostile")
    source = folder / "images" / "<script>alert(2)<"
    source.mkdir(parents=True)
    for number, name in enumerate((HOSTILE, "b'\"&amp;.png", "long" * 50 + ".png")):
        pixels = np.full((40, 90, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(source / name)
    build(
        BuildRequest(
            generator="simclr",
            out=folder / "store",
            source=str(folder / "images"),
            settings={"views": 2, "height": 100, "width": 100},
        )
    )
    return folder / "store"


def run(*args: object) -> Result:
    return CliRunner().invoke(root, [str(arg) for arg in args], catch_exceptions=False)


class Page(HTMLParser):
    """The tags and attributes of a page, as a browser would find them."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(raw.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == "img"]


# Charts


def test_a_histogram_is_drawn_as_these_bytes() -> None:
    bars = [Bar(0, 1, 2), Bar(1, 2, 0), Bar(2, 3, 4)]
    assert histogram(bars, title="a < b", marks=[Mark(1.5, "eps1")], band=(1, 2)) == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 130" width="300" height="130" '
        'role="img" aria-label="a &lt; b" font-size="10"><title>a &lt; b</title>'
        '<rect x="119.3" y="26.0" width="85.3" height="86.0" fill="#009E73" fill-opacity="0.18"/>'
        '<rect x="46.4" y="69.0" width="60.0" height="43.0" fill="#0072B2"/>'
        '<rect x="217.1" y="26.0" width="60.0" height="86.0" fill="#0072B2"/>'
        '<line x1="34.0" y1="112.0" x2="290.0" y2="112.0" stroke="#9A9A9A" stroke-width="1"/>'
        '<text x="30.0" y="33.0" text-anchor="end" fill="#444444">4</text>'
        '<text x="30.0" y="112.0" text-anchor="end" fill="#444444">0</text>'
        '<text x="34.0" y="125.0" text-anchor="start" fill="#444444">0</text>'
        '<text x="290.0" y="125.0" text-anchor="end" fill="#444444">3</text>'
        '<line x1="162.0" y1="1.0" x2="162.0" y2="112.0" stroke="#A32800" stroke-width="1" '
        'stroke-dasharray="3 2"/>'
        '<text x="165.0" y="9.0" text-anchor="start" fill="#A32800" stroke="#ffffff" '
        'stroke-width="3" paint-order="stroke">eps1</text></svg>'
    )


def test_charts_use_no_style_attribute_which_a_strict_policy_would_block() -> None:
    drawn = [
        histogram([], title="empty"),
        ranges([Range("0", (0, 1, 2, 3, 4))], title="r", band=(1, float("inf"))),
        ranges([], title="empty"),
        scatter([(0.1, 0.2), (float("nan"), 1)], title="s", level=Mark(0.3, "<eps2>")),
    ]
    for svg in drawn:
        assert "style" not in svg
        assert "nan" not in svg
        assert "inf" not in svg.replace("infinity", "")
    assert "&lt;eps2&gt;" in drawn[3]


def test_a_point_without_a_number_is_not_drawn() -> None:
    svg = scatter([(0.1, 0.2), (float("nan"), 1), (0.3, 0.4)], title="s")
    assert svg.count("h0") == 2


def test_few_whole_numbers_get_a_bar_each_and_real_numbers_do_not() -> None:
    counts, _ = np.histogram([0, 0, 1, 3], 64)
    assert bars_of(0, 3, counts.tolist()) == [
        Bar(-0.5, 0.5, 2, "0"),
        Bar(0.5, 1.5, 1, "1"),
        Bar(1.5, 2.5, 0, "2"),
        Bar(2.5, 3.5, 1, "3"),
    ]
    counts, _ = np.histogram(np.linspace(0, 3, 1000), 64)
    bars = bars_of(0, 3, counts.tolist())
    assert (len(bars), sum(bar.count for bar in bars)) == (64, 1000)


# Rows


def test_a_seed_draws_the_same_rows_for_ever(digits: Path) -> None:
    store = open_store(digits)
    assert choose_rows(store, count=5, random=True, seed=3) == [0, 7, 53, 58, 66]
    assert choose_rows(store, count=5, random=True, seed=4) != [0, 7, 53, 58, 66]
    assert choose_rows(store, count=3) == [0, 1, 2]
    assert len(choose_rows(store, count=999, random=True)) == 80


def test_a_crop_box_is_the_one_the_view_was_rendered_from(digits: Path) -> None:
    store = open_store(digits)
    view_set = store.view_set("simclr")
    cells = read_row(store, 7, [view_set]).cells["simclr"]
    stored = view_set.params["crop_box"][7]
    for cell in cells:
        assert cell.box is not None
        box = [cell.box.top, cell.box.left, cell.box.height, cell.box.width]
        assert box == stored[cell.view].tolist()
        assert cell.area == pytest.approx(np.prod(stored[cell.view, 2:]) / 256)
    assert [cell.dashed for cell in cells] == [False, True, False, True]
    assert len({cell.colour for cell in cells}) == 4


def test_views_that_are_not_built_or_damaged_say_so_and_the_rest_is_shown(tmp_path: Path) -> None:
    out = tmp_path / "store"
    build(BuildRequest(generator="simclr", out=out, limit=130, shard_rows=64, only=(0, 2)))
    finalise(out, allow_partial=True)
    view_set = open_store(out).view_set("simclr")
    shard = view_set.shards[2].path
    data = bytearray(shard.read_bytes())
    place = view_set.members[129][0]
    data[int(place["offset"]) + int(place["size"]) - 1] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    store = open_store(out)
    sets = choose_view_sets(store, None)
    notes = {
        row: [cell.note for cell in read_row(store, row, sets).cells["simclr"]]
        for row in (0, 64, 128, 129)
    }
    assert notes == {0: [""] * 2, 64: ["not built"] * 2, 128: [""] * 2, 129: ["cannot be read"] * 2}
    assert "2 of 3 shards" in run("inspect", out).output
    page = Page(write_report(store, [0, 64, 129], sets))
    assert page.text.count("not built") == 4, "in the picture's place and below it, of two views"
    assert draw_sheet(store, [0, 64, 129], sets)


# Contact sheet


def test_the_same_sheet_has_the_same_bytes_and_says_what_it_shows(digits: Path) -> None:
    store = open_store(digits)
    rows = choose_rows(store, count=3, random=True, seed=5)
    sets = choose_view_sets(store, "simclr")
    first = draw_sheet(store, rows, sets, seed=5)
    assert first == draw_sheet(open_store(digits), rows, sets, seed=5)
    assert first != draw_sheet(store, [0, 1, 2], sets, seed=5)
    text = Image.open(io.BytesIO(first)).text  # type: ignore[attr-defined]
    assert text["viewstore:store_id"] == store.store_id
    assert text["viewstore:view_set"] == "simclr"
    assert text["viewstore:seed"] == "5"


@pytest.mark.parametrize("name", ["simclr", "wide"])
def test_every_view_lies_in_its_own_cell(digits: Path, name: str) -> None:
    store = open_store(digits)
    view_set = store.view_set(name)
    sheet = Image.open(io.BytesIO(draw_sheet(store, [4, 9], [view_set])))
    layout = lay_out([view_set], 2)
    ((block, left),) = layout.lefts()
    for place, row in enumerate((4, 9)):
        top = layout.header + place * layout.row_height + 18
        for view in range(view_set.num_views):
            x, y = block.place(view)
            corner = left + x, top + y
            cell = sheet.crop((*corner, corner[0] + CELL, corner[1] + CELL))
            enlarged = view_set[row][view].repeat(7, axis=0).repeat(7, axis=1)
            assert np.array_equal(np.asarray(cell), enlarged), (row, view)


def test_boxes_are_drawn_in_the_colour_of_their_view(digits: Path) -> None:
    store = open_store(digits)
    view_set = store.view_set("simclr")
    sheet = np.asarray(Image.open(io.BytesIO(draw_sheet(store, [4], [view_set]))))
    layout = lay_out([view_set], 1)
    top = layout.header + 18
    original = sheet[top : top + CELL, 16 : 16 + CELL].reshape(-1, 3)
    for cell in read_row(store, 4, [view_set]).cells["simclr"]:
        colour = [int(cell.colour[i : i + 2], 16) for i in (0, 2, 4)]
        assert (original == colour).all(axis=1).sum() > 40


def test_a_large_picture_keeps_its_shape() -> None:
    assert fit(np.zeros((400, 200, 3), np.uint8), 112).size == (56, 112)
    assert fit(np.zeros((16, 8, 1), np.uint8), 112).size == (56, 112)


def test_a_sheet_of_more_than_64_megapixels_is_refused_with_a_number_that_fits(
    digits: Path,
) -> None:
    sets = choose_view_sets(open_store(digits), None)
    with pytest.raises(ConfigError, match="at most 64 megapixels") as error:
        lay_out(sets, 5000)
    fitting = re.search(r"at most (\d+) samples", str(error.value.fix))
    assert fitting is not None
    lay_out(sets, int(fitting[1]))
    with pytest.raises(ConfigError):
        lay_out(sets, int(fitting[1]) + 1)


# Constraints


def test_the_bound_is_the_one_of_the_published_table() -> None:
    bounds = [round(pair_bound(eps1, 8), 3) for eps1 in (0.1, 0.2, 0.3, 0.5)]
    assert bounds == [0.151, 0.301, 0.448, 0.732]


def test_counts_agree_with_a_plain_loop(searched: Path) -> None:
    view_set = open_store(searched).view_set("w-search")
    wanted = constraints_of(view_set)
    assert wanted is not None
    assert (wanted.eps1, wanted.eps2, wanted.tolerance) == (0.3, pytest.approx(0.4), 0.02)
    counted = tally(view_set, wanted)
    within = close = far = failed = 0
    for distances, converged in zip(
        view_set.params["distance"], view_set.params["converged"], strict=True
    ):
        failed += not all(converged)
        for distance in distances.tolist():
            within += 0.28 <= distance <= 0.32
            close += distance < 0.28
            far += distance > 0.32
    assert (counted.within, counted.too_close, counted.too_far) == (within, close, far)
    assert (counted.samples, counted.not_converged) == (6, failed)
    assert 0 < within < 18, "the store must have views on both sides"


def test_a_hinge_has_no_views_that_are_too_far() -> None:
    hinge = Constraints(eps1=0.3, eps2=None, tolerance=0.02, hinge=True, bound=None)
    assert [hinge.verdict(d) for d in (0.2, 0.29, 0.9)] == ["too close", "", ""]
    assert hinge.verdict(float("nan")) == "not measured"


def test_eps2_above_the_bound_is_unreachable() -> None:
    reach = {"eps1": 0.3, "tolerance": 0.02, "hinge": False, "bound": 0.448}
    assert Constraints(eps2=0.5, **reach).unreachable  # type: ignore[arg-type]
    assert not Constraints(eps2=0.44, **reach).unreachable  # type: ignore[arg-type]


# Report


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
    boxes = [a for tag, a in page.tags if tag == "g" and str(a.get("class")).startswith("box")]
    assert len(boxes) == 2 * 3 * (4 + 12)  # a frame and a number each
    for row in range(3):
        store = open_store(digits)
        top, left, height, width = store.view_set("simclr").params["crop_box"][row, 2].tolist()
        place = {"y": top, "x": left, "height": height, "width": width}
        wanted = {name: f"{value:.1f}" for name, value in place.items()}
        assert any(
            tag == "rect" and wanted.items() <= attrs.items() and attrs.get("stroke") == "#009E73"
            for tag, attrs in page.tags
        )


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


# Command line


def test_inspect_summarises_every_view_set(digits: Path, searched: Path) -> None:
    result = run("inspect", digits)
    assert result.exit_code == 0
    assert re.search(r"^samples +80$", result.output, re.MULTILINE)
    assert "view set simclr" in result.output
    assert "view set wide" in result.output
    assert "4 (4 expert), 16 x 16 x 3 px" in result.output
    assert "crop_box.height" in result.output
    assert open_store(digits).store_id in result.output
    assert re.search(r"[\d.]+ % of views within 0.300 \+-0.02", run("inspect", searched).output)


def test_inspect_says_the_same_in_json(searched: Path) -> None:
    answer = json.loads(run("inspect", searched, "--json").stdout)
    store = open_store(searched)
    assert answer["store_id"] == store.store_id
    assert answer["result"]["labels"] == {"0": 3, "1": 3}
    facts = answer["result"]["view_sets"]["w-search"]
    assert facts["roles"] == {"generated": 3}
    wanted = constraints_of(store.view_set("w-search"))
    assert wanted is not None
    counted = tally(store.view_set("w-search"), wanted)
    assert facts["constraints"]["share_within"] == counted.share_within
    assert facts["constraints"]["share_converged"] == counted.share_converged
    assert facts["columns"]["distance"]["count"] == 18


def test_inspect_tells_the_params_of_one_sample(digits: Path) -> None:
    store = open_store(digits)
    answer = json.loads(run("inspect", digits, "0007", "--view-set", "simclr", "--json").stdout)
    stored = store.view_set("simclr").params["crop_box"][7].tolist()
    assert answer["result"]["key"] == "0007"
    assert answer["result"]["view_sets"]["simclr"]["crop_box"] == stored
    text = run("inspect", digits, "0007").output
    assert ",".join(f"{value:.0f}" for value in stored[0]) in text


def test_a_key_that_is_not_there_names_the_nearest(digits: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean '00"):
        run("inspect", digits, "000x")


def test_pictures_are_written_where_the_options_say(digits: Path, tmp_path: Path) -> None:
    sheet, html = tmp_path / "new" / "sheet.png", tmp_path / "report.html"
    result = run(
        "inspect", digits, "--sheet", sheet, "--html", html, "-n", 2, "--random", "--seed", 9
    )
    assert result.exit_code == 0
    assert Image.open(sheet).text["viewstore:seed"] == "9"  # type: ignore[attr-defined]
    assert html.read_bytes().startswith(b"<!doctype html>")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["report.html", "sheet.png"]
    assert f"{sheet}: 2 samples" in result.output
    with pytest.raises(ConfigError, match="is a folder"):
        run("inspect", digits, "--sheet", tmp_path)


def test_stats_draws_the_histogram_of_a_column(digits: Path) -> None:
    text = run("stats", digits, "--column", "flip", "--view-set", "simclr").output
    flips = int(open_store(digits).view_set("simclr").params["flip"].sum())
    assert re.search(rf"^ +1 +{flips}  █+$", text, re.MULTILINE)
    answer = json.loads(run("stats", digits, "--json").stdout)
    assert set(answer["result"]["view_sets"]) == {"simclr", "wide"}
    assert answer["result"]["view_sets"]["wide"]["flip"]["count"] == 80 * 12


def test_an_unknown_column_names_the_nearest(digits: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'jitter'"):
        run("stats", digits, "--column", "jiter")


def test_control_characters_of_a_store_do_not_reach_the_terminal(tmp_path: Path) -> None:
    source = tmp_path / "images" / "a"
    source.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(source / "x\x1b[31m.png")
    build(BuildRequest(generator="simclr", out=tmp_path / "store", source=str(source.parent)))
    key = open_store(tmp_path / "store").keys[0]
    output = run("inspect", tmp_path / "store", key).output
    assert "\\x1b[31m" in output
    assert "\x1b" not in output
