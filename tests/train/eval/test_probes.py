"""Probes of frozen features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from viewstore.errors import ConfigError
from viewstore.sources.open import open_source
from viewstore.sources.table import SourceTable
from viewstore.train.encoder_file import Encoder, EncoderSettings
from viewstore.train.eval.probes import (
    KNN_PRESETS,
    ProbeName,
    Samples,
    Score,
    centre_crop,
    evaluate,
    features_of,
    images_of,
    knn,
    labelled_alike,
    split_rows,
    spread_rows,
)
from viewstore.train.nets.network import seeded_network


def blobs(count: int, seed: int, *, spread: float = 0.2) -> Samples:
    """Samples of three classes around three unit vectors."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = np.eye(3, 5)[labels] + spread * rng.normal(size=(count, 5))
    return Samples(features.astype(np.float32), labels)


@pytest.mark.parametrize("probe", ["knn", "linear", "logreg"])
def test_separable_classes_are_all_found(probe: ProbeName) -> None:
    score = evaluate(blobs(120, 0), blobs(60, 1), probe, preset="ca")
    assert (score.accuracy, score.queries, score.bank) == (1.0, 60, 120)
    assert score.standard_error == 0.0


@pytest.mark.parametrize("probe", ["knn", "linear", "logreg"])
def test_features_without_information_are_at_chance(probe: ProbeName) -> None:
    bank, queries = blobs(300, 0), blobs(300, 1)
    noise = np.random.default_rng(2).permutation(300)
    score = evaluate(Samples(bank.features, bank.labels[noise]), queries, probe)
    assert 0.15 < score.accuracy < 0.55
    assert score.standard_error == pytest.approx(
        (score.accuracy * (1 - score.accuracy) / 300) ** 0.5
    )


def test_knn_is_the_loop_over_all_samples() -> None:
    bank, queries = blobs(50, 0, spread=0.8), blobs(40, 1, spread=0.8)
    right = 0
    for feature, label in zip(queries.features, queries.labels, strict=True):
        cosines = bank.features @ feature / np.linalg.norm(bank.features, axis=1)
        cosines /= np.linalg.norm(feature)
        nearest = np.argsort(-cosines)[:7]
        votes = [np.exp(cosines[nearest][bank.labels[nearest] == c] / 0.1).sum() for c in range(3)]
        right += int(np.argmax(votes) == label)
    assert 0 < right < 40
    assert knn(bank, queries, neighbours=7, temperature=0.1) == right / 40


def test_knn_ties_go_to_the_lower_label() -> None:
    bank = Samples(np.array([[1, 0], [1, 0]], np.float32), np.array([4, 2]))
    queries = Samples(np.array([[1, 0]], np.float32), np.array([2]))
    for weighting in ("exp", "uniform"):
        score = knn(bank, queries, neighbours=2, temperature=0.1, weighting=weighting)  # type: ignore[arg-type]
        assert score == 1.0


def test_near_neighbours_outvote_more_distant_ones_unless_votes_are_uniform() -> None:
    angles = np.array([0.0, 0.9, 1.0])
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    bank = Samples(features, np.array([0, 1, 1]))
    queries = Samples(features[:1], np.array([0]))
    assert knn(bank, queries, neighbours=3, temperature=0.1) == 1.0
    assert knn(bank, queries, neighbours=3, temperature=0.1, weighting="uniform") == 0.0


def test_dino_reports_each_number_of_neighbours() -> None:
    score = evaluate(blobs(210, 0, spread=0.9), blobs(60, 1, spread=0.9), "knn", preset="dino")
    assert set(score.details["by_k"]) == {10, 20, 100, 200}
    assert score.accuracy == score.details["by_k"][20]
    assert score.details["neighbours"] == 20
    assert KNN_PRESETS["dino"].temperature == 0.07


def test_neighbours_are_reported_as_they_were_taken_from_a_small_bank() -> None:
    score = evaluate(blobs(30, 0, spread=0.9), blobs(60, 1, spread=0.9), "knn", preset="dino")
    assert set(score.details["by_k"]) == {10, 20, 30}
    monitor = evaluate(blobs(30, 0), blobs(60, 1), "knn")
    assert monitor.details["neighbours"] == 30


@pytest.mark.parametrize("probe", ["knn", "linear", "logreg"])
def test_one_class_is_refused_as_bank_and_as_queries(probe: ProbeName) -> None:
    whole = blobs(60, 0)
    alone = whole.take(whole.labels == 1)
    for bank, queries, what in ((alone, whole, "bank"), (whole, alone, "set of queries")):
        with pytest.raises(ConfigError, match=f"the {what} must have two classes or more"):
            evaluate(bank, queries, probe)


def test_a_bank_too_small_to_choose_a_penalty_on_is_refused() -> None:
    labels = np.array([0, 1, 1])
    bank = Samples(np.eye(3, 5, dtype=np.float32), labels)
    with pytest.raises(ConfigError, match="without every fifth sample"):
        evaluate(bank, bank, "logreg")


def test_a_limit_is_spread_over_the_labels_and_over_the_rows_of_each() -> None:
    labels = np.repeat(np.array([0, 1, 2], np.int32), [50, 30, 2])
    rows = spread_rows(labels, 20)
    assert len(rows) == len(set(rows.tolist())) == 20
    assert (np.diff(rows) > 0).all()
    assert np.bincount(labels[rows]).tolist() == [9, 9, 2]
    assert rows[:9].tolist() == [0, 5, 11, 16, 22, 27, 33, 38, 44]
    assert spread_rows(labels, None).tolist() == spread_rows(labels, 500).tolist()
    assert len(spread_rows(labels, 2)) == 2


def table_of_labels(labels: list[int], names: tuple[str, ...]) -> SourceTable:
    table = open_source("digits", limit=len(labels)).table
    return replace(table, label=np.array(labels, np.int32), label_names=names)


def test_labels_of_two_sources_are_matched_by_name() -> None:
    bank = table_of_labels([0, 1, 2], ("ant", "bee", "cat"))
    fewer = labelled_alike(table_of_labels([1, 0, -1], ("bee", "cat")), bank, ("t", "s"))
    assert fewer.label.tolist() == [2, 1, -1]
    assert fewer.label_names == bank.label_names
    with pytest.raises(ConfigError, match="labels of t must be among those of s") as caught:
        labelled_alike(table_of_labels([0, 1], ("cat", "dog")), bank, ("t", "s"))
    assert caught.value.why == "t has dog, which s has not"
    with pytest.raises(ConfigError) as caught:
        labelled_alike(table_of_labels([0, 1], ()), bank, ("t", "s"))
    assert caught.value.why == "t has numbers without names, which s has not"


def test_a_linear_probe_on_frozen_features_is_named_so() -> None:
    score = evaluate(blobs(60, 0), blobs(30, 1), "linear")
    assert isinstance(score, Score)
    assert score.metric == "lin_frozen"


def test_logistic_regression_says_which_penalty_it_chose() -> None:
    score = evaluate(blobs(60, 0, spread=0.6), blobs(30, 1, spread=0.6), "logreg")
    assert 1e-6 <= score.details["l2"] <= 1e5
    assert score.details["convention"] == "sum"


def test_held_out_rows_are_every_nth_from_the_first() -> None:
    bank, queries = split_rows(10, 4)
    assert queries.tolist() == [0, 4, 8]
    assert bank.tolist() == [1, 2, 3, 5, 6, 7, 9]
    with pytest.raises(ConfigError, match="holdout must be at least 2"):
        split_rows(10, 1)


def test_samples_without_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match="every sample must have a label") as caught:
        Samples(np.zeros((3, 2), np.float32), np.array([0, -1, 1]))
    assert caught.value.why == "1 of 3 have none"
    with pytest.raises(ConfigError, match="at least one labelled sample"):
        Samples(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="kNN preset must be one of monitor, ca, gs, dino"):
        evaluate(blobs(9, 0), blobs(9, 1), "knn", preset="mine")


def test_a_centre_crop_is_the_middle_at_the_encoders_size() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200
    assert (centre_crop(image, 20) == 200).all()
    assert (centre_crop(image, 10) == 200).all()
    assert centre_crop(image[:19, :7], 16).shape == (16, 16, 3)


def test_features_are_the_encoders_of_each_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (5, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([3, 1, 2, 0, 1]))
    table = open_source(str(tmp_path / "set.npz")).table
    settings = EncoderSettings(
        backbone="conv3",
        in_channels=3,
        projector=(8,),
        size=16,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        policy="cifar",
    )
    encoder = Encoder(settings, seeded_network(settings.network(), 0))
    rows = np.array([4, 0])
    samples = features_of(encoder, table, rows)
    assert samples.labels.tolist() == [1, 3]
    (batch,) = images_of(table, rows, 16)
    torch.testing.assert_close(batch[1], torch.from_numpy(images[0]).permute(2, 0, 1) / 255)
    torch.testing.assert_close(torch.from_numpy(samples.features), encoder.features(batch))
