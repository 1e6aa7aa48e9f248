"""The page of one sample: its views, what they were made from, and where they lie."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import viewstore
from tests.loaders.told import tell
from tests.viewstore.inspect.looked import facts_of, page_of, pixels_of, site_of
from tests.viewstore.pages import HOSTILE, Page
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.inspect.pages.sample import MOST_WORDS
from viewstore.inspect.shown_rows import read_row
from viewstore.inspect.summary import sample_facts
from viewstore.inspect.told import with_told
from viewstore.store.store import Store, open_store

VIEWS = 4


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures: 4 views, CutMix views of them, and choices of 1 group."""
    folder = tmp_path_factory.mktemp("mixed")
    out = folder / "s"
    settings = {"views": VIEWS, "height": 16, "width": 16}
    build_small(out, write_npz(folder / "images.npz"), settings=settings)
    build(BuildRequest(generator="cutmix", out=out, settings={"of": "simclr"}, workers=1))
    tell(out, "one", "simclr", groups=1, choose=2)
    return out


def look(path: Path | Store, address: str) -> tuple[Page, dict[str, Any]]:
    site = site_of(path)
    page = page_of(site, path.name, address)
    assert page.status == 200, page.body
    return Page(page.body), facts_of(site, path.name, address)


def links(page: Page) -> list[str]:
    return [str(attrs["href"]) for tag, attrs in page.tags if tag == "a" and attrs.get("href")]


def test_its_facts_are_those_of_the_other_forms(mixed: Path) -> None:
    _, facts = look(mixed, "sample/5")
    store = open_store(mixed)
    key = store.keys[5]
    known = sample_facts(store, 5, list(store.view_sets.values()))
    assert {name: facts[name] for name in known if name != "view_sets"} == {
        name: value for name, value in known.items() if name != "view_sets"
    }
    assert facts["view_sets"]["simclr"]["crop_box"] == known["view_sets"]["simclr"]["crop_box"]
    sets = [store.view_sets["cutmix"], store.view_sets["simclr"]]
    row = with_told(store, read_row(store, 5, sets, pixels=False), sets).to_json()
    for view in facts["shown"]["view_sets"]["simclr"]:
        view["chosen"] = False
    assert facts["shown"] == row
    assert (facts["previous"], facts["next"]) == (store.keys[4], store.keys[6])
    assert facts["key"] == key


def test_each_view_has_its_shard_member_offset_bytes_and_sha256(store: Store) -> None:
    page, facts = look(store, "sample/9")
    stored = facts["stored"]["simclr"]
    view_set = store.view_set("simclr")
    entry = view_set.shards[1].entry
    blob = view_set.shards[1].blob
    assert (stored["shard"], stored["sha256"], stored["file"]) == (1, blob.sha256, blob.name)
    assert f"{entry.shard}: {blob.name}" in " ".join(page.text.split())
    if view_set.kind == "pixels":
        data = view_set.shards[1].path.read_bytes()
        for member in stored["members"]:
            begin = member["offset"]
            payload = view_set.payloads(9)[member["member"]]
            assert data[begin : begin + member["bytes"]] == payload
            assert f"{begin:,}" in page.text
    else:
        assert stored["members"] == []


def test_every_picture_is_that_of_its_view(mixed: Path) -> None:
    store, site = open_store(mixed), site_of(mixed)
    page, _ = look(mixed, "sample/5?view_set=simclr")
    shown = [str(attrs["src"]) for attrs in page.images()]
    assert len(shown) == 1 + VIEWS + 2 * VIEWS  # beside each mix what it was made from
    for place in shown:
        found = pixels_of(page_of(site, "s", place.removeprefix("../")))
        _, root, name, view, _ = place.removeprefix("../").split("/")
        if view == "original":
            assert root == store.manifest.sources_id[:16]
            assert np.array_equal(found, store.source.image(5))
        else:
            assert np.array_equal(found, store.view_sets[name][5][int(view)])
    larger = [link for link in links(page) if "/picture/" in link]
    assert {link.split("?")[0] for link in larger} == {place.split("?")[0] for place in shown}
    assert all(link.endswith("side=448") for link in larger)


def test_the_picked_view_set_stands_first(mixed: Path) -> None:
    for name in ("simclr", "cutmix"):
        page, _ = look(mixed, f"sample/5?view_set={name}")
        other = {"simclr": "cutmix", "cutmix": "simclr"}[name]
        main = page.text.partition("Each crop box")[2]
        assert main.index(f"\n{name}\n") < main.index(f"\n{other}\n")


def test_a_mix_shows_what_was_pasted_and_the_view_that_it_was_made_from(mixed: Path) -> None:
    page, facts = look(mixed, "sample/5?view_set=cutmix")
    params = open_store(mixed).view_sets["cutmix"].params
    cells = facts["shown"]["view_sets"]["cutmix"]
    pasted = 0
    for view, cell in enumerate(cells):
        left, top, right, bottom = params["mix_box"][5, view].tolist()
        assert cell["parent"] == params["parent"][5, view]
        assert f"mixed with row {params['mix_partner'][5, view]}" in cell["told"]
        if right > left:
            pasted += 1
            place = {"x": f"{left}", "y": f"{top}"}
            place |= {"width": f"{right - left}", "height": f"{bottom - top}"}
            assert ("rect", place) in page.tags
    assert pasted == sum(attrs.get("class") == "box mix" for _, attrs in page.tags) > 0


def test_the_usual_choice_is_framed_and_others_can_be(mixed: Path) -> None:
    page, facts = look(mixed, "sample/5?view_set=simclr")
    selected = open_store(mixed).view_sets["one"].params["selected"][5, 0].tolist()
    framed = [
        int(str(attrs["class"]).split()[1][1:])
        for tag, attrs in page.tags
        if tag == "figure" and "chosen" in str(attrs.get("class")).split()
    ]
    assert sorted(framed) == sorted(selected)
    assert facts["chosen"] == "one.selected"
    assert "A frame marks the views that one.selected chose." in page.text
    others = [each for each in facts["choices"] if each != "one.selected"]
    assert [f"?view_set=simclr&pick={each}" for each in others] == [
        link for link in links(page) if "pick=" in link
    ]
    for each in others:
        assert look(mixed, f"sample/5?view_set=simclr&pick={each}")[1]["chosen"] == each
    assert page_of(site_of(mixed), "s", "sample/5?view_set=simclr&pick=two").status == 400


def test_a_key_is_found_by_itself_or_by_its_row(mixed: Path) -> None:
    store = open_store(mixed)
    for address in (f"sample/{store.keys[7]}", "sample/7", "sample/?key=7", "sample?key=7"):
        assert look(mixed, address)[1]["row"] == 7
    refused = page_of(site_of(mixed), "s", "sample/?key=nothing")
    assert refused.status == 404
    assert "did you mean" in refused.body.decode()
    assert page_of(site_of(mixed), "s", "sample/99").status == 404
    assert page_of(site_of(mixed), "s", "sample/").status == 404


def test_previous_and_next_lead_through_the_store_and_end(mixed: Path) -> None:
    site, seen, address = site_of(mixed), [], "sample/0"
    while True:
        page = Page(page_of(site, "s", address).body)
        seen.append(facts_of(site, "s", address)["row"])
        following = [
            str(attrs["href"]) for tag, attrs in page.tags if attrs.get("rel") == "next" and tag
        ]
        if not following:
            break
        address = following[0].removeprefix("../")
    assert seen == list(range(20))
    first = Page(page_of(site, "s", "sample/0").body)
    assert not [attrs for _, attrs in first.tags if attrs.get("rel") == "prev"]


def test_a_hostile_key_stays_text_and_leads_to_its_page(hostile: Path) -> None:
    store, site = open_store(hostile), site_of(hostile)
    overview = Page(page_of(site, hostile.name, "").body)
    for key in store.keys:
        (link,) = {link for link in links(overview) if "sample/" in link and key_of(link) == key}
        page = page_of(site, hostile.name, link.removeprefix("./"))
        assert page.status == 200
        assert key in Page(page.body).text
        assert b"<img src=x" not in page.body
        assert b"<script>" not in page.body
    assert any(HOSTILE in key for key in store.keys)


def key_of(link: str) -> str:
    return unquote(link.partition("sample/")[2].partition("?")[0])


def test_a_view_that_is_not_built_says_so_without_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "s"
    build_small(out, write_npz(tmp_path / "images.npz"), only=(0, 2))
    finalise(out, allow_partial=True)
    page, facts = look(out, "sample/9")
    assert facts["stored"]["simclr"] is None
    assert len(page.images()) == 1
    assert page.text.count("not built") >= 3


def test_the_code_opens_the_store_and_reads_this_sample(mixed: Path) -> None:
    page = page_of(site_of(mixed), "s", "sample/5?view_set=simclr")
    found = re.search(r'<pre id="code" tabindex="0">(.*?)</pre>', page.body.decode(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(html.unescape(found[1]), names)
    store = viewstore.open(mixed)
    assert names["row"] == 5
    assert np.array_equal(names["pixels"], store.view_sets["simclr"][5])
    assert np.array_equal(names["image"], store.source.image(5))
    assert np.array_equal(
        names["params"]["crop_box"], store.view_sets["simclr"].params["crop_box"][5]
    )


def test_without_javascript_zoom_is_a_link_and_isolation_is_css(mixed: Path) -> None:
    site = site_of(mixed)
    page = Page(page_of(site, "s", "sample/5").body)
    larger = [attrs["href"] for tag, attrs in page.tags if tag == "a" and "picture/" in str(attrs)]
    assert any("side=448" in str(address) for address in larger)
    css = page_of(site, "s", "static/row.css").body.decode()
    for view in range(10):
        assert f".block:has(.v{view}:hover, .v{view}:focus-within) .box:not(.b{view})" in css


def test_hashes_stand_apart_and_few_words_below_each_view(tmp_path: Path) -> None:
    out = tmp_path / "s"
    build_small(out, write_npz(tmp_path / "images.npz"))
    build_small(out, None, generator="quality", settings={"of": "simclr"})
    site = site_of(out)
    shown = [facts_of(site, "s", f"sample/{row}")["shown"]["view_sets"] for row in range(20)]
    words = [max(len(each["params"]) for each in views["simclr"]) for views in shown]
    row = int(np.argmax(words))
    assert words[row] > MOST_WORDS  # all of it is in the facts
    body = page_of(site, "s", f"sample/{row}?view_set=simclr").body.decode()
    assert f"row {row}, of 0 to 19" in body
    below = re.findall(r'<span class="params(?: told)?">(.*?)</span></span>', body)
    assert below
    assert max(each.count("<span>") for each in below) <= MOST_WORDS
    main, _, rest = body.partition("Seeds and hashes of quality")
    assert '<th scope="row">dhash</th>' not in main
    assert '<th scope="row">dhash</th>' in rest


def test_an_original_of_the_size_of_the_views_is_shown_at_their_scale(tmp_path: Path) -> None:
    source, out = write_npz(tmp_path / "images.npz"), tmp_path / "s"
    with np.load(source) as images:
        height, width = images["images"].shape[1:3]
    for name, more in (("same", 0), ("larger", 8)):
        settings = {"views": 2, "height": height + more, "width": width + more}
        build_small(out, source if more == 0 else None, view_set=name, settings=settings)
    for name, same in (("same", True), ("larger", False)):
        body = page_of(site_of(out), "s", f"browse?view_set={name}").body
        assert (b'class="original same"' in body) == same
