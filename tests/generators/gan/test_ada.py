"""The probability of augmentation follows the signs of the discriminator's scores."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from viewstore.generators.gan.ada import Controller

BATCHES = st.lists(st.lists(st.integers(-2, 2), min_size=5, max_size=5), min_size=1, max_size=40)


@given(batches=BATCHES, target=st.sampled_from([0.0, 0.2, 0.6]))
def test_the_controller_does_what_a_loop_over_the_scores_does(
    batches: list[list[int]], target: float
) -> None:
    controller = Controller(target=target, images=100.0)
    p, window = 0.0, []
    for step, scores in enumerate(batches):
        controller.observe(torch.tensor(scores, dtype=torch.float32), step)
        window += scores
        if step % 4 == 3:
            overfit = sum((score > 0) - (score < 0) for score in window) / len(window)
            if overfit != target:
                p += (1 if overfit > target else -1) * len(window) / 100
            p, window = min(max(p, 0.0), 1.0), []
            assert controller.overfit == overfit
        assert controller.p == pytest.approx(p)


def test_p_goes_from_never_to_always_in_so_many_images() -> None:
    controller = Controller(target=0.6, images=320.0)
    seen = []
    for step in range(44):
        controller.observe(torch.ones(8), step)
        seen.append(controller.p)
    assert seen[2:8] == [0.0, 0.1, 0.1, 0.1, 0.1, 0.2]
    assert seen[39] == pytest.approx(1.0)
    assert seen[43] == 1.0
    for step in range(44, 48):
        controller.observe(-torch.ones(8), step)
    assert controller.p == pytest.approx(0.9)


def test_a_fixed_probability_stays() -> None:
    controller = Controller(target=None, images=10.0, p=0.3)
    for step in range(9):
        controller.observe(torch.ones(8), step)
    assert controller.p == 0.3


def test_a_state_between_two_changes_goes_on_as_if_nothing_had_been() -> None:
    whole, part = (Controller(target=0.6, images=100.0) for _ in range(2))
    scores = torch.randn(9, 8, generator=torch.Generator().manual_seed(0)) + 1
    for step in range(6):
        whole.observe(scores[step], step)
        part.observe(scores[step], step)
    resumed = Controller(target=0.6, images=100.0)
    resumed.restore(part.state())
    for step in range(6, 9):
        whole.observe(scores[step], step)
        resumed.observe(scores[step], step)
    assert resumed == whole
    assert whole.p > 0


@pytest.mark.parametrize("changed", [{"p": -0.1}, {"p": 1.1}, {"p": float("nan")}, {"seen": -8}])
def test_a_state_that_cannot_be_is_refused(changed: dict[str, float]) -> None:
    controller = Controller(target=0.6, images=100.0)
    with pytest.raises(ValueError, match="p must be in"):
        controller.restore(controller.state() | changed)
