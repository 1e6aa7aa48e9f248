"""Crop boxes and draws against their goldens, their laws and Pillow."""

import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from viewstore.errors import ConfigError
from viewstore.images import draws, resize
from viewstore.images.resize import Filter
from viewstore.randomness import Stream

RATIO = (3 / 4, 4 / 3)
MILLION_BOXES = "5c67ee84e879a49370d55437661fd9774e5647335f30a8d760dac1cc2d787047"
MILLION_SUMS = (52480193, 109112107, 270009815, 281641700)


def picture(height: int, width: int, seed: int = 0) -> Any:  # noqa: ANN401
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_crop_boxes_are_frozen() -> None:
    boxes = draws.draw_crop(Stream(0), np.arange(3), 0, 375, 500, scale=(0.2, 1), ratio=RATIO)
    assert boxes.tolist() == [[0, 37, 375, 377], [25, 15, 335, 444], [7, 21, 346, 448]]
    assert boxes.dtype == np.float32


def test_a_million_crop_boxes_are_frozen() -> None:
    """A change here changes every view set that will be built."""
    boxes = draws.draw_crop(
        Stream(0), np.arange(1_000_000), 1, 375, 500, scale=(0.08, 1), ratio=RATIO
    )
    # libm may differ in the last bit, so a hash of everything could fail on another machine
    # without fault; the sums below move by at most a few pixels then.
    digest = hashlib.sha256(boxes.astype("<i2").tobytes()).hexdigest()
    if digest != MILLION_BOXES:
        assert boxes.sum(axis=0, dtype=np.float64) == pytest.approx(MILLION_SUMS, abs=1000)


@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    low=st.floats(0.01, 1),
    epoch=st.integers(0, 5),
)
def test_crop_boxes_lie_in_the_image(height: int, width: int, low: float, epoch: int) -> None:
    boxes = draws.draw_crop(
        Stream(5, epoch), np.arange(40), 3, height, width, scale=(low, 1), ratio=RATIO
    )
    top, left, crop_height, crop_width = boxes.T
    assert (crop_height >= 1).all()
    assert (crop_width >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + crop_height <= height).all()
    assert (left + crop_width <= width).all()


def test_crop_boxes_cover_the_range_of_areas_and_aspects() -> None:
    """FFCV-SSL multiplies for both sides, so that every box is square."""
    boxes = draws.draw_crop(
        Stream(1), np.arange(20_000), 0, 1000, 1000, scale=(0.08, 0.5), ratio=RATIO
    )
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    aspect = boxes[:, 3] / boxes[:, 2]
    assert area.min() == pytest.approx(0.08, abs=0.002)
    assert area.max() == pytest.approx(0.5, abs=0.002)
    assert aspect.min() == pytest.approx(3 / 4, abs=0.005)
    assert aspect.max() == pytest.approx(4 / 3, abs=0.005)
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10)), (50, 50, (0, 0, 50, 50))],
)
def test_a_box_that_never_fits_is_the_centred_one(
    height: int, width: int, expected: tuple[int, ...]
) -> None:
    """Areas above the whole image fit in no attempt."""
    boxes = draws.draw_crop(Stream(0), np.arange(4), 0, height, width, scale=(1.5, 2), ratio=RATIO)
    assert boxes.tolist() == [list(expected)] * 4


def test_draws_of_single_views_leave_those_of_others_as_they_are() -> None:
    """An order that one view does not apply stays in the table of orders."""
    options: dict[str, Any] = {"strength": (0.8, 0.8, 0.8, 0.2), "probability": 0.2}
    before = draws.draw_jitter(Stream(3), np.arange(200), 0, **options)
    for index in range(200):
        draws.draw_jitter(Stream(3), index, 0, **options)
    after = draws.draw_jitter(Stream(3), np.arange(200), 0, **options)
    assert all(map(np.array_equal, before, after))


def test_jitter_is_the_identity_where_it_is_off() -> None:
    factors, order = draws.draw_jitter(
        Stream(3), np.arange(4000), 0, strength=(0.8, 0.8, 0.8, 0.2), probability=0.8
    )
    off = (order == 255).all(axis=1)
    assert off.mean() == pytest.approx(0.2, abs=0.02)
    assert (factors[off] == (1, 1, 1, 0)).all()
    assert (np.sort(order[~off], axis=1) == np.arange(4)).all()
    counts = np.unique(order[~off], axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert counts.min() > 80
    assert factors[:, :3].min() == pytest.approx(0.2, abs=0.01)
    assert np.abs(factors[:, 3]).max() == pytest.approx(0.2, abs=0.01)


def test_blur_draws_sigma_in_its_range_or_nothing() -> None:
    sigma = draws.draw_blur(Stream(3), np.arange(4000), 0, sigma=(0.1, 2), probability=0.5)
    assert (sigma == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert sigma[sigma > 0].min() == pytest.approx(0.1, abs=0.01)
    assert sigma.max() == pytest.approx(2, abs=0.01)


def test_whole_boxes_cut_first_as_torchvision_does() -> None:
    pixels = picture(60, 80)
    ours = resize.crop_resize(pixels, (10, 20, 30, 40), (15, 24), "pil")
    part = Image.fromarray(pixels[10:40, 20:60])
    theirs = np.asarray(part.resize((24, 15), Image.Resampling.BILINEAR))
    assert np.array_equal(ours, theirs)


def test_area_averages_where_it_shrinks_and_interpolates_where_it_grows() -> None:
    pixels = picture(8, 8)
    small = resize.crop_resize(pixels, (0, 0, 8, 8), (4, 4), "area").astype(float)
    means = pixels.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 0.5
    large = resize.crop_resize(pixels, (0, 0, 4, 4), (8, 8), "area")
    linear = resize.crop_resize(pixels, (0, 0, 4, 4), (8, 8), "linear")
    assert np.array_equal(large, linear)


@pytest.mark.parametrize("side", [7, 32, 90])
def test_antialias_is_the_filter_of_pillow_to_within_two_levels(side: int) -> None:
    pixels = picture(60, 80)
    whole = pixels.copy()
    box = (3, 5, 44, 51)
    pil = resize.crop_resize(pixels, box, (side, side), "pil").astype(int)
    ours = resize.crop_resize(pixels, box, (side, side), "antialias")
    assert np.abs(ours - pil).max() <= 2
    batch = np.zeros((3, side, side, 3), np.uint8)
    resize.crop_resize(pixels, box, (side, side), "antialias", batch[1])
    assert np.array_equal(batch[1], ours)
    assert not batch[[0, 2]].any()
    assert np.array_equal(pixels, whole)
    if side < 44:
        area = resize.crop_resize(pixels, box, (side, side), "linear")
        assert np.abs(area - pil).max() > 2  # what it would be without antialiasing


def test_antialias_gives_the_same_pixels_on_every_kind_of_processor() -> None:
    program = (
        "import hashlib, numpy as np; from viewstore.images.resize import crop_resize\n"
        "rng = np.random.default_rng(0); found = hashlib.sha256()\n"
        "pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)\n"
        "for height, width, side in rng.integers(8, 80, (60, 3)).tolist():\n"
        "    view = crop_resize(pixels, (4, 7, height, width), (side, side), 'antialias')\n"
        "    found.update(view.tobytes())\n"
        "print(found.hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for capability in ("default", "avx2", "avx512")  # where there is none: the next lower one
    }
    assert len(digests) == 1


@pytest.mark.parametrize("resize_filter", ["area", "linear", "pil", "antialias"])
def test_a_crop_of_the_wanted_size_is_not_resampled(resize_filter: Filter) -> None:
    pixels = picture(20, 20)
    view = resize.crop_resize(pixels, (3, 4, 10, 12), (10, 12), resize_filter)
    assert np.array_equal(view, pixels[3:13, 4:16])


def test_pil_takes_boxes_with_fractions_and_the_others_refuse_them() -> None:
    pixels = picture(20, 20)
    box = np.array([0.5, 0.25, 19.5, 19.75], np.float32)
    assert resize.crop_resize(pixels, box, (8, 8), "pil").shape == (8, 8, 3)
    with pytest.raises(ConfigError, match=r"needs boxes of whole pixels.*use filter pil"):
        resize.crop_resize(pixels, box, (8, 8), "area")
    with pytest.raises(ConfigError, match="filter antialias needs boxes of whole pixels"):
        resize.crop_resize(pixels, box, (8, 8), "antialias")


def test_a_box_ending_past_the_image_by_rounding_is_still_cut() -> None:
    pixels = picture(10, 10)
    box = np.array([0.7, 2.3, 9.3, 7.7], np.float32)
    assert float(box[0]) + float(box[2]) > 10
    assert resize.crop_resize(pixels, box, (5, 5), "pil").shape == (5, 5, 3)


def test_a_view_can_be_rendered_into_a_buffer() -> None:
    pixels = picture(20, 20)
    buffer = np.zeros((2, 8, 8, 3), np.uint8)
    view = resize.crop_resize(pixels, (2, 2, 16, 16), (8, 8), "area", buffer[1])
    assert np.shares_memory(view, buffer)
    assert np.array_equal(buffer[1], resize.crop_resize(pixels, (2, 2, 16, 16), (8, 8), "area"))
    assert not buffer[0].any()


def test_warp_without_a_turn_is_a_linear_resize() -> None:
    pixels = picture(8, 8)
    out = np.empty((16, 16, 3), np.uint8)
    resize.warp(pixels, (0, 0, 8, 8), 0.0, out)
    resized = resize.crop_resize(pixels, (0, 0, 8, 8), (16, 16), "linear")
    assert np.abs(out.astype(int) - resized).max() <= 2


def test_warp_by_a_quarter_turn_turns_the_image() -> None:
    pixels = picture(6, 6)
    out = np.empty_like(pixels)
    resize.warp(pixels, (0, 0, 6, 6), np.pi / 2, out)
    assert np.array_equal(out, np.rot90(pixels))


def test_an_unknown_filter_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of area, linear, pil, antialias, got 'cubic'"):
        resize.check_filter("cubic")


def test_the_reduction_is_the_largest_that_every_slot_can_bear() -> None:
    large = np.array([[0, 0, 448, 448], [3, 5, 447, 900], [0, 0, 896, 900], [0, 0, 1800, 1792]])
    boxes = large.astype(np.float32)
    assert resize.reductions([boxes], [(224, 224)]).tolist() == [2, 1, 4, 8]
    assert resize.reductions([boxes, boxes], [(224, 224), (300, 20)]).tolist() == [1, 1, 2, 4]
    assert resize.reductions([boxes], [(16, 16)]).tolist() == [8, 8, 8, 8]


@given(
    seed=st.integers(0, 99),
    height=st.integers(9, 900),
    width=st.integers(9, 900),
    reduction=st.sampled_from([1, 2, 4, 8]),
)
def test_reduced_boxes_lie_in_the_reduced_image_and_keep_their_pixels(
    seed: int, height: int, width: int, reduction: int
) -> None:
    boxes = draws.draw_crop(
        Stream(seed), np.arange(30), 0, height, width, scale=(0.2, 1), ratio=RATIO
    )
    by = np.full(30, reduction)
    sides = (np.full(30, height), np.full(30, width))
    whole = resize.reduced_boxes(boxes, by, *sides, whole=True)
    exact = resize.reduced_boxes(boxes, by, *sides, whole=False)
    limits = (-(-height // reduction), -(-width // reduction))
    assert (whole == np.rint(whole)).all()
    assert (whole[:, :2] + whole[:, 2:] <= limits).all()
    assert (whole[:, 2:] >= boxes[:, 2:] // reduction).all()
    assert np.abs(whole - exact)[:, :2].max() <= 0.5
    assert exact == pytest.approx(boxes / reduction, abs=1e-3)
