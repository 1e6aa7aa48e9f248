"""Sources and images, with hostile bytes."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.hostile.fuzzing import Inputs, Reader, mutated, retarred, with_file
from viewstore.beton.reader import Beton
from viewstore.errors import ConfigError
from viewstore.images.codec import CODECS
from viewstore.images.decode import decode, probe
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader
from viewstore.sources.tar_members import tar_members
from viewstore.store.store import Store


def source_readers(store: Store, folder: Path) -> dict[str, Reader]:
    tars = [_tar(tarfile.USTAR_FORMAT), _tar(tarfile.GNU_FORMAT), _tar(tarfile.PAX_FORMAT)]
    tars.append(store.view_sets["simclr"].shards[0].path.read_bytes())
    beton = (folder / "e.beton").read_bytes()
    npz = (folder / "images.npz").read_bytes()

    def open_all(path: Path) -> object:
        source = open_source(str(path))
        reader = SourceReader(source.table)
        return [reader.image(row) for row in range(min(3, len(source.table.keys)))]

    def read_beton(path: Path) -> object:
        opened = Beton(path)
        rows = range(min(3, len(opened)))
        return [opened.read(field.name, row) for field in opened.fields for row in rows]

    start = 24 + 1041 * Beton(folder / "e.beton").header.fields
    table = Beton(folder / "e.beton").header.table_offset
    pages = beton[start + 4000 : table]
    # What is drawn is one small part of the file: hypothesis keeps what it draws, and a file is
    # mostly data pages of 8 MiB.
    parts = (beton[:24], beton[24 : start + 4000], beton[table:])
    betons = st.integers(0, 2).flatmap(
        lambda number: mutated([parts[number]]).map(lambda data: bytes([number]) + data)
    )
    to_file = with_file("e.beton", read_beton)

    def read_part(data: bytes, folder: Path) -> object:
        head, records, tail = (
            data[1:] if number == data[0] else part for number, part in enumerate(parts)
        )
        return to_file(head + records + pages + tail, folder)

    return {
        "tar": Reader.of(tars, lambda data, folder: list(tar_members(data)), retarred(tars)),
        "tar source": Reader.of(tars, with_file("s.tar", open_all), retarred(tars)),
        "beton": Reader([bytes([0]) + parts[0]], betons, read_part),
        "npz": Reader.of([npz], with_file("s.npz", open_all), _rezipped(npz)),
    }


def _tar(form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        long = f"{'y' * 60}/{'x' * 70}"
        files = {"./a/1.jpg": encoded("JPEG"), "./a/1.cls": b"3", f"{long}.png": encoded("PNG")}
        files |= {f"{long}.json": b'{"label": "cat"}', "b.0.5.webp": encoded("WEBP")}
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _rezipped(npz: bytes) -> Inputs:
    """Draw an npz whose arrays are mutated, and whose checksums are right."""
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    labels = io.BytesIO()
    np.save(labels, np.array(["cat", "dog"] * 10))
    heads = mutated([arrays["images.npy"][:128]])
    changed = st.one_of(
        heads.map(lambda head: {"images.npy": head + arrays["images.npy"][128:]}),
        mutated([arrays["labels.npy"], labels.getvalue()]).map(lambda data: {"labels.npy": data}),
    )

    def zipped(changes: dict[str, bytes]) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in (arrays | changes).items():
                archive.writestr(name, data)
        return stream.getvalue()

    return changed.map(zipped)


def encoded(form: str, *, mode: str = "RGB", **options: object) -> bytes:
    """Return a small picture as a file."""
    rows, columns = np.mgrid[:24, :32]
    pixels = np.stack([rows * 9, columns * 7, rows * columns], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def image_readers() -> dict[str, Reader]:
    files = {
        "jpg": [encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", mode="CMYK")],
        "png": [encoded("PNG"), encoded("PNG", mode="P"), encoded("PNG", mode="I;16")],
        "webp": [encoded("WEBP"), encoded("WEBP", lossless=True), encoded("WEBP", mode="RGBA")],
        "gif": [encoded("GIF")],
        "avif": [encoded("AVIF")],
        "bmp": [encoded("BMP"), encoded("BMP", mode="P"), encoded("BMP", mode="1")],
        "tif": [
            encoded("TIFF"),
            encoded("TIFF", compression="tiff_lzw"),
            encoded("TIFF", mode="L"),
        ],
        "ppm": [encoded("PPM"), encoded("PPM", mode="1"), b"P5\n# x\n2 1\n65535\nabcd"],
    }

    def read(data: bytes, folder: Path) -> object:
        for name, row in CODECS.items():
            codec = row.load()
            if codec.encoded:
                try:
                    codec().view_decoder((24, 32, 3)).decode(data, np.empty((24, 32, 3), np.uint8))
                except ConfigError:
                    raise AssertionError(f"codec {name}: no user gave these settings") from None
                except Exception as error:
                    if type(error).__name__ != "FormatError":
                        raise
        height, width, _ = probe(data)
        pixels = decode(data)
        assert pixels.shape == (height, width, 3)
        return pixels

    readers = {}
    for name, valid in files.items():
        more = [mutated(valid).map(_with_png_checksums)] if name == "png" else []
        readers[name] = Reader.of(valid, read, *more)
    return readers


def _with_png_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks have the right CRC, as far as they can be told apart."""
    fixed = bytearray(data)
    position = 8
    while position + 12 <= len(fixed):
        size = int.from_bytes(fixed[position : position + 4], "big")
        end = position + 8 + size
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(fixed)
