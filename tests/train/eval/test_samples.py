"""What a probe learns from and is asked about."""

from dataclasses import replace

import numpy as np
import pytest

from viewstore.errors import ConfigError
from viewstore.sources.open import open_source
from viewstore.sources.table import SourceTable
from viewstore.train.eval.samples import (
    Samples,
    Score,
    check_probed,
    labelled_alike,
    mean_per_class,
    split_rows,
    spread_rows,
    unit,
    validation_split,
)


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


def test_one_class_is_refused_as_bank_and_as_queries() -> None:
    two, one = np.array([0, 1, 1]), np.array([1, 1, 1])
    for bank, queries, what in ((one, two, "bank"), (two, one, "set of queries")):
        with pytest.raises(ConfigError, match=f"the {what} must have two classes or more"):
            check_probed(bank, queries)


def test_a_bank_too_small_to_choose_a_setting_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="without every fifth sample"):
        validation_split(np.array([0, 1, 1]))
    trains, validates = validation_split(np.arange(11) % 2)
    assert np.flatnonzero(validates).tolist() == [0, 5, 10]
    assert (trains == ~validates).all()


def test_the_standard_error_is_that_of_a_share() -> None:
    score = Score(metric="knn", accuracy=0.8, n=100, bank=10, settings={})
    assert score.standard_error == pytest.approx(0.04)
    assert replace(score, accuracy=1.0).standard_error == 0


def test_the_mean_per_class_weighs_classes_alike() -> None:
    labels, guesses = np.array([0, 0, 0, 3]), np.array([0, 0, 1, 0])
    assert mean_per_class(guesses, labels) == pytest.approx((2 / 3 + 0) / 2)


def test_unit_features_have_norm_one_or_stay_zero() -> None:
    found = unit(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], rtol=1e-6)
