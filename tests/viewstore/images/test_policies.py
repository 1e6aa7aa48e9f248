"""Every policy: its columns, its draws, and the replay of what was drawn."""

from typing import Any

import numpy as np
import pytest

from viewstore.errors import ConfigError
from viewstore.images.policies import (
    POLICIES,
    Operated,
    Policy,
    ViewPolicy,
    output_size,
    policies,
)
from viewstore.images.resize import FILTERS, Filter
from viewstore.randomness import Op, Stream, normal

SIDE = 32  # of the views
EVERY = [
    pytest.param(policy.for_size(SIDE, SIDE), view, id=f"{name}-{view}")
    for name in (*POLICIES, "simclr+ra16", "digits+ua")
    for view, policy in enumerate(policies(name))
]
STRONG, MEDIUM, BYOL = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1), (0.4, 0.4, 0.2, 0.1)
# The crop's area and the jitter; then, of each view of a pair, the blur and the solarization; the
# greatest side at which views are not blurred. Source: the papers, by the page on operators.
ROWS = {
    "simclr": ((0.08, 1), STRONG, [(0.5, 0)], 40),
    "simsiam": ((0.2, 1), MEDIUM, [(0.5, 0)], 0),
    "moco": ((0.2, 1), MEDIUM, [(0.5, 0)], 0),
    "cifar": ((0.2, 1), MEDIUM, [(0, 0)], 0),
    "gs-simclr": ((0.08, 1), STRONG, [(0.2, 0)], 40),
    "gs-simsiam": ((0.2, 1), MEDIUM, [(0.2, 0)], 40),
    "byol": ((0.08, 1), BYOL, [(1, 0), (0.1, 0.2)], 0),
    "barlow": ((0.08, 1), BYOL, [(1, 0), (0.1, 0.2)], 0),
    "dino": ((0.4, 1), BYOL, [(1, 0), (0.1, 0.2)], 0),
    "ibot": ((0.4, 1), BYOL, [(1, 0), (0.1, 0.2)], 0),
    "dino-local": ((0.05, 0.4), BYOL, [(0.5, 0)], 0),
    "dino-vitb": ((0.25, 1), BYOL, [(1, 0), (0.1, 0.2)], 0),
    "dino-vitb-local": ((0.05, 0.25), BYOL, [(0.5, 0)], 0),
    "swav": ((0.14, 1), STRONG, [(0.5, 0)], 0),
    "swav-local": ((0.05, 0.14), STRONG, [(0.5, 0)], 0),
}


def photograph(seed: int, height: int = 40, width: int = 50) -> Any:  # noqa: ANN401
    """A picture with structure, so that crops and blurs of it differ."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([rows * 5 + seed, columns * 3, rows * columns // 4], axis=-1)
    return (waves % 256).astype(np.uint8)


def row(params: dict[str, Any], *place: int) -> dict[str, Any]:
    return {name: column[place] for name, column in params.items()}


@pytest.mark.parametrize(("policy", "view"), EVERY)
def test_draws_have_the_stored_types_and_shapes(policy: ViewPolicy, view: int) -> None:
    index = np.arange(6, dtype=np.uint64)
    params = policy.draw(Stream(1), index, view, np.full(6, 40), np.full(6, 50))
    assert sorted(params) == [column.name for column in policy.columns]
    for column in policy.columns:
        assert params[column.name].dtype == column.numpy_dtype
        assert params[column.name].shape == (6, *column.shape)
        assert not np.equal(params[column.name], column.fill).any()


@pytest.mark.parametrize(("policy", "view"), EVERY)
def test_draws_do_not_depend_on_the_batch(policy: ViewPolicy, view: int) -> None:
    together = policy.draw(Stream(2, 5), np.arange(40), view, 40, 50)
    alone = policy.draw(Stream(2, 5), np.array([17]), view, 40, 50)
    for name, column in alone.items():
        assert together[name][17].tobytes() == column[0].tobytes()


@pytest.mark.parametrize("resize_filter", FILTERS)
@pytest.mark.parametrize(("policy", "view"), EVERY)
def test_stored_params_replay_the_view_bit_for_bit(
    policy: ViewPolicy, view: int, resize_filter: Filter
) -> None:
    params = policy.draw(Stream(3), np.arange(8), view, 40, 50)
    stored = {name: column.tobytes() for name, column in params.items()}
    for place in range(8):
        image = photograph(place)
        pixels = policy.render(image, row(params, place), (32, 32), resize_filter)
        loaded = {
            column.name: np.frombuffer(stored[column.name], column.numpy_dtype)
            .reshape(8, *column.shape)[place]
            .tolist()
            for column in policy.columns
        }
        buffer = np.empty((32, 32, 3), np.uint8)
        policy.render(image, loaded, (32, 32), resize_filter, buffer)
        assert np.array_equal(pixels, buffer)


@pytest.mark.parametrize(("policy", "view"), EVERY)
def test_rendering_leaves_the_image_as_it_was(policy: ViewPolicy, view: int) -> None:
    image = photograph(1)
    before = image.copy()
    large = policy.for_size(40, 50)
    params = large.draw(Stream(4), np.arange(20), view, 40, 50)
    for place in range(20):
        large.render(image, row(params, place), (40, 50), "area")
    assert np.array_equal(image, before)


@pytest.mark.parametrize(("policy", "view"), EVERY)
def test_views_of_different_draws_differ(policy: ViewPolicy, view: int) -> None:
    if policy.name in ("flip", "source"):
        pytest.skip("it has two views of an image, or one, no more")
    # A square image: weak crops of nearly square boxes rarely fit into another.
    params = policy.draw(Stream(4), np.full(12, 3), np.arange(12), 60, 60)
    views = {
        policy.render(photograph(1, 60, 60), row(params, place), (32, 32), "area").tobytes()
        for place in range(12)
    }
    # Of a few operators and tiles some are drawn twice.
    assert len(views) == 12 or (isinstance(policy, Operated) and len(views) >= 6)


@pytest.mark.parametrize("name", ROWS)
def test_every_policy_is_its_row_of_the_table(name: str) -> None:
    scale, jitter, pair, unblurred = ROWS[name]
    assert len(policies(name)) == len(pair)
    for policy, (blur, solarize) in zip(policies(name), pair, strict=True):
        assert isinstance(policy, Policy)
        assert policy.name == name
        assert (policy.scale, policy.jitter) == (scale, jitter)
        assert (policy.blur, policy.solarize, policy.blur_above) == (blur, solarize, unblurred)
        assert (policy.flip, policy.jitter_probability, policy.gray) == (0.5, 0.8, 0.2)
        assert (policy.ratio, policy.sigma, policy.threshold) == ((3 / 4, 4 / 3), (0.1, 2), 128)


def test_a_policy_of_standard_views_has_a_row() -> None:
    standard = {name for name, each in POLICIES.items() if isinstance(each[0], Policy)}
    assert standard - set(ROWS) == {
        "crop", "flip", "source", "smallcrop", "medcrop", "largecrop",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "scale", "ratio"),
    [
        ("crop", (0.2, 1), (3 / 4, 4 / 3)),
        ("smallcrop", (0.9, 1), (0.9, 1.1)),
        ("medcrop", (0.7, 1), (0.9, 1.1)),
        ("largecrop", (0.5, 1), (0.9, 1.1)),
    ],
)
def test_policies_without_colours_crop_and_flip(
    name: str, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    (policy,) = policies(name)
    assert isinstance(policy, Policy)
    assert (policy.crop, policy.scale, policy.ratio, policy.flip) == (True, scale, ratio, 0.5)
    assert not policy.colours
    assert [column.name for column in policy.columns] == ["crop_box", "flip"]


@pytest.mark.parametrize(("name", "strength"), [("simclr", 1), ("moco", 0.5), ("swav", 1)])
def test_jitter_has_a_strength(name: str, strength: float) -> None:
    (policy,) = policies(name)
    assert isinstance(policy, Policy)
    assert policy.at_strength(strength) == policy
    doubled = policy.at_strength(2 * strength).jitter
    assert doubled == pytest.approx([2 * each for each in policy.jitter])


@pytest.mark.parametrize("name", ["byol", "dino", "dino-local"])
def test_jitter_of_another_form_has_no_strength(name: str) -> None:
    policy = policies(name)[0]
    assert isinstance(policy, Policy)
    with pytest.raises(ConfigError, match=rf"policy {name} has no strength of jitter: its factors"):
        policy.at_strength(1)
    with pytest.raises(ConfigError, match="has no strength of jitter"):
        Policy(name="gray", jitter=(0, 0, 0, 0)).at_strength(1)


def test_every_operation_of_the_second_byol_view_happens_at_its_rate() -> None:
    params = policies("byol")[1].draw(Stream(5), np.arange(4000), 1, 224, 224)
    rates = {
        "flip": params["flip"].mean(),
        "gray": params["gray"].mean(),
        "blur": (params["blur"] > 0).mean(),
        "solarize": (params["solarize"] == 128).mean(),
        "jitter": (params["jitter_order"][:, 0] != 255).mean(),
    }
    expected = {"flip": 0.5, "gray": 0.2, "blur": 0.1, "solarize": 0.2, "jitter": 0.8}
    assert rates == pytest.approx(expected, abs=0.03)
    assert set(params["solarize"].tolist()) == {128, 256}


def test_each_view_of_a_batch_has_an_order_of_jitter_of_its_own() -> None:
    orders = policies("moco")[0].draw(Stream(5), np.arange(2000), 0, 32, 32)["jitter_order"]
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(found) == 25  # one is that of views without jitter
    assert sorted(counts)[-1] == pytest.approx(400, abs=80)


def test_operations_are_drawn_independently_of_each_other() -> None:
    """Flip and grayscale use words of different ops, not the same coin."""
    params = policies("simclr")[0].draw(Stream(5), np.arange(4000), 0, 224, 224)
    both = (params["flip"] & params["gray"]).mean()
    assert both == pytest.approx(0.1, abs=0.02)


def test_small_views_of_simclr_are_not_blurred() -> None:
    (policy,) = policies("simclr")
    small = policy.for_size(32, 32).draw(Stream(0), np.arange(50), 0, 32, 32)
    large = policy.for_size(224, 224).draw(Stream(0), np.arange(50), 0, 32, 32)
    assert not small["blur"].any()
    assert large["blur"].any()
    assert np.array_equal(small["crop_box"], large["crop_box"])


def test_dino_and_byol_alternate_two_policies() -> None:
    first, second = policies("dino")
    assert isinstance(first, Policy)
    assert isinstance(second, Policy)
    assert (first.role, first.blur, first.solarize) == ("global", 1.0, 0.0)
    assert (second.role, second.blur, second.solarize) == ("global", 0.1, 0.2)
    assert len(policies("byol")) == 2
    assert policies("dino-local")[0].role == "local"


def test_local_views_are_smaller() -> None:
    assert output_size("dino-local", 224, 224) == (96, 96)
    assert output_size("dino-local", 32, 32) == (14, 14)
    assert output_size("dino", 224, 224) == (224, 224)


def test_the_turn_of_a_digit_comes_from_its_words() -> None:
    (policy,) = policies("digits")
    params = policy.draw(Stream(6), np.arange(4000), 0, 8, 8)
    u = Stream(6).uniform(Op.CROP, np.arange(4000), 0, blocks=2)
    assert np.array_equal(params["x_rotation"], (0.15 * normal(u[:, 4], u[:, 5])).astype("f4"))
    assert params["x_rotation"].std() == pytest.approx(0.15, rel=0.05)
    assert params["x_brightness"].min() == pytest.approx(0.6, abs=0.01)
    assert params["x_brightness"].max() == pytest.approx(1.2, abs=0.01)
    top, left, tall, wide = params["crop_box"].T
    assert np.array_equal(tall, wide)
    assert tall.min() == pytest.approx(0.6 * 8, abs=0.02)
    assert top.min() >= 0
    assert (left + wide).max() <= 8 + 1e-5


def test_a_misspelt_policy_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no augmentation policy 'simclir'; did you mean 'simclr"):
        policies("simclir")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0.5, 0.2)}, "scale must satisfy"),
        ({"ratio": (0.0, 1.0)}, "ratio must satisfy"),
        ({"sigma": (2.0, 1.0)}, "sigma must satisfy"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "its hue <= .5"),
        ({"flip": 1.5}, r"policy flip must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(settings: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=message):
        Policy(name="odd", **settings)


def test_a_flip_shows_the_whole_image_one_way_or_the_other() -> None:
    (policy,) = policies("flip")
    params = policy.draw(Stream(0), np.arange(400), 0, 40, 50)
    assert (params["crop_box"] == [0, 0, 40, 50]).all()
    assert 160 < params["flip"].sum() < 240
    image = photograph(2)
    for place in range(8):
        shown = image[:, ::-1] if params["flip"][place] else image
        assert np.array_equal(policy.render(image, row(params, place), (40, 50), "area"), shown)


def test_a_policy_without_colours_draws_the_boxes_of_one_with_them() -> None:
    (crop,), (moco,) = policies("crop"), policies("moco")
    index = np.arange(50)
    drawn, coloured = (policy.draw(Stream(3), index, 1, 40, 50) for policy in (crop, moco))
    assert sorted(drawn) == ["crop_box", "flip"]
    for name, column in drawn.items():
        assert np.array_equal(column, coloured[name])
