"""Images: decoders that agree, limits before decoding, codecs that give the same bytes."""

import io
import struct
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from viewstore.errors import ConfigError, FormatError
from viewstore.images.codec import CODECS, codec_from_plan, codec_to_plan, make_codec
from viewstore.images.decode import decode, probe, scaled_decode
from viewstore.images.header import Limits
from viewstore.images.jpg import Jpg, restart_interval
from viewstore.images.png import Png
from viewstore.images.webp import Webp

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


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


FORMS = {
    "jpg": jpg(),
    "progressive": jpg(progressive=True),
    "cmyk": encoded("JPEG", "CMYK"),
    "png": encoded("PNG"),
    "palette": encoded("PNG", "P", transparency=bytes([0, 128])),
    "webp": encoded("WEBP"),
    "bmp": encoded("BMP"),
    "tif": encoded("TIFF", compression="tiff_lzw"),
    "ppm": encoded("PPM"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_probe_sees_the_size_that_decoding_gives(form: str) -> None:
    height, width, _ = probe(FORMS[form])
    assert decode(FORMS[form]).shape == (height, width, 3) == PIXELS.shape


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_gives_an_error_or_an_image_of_the_size_it_claims(
    form: str, data: st.DataObject
) -> None:
    raw = bytearray(FORMS[form])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 700) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2]))]
    limits = Limits(pixels=100_000)
    code = "VS205"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            height, width, _ = probe(bytes(raw), limits=limits)
            image = decode(bytes(raw), limits=limits)
        except FormatError as error:
            code = error.code
        else:
            assert image.shape == (height, width, 3)
    assert (code, said) == ("VS205", [])


def test_warnings_are_as_before_after_threads_decoded() -> None:
    before = list(warnings.filters)
    images: list[np.ndarray] = []
    workers = [
        threading.Thread(target=lambda: images.extend(decode(data) for data in FORMS.values()))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(images) == 4 * len(FORMS)
    assert list(warnings.filters) == before


def test_alpha_is_dropped_and_not_blended() -> None:
    alpha = np.full((*PIXELS.shape[:2], 1), 7, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(buffer, "PNG")
    assert np.array_equal(decode(buffer.getvalue()), PIXELS)


def test_sixteen_bits_become_the_upper_eight() -> None:
    buffer = io.BytesIO()
    deep = PIXELS[..., 0].astype(np.uint16) * 256 + 255
    Image.fromarray(deep).save(buffer, "PNG")
    assert np.array_equal(decode(buffer.getvalue()), np.repeat(PIXELS[..., :1], 3, axis=2))


def test_an_image_with_several_pictures_is_refused() -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())]
    for form in ("WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
        with pytest.raises(FormatError, match="one picture"):
            decode(buffer.getvalue())


def test_a_progressive_jpeg_of_many_scans_is_refused() -> None:
    data = jpg(progressive=True)
    scans = data.count(b"\xff\xda")
    assert probe(data, limits=Limits(scans=scans))
    with pytest.raises(FormatError, match="scans"):
        probe(data, limits=Limits(scans=scans - 1))


def test_a_flat_image_is_no_bomb_until_it_is_large() -> None:
    flat = encoded("PNG", "1")
    assert decode(flat).shape == PIXELS.shape
    with pytest.raises(FormatError, match="bytes per byte"):
        decode(flat, limits=Limits(ratio=2, ratio_pixels=1))


def test_a_png_view_holds_nothing_but_its_pixels() -> None:
    data = Png().encode(PIXELS)
    kinds, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        kinds.append(kind)
        at += length + 12
    assert (kinds[0], {*kinds[1:-1]}, kinds[-1]) == (b"IHDR", {b"IDAT"}, b"IEND")


def test_a_view_of_another_format_is_refused() -> None:
    with pytest.raises(FormatError, match="must be a jpg, got a png"):
        Jpg().decode(FORMS["png"])
    for form in (FORMS["cmyk"], encoded("JPEG", "L")):
        with pytest.raises(FormatError, match="must be YCbCr"):
            Jpg().decode(form)
    for form in (encoded("PNG", "L"), FORMS["palette"]):
        with pytest.raises(FormatError, match="must be 8-bit RGB"):
            Png().decode(form)


@pytest.mark.parametrize("name", ["png", "webp"])
def test_lossless_codecs_keep_every_pixel(name: str) -> None:
    codec = make_codec(name)
    assert np.array_equal(codec.decode(codec.encode(PIXELS)), PIXELS)
    assert codec.encode(PIXELS) == codec.encode(PIXELS)


def test_jpg_views_have_restart_markers_and_the_pixels_of_a_plain_jpg() -> None:
    codec = Jpg()
    data = codec.encode(PIXELS)
    assert b"\xff\xdd\x00\x04" in data
    assert np.array_equal(codec.decode(data), decode(jpg(quality=90)))
    assert np.array_equal(codec.roundtrip(PIXELS[None])[0], codec.decode(data))
    assert codec_from_plan(codec_to_plan(codec, 64)) == codec


@pytest.mark.parametrize(("width", "interval"), [(256, 4), (224, 2), (96, 3), (16, 1), (80, 5)])
def test_restart_intervals_divide_the_row(width: int, interval: int) -> None:
    assert restart_interval(width, "420") == interval


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="codec must be one of raw, jpg, png, webp, params, got 'gif'"
    ):
        make_codec("gif")
    for quality in (0, 101):
        with pytest.raises(ConfigError, match=r"quality must be in \[1, 100\]"):
            Jpg(quality=quality)
        with pytest.raises(ConfigError, match=r"quality must be in \[1, 100\]"):
            Webp(quality=quality)
    with pytest.raises(ConfigError, match="subsampling must be 420 or 444"):
        Jpg(subsampling="422")


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_comes_back_from_its_plan(name: str) -> None:
    codec = make_codec(name)
    assert codec.name == name
    assert codec_from_plan(codec_to_plan(codec, 64)) == codec
    assert (codec.encoder is not None) == codec.encoded
    for views in (1, 10, 11):
        members = codec.members(views)
        assert list(members) == sorted(members)
        files = views if codec.encoded else 1
        assert len(members) == (0 if name == "params" else 1 + files)


def test_what_plans_say_of_codecs_is_frozen() -> None:
    """Stored plans and their ids hold these."""
    assert {name: make_codec(name).args(224) for name in CODECS} == {
        "raw": {},
        "jpg": {"quality": 90, "subsampling": "420", "restart": 2},
        "png": {"level": 6},
        "webp": {"quality": None, "method": 4},
        "params": {},
    }
    assert Jpg(quality=80, subsampling="444", restart=False).args(224) == {
        "quality": 80,
        "subsampling": "444",
        "restart": False,
    }
    assert make_codec("jpg").members(11)[:2] == ("json", "v00.jpg")
    assert make_codec("webp").members(2) == ("json", "v0.webp", "v1.webp")
    assert make_codec("raw").members(2) == ("json", "views.npy")


@pytest.mark.parametrize(
    "field",
    [{}, {"name": "gif"}, {"name": "jpg", "args": {"quality": 0}}, {"name": "jpg", "args": 3}],
)
def test_a_codec_that_no_plan_has_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(FormatError, match="plan has a codec that cannot be read"):
        codec_from_plan(field)


def test_a_lossy_codec_keeps_its_settings_in_the_plan() -> None:
    for codec in (Jpg(quality=80, subsampling="444", restart=False), Webp(quality=75)):
        assert codec_from_plan(codec_to_plan(codec, 48)) == codec
        assert not codec.lossless
        assert codec.roundtrip(PIXELS[None]).shape == (1, *PIXELS.shape)


@pytest.mark.parametrize("form", FORMS)
def test_decoding_into_a_buffer_fills_its_first_bytes(form: str) -> None:
    buffer = np.full(PIXELS.size + 100, 9, np.uint8)
    pixels = decode(FORMS[form], into=buffer)
    assert np.shares_memory(pixels, buffer)
    assert np.array_equal(pixels, decode(FORMS[form]))
    assert np.array_equal(buffer[: PIXELS.size], pixels.reshape(-1))
    assert (buffer[PIXELS.size :] == 9).all()


@pytest.mark.parametrize("name", ["jpg", "png", "webp"])
def test_a_stored_view_decodes_into_its_place_in_a_batch(name: str) -> None:
    codec = make_codec(name)
    batch = np.zeros((3, *PIXELS.shape), np.uint8)
    data = codec.encode(PIXELS)
    assert np.shares_memory(codec.decode(data, into=batch[1]), batch)
    assert np.array_equal(batch[1], codec.decode(data))
    assert not batch[[0, 2]].any()


@pytest.mark.parametrize("form", ["jpg", "png"])
def test_a_buffer_that_cannot_hold_the_image_is_refused(form: str) -> None:
    for wrong in (
        np.empty(PIXELS.size - 1, np.uint8),
        np.empty((PIXELS.shape[0], 2 * PIXELS.shape[1], 3), np.uint8)[:, ::2],
        np.empty(PIXELS.size, np.int8),
    ):
        with pytest.raises(ConfigError, match=r"an image of 48 x 64 x 3 needs 9216 contiguous"):
            decode(FORMS[form], into=wrong)


@pytest.mark.parametrize("form", FORMS)
def test_a_part_of_a_larger_buffer_decodes_like_the_file(form: str) -> None:
    pack = memoryview(b"before" + FORMS[form] + b"behind")[6:-6]
    assert np.array_equal(decode(pack), decode(FORMS[form]))
    assert probe(pack) == probe(FORMS[form])


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_three_decoders_agree_at_every_reduction(
    options: dict[str, object], reduction: int
) -> None:
    data = jpg(quality=90, **options)
    pixels, made = scaled_decode(data, reduction)
    flags = (
        cv2.IMREAD_IGNORE_ORIENTATION
        | {
            1: cv2.IMREAD_COLOR,
            2: cv2.IMREAD_REDUCED_COLOR_2,
            4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8,
        }[reduction]
    )
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (64 // reduction, 48 // reduction))
        assert np.array_equal(pixels, np.asarray(image))
    assert np.array_equal(pixels, cv2.imdecode(np.frombuffer(data, np.uint8), flags)[..., ::-1])
    assert made == reduction


def test_reduced_sides_are_rounded_up_and_other_formats_come_whole() -> None:
    odd = io.BytesIO()
    Image.fromarray(PIXELS[:45, :61]).save(odd, "JPEG")
    pixels, made = scaled_decode(odd.getvalue(), 4)
    assert (pixels.shape, made) == ((12, 16, 3), 4)
    buffer = np.empty((12, 16, 3), np.uint8)
    assert np.array_equal(scaled_decode(odd.getvalue(), 4, into=buffer)[0], pixels)
    assert np.array_equal(buffer, pixels)
    for form in ("cmyk", "png"):
        pixels, made = scaled_decode(FORMS[form], 4)
        assert (pixels.shape, made) == (PIXELS.shape, 1)
    with pytest.raises(ConfigError, match="reduction must be one of"):
        scaled_decode(FORMS["jpg"], 3)


def test_every_cut_of_a_jpeg_is_refused_when_it_is_reduced() -> None:
    data, buffer = jpg(quality=90), np.empty(PIXELS.size, np.uint8)
    for end in range(0, len(data) - 2, 7):
        with pytest.raises(FormatError):
            scaled_decode(data[:end], 2, into=buffer)


def test_photographs_decode_alike_with_all_three(shared: Path) -> None:
    """OpenCV and Pillow are no fallback for broken files: they let zeroed bytes pass."""
    files = sorted((shared / "data" / "imagenet-sample").glob("*/*.JPEG"))[::20]
    if not files:
        pytest.skip("the ImageNet sample is not there")
    for path in files:
        data = path.read_bytes()
        with Image.open(path) as image:
            assert np.array_equal(decode(data), np.asarray(image.convert("RGB")))
        opencv = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        assert opencv is not None
        assert np.array_equal(decode(data), opencv[..., ::-1])
