"""The monitor: what it reads, that it leaves no trace, and when it says that a net collapsed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError
from viewstore.sources.open import open_source
from viewstore.train.eval.measures import effective_rank, zstd
from viewstore.train.eval.neighbours import knn
from viewstore.train.eval.samples import Samples
from viewstore.train.eval.transform import OURS
from viewstore.train.loop.monitors import (
    CollapseDetector,
    Monitor,
    MonitorSettings,
    chance,
    choose_rows,
    clean_images,
)

ROWS, SIDE = 120, 8
LABELS = (np.arange(ROWS) % 3).astype(np.int32)
ALL = np.arange(ROWS)
SMALL = MonitorSettings(preset="ca", bank=60, queries=30)


def pictures() -> NDArray[np.uint8]:
    """Pictures of three classes, each bright in a third of its own."""
    images = np.random.default_rng(0).integers(0, 90, (ROWS, 12, SIDE, 3), np.uint8)
    for label in range(3):
        images[label == LABELS, 4 * label : 4 * label + 4] += 120
    return images


class Net(nn.Module):
    """A network with all that a reading could disturb: batch statistics, dropout, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.projector = nn.Sequential(nn.Linear(24, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.frozen = nn.Sequential(nn.BatchNorm1d(8)).eval()

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images.float() / 255)
        return features, self.frozen(self.projector(features))


def cropped(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return OURS.policy(SIDE).render(image, {}, (SIDE, SIDE), "area")


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    np.savez(tmp_path / "images.npz", images=pictures(), labels=LABELS)
    table = open_source(str(tmp_path / "images.npz")).table
    network = Net().train()
    network.frozen.eval()
    return Monitor(
        settings=SMALL,
        rows=choose_rows(table.label, ALL, SMALL, seed=5),
        labels=table.label,
        images=clean_images(table, cropped),
        network=network,
        embed=network.embed,
        detector=CollapseDetector(),
    )


def test_a_reading_is_that_of_its_parts(monitor: Monitor) -> None:
    reading = monitor.read(epoch=3, step=40)
    images = pictures()
    network = Net().eval()

    def embedded(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        clean = np.stack([cropped(images[row]) for row in rows])
        with torch.no_grad():
            return network.embed(torch.from_numpy(clean).permute(0, 3, 1, 2))

    (bank, bank_z), (queries, queries_z) = (embedded(rows) for rows in monitor.rows)
    (accuracy,) = knn(
        Samples(bank.numpy(), LABELS[monitor.rows.bank].astype(np.int64)),
        Samples(queries.numpy(), LABELS[monitor.rows.queries].astype(np.int64)),
        neighbours=[5],
        temperature=0.1,
    ).values()
    assert accuracy > 0.9  # the classes are plain to see
    assert reading == {
        "epoch": 3,
        "step": 40,
        "zstd": pytest.approx(zstd(torch.cat([bank_z, queries_z])), rel=1e-5),
        "effective_rank": pytest.approx(effective_rank(torch.cat([bank, queries])), rel=1e-4),
        "knn": accuracy,
        "knn_se": pytest.approx((accuracy * (1 - accuracy) / 30) ** 0.5),
        "collapsed": False,
    }


def traces(network: nn.Module) -> list[Any]:
    """Return all that a reading must leave as it was, as bytes and flags."""
    state = [(name, value.numpy().tobytes()) for name, value in network.state_dict().items()]
    gradients = [each.grad for each in network.parameters()]
    modes = [module.training for module in network.modules()]
    numpy = np.random.get_state()  # noqa: NPY002
    return [
        state,
        [None if each is None else each.numpy().tobytes() for each in gradients],
        [each.requires_grad for each in network.parameters()],
        modes,
        torch.get_rng_state().numpy().tobytes(),
        (numpy[1].tobytes(), numpy[2:]),
        random.getstate(),
        torch.is_grad_enabled(),
    ]


def test_a_reading_leaves_no_trace(monitor: Monitor) -> None:
    network = monitor.network
    network.embed(torch.zeros(4, 3, SIDE, SIDE))[1].sum().backward()  # type: ignore[operator]

    def drawing(images: Tensor) -> tuple[Tensor, Tensor]:
        torch.rand(3), random.random(), np.random.rand(3)  # noqa: NPY002
        return network.embed(images)  # type: ignore[no-any-return,operator]

    drawn = replace(monitor, embed=drawing)
    before = traces(network)
    first = drawn.read(epoch=0, step=1)
    assert traces(network) == before
    assert drawn.read(epoch=0, step=1) == first
    with torch.no_grad():  # the control: training mode moves the statistics
        drawing(torch.zeros(4, 3, SIDE, SIDE))
    assert traces(network) != before


def test_an_error_leaves_no_trace_either(monitor: Monitor) -> None:
    def failing(images: Tensor) -> tuple[Tensor, Tensor]:
        torch.rand(3)
        raise RuntimeError("no memory")

    before = traces(monitor.network)
    with pytest.raises(RuntimeError, match="no memory"):
        replace(monitor, embed=failing).read(epoch=0, step=1)
    assert traces(monitor.network) == before


def test_readings_are_due_every_few_epochs(monitor: Monitor) -> None:
    assert all(monitor.due(epoch) for epoch in range(4))
    rare = replace(monitor, settings=MonitorSettings(every=3))
    assert [epoch for epoch in range(9) if rare.due(epoch)] == [2, 5, 8]


class Constant(nn.Module):
    """A collapsed network: it says one thing of all images."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(images), 4) * 0.3, torch.ones(len(images), 4)


def test_collapse_fires_on_a_constant_net(monitor: Monitor) -> None:
    constant = Constant()
    collapsed = replace(monitor, network=constant, embed=constant)
    found = [collapsed.read(epoch=epoch, step=epoch) for epoch in range(4)]
    assert [each["collapsed"] for each in found] == [False, False, True, True]
    assert (found[0]["zstd"], found[0]["effective_rank"]) == (pytest.approx(0, abs=1e-6), 0)


def test_collapse_does_not_fire_on_a_random_net(monitor: Monitor) -> None:
    assert not any(monitor.read(epoch=epoch, step=epoch)["collapsed"] for epoch in range(6))


HEALTHY = {"zstd": 0.8, "knn": 0.5, "error": 0.02, "chance": 0.1}


@pytest.mark.parametrize(
    ("reading", "low"),
    [
        ({}, False),
        ({"zstd": 0.0999}, True),
        ({"zstd": 0.1}, False),
        ({"knn": 0.14}, True),
        ({"knn": 0.141}, False),
        ({"knn": 0.0, "error": 0.0}, True),
        ({"zstd": float("nan")}, True),
    ],
)
def test_a_reading_looks_collapsed_by_spread_or_by_chance(
    reading: dict[str, float], low: bool
) -> None:
    detector = CollapseDetector()
    assert not detector.update(**{**HEALTHY, **reading})
    assert (detector.low == 1) == low


def test_three_readings_in_a_row_are_a_collapse_also_over_a_checkpoint() -> None:
    bad = {**HEALTHY, "zstd": 0.01}
    sequence = [bad, bad, HEALTHY, bad, bad, bad, bad, HEALTHY]
    whole = CollapseDetector()
    expected = [whole.update(**each) for each in sequence]
    assert expected == [False] * 5 + [True, True, False]
    for cut in range(len(sequence)):
        first = CollapseDetector()
        found = [first.update(**each) for each in sequence[:cut]]
        second = CollapseDetector.from_json(first.to_json())
        assert found + [second.update(**each) for each in sequence[cut:]] == expected
    for state in ({}, {"low": -1}, {"low": "2"}, {"low": 1, "more": 2}):
        with pytest.raises(CheckpointError):
            CollapseDetector.from_json(state)


def test_chance_is_the_share_of_the_most_frequent_label_of_the_bank() -> None:
    assert chance(np.array([0, 2, 2, 1]), np.array([2, 0, 0, 1])) == 0.25


def test_rows_depend_on_the_seed_and_bank_and_queries_are_apart() -> None:
    first, again, other = (choose_rows(LABELS, ALL, SMALL, seed=seed) for seed in (5, 5, 6))
    assert [rows.tolist() for rows in first] == [rows.tolist() for rows in again]
    assert first.queries.tolist() != other.queries.tolist()
    assert (len(first.bank), len(first.queries)) == (60, 30)
    assert not set(first.bank) & set(first.queries)
    assert (np.diff(first.bank) > 0).all()
    larger = choose_rows(LABELS, ALL, MonitorSettings(bank=60, queries=40), seed=5)
    assert set(first.queries) < set(larger.queries)


def test_queries_are_of_held_out_rows_where_there_are_such() -> None:
    held_out = ALL[ALL % 4 == 0]
    trained = ALL[ALL % 4 != 0]
    labels = np.where(ALL < 40, -1, LABELS).astype(np.int32)
    rows = choose_rows(labels, trained, SMALL, seed=1, held_out=held_out)
    assert (rows.queries % 4 == 0).all()
    assert (rows.bank % 4 != 0).all()
    assert min(rows.queries.min(), rows.bank.min()) >= 40
    assert (len(rows.bank), len(rows.queries)) == (60, 20)


def test_of_few_rows_both_have_their_share() -> None:
    rows = choose_rows(LABELS, ALL, MonitorSettings(bank=4096, queries=1024), seed=0)
    assert (len(rows.bank), len(rows.queries)) == (96, 24)


@pytest.mark.parametrize("labels", [np.full(ROWS, -1), np.zeros(ROWS, int)])
def test_rows_without_classes_are_refused(labels: NDArray[Any]) -> None:
    with pytest.raises(ConfigError, match="two classes or more") as caught:
        choose_rows(labels.astype(np.int32), ALL, SMALL, seed=0)
    assert "leave out --knn-every" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "knn-every must be at least 1, got 0"),
        ({"bank": 1}, "knn-bank must be at least 2, got 1"),
        ({"queries": 0}, "knn-queries must be at least 1, got 0"),
        ({"preset": "mine"}, "kNN preset must be one of monitor, ca, gs, dino, got 'mine'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MonitorSettings(**settings)


def test_clean_images_come_in_batches_by_the_transform(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 255, (300, 9, 12, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    found: Iterator[Tensor] = clean_images(
        open_source(str(tmp_path / "images.npz")).table, cropped
    )(np.arange(300))
    batches = list(found)
    assert [(each.dtype, tuple(each.shape)) for each in batches] == [
        (torch.uint8, (256, 3, SIDE, SIDE)),
        (torch.uint8, (44, 3, SIDE, SIDE)),
    ]
    assert np.array_equal(batches[1][3].permute(1, 2, 0).numpy(), cropped(images[259]))
