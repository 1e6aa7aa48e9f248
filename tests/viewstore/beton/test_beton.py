"""The `.beton` format: frozen bytes, what the writer refuses, what the reader refuses."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewstore.beton import layout, writer
from viewstore.beton.layout import JPG, RAW, RGB_DTYPE, TABLE_DTYPE, Field, Header, Kind
from viewstore.beton.reader import Beton
from viewstore.beton.writer import BetonWriter, Picture, Value, write_beton
from viewstore.errors import ConfigError, FormatError
from viewstore.images.jpg import Jpg

PAGE = layout.MIN_PAGE_BYTES
FIELDS = (
    Field("image", Kind.RGB),
    Field("label", Kind.INT),
    Field("key", Kind.BYTES),
    Field("box", Kind.NDARRAY, "<f4", (4,)),
)
RECORDS = layout.HEADER_BYTES + len(FIELDS) * layout.DESCRIPTOR_BYTES
ROWS = 3


def pixels_of(row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return (np.arange(4 * 5 * 3) + row).astype(np.uint8).reshape(4, 5, 3)


def samples() -> Iterator[list[Value]]:
    """Yield a raw picture, a JPEG, and a raw picture, with keys of several lengths."""
    for row in range(ROWS):
        jpg = Jpg().encode(pixels_of(row))
        data, mode = (jpg, JPG) if row == 1 else (pixels_of(row).tobytes(), RAW)
        box = np.full(4, row, "<f4").tobytes()
        yield [Picture(mode, 4, 5, data), row + 7, b"k" * (row + 1), box]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_beton(tmp_path / "s.beton", FIELDS, samples(), ROWS, PAGE)
    return tmp_path / "s.beton"


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def read_everything(path: Path) -> list[Any]:
    opened = Beton(path)
    return [opened.read(f.name, row) for row in range(len(opened)) for f in opened.fields]


def test_bytes_on_disk_are_frozen() -> None:
    """Stock ffcv reads these bytes; a change here breaks it."""
    header = Header(fields=2, page_bytes=8 << 20, num_samples=3, table_offset=16 << 20)
    assert layout.pack_header(header).hex() == "020002000000800003000000000000000000000100000000"
    assert layout.unpack_header(layout.pack_header(header)) == header
    image = layout.pack_descriptor(Field("image", Kind.RGB))
    assert image == b"\x02image" + bytes(11 + 1024)
    box = layout.pack_descriptor(FIELDS[3])
    assert box[:17] == b"\x04box" + bytes(13)
    arguments = struct.pack("<QQ", 4, 0) + bytes(240) + struct.pack("<Q", 13) + b'[["", "<f4"]]'
    assert box[17:] == arguments.ljust(1024, b"\0")
    assert len(image) == len(box) == 1041


def test_a_small_file_is_frozen(small: Path) -> None:
    """Without the JPEG, whose bytes are its encoder's."""
    rows = [sample for row, sample in enumerate(samples()) if row != 1]
    write_beton(small.with_name("raw.beton"), FIELDS, rows, 2, PAGE)
    data = small.with_name("raw.beton").read_bytes()
    assert len(data) == 2 * PAGE + 6 * 24
    digest = hashlib.sha256(data).hexdigest()
    assert digest == "688b34aec6bdf99cdb5cde24e6ad70cf6b7aae02485f9e0cb0ff29aa8147d421"


def test_records_are_laid_out_as_ffcv_aligns_them() -> None:
    assert layout.record_dtype([Field("v", Kind.RGB)]).itemsize == 13
    both = layout.record_dtype([Field("v", Kind.RGB), Field("i", Kind.INT)])
    assert (both.itemsize, both.fields["f1"][1]) == (24, 16)  # type: ignore[index]
    kinds = (Kind.INT, Kind.RGB, Kind.FLOAT, Kind.JSON, Kind.BYTES)
    fields = [Field(kind.name, kind) for kind in kinds]
    fields += [Field(k.name, k, "<f4", (1,)) for k in (Kind.NDARRAY, Kind.TENSOR)]
    all_of_them = layout.record_dtype(fields)
    places = [all_of_them.fields[f"f{n}"][1] for n in range(7)]  # type: ignore[index]
    assert (all_of_them.itemsize, places) == (80, [0, 8, 24, 32, 48, 64, 72])


def test_what_is_written_is_read(small: Path) -> None:
    opened = Beton(small)
    assert opened.fields == FIELDS
    for row, sample in enumerate(samples()):
        assert opened.read("image", row) == sample[0]
        assert [opened.read(name, row) for name in ("label", "key")] == sample[1:3]
        box = opened.read("box", row)
        assert isinstance(box, np.ndarray)
        assert (box.tobytes(), box.dtype, box.shape) == (sample[3], np.dtype("<f4"), (4,))
    with pytest.raises(ConfigError, match="no field 'nothing'"):
        opened.read("nothing", 0)


def test_the_data_of_a_sample_lies_in_one_page(tmp_path: Path) -> None:
    """Also of one that fills a page to its last byte."""
    sizes = [PAGE, PAGE - 2, PAGE // 2, PAGE // 2 + 1, 7]  # pages 1, 2, 3, 4, 4
    fields = [Field("a", Kind.BYTES), Field("b", Kind.BYTES)]
    halves = [(b"x" * (size // 2), b"y" * (size - size // 2)) for size in sizes]
    write_beton(tmp_path / "p.beton", fields, halves, len(halves), PAGE)
    opened = Beton(tmp_path / "p.beton")
    for row, (first, second) in enumerate(halves):
        assert (opened.read("a", row), opened.read("b", row)) == (first, second)
        begin, end = int(opened.column("a")["ptr"][row]), int(opened.column("b")["ptr"][row])
        assert begin // PAGE == (end + len(second) - 1) // PAGE
    assert (tmp_path / "p.beton").stat().st_size == 5 * PAGE + 24 * 2 * len(halves)


def test_data_across_two_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.beton"
    write_beton(path, [Field("a", Kind.BYTES)], [[bytes(PAGE - 8)], [bytes(16)]], 2, PAGE)
    patch(path, 3 * PAGE + 24 + 8, u8(2 * PAGE - 8))
    with pytest.raises(
        FormatError, match=f"lie in one data page, got 16 bytes at byte {2 * PAGE - 8}"
    ):
        Beton(path)


def test_memory_does_not_grow_with_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHUNK_ROWS", 64)
    monkeypatch.setattr(writer, "COPY_BYTES", 4096)
    fields = [Field("v", Kind.RGB), Field("n", Kind.INT)]

    def peak(count: int) -> int:
        rows = ([Picture(RAW, 4, 5, pixels_of(n).tobytes()), n] for n in range(count))
        tracemalloc.start()
        write_beton(tmp_path / f"{count}.beton", fields, rows, count, PAGE)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(100)
    few, many = peak(500), peak(6000)
    assert many < few + (6000 - 500) * 24 / 2  # half of what the table alone would take
    assert Beton(tmp_path / "6000.beton").read("n", 5999) == 5999
    assert [path.suffix for path in tmp_path.iterdir()] == [".beton"] * 3


def test_a_writer_that_is_stopped_leaves_a_file_that_says_so() -> None:
    stream = io.BytesIO()
    writer = BetonWriter(stream, io.BytesIO(), FIELDS, ROWS, PAGE)
    for sample in itertools.islice(samples(), 2):
        writer.add(sample)
    with pytest.raises(FormatError, match="never finished"):
        layout.unpack_header(stream.getvalue())
    with pytest.raises(ConfigError, match="must have 3 samples, got 2"):
        writer.finish(io.BytesIO())
    with pytest.raises(FormatError, match="never finished"):  # what a killed ffcv leaves
        layout.unpack_header(struct.pack("<HHIQQ", 2, 2, PAGE, 3, 0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (FIELDS[0], Picture(RAW, 4, 5, bytes(59)), "must have 60 bytes, got 59"),
        (FIELDS[0], Picture(RAW, 1, 65_536, bytes(3 * 65_536)), r"sides in \[1, 65535\]"),
        (FIELDS[0], Picture(JPG, 0, 5, b"x"), r"sides in \[1, 65535\], got 0 x 5"),
        (FIELDS[0], Picture(JPG, 4, 5, b""), "must hold a jpg or raw picture"),
        (FIELDS[0], Picture(2, 4, 5, b"x"), "must hold a jpg or raw picture"),
        (FIELDS[1], b"7", "label cannot hold this bytes"),
        (FIELDS[2], b"", "key cannot hold this bytes"),
        (FIELDS[2], bytes(PAGE + 1), f"must fit a page of {PAGE}"),
        (FIELDS[3], bytes(15), "box cannot hold this bytes"),
    ],
)
def test_the_writer_refuses_what_ffcv_would_misread(
    field: Field, value: Value, message: str
) -> None:
    writer = BetonWriter(io.BytesIO(), io.BytesIO(), [field], 1, PAGE)
    with pytest.raises(ConfigError, match=message):
        writer.add([value])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a_name_of_17_long", Kind.INT), "1 to 16 ASCII characters"),
        (("", Kind.INT), "1 to 16 ASCII characters"),
        (("größe", Kind.INT), "1 to 16 ASCII characters"),
        (("a", Kind.NDARRAY, "O", (1,)), "plain dtype"),
        (("a", Kind.NDARRAY, "<f4", ()), "1 to 32 axes"),
        (("a", Kind.NDARRAY, "<f4", (2, 0)), "1 to 32 axes of length 1 or more"),
    ],
)
def test_fields_that_ffcv_would_cut_or_misread_are_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Field(*arguments)


def test_settings_of_a_file_are_checked() -> None:
    twice = [Field("a", Kind.INT), Field("a", Kind.INT)]
    for fields, count, page, error, message in (
        (twice, 1, PAGE, ConfigError, "'a' twice"),
        ([], 1, PAGE, ConfigError, "1 to 64 fields, got 0"),
        (FIELDS, 0, PAGE, ConfigError, "at least 1 sample"),
        (FIELDS, 1, PAGE - 1, FormatError, "power of two"),
        (FIELDS, 1, PAGE // 2, FormatError, "power of two"),
        (FIELDS, 1, 4 << 30, FormatError, "power of two"),
    ):
        with pytest.raises(error, match=message):
            BetonWriter(io.BytesIO(), io.BytesIO(), fields, count, page)


def u8(value: int) -> bytes:
    return struct.pack("<Q", value)


TABLE = 2 * PAGE
RECORD_BYTES = layout.record_dtype(FIELDS).itemsize
DESCRIPTOR = layout.HEADER_BYTES
ARRAY = DESCRIPTOR + 3 * layout.DESCRIPTOR_BYTES + 17


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, b"\x03\x00", "version must be 2, got 3"),
        (2, b"\x00\x00", "1 to 64 fields, got 0"),
        (2, b"\x41\x00", "1 to 64 fields, got 65"),
        (4, struct.pack("<I", PAGE + 1), "power of two"),
        (8, u8(2**63), r"records must be at most 4294967296 bytes"),
        (8, u8(10**6), r"allocation table must lie in \[\d+, \d+\]"),
        (16, u8(0), "never finished"),
        (16, u8(2**63), "allocation table must lie in"),
        (16, u8(PAGE - 1), "allocation table must lie in"),
        (16, u8(TABLE + 1), "whole records of 24 bytes"),
        (DESCRIPTOR, b"\xff", "type 255"),
        (DESCRIPTOR, b"\x07", "type 7"),
        (DESCRIPTOR + 1, b"\x00", "1 to 16 ASCII characters"),
        (DESCRIPTOR + 1, b"\xe9", "1 to 16 ASCII characters"),
        (DESCRIPTOR + 1, b"label", "'label' twice"),
        (ARRAY, u8(0), "1 to 32 axes"),
        (ARRAY + 16, u8(5), "axes of length 1 or more"),
        (ARRAY + 256, u8(2**63), "describe one plain dtype"),
        (ARRAY + 264, b'[["", "|O8"]]', "plain dtype, got |O8"),
        (ARRAY + 264, b'[["", [{}]]] ', "describe one plain dtype"),
        (ARRAY + 264, b"[[[[[[[[[[[[[", "describe one plain dtype"),
        (TABLE, u8(ROWS), "for sample 3"),
        (TABLE + 8, u8(PAGE - 1), "must belong to a sample and lie in one data page"),
        (TABLE + 8, u8(2 * PAGE), "must belong to a sample and lie in one data page"),
        (TABLE + 8, u8(2**64 - 1), "must belong to a sample and lie in one data page"),
        (TABLE + 16, u8(2**64 - 1), "must belong to a sample and lie in one data page"),
        (TABLE + 16, u8(PAGE + 1), "must belong to a sample and lie in one data page"),
        (TABLE + 16, u8(61), "must not overlap"),
        (TABLE + 16, u8(59), "must have 60 bytes, got 59"),
        (RECORDS, b"\x02", r"mode 0 \(jpg\) or 1 \(raw\), got 2"),
        (RECORDS, b"\x00", "image must be jpg"),
        (RECORDS + 1, b"\x00\x00", "sides must be in"),
        (RECORDS + 3, b"\xff\xff", "sides must be in"),
        (RECORDS + 1, b"\x06", "must have 72 bytes, got 60"),
        (RECORDS + 5, u8(PAGE + 1), "sample 0 must have its image where data begins"),
        (RECORDS + 5, u8(2**64 - 1), "sample 0 must have its image where data begins"),
        (RECORDS + RECORD_BYTES + 1, b"\x06", "picture 1 must be a jpg of 4 x 6"),
        (RECORDS + 24, u8(PAGE - 1), "must have its key in the data pages"),
        (RECORDS + 32, u8(2**64 - 1), "must have its key in the data pages"),
        (RECORDS + 40, u8(PAGE), "sample 0 must have 16 bytes of box, got 60"),
    ],
)
def test_a_hostile_file_is_refused(small: Path, offset: int, data: bytes, message: str) -> None:
    read_everything(small)
    patch(small, offset, data)
    with pytest.raises(FormatError, match=message):
        read_everything(small)


def test_a_cut_file_is_refused_wherever_it_is_cut(small: Path) -> None:
    whole = small.read_bytes()
    cut = small.with_name("cut.beton")
    for size in (0, 1, 23, 24, 1000, RECORDS, RECORDS + 5, PAGE, PAGE + 100, TABLE - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"must have \d+ bytes or more|must lie in"):
            Beton(cut)
    for size in range(TABLE + 1, len(whole)):
        cut.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"whole records|where data begins"):
            read_everything(cut)
    cut.write_bytes(whole + b"x")
    with pytest.raises(FormatError, match="whole records"):
        Beton(cut)


def test_no_flipped_byte_gets_past_the_reader_as_another_error(small: Path) -> None:
    """Own exports have a sha256; a file of stock ffcv has only these checks."""
    data = small.read_bytes()
    index = [*range(RECORDS + ROWS * RECORD_BYTES), *range(TABLE, len(data))]
    used = [at for at in index if data[at] or at < 1100 or at >= RECORDS]
    refused = 0
    for at, flip in itertools.product(used, (0x01, 0x80)):
        patch(small, at, bytes([data[at] ^ flip]))
        try:
            read_everything(small)
        except FormatError:
            refused += 1
        patch(small, at, data[at : at + 1])
    assert refused > 600
    read_everything(small)


@pytest.mark.slow
def test_nothing_that_is_written_into_a_file_gets_past_the_reader(small: Path) -> None:
    """A million files with 1 to 8 numbers in wrong places: read whole, or refused, at once."""
    data = small.read_bytes()
    index = [*range(RECORDS + ROWS * RECORD_BYTES), *range(TABLE, len(data))]
    likely = [at for at in index if data[at] or at < 24 or at >= RECORDS]
    numbers = [0, 1, 23, 60, 255, PAGE - 1, PAGE, TABLE - 1, TABLE, 2**31, 2**32, 2**63, 2**64 - 1]
    rng = random.Random(5)
    outcomes = {True: 0, False: 0}
    for _ in range(1_000_000):
        places = [rng.choice(likely) for _ in range(rng.randint(1, 8))]
        for at in places:
            wrong = u8(rng.choice(numbers) ^ rng.choice((0, rng.getrandbits(64))))
            patch(small, at, wrong[: min(rng.choice((1, 2, 4, 8)), len(data) - at)])
        try:
            read_everything(small)
            outcomes[True] += 1
        except FormatError:
            outcomes[False] += 1
        for at in places:
            patch(small, at, data[at : at + 8])
    assert min(outcomes.values()) > 100
    assert small.read_bytes() == data


def test_samples_may_share_their_data(small: Path) -> None:
    """Two records of the table for one region, as the format allows."""
    opened = Beton(small)
    first = opened.column("image")["data_ptr"][0]
    patch(small, RECORDS + 2 * RECORD_BYTES + 5, u8(int(first)))
    with small.open("ab") as file:
        file.write(np.array([(2, first, 60)], TABLE_DTYPE).tobytes())
    again = Beton(small)
    assert again.read("image", 2) == again.read("image", 0)


def test_empty_data_hides_nothing(tmp_path: Path) -> None:
    """Stock ffcv writes empty bytes as a region of size 0 where the next one begins."""
    fields = [Field("t", Kind.BYTES), Field("v", Kind.RGB)]
    path = tmp_path / "e.beton"
    rows = [[b"x", Picture(RAW, 4, 5, pixels_of(0).tobytes())]]
    write_beton(path, fields, rows, 1, PAGE)
    begin = int(Beton(path).column("v")["data_ptr"][0])
    patch(path, layout.HEADER_BYTES + 2 * layout.DESCRIPTOR_BYTES, u8(begin) + u8(0))
    patch(path, 2 * PAGE, np.array([(0, begin, 0)], TABLE_DTYPE).tobytes())
    opened = Beton(path)
    assert opened.read("t", 0) == b""
    assert opened.read("v", 0) == rows[0][1]
    assert RGB_DTYPE.itemsize == 13
