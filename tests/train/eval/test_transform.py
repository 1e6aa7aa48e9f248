"""The evaluation transform, beside Pillow's own calls."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from viewstore.errors import ConfigError
from viewstore.images.policies import Policy
from viewstore.randomness import Stream
from viewstore.train.eval.transform import (
    EVAL_FILTERS,
    Boxed,
    EvalTransform,
    Still,
    TrainingCrop,
)

PILLOW = {"pil": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def centre(image: NDArray[np.uint8], transform: EvalTransform, size: int) -> NDArray[np.uint8]:
    policy = transform.policy(size)
    params = policy.draw(Stream(0), 0, 0, *image.shape[:2])
    return policy.render(image, params, (size, size), "area")


@pytest.mark.parametrize(("size", "short"), [(32, 36), (224, 256), (16, 18), (15, 17)])
def test_eval_resize_makes_36_of_32_and_256_of_224(size: int, short: int) -> None:
    assert EvalTransform(resize="8/7").policy(size).short == short
    assert EvalTransform(resize="1").policy(size).short == size


@pytest.mark.parametrize("filter", ["pil", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (32, 32), (20, 90)])
def test_pixels_are_those_of_a_resized_short_side_and_a_centre_crop(
    filter: str, height: int, width: int
) -> None:
    image = noise(height, width)
    transform = EvalTransform(resize="8/7", filter=filter)  # type: ignore[arg-type]
    short = min(height, width)
    sides = int(36 * width / short), int(36 * height / short)
    whole = np.asarray(Image.fromarray(image).resize(sides, PILLOW[filter]))
    top, left = round((sides[1] - 32) / 2), round((sides[0] - 32) / 2)
    np.testing.assert_array_equal(
        centre(image, transform, 32), whole[top : top + 32, left : left + 32]
    )


@pytest.mark.parametrize("filter", EVAL_FILTERS)
def test_images_of_the_encoders_size_are_left_as_they_are(filter: str) -> None:
    image = noise(24, 24)
    transform = EvalTransform(filter=filter)  # type: ignore[arg-type]
    np.testing.assert_array_equal(centre(image, transform, 24), image)
    out = np.empty_like(image)
    policy = transform.policy(24)
    assert policy.render(image, {}, (24, 24), "area", out) is out
    np.testing.assert_array_equal(out, image)


def test_choices_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="eval_resize must be one of 1, 8/7, got '2'"):
        EvalTransform(resize="2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"filter must be one of area, .*, got 'lanczos'"):
        EvalTransform(filter="lanczos")  # type: ignore[arg-type]


def test_a_squashed_image_is_all_of_it() -> None:
    image = noise(30, 50)
    params = Still().draw(Stream(0), np.array([3]), 0, np.array([30]), np.array([50]))
    assert params["crop_box"].tolist() == [[0, 0, 30, 50]]
    found = Still().render(image, {"crop_box": [0, 0, 30, 50]}, (16, 16), "pil")
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_each_query_has_a_box_of_its_own() -> None:
    policy = Boxed(boxes=((7, (1, 2, 20, 10)), (2, (0, 0, 5, 5))))
    params = policy.draw(Stream(0), np.array([[2], [7]]), np.array([[0]]), 40, 40)
    assert params["crop_box"].tolist() == [[[0, 0, 5, 5]], [[1, 2, 20, 10]]]


def test_a_training_crop_is_the_standard_policy_with_pillows_bicubic_on_demand() -> None:
    image = noise(40, 40)
    plain = Policy(name="plain", scale=(0.08, 1), jitter_probability=0, gray=0)
    rows = np.arange(20)
    drawn = TrainingCrop().draw(Stream(5), rows, 0, 40, 40)
    for name, column in plain.draw(Stream(5), rows, 0, 40, 40).items():
        np.testing.assert_array_equal(drawn[name], column)
    for row in rows.tolist():
        params = {name: column[row] for name, column in drawn.items()}
        same = TrainingCrop().render(image, params, (16, 16), "pil")
        np.testing.assert_array_equal(same, plain.render(image, params, (16, 16), "pil"))
        top, left, height, width = params["crop_box"].astype(int)
        part = Image.fromarray(image[top : top + height, left : left + width])
        view = np.asarray(part.resize((16, 16), Image.Resampling.BICUBIC))
        if params["flip"]:
            view = cv2.flip(view, 1)
        found = TrainingCrop(bicubic=True).render(image, params, (16, 16), "pil")
        np.testing.assert_array_equal(found, view)
    assert 0 < int(drawn["flip"].sum()) < 20
