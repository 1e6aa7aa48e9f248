"""A `.beton` as a source: rows, keys, labels, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.beton.layout import JPG, RAW, Field, Kind
from viewstore.beton.writer import Picture, write_beton
from viewstore.errors import ConfigError, FormatError
from viewstore.export.ffcv import export_beton
from viewstore.export.selection import select
from viewstore.images.jpg import Jpg
from viewstore.sources import beton
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store, open_store

PAGE = 2 << 20


def test_an_export_of_one_view_is_a_source(tmp_path: Path) -> None:
    build_small(
        tmp_path / "s",
        write_npz(tmp_path / "images.npz"),
        settings={"views": 1, "height": 16, "width": 16},
    )
    store = open_store(tmp_path / "s")
    export_beton(select(store), tmp_path / "e.beton", page_bytes=PAGE)
    source = open_source(str(tmp_path / "e.beton"), limit=18)
    assert list(source.table.keys) == list(store.keys)[:18]
    assert source.table.label.tolist() == store.labels[:18].tolist()
    assert np.array_equal(SourceReader(source.table).image(17), store.view_sets["simclr"][17][0])
    with (tmp_path / "e.beton").open("r+b") as file:
        file.seek(PAGE + 5)
        file.write(b"\xee")
    with pytest.raises(FormatError, match="source image 0000 cannot be read"):
        SourceReader(source.table).image(0)
    with pytest.raises(FormatError, match="does not match the sha256"):
        open_source(str(tmp_path / "e.beton"))


def test_a_beton_with_several_pictures_is_no_source(raw_store: Store, tmp_path: Path) -> None:
    export_beton(select(raw_store), tmp_path / "e.beton", page_bytes=PAGE)
    with pytest.raises(ConfigError, match="one picture field to be a source, it has v0, v1"):
        open_source(str(tmp_path / "e.beton"))
    with pytest.raises(ConfigError, match="cannot be used"):
        open_source(str(tmp_path / "nothing.beton"))


def test_pictures_that_are_damaged_are_named_or_left_out(tmp_path: Path) -> None:
    """Written by nobody's export: there is no sha256 to tell."""
    path = tmp_path / "s.beton"
    jpg = Jpg().encode(np.zeros((16, 16, 3), np.uint8))
    rows = [
        [Picture(JPG, 16, 16, jpg), 4],
        [Picture(JPG, 16, 24, jpg), 5],
        [Picture(RAW, 16, 16, bytes(768)), 6],
    ]
    write_beton(path, [Field("image", Kind.RGB), Field("target", Kind.INT)], rows, 3, PAGE)
    with pytest.raises(FormatError, match="source image 0001 cannot be read") as caught:
        open_source(str(path))
    assert caught.value.why == "picture 1 must be a jpg of 16 x 24"
    source = open_source(str(path), on_error="skip")
    assert source.skipped == [("0001", "picture 1 must be a jpg of 16 x 24")]
    assert list(source.table.keys) == ["0000", "0002"]
    assert source.table.label.tolist() == [4, 6]
    assert [SourceReader(source.table).image(row).sum() for row in range(2)] == [0, 0]
    read = SourceReader(source.table)
    assert pickle.loads(pickle.dumps(read)).image(1).sum() == 0
    beton._open.cache_clear()
    write_beton(tmp_path / "t.beton", [Field("image", Kind.RGB)], [[rows[2][0]]], 1, PAGE)
    (tmp_path / "t.beton").rename(path)
    with pytest.raises(FormatError, match="source image 0002 cannot be read") as caught:
        read.image(1)
    assert caught.value.why == "the beton has 1 samples now"
    with path.open("r+b") as file:
        file.write(b"\x03")
    beton._open.cache_clear()
    with pytest.raises(FormatError, match="source image 0002 cannot be read") as caught:
        read.image(1)
    assert caught.value.why == "beton version must be 2, got 3"
    with pytest.raises(FormatError, match="version must be 2") as caught:
        open_source(str(path))
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("fields", "row", "message"),
    [
        (["label"], [2**31], r"labels must be in \[-1, 2\^31\), got 2147483648 for sample 0"),
        (["label"], [-2], "got -2"),
        (["key"], [b"\xff"], "key of sample 0 must be UTF-8"),
        (["key"], [b"a\0b"], "no NUL"),
        (["key"], [b"k" * 4097], "1 to 4096 bytes"),
    ],
)
def test_labels_and_keys_of_a_beton_are_checked(
    tmp_path: Path, fields: list[str], row: list[int | bytes], message: str
) -> None:
    kinds = {"label": Kind.INT, "key": Kind.BYTES}
    image, path = Picture(RAW, 1, 1, bytes(3)), tmp_path / "s.beton"
    all_fields = [Field("image", Kind.RGB), *(Field(name, kinds[name]) for name in fields)]
    write_beton(path, all_fields, [[image, *row]], 1, PAGE)
    with pytest.raises(FormatError, match=message):
        open_source(str(path))


def test_rows_of_a_beton_stand_by_key_and_no_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "s.beton"
    names = ["image", "key", "label", "second"]
    kinds = [Kind.RGB, Kind.BYTES, Kind.INT, Kind.INT]
    fields = [Field(*pair) for pair in zip(names, kinds, strict=True)]
    image = Picture(RAW, 1, 1, bytes(3))
    rows = [[image, key, label, 9] for label, key in enumerate((b"c", b"a\0", b"b"))]
    write_beton(path, fields, rows, 3, PAGE)
    source = open_source(str(path), limit=2)
    assert (list(source.table.keys), source.table.label.tolist()) == (["a", "b"], [1, 2])
    write_beton(tmp_path / "t.beton", fields, [rows[0], rows[0]], 2, PAGE)
    with pytest.raises(ConfigError, match="key 'c' stands twice"):
        open_source(str(tmp_path / "t.beton"))
    two = [Field("image", Kind.RGB), Field("a", Kind.INT), Field("b", Kind.INT)]
    write_beton(tmp_path / "u.beton", two, [[image, 1, 2]], 1, PAGE)
    assert open_source(str(tmp_path / "u.beton")).table.label.tolist() == [-1]
