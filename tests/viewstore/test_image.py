"""Images: decoders that agree, limits before decoding, codecs that give the same bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from viewstore.errors import ConfigError, FormatError
from viewstore.image import Codec, decode, probe, resize, restart_interval

RNG = np.random.Generator(np.random.Philox(11))
COARSE = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
PIXELS = COARSE.repeat(8, axis=0).repeat(8, axis=1)


def jpg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_our_jpeg_pixels_are_those_of_pillow(options: dict[str, object]) -> None:
    data = jpg(quality=90, **options)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert probe(data) == (48, 64, "jpg")


def test_every_cut_of_a_jpeg_is_refused() -> None:
    data = jpg(quality=90)
    for end in range(0, len(data) - 2, 7):
        with pytest.raises(FormatError):
            decode(data[:end])


def test_a_bomb_is_refused_from_its_header() -> None:
    buffer = io.BytesIO()
    Image.new("1", (16384, 16384)).save(buffer, "PNG")  # 268 megapixels in a few kilobytes
    with pytest.raises(FormatError, match="image"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(100), b"\xff\xd8\xff", bytes(64)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        decode(data)
    assert caught.value.code == "VS205"


@pytest.mark.parametrize("name", ["png", "webp"])
def test_lossless_codecs_keep_every_pixel(name: str) -> None:
    codec = Codec(name=name)
    assert np.array_equal(codec.decode(codec.encode(PIXELS)), PIXELS)
    assert codec.encode(PIXELS) == codec.encode(PIXELS)


def test_jpg_views_have_restart_markers_and_the_pixels_of_a_plain_jpg() -> None:
    codec = Codec(name="jpg")
    data = codec.encode(PIXELS)
    assert b"\xff\xdd\x00\x04" in data
    assert np.array_equal(codec.decode(data), decode(jpg(quality=90)))
    assert np.array_equal(codec.roundtrip(PIXELS[None])[0], codec.decode(data))
    assert Codec.from_plan(codec.to_plan(64)) == codec


@pytest.mark.parametrize(("width", "interval"), [(256, 4), (224, 2), (96, 3), (16, 1), (80, 5)])
def test_restart_intervals_divide_the_row(width: int, interval: int) -> None:
    assert restart_interval(width, "420") == interval


def test_settings_that_contradict_are_refused() -> None:
    for settings in ({"name": "gif"}, {"name": "png", "quality": 3}, {"name": "jpg", "quality": 0}):
        with pytest.raises(ConfigError):
            Codec(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="filter"):
        resize(PIXELS, 4, 4, "cubic")  # type: ignore[arg-type]
