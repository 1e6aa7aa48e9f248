"""Views of one encoder: a header is parsed once, and only what begins with it is let through."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from viewstore.errors import FormatError
from viewstore.images.header import jpeg_head
from viewstore.images.image_codec import ViewDecoder
from viewstore.images.jpg import Jpg
from viewstore.images.png import Png
from viewstore.images.webp import Webp

SHAPE = (24, 40, 3)


def pixels(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 5, shape[2]), dtype=np.uint8)
    return np.repeat(np.repeat(noise, shape[0] // 3, axis=0), shape[1] // 5, axis=1)


def jpeg(seed: int, shape: tuple[int, ...] = SHAPE, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, shape)).save(buffer, format="JPEG", quality=90, **options)
    return buffer.getvalue()


def decoded(decoder: ViewDecoder, data: bytes) -> np.ndarray:
    out = np.zeros(SHAPE, np.uint8)
    decoder.decode(data, out)
    return out


def counted_headers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    parsed: list[int] = []
    decode = Jpg.decode

    def counting(self: Jpg, data: bytes, **into: np.ndarray) -> np.ndarray:
        parsed.append(len(data))
        return decode(self, data, **into)

    monkeypatch.setattr(Jpg, "decode", counting)
    return parsed


def test_a_header_is_parsed_once_for_all_views_that_begin_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec = Jpg()
    files = [codec.encode(pixels(seed)) for seed in range(5)]
    wanted = [codec.decode(data) for data in files]
    parsed = counted_headers(monkeypatch)
    decoder = codec.view_decoder(SHAPE)
    for data, right in zip(files, wanted, strict=True):
        np.testing.assert_array_equal(decoded(decoder, memoryview(data)), right)
    assert len(parsed) == 1
    other = jpeg(0, qtables="web_low")  # another header: it is parsed, and met from then on
    for _ in range(2):
        np.testing.assert_array_equal(decoded(decoder, other), codec.decode(other))
    assert len(parsed) == 2 + 2  # the two of this loop's own


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (jpeg(1, (48, 40, 3)), "an image of 48 x 40 x 3 needs 5760 contiguous bytes"),
        (jpeg(1, (12, 40, 3)), r"view must be of \(24, 40, 3\), got \(12, 40, 3\)"),
        (jpeg(1)[:-30], "jpg does not decode"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "view must be a jpg, got a png"),
        (b"", "image must be jpg"),
    ],
    ids=["taller", "shorter", "cut", "png", "empty"],
)
@pytest.mark.parametrize("met", [False, True], ids=["first", "after another"])
def test_what_is_no_view_is_refused_whether_or_not_a_header_was_met(
    file: bytes, message: str, met: bool
) -> None:
    decoder = Jpg().view_decoder(SHAPE)
    if met:
        decoded(decoder, jpeg(0))
    with pytest.raises(FormatError, match=message):
        decoded(decoder, file)


def test_every_byte_of_a_header_counts() -> None:
    file = jpeg(0)
    head = jpeg_head(file)
    assert file.startswith(head)
    assert head[-10:-7] == b"\x03\x01\x00"  # its last segment begins a scan of three components
    decoder = Jpg().view_decoder(SHAPE)
    right = decoded(decoder, file)
    sides = head.index(b"\xff\xc0") + 5
    for place, byte in ((sides + 1, 25), (sides - 3, 0xFF)):
        changed = bytearray(file)
        changed[place] = byte
        with pytest.raises(FormatError):
            decoded(decoder, bytes(changed))
    np.testing.assert_array_equal(decoded(decoder, file), right)


def test_the_scans_of_a_progressive_file_are_counted_each_time() -> None:
    file = jpeg(0, progressive=True)
    assert jpeg_head(file) == b""
    decoder = Jpg().view_decoder(SHAPE)
    decoded(decoder, file)
    scan = file[file.rindex(b"\xff\xda") : -2]
    with pytest.raises(FormatError, match="at most 16 scans"):
        decoded(decoder, file[:-2] + scan * 20 + file[-2:])


def test_views_of_other_codecs_decode_as_the_codec_does() -> None:
    for codec in (Png(), Webp()):
        decoder = codec.view_decoder(SHAPE)
        for seed in range(2):
            file = codec.encode(pixels(seed))
            np.testing.assert_array_equal(decoded(decoder, file), pixels(seed))
