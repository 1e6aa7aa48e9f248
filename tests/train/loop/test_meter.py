"""The meter of a run, by a clock that the test winds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from viewstore.train.loop.meter import Meter


class Clock:
    """Says the seconds that it was told have passed."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_means_rates_and_shares_are_those_of_the_steps() -> None:
    clock = Clock()

    def batches() -> Iterator[int]:
        for number in range(6):
            clock.now += 0.5
            yield number
        clock.now += 4.0

    meter = Meter(torch.device("cpu"), clock=clock)
    readings = []
    for number in meter.waiting(batches()):
        clock.now += 1.5
        facts = {"loss": torch.tensor(float(number), requires_grad=True)}
        if number % 2:
            facts["iou"] = torch.tensor(number / 10)
        meter.add(views=32, forwards=4 if number % 2 else 2, backwards=2, facts=facts)
        if number == 3:
            readings.append(meter.read())
    readings.append(meter.read())
    first, second = readings
    assert first.pop("peak_memory") > 1 << 20
    assert first == {
        "loss": pytest.approx(1.5),
        "iou": pytest.approx(0.2),
        "views_per_second": pytest.approx(128 / 8),
        "step_seconds": pytest.approx(2),
        "wait_share": pytest.approx(0.25),
        "forwards": pytest.approx(3),
        "backwards": pytest.approx(2),
    }
    assert second["loss"] == pytest.approx(4.5)
    assert second["wait_share"] == pytest.approx(5 / 8)
