"""Pictures by their addresses: those of the key, small, encoded anew, and never another one."""

from __future__ import annotations

import io
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tests.remote.servers import ranged_server
from tests.viewstore.inspect.looked import page_of, pixels_of, site_of
from tests.viewstore.pages import HOSTILE
from tests.viewstore.small_stores import build_small, write_npz, write_photographs
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import FormatError
from viewstore.files.cache_settings import CacheSettings
from viewstore.inspect.shown_rows import read_row
from viewstore.inspect.thumbnails import MAX_BYTES, SIDES, encoded, original_picture
from viewstore.store.store import Store, open_store
from viewstore.store.view_set import ViewSet


def address(view_set: ViewSet, view: int | str, key: str, side: int = 96) -> str:
    place = f"{view_set.index.root[:16]}/{view_set.name}/{view}/{quote(key, safe='')}"
    return f"picture/{place}?side={side}"


def original(store: Store, key: str, side: int = 96) -> str:
    root, name = store.manifest.sources_id[:16], next(iter(store.view_sets))
    return f"picture/{root}/{name}/original/{quote(key, safe='')}?side={side}"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four photographs of which the last lies on its side, as its EXIF says; jpg views."""
    folder = tmp_path_factory.mktemp("photographs") / "images"
    folder.mkdir()
    rng = np.random.default_rng(2)
    for number in range(4):
        smooth = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((900, 600))
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        exif[0x010E] = "a secret place"
        smooth.save(folder / f"{number}.jpg", quality=92, exif=exif)
    out = folder.parent / "store"
    settings = {"views": 2, "height": 160, "width": 160}
    build(
        BuildRequest(generator="simclr", out=out, source=str(folder), settings=settings, workers=1)
    )
    return open_store(out)


def test_a_picture_is_the_view_of_its_key_in_every_codec(store: Store) -> None:
    view_set = store.view_set("simclr")
    site = site_of(store)
    for row in (0, 7, 19):
        for view in range(2):
            page = page_of(site, store.name, address(view_set, view, store.keys[row]))
            assert page.media_type == "image/png"
            assert np.array_equal(pixels_of(page), view_set[row][view])
            assert np.array_equal(view_set.view(row, view), view_set[row][view])


def test_one_view_is_read_without_the_others(photographs: Store) -> None:
    """A damaged neighbour does no harm."""
    view_set = open_store(photographs.root).view_set("simclr")
    members = view_set.members.copy()
    members[3, 2]["crc32"] ^= 1
    view_set.members = members
    whole = photographs.view_set("simclr")
    assert np.array_equal(view_set.view(3, 0), whole[3][0])
    with pytest.raises(FormatError):
        view_set.view(3, 1)
    with pytest.raises(FormatError):
        view_set[3]


def test_large_pictures_are_jpeg_without_metadata_and_within_their_bytes(
    photographs: Store,
) -> None:
    site, view_set = site_of(photographs), photographs.view_set("simclr")
    for side in SIDES:
        for place in (address(view_set, 1, "2.jpg", side), original(photographs, "3.jpg", side)):
            page = page_of(site, "store", place)
            picture = Image.open(io.BytesIO(page.body))
            assert (page.media_type, picture.format) == ("image/jpeg", "JPEG")
            assert max(picture.size) <= side
            assert not picture.getexif()
            assert b"secret" not in page.body
            assert len(page.body) <= MAX_BYTES[side]
            assert page.immutable


@pytest.mark.parametrize("side", SIDES)
def test_noise_fits_into_the_bytes_of_a_thumbnail(side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8)
    assert len(encoded(noise, side)) <= MAX_BYTES[side]
    assert len(encoded(noise[:64, :64], side)) <= MAX_BYTES[side]


def test_orientation_is_not_applied_and_a_large_jpeg_is_the_image_made_small(
    photographs: Store,
) -> None:
    """Boxes lie on the decoder's grid: what a viewer that turns it shows is another picture."""
    picture = pixels_of(page_of(site_of(photographs), "store", original(photographs, "3.jpg", 224)))
    whole = photographs.source.image(3)
    assert picture.shape == (149, 224, 3)
    small = np.asarray(Image.fromarray(whole).resize((224, 149), Image.Resampling.BICUBIC))
    assert np.abs(picture.astype(int) - small).mean() < 6
    turned = np.rot90(whole, 3)
    assert turned.shape[:2] == whole.shape[1::-1]


def test_an_address_of_other_bytes_gives_no_picture(tmp_path: Path) -> None:
    """Addressing by position would give the picture of another store in its place."""
    source = write_npz(tmp_path / "images.npz")
    build_small(tmp_path / "s", source)
    site = site_of(tmp_path / "s")
    before = open_store(tmp_path / "s")
    old = address(before.view_set("simclr"), 0, before.keys[4])
    first = pixels_of(page_of(site, "s", old))
    build_small(tmp_path / "t", source, seed=7)
    (tmp_path / "s").rename(tmp_path / "gone")
    (tmp_path / "t").rename(tmp_path / "s")
    after = open_store(tmp_path / "s")
    assert page_of(site, "s", old).status == 404
    now = pixels_of(page_of(site, "s", address(after.view_set("simclr"), 0, after.keys[4])))
    assert np.array_equal(now, after.view_set("simclr")[4][0])
    assert not np.array_equal(now, first)


@pytest.mark.parametrize(
    ("place", "status", "said"),
    [
        ("picture/{root}/simclr/0/{key}?side=97", 400, "side must be one of"),
        ("picture/{root}/simclr/0/{key}", 400, "side must be one of"),
        ("picture/{root}/simclr/2/{key}?side=96", 404, "has no view"),
        ("picture/{root}/simclr/-1/{key}?side=96", 404, "has no view"),
        ("picture/{root}/simclrs/0/{key}?side=96", 404, "no view set"),
        ("picture/{root}/simclr/0/00x?side=96", 404, "did you mean"),
        ("picture/{sources}/simclr/0/{key}?side=96", 404, "of other bytes"),
        ("picture/{root}/simclr/original/{key}?side=96", 404, "of other bytes"),
        ("picture/{root}/simclr/0?side=96", 404, "no sample"),
        ("picture?side=96", 404, "no view set"),
        ("picture/{root}/..%2f..%2fsimclr/0/{key}?side=96", 404, "no"),
    ],
)
def test_addresses_of_no_picture_say_why(
    raw_store: Store, place: str, status: int, said: str
) -> None:
    parts = {
        "root": raw_store.view_set("simclr").index.root[:16],
        "sources": raw_store.manifest.sources_id[:16],
        "key": raw_store.keys[0],
    }
    page = page_of(site_of(raw_store), raw_store.name, place.format(**parts))
    assert page.status == status
    assert said in page.body.decode()
    assert not page.immutable


def test_a_picture_of_a_hostile_key_is_found(hostile: Path) -> None:
    store = open_store(hostile)
    key = next(key for key in store.keys if HOSTILE in key)
    page = page_of(site_of(store), store.name, address(store.view_set("simclr"), 0, key))
    assert page.status == 200


def test_an_original_that_cannot_be_reached_is_a_grey_field_that_says_so(tmp_path: Path) -> None:
    source = tmp_path / "images.npz"
    build_small(tmp_path / "s", write_npz(source))
    source.unlink()
    store = open_store(tmp_path / "s")
    page = page_of(site_of(store), "s", original(store, store.keys[0]))
    assert (page.status, page.media_type, page.immutable) == (200, "image/svg+xml", False)
    assert b"source not reachable" in page.body
    row = page_of(site_of(store), "s", f"sample/{store.keys[0]}")
    assert row.status == 200
    view = page_of(site_of(store), "s", address(store.view_set("simclr"), 0, store.keys[0]))
    assert np.array_equal(pixels_of(view), store.view_set("simclr")[0][0])


def test_an_original_that_is_damaged_says_so_and_why(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs", 3, cut=2)
    build_small(tmp_path / "s", str(photographs), limit=2)
    path = photographs / "1.jpg"
    path.write_bytes(path.read_bytes()[:-9])
    store = open_store(tmp_path / "s")
    body = page_of(site_of(store), "s", original(store, "1.jpg")).body
    said = " ".join(re.sub("<[^>]*>", "", body.decode()).split())
    assert said == "cannot be read: its bytes changed since the store was begun"
    row = read_row(store, store.keys.find("1.jpg"), [store.view_set("simclr")])
    assert (row.original, row.original_note) == (None, said)


def test_a_damaged_view_is_a_grey_field_and_is_not_kept(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"), codec="png")
    view_set = open_store(tmp_path / "s").view_set("simclr")
    shard = view_set.shards[0].path
    data = bytearray(shard.read_bytes())
    member = view_set.members[1][1]
    data[int(member["offset"]) + int(member["size"]) // 2] ^= 255
    shard.chmod(0o644)
    shard.write_bytes(data)
    store = open_store(tmp_path / "s")
    site = site_of(store)
    page = page_of(site, "s", address(store.view_set("simclr"), 0, store.keys[1]))
    assert (page.status, page.immutable) == (200, False)
    assert b"cannot be read" in page.body
    assert len(site.thumbnails) == 0


def test_pictures_that_were_made_are_kept(raw_store: Store) -> None:
    site, place = site_of(raw_store), original(raw_store, raw_store.keys[3])
    first = page_of(site, raw_store.name, place)
    assert page_of(site, raw_store.name, place).body is first.body
    assert site.thumbnails.weight == len(first.body)


def test_a_view_of_a_store_at_a_url_costs_its_member_not_its_shard(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "images.npz", rows=40, side=64)
    settings = {"views": 4, "height": 64, "width": 64}
    build_small(tmp_path / "s", source, codec="png", settings=settings, shard_rows=40)
    here = open_store(tmp_path / "s")
    with ranged_server(tmp_path / "s") as url:
        cache = CacheSettings(directory=tmp_path / "cache", limit_bytes=1 << 30)
        store = open_store(url, cache=cache)
        view_set = store.view_set("simclr")
        page = page_of(site_of(store), store.name, address(view_set, 2, store.keys[5]))
        assert np.array_equal(pixels_of(page), here.view_set("simclr")[5][2])
        before = view_set.files.cache.traffic.fetched_bytes  # type: ignore[union-attr]
        page_of(site_of(store), store.name, address(view_set, 3, store.keys[5]))
        fetched = view_set.files.cache.traffic.fetched_bytes - before  # type: ignore[union-attr]
        assert fetched == int(view_set.members[5][4]["size"])
        assert fetched * 20 < view_set.shards[0].blob.bytes


def test_an_original_is_decoded_no_larger_than_it_must(photographs: Store) -> None:
    small = Image.open(io.BytesIO(original_picture(photographs, 0, 96)))
    assert small.size == (96, 64)
