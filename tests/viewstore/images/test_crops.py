"""Crops cut by the C module are OpenCV's to the last bit, whatever they are cut from."""

import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from viewstore.images import resize
from viewstore.images.resize import crop_resize, cut, cut_with_opencv

HEIGHT, WIDTH = 150, 170
SIDES = st.integers(1, 140)
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)

compiled = pytest.mark.skipif(resize.compiled is None, reason="there was no C compiler")


def blank(*shape: int) -> np.ndarray:
    return np.full(shape, 77, np.uint8)


def test_it_is_compiled_wherever_a_compiler_is() -> None:
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which(sysconfig.get_config_var("CC").split()[0]) and headers.is_file():
        assert resize.compiled is not None


@compiled
@given(
    height=SIDES,
    width=SIDES,
    crop_height=SIDES,
    crop_width=SIDES,
    mirrored=st.booleans(),
    by_area=st.booleans(),
)
@example(height=224, width=224, crop_height=112, crop_width=112, mirrored=True, by_area=False)
# Halves.
@example(height=40, width=30, crop_height=80, crop_width=60, mirrored=True, by_area=True)
@example(height=40, width=30, crop_height=80, crop_width=60, mirrored=False, by_area=False)
# Whole blocks.
@example(height=20, width=30, crop_height=60, crop_width=120, mirrored=True, by_area=True)
@example(height=20, width=30, crop_height=60, crop_width=120, mirrored=False, by_area=False)
@example(height=1, width=1, crop_height=140, crop_width=139, mirrored=False, by_area=True)
@example(height=139, width=140, crop_height=1, crop_width=1, mirrored=True, by_area=True)
# As it is.
@example(height=50, width=50, crop_height=50, crop_width=50, mirrored=True, by_area=True)
@example(height=50, width=50, crop_height=50, crop_width=120, mirrored=False, by_area=True)
# Thin shares.
@example(height=139, width=139, crop_height=140, crop_width=140, mirrored=False, by_area=True)
def test_the_pixels_are_those_of_opencv(
    height: int, width: int, crop_height: int, crop_width: int, mirrored: bool, by_area: bool
) -> None:
    box = (HEIGHT - crop_height, 7, crop_height, crop_width)
    ours, theirs = blank(height, width, 3), blank(height, width, 3)
    cut(IMAGE, [(ours, box, mirrored, by_area)])
    cut_with_opencv(IMAGE, [(theirs, box, mirrored, by_area)])
    assert np.array_equal(ours, theirs)
    shrinks = by_area and crop_height >= height and crop_width >= width
    part = IMAGE[box[0] : box[0] + crop_height, box[1] : box[1] + crop_width]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    plain = cv2.resize(part, (width, height), interpolation=method)
    assert np.array_equal(ours, plain[:, ::-1] if mirrored else plain)


@compiled
def test_black_white_and_steps_between_stay_opencvs() -> None:
    """Sums at the ends of the range, where a rounding too far would wrap."""
    stripes = np.zeros((90, 90, 3), np.uint8)
    stripes[:, ::2] = 255
    for image in (stripes, np.full_like(stripes, 255), np.zeros_like(stripes)):
        for side in (7, 29, 31, 61, 89, 200):
            for by_area in (True, False):
                ours, theirs = blank(side, side, 3), blank(side, side, 3)
                cut(image, [(ours, (0, 0, 90, 90), False, by_area)])
                cut_with_opencv(image, [(theirs, (0, 0, 90, 90), False, by_area)])
                assert np.array_equal(ours, theirs)


def test_many_crops_of_one_image_fill_their_views_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    batches = [blank(3, 40, 41, 3), blank(3, 20, 20, 3)]
    crops = []
    for batch in batches:
        top, left = rng.integers(0, 60, 2).tolist()
        crop_height, crop_width = rng.integers(30, 90, 2).tolist()
        crops.append(
            (batch[1], (float(top), float(left), float(crop_height), float(crop_width)), True, True)
        )
    cut(IMAGE, crops)
    for batch, (_, box, mirrored, by_area) in zip(batches, crops, strict=True):
        assert (batch[[0, 2]] == 77).all()
        alone = np.empty_like(batch[1])
        cut(IMAGE, [(alone, np.array(box), mirrored, by_area)])
        assert np.array_equal(batch[1], alone)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_any_strides_and_channels(channels: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (channels, 60, 50), dtype=np.uint8)
    planes = pixels.transpose(1, 2, 0)
    pixels = np.ascontiguousarray(planes)
    part, upside_down, mirrored = np.s_[5:, 3:], np.s_[::-2], np.s_[:, ::-1]
    parts = part, upside_down, mirrored
    for image in (planes, pixels, *(each[some] for each in (planes, pixels) for some in parts)):
        height, width = image.shape[:2]
        view, expected = blank(20, 22, channels), blank(20, 22, channels)
        cut(image, [(view, (0, 0, height, width), False, True)])
        cut_with_opencv(
            np.ascontiguousarray(image), [(expected, (0, 0, height, width), False, True)]
        )
        assert np.array_equal(view, expected)


@pytest.mark.parametrize("by_c", [pytest.param(True, marks=compiled), False])
@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, HEIGHT + 1, 5), "must lie within the image, 150 x 170"),
        ((1, 0, HEIGHT, 5), "must lie within the image"),
        ((0, WIDTH, 5, 1), "must lie within the image"),
        ((0, 0, 0, 5), "must lie within the image"),
        ((0.5, 0, 5, 5), "must be of whole pixels"),
    ],
)
def test_boxes_elsewhere_are_refused(by_c: bool, box: tuple[float, ...], message: str) -> None:
    view = blank(4, 4, 3)
    with pytest.raises(ValueError, match=message):
        (cut if by_c else cut_with_opencv)(IMAGE, [(view, box, False, True)])
    assert (view == 77).all()


@compiled
@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((-1, 0, 5, 5), "whole pixels"),
        ((float("nan"), 0, 5, 5), "whole pixels"),
        ((0, 0, float("inf"), 5), "whole pixels"),
        ((2**31, 0, 5, 5), "whole pixels"),
        ((0, 0, 5), "top, left, height, width"),
    ],
)
def test_numbers_that_are_no_box_are_refused(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut(IMAGE, [(blank(4, 4, 3), box, False, True)])


@compiled
def test_views_that_are_no_views_are_refused_and_none_is_filled() -> None:
    good, box = blank(4, 4, 3), (0, 0, 9, 9)
    for bad in (blank(4, 4), blank(4, 4, 4), np.zeros((4, 4, 3), np.float32), blank(0, 4, 3)):
        with pytest.raises(ValueError, match="view must be uint8"):
            cut(IMAGE, [(good, box, False, True), (bad, box, False, True)])
    frozen, strided = blank(4, 4, 3), blank(4, 8, 3)[:, ::2]
    frozen.flags.writeable = False
    for bad in (frozen, strided):
        with pytest.raises((ValueError, BufferError)):
            cut(IMAGE, [(good, box, False, True), (bad, box, False, True)])
    assert (good == 77).all()


@compiled
def test_threads_cut_at_the_same_time() -> None:
    expected = blank(64, 64, 3)
    cut(IMAGE, [(expected, (3, 5, 120, 130), True, True)])
    views = blank(4, 64, 64, 3)

    def work(number: int) -> None:
        for _ in range(200):
            views[number] = 0
            cut(IMAGE, [(views[number], (3, 5, 120, 130), True, True)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (views == expected).all()


def test_without_the_module_opencv_cuts_the_same_views() -> None:
    program = (
        "import sys; sys.modules['viewstore.images._crops'] = None\n"
        "import numpy as np\n"
        "from viewstore.images import resize; from viewstore.images.resize import crop_resize\n"
        "assert resize.compiled is None\n"
        "pixels = np.arange(60 * 50 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 50, 3)\n"
        "view = crop_resize(pixels, (2, 3, 50, 40), (20, 21), 'area', mirrored=True)\n"
        "sys.stdout.buffer.write(view.tobytes())\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    pixels = np.arange(60 * 50 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 50, 3)
    view = crop_resize(pixels, (2, 3, 50, 40), (20, 21), "area", mirrored=True)
    assert ran.stdout == view.tobytes()


@pytest.mark.parametrize("size", [(40, 60), (12, 11), (9, 90), (90, 9), (30, 20)])
def test_a_resized_image_is_the_crop_of_all_of_it(size: tuple[int, int]) -> None:
    """Growing as well as shrinking: the filter "area" means one thing."""
    image = np.random.Generator(np.random.Philox(2)).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    expected = crop_resize(image, (0, 0, 30, 20), size, "area")
    assert np.array_equal(resize.resize(image, *size), expected)
