"""Pairs of crops that overlap little: their shares, their schedule, and what they leave alone."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewstore.errors import ConfigError
from viewstore.images import iou_pairs
from viewstore.images.boxes import overlap
from viewstore.images.iou_pairs import IOU_RANGES, IouThreshold, iou_pair
from viewstore.images.policies import Digits, Policy, policies
from viewstore.images.policy import Drawn
from viewstore.randomness import Stream

MANY = 20_000
COUNTS = ("x_iou_accepted", "x_iou_draws", "x_iou_random")


def still(threshold: float, **changes: Any) -> IouThreshold:  # noqa: ANN401
    return IouThreshold(start=threshold, end=threshold, epochs=10, **changes)


def drawn(
    threshold: IouThreshold, count: int = MANY, *, epoch: int = 0, policy: str = "cifar"
) -> tuple[Drawn, Drawn]:
    """Return the params of both views of so many samples of 32 px, in slots 2 and 3."""
    first, second = iou_pair(policy, threshold)
    at = Stream(7, epoch), np.arange(count)
    return first.draw(*at, 2, 32, 32), second.draw(*at, 3, 32, 32)


def ious(pair: tuple[Drawn, Drawn]) -> Any:  # noqa: ANN401
    return overlap(*(each["crop_box"] for each in pair))


def test_a_share_of_pairs_is_accepted_and_all_that_are_kept_overlap_little() -> None:
    """The share of 20k draws at .3 is that of CIFAR crops of .2 to 1, by the specification."""
    pair = drawn(still(0.3))
    first, _ = pair
    assert 1 / first["x_iou_draws"].mean() == pytest.approx(0.162, abs=0.008)
    assert (first["x_iou_draws"] == 1).mean() == pytest.approx(0.162, abs=0.008)
    assert first["x_iou_accepted"].all()
    assert not first["x_iou_random"].any()
    assert ious(pair).max() <= 0.3


@pytest.mark.parametrize(("scope", "share"), [("draw", 0.86), ("pair", 0.5)])
def test_the_share_of_pairs_kept_by_chance_is_that_of_the_scope(scope: Any, share: float) -> None:  # noqa: ANN401
    pair = drawn(still(0.3, p_alt=0.5, alt_scope=scope))
    random = pair[0]["x_iou_random"] == 1
    assert random.mean() == pytest.approx(share, abs=0.015)
    assert (ious(pair)[~random] <= 0.3).all()
    assert (ious(pair)[random] <= 0.3).mean() == pytest.approx(0.162, abs=0.015)
    assert np.array_equal(pair[0]["x_iou_accepted"] == 1, ious(pair) <= 0.3)


def test_both_views_say_the_same_of_their_pair() -> None:
    for threshold in (still(0.3), still(0.2, p_alt=0.3), still(0.3, p_alt=0.5, alt_scope="pair")):
        first, second = drawn(threshold, 500)
        for name in COUNTS:
            assert np.array_equal(first[name], second[name])


def test_a_pair_is_that_of_a_loop_over_its_draws() -> None:
    """One sample at a time, by the words of docs/format.md."""
    from viewstore.images.draws import draw_crop
    from viewstore.randomness import Op

    (base,) = policies("cifar")
    assert isinstance(base, Policy)
    first, second = drawn(still(0.25, p_alt=0.05), 60, epoch=4)
    stream = Stream(7, 4)
    for row in range(60):
        for draw in range(512):
            words = {} if draw == 0 else {"op": Op.CROP_AGAIN, "first_block": 11 * draw}
            a, b = (
                draw_crop(stream, row, slot, 32, 32, scale=base.scale, ratio=base.ratio, **words)  # type: ignore[arg-type]
                for slot in (2, 3)
            )
            low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
            common = float(np.prod(np.maximum(high - low, 0)))
            iou = common / float(a[2] * a[3] + b[2] * b[3] - common)
            tossed = stream.uniform(Op.CROP_AGAIN, row, 3, first_block=11 * draw + 10)[0] < 0.05
            if tossed or iou <= 0.25:
                break
        assert first["crop_box"][row].tolist() == a.tolist()
        assert second["crop_box"][row].tolist() == b.tolist()
        assert first["x_iou_draws"][row] == draw + 1
        assert first["x_iou_random"][row] == tossed


def test_what_is_not_the_crop_is_that_of_the_policy_below() -> None:
    for name in ("simclr", "byol"):
        pair = drawn(still(0.3), 300, policy=name)
        for slot, (params, base) in enumerate(
            zip(pair, (policies(name) * 2)[:2] if name == "simclr" else policies(name), strict=True)
        ):
            plain = base.draw(Stream(7, 0), np.arange(300), slot + 2, 32, 32)
            for column in plain.keys() - {"crop_box"}:
                assert np.array_equal(plain[column], params[column])
            kept = params["x_iou_draws"] == 1
            assert np.array_equal(plain["crop_box"][kept], params["crop_box"][kept])
            assert not np.array_equal(plain["crop_box"], params["crop_box"])


def test_while_it_warms_up_views_are_bit_for_bit_those_of_the_policy_below() -> None:
    threshold = IouThreshold(start=0.1, end=0.1, epochs=5, warmup_epochs=2)
    (base,) = policies("cifar")
    for epoch in (0, 1, 2):
        first, _ = drawn(threshold, 200, epoch=epoch)
        plain = base.draw(Stream(7, epoch), np.arange(200), 2, 32, 32)
        assert np.array_equal(plain["crop_box"], first["crop_box"]) is (epoch < 2)
        assert (first["x_iou_draws"] == 1).all() == (epoch < 2)


def test_where_no_pair_is_found_the_last_one_is_kept_and_flagged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(iou_pairs, "MOST_DRAWS", 3)
    pair = drawn(still(0.1), 400)
    lost = pair[0]["x_iou_accepted"] == 0
    assert 0.9 < lost.mean() < 1
    assert (pair[0]["x_iou_draws"][lost] == 3).all()
    assert not pair[0]["x_iou_random"].any()
    assert (ious(pair)[lost] > 0.1).all()


def test_512_draws_are_the_most() -> None:
    assert iou_pairs.MOST_DRAWS == 512
    whole = Policy(name="whole", scale=(1, 1), ratio=(1, 1))
    first, _ = iou_pair(whole, still(0.5))
    params = first.draw(Stream(0), np.arange(3), 0, 32, 32)
    assert params["x_iou_draws"].tolist() == [512] * 3
    assert params["x_iou_accepted"].tolist() == [0] * 3


@pytest.mark.parametrize(("start", "end"), IOU_RANGES)
def test_the_threshold_goes_from_start_to_end_over_the_epochs_that_are_no_warm_up(
    start: float, end: float
) -> None:
    for warm in (0, 20):
        for schedule in ("linear", "cosine"):
            threshold = IouThreshold(
                start=start,
                end=end,
                epochs=100,
                warmup_epochs=warm,
                schedule=schedule,  # type: ignore[arg-type]
            )
            for epoch in range(130):
                share = min(1, (epoch - warm) / (100 - warm))
                if schedule == "cosine":
                    share = (1 - cos(pi * share)) / 2
                expected = 1.0 if epoch < warm else start + share * (end - start)
                assert threshold.at(epoch) == pytest.approx(expected)
            assert threshold.at(warm) == start
            assert threshold.at(100) == pytest.approx(end)


def test_the_ranges_are_those_of_the_paper() -> None:
    assert IOU_RANGES == ((0.3, 0.35), (0.4, 0.6), (0.1, 0.8), (1.0, 0.1))


def test_the_policy_is_one_of_views_like_any_other() -> None:
    first, second = iou_pair("dino", still(0.3))
    assert (first.name, first.role, second.role) == ("dino-iou", "global", "global")
    assert (first.partner_of(4), second.partner_of(5)) == (5, 4)
    small = iou_pair("simclr", still(0.3))[0].for_size(32, 32)
    params = small.draw(Stream(1), np.arange(12), 0, 40, 50)
    assert sorted(params) == [column.name for column in small.columns]
    for column in small.columns:
        assert params[column.name].dtype == column.numpy_dtype
        assert params[column.name].shape == (12, *column.shape)
    assert not params["blur"].any()
    image = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    one = {name: column[3] for name, column in params.items()}
    (base,) = policies("simclr")
    assert np.array_equal(
        small.render(image, one, (32, 32), "area"), base.render(image, one, (32, 32), "area")
    )


def test_draws_do_not_depend_on_the_batch() -> None:
    first, _ = iou_pair("cifar", still(0.2, p_alt=0.1))
    together = first.draw(Stream(2, 5), np.arange(40), np.array([[0], [6]]), 40, 50)
    alone = first.draw(Stream(2, 5), np.array([17]), 6, 40, 50)
    for name, column in alone.items():
        assert together[name][1, 17].tobytes() == column[0].tobytes()


@pytest.mark.parametrize("policy", ["digits", "flip", "simclr+ra16", Digits()])
def test_only_policies_that_crop_have_pairs(policy: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match="pairs by IoU are drawn by a policy that crops"):
        iou_pair(policy, still(0.3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 1.1}, "IoU thresholds must be in"),
        ({"end": -0.1}, "IoU thresholds must be in"),
        ({"warmup_epochs": 10}, "fewer than the epochs, got 10 of 10"),
        ({"warmup_epochs": -1}, "at least 0"),
        ({"p_alt": 2}, "p_alt must be in"),
        ({"schedule": "step"}, "schedule must be linear or cosine, got 'step'"),
        ({"alt_scope": "epoch"}, "alt_scope must be draw or pair, got 'epoch'"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IouThreshold(**{"start": 0.3, "end": 0.35, "epochs": 10} | changes)


corners = st.integers(0, 9)
sides = st.integers(1, 10)
boxes = st.tuples(corners, corners, sides, sides)


@given(boxes, boxes)
def test_the_overlap_is_that_of_counted_pixels(first: Any, second: Any) -> None:  # noqa: ANN401
    cells = [
        {(y, x) for y in range(top, top + tall) for x in range(left, left + wide)}
        for top, left, tall, wide in (first, second)
    ]
    expected = len(cells[0] & cells[1]) / len(cells[0] | cells[1])
    assert overlap(np.array(first), np.array(second)) == pytest.approx(expected)
