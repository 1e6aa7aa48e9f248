"""Logistic regression and the choice of its penalty."""

import numpy as np
import pytest

from tests.train.eval.made import blobs
from viewstore.errors import ConfigError
from viewstore.train.eval import logistic
from viewstore.train.eval.logistic import L2_GRID, logistic_score, one_vs_rest
from viewstore.train.eval.samples import Samples, mean_per_class


def test_separable_classes_are_all_found() -> None:
    score = logistic_score(blobs(120, 0), blobs(60, 1))
    assert (score.metric, score.accuracy, score.n, score.bank) == ("logreg", 1.0, 60, 120)
    assert score.details["mean_per_class"] == 1.0


def test_the_grid_is_that_of_simclr() -> None:
    assert len(L2_GRID) == 45
    assert (L2_GRID[0], L2_GRID[-1]) == pytest.approx((1e-6, 1e5))
    assert np.diff(np.log10(L2_GRID)) == pytest.approx(0.25)


def test_the_penalty_stands_beside_the_sum_or_the_mean_of_the_losses() -> None:
    bank = blobs(60, 0, spread=1.0)
    by_sum = logistic._fit(bank.features, bank.labels, 6.0, "sum")
    by_mean = logistic._fit(bank.features, bank.labels, 0.1, "mean")
    assert pytest.approx([1 / 6] * 2) == [by_sum.C, by_mean.C]
    np.testing.assert_allclose(by_sum.coef_, by_mean.coef_, rtol=1e-6)


def test_few_images_of_many_classes_are_fitted_without_a_warning() -> None:
    features = np.eye(12, dtype=np.float32)
    labels = np.array([0, 0, *range(1, 11)])
    assert len(logistic._fit(features, labels, 1.0, "sum").classes_) == 11


@pytest.mark.parametrize("convention", ["sum", "mean"])
def test_the_penalty_is_chosen_on_every_fifth_sample_and_fitted_again_on_all(
    convention: logistic.Convention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "L2_GRID", np.array([1e-3, 1.0, 1e3]))
    bank, queries = blobs(60, 0, spread=1.0), blobs(90, 1, spread=1.0)
    score = logistic_score(bank, queries, convention=convention)
    held = np.arange(60) % 5 == 0
    trials = [
        logistic._fit(bank.features[~held], bank.labels[~held], l2, convention).score(
            bank.features[held], bank.labels[held]
        )
        for l2 in logistic.L2_GRID
    ]
    best = [l2 for l2, each in zip(logistic.L2_GRID, trials, strict=True) if each == max(trials)]
    assert score.settings == {"l2": best[len(best) // 2], "convention": convention}
    model = logistic._fit(bank.features, bank.labels, score.settings["l2"], convention)
    guesses = model.predict(queries.features)
    assert score.accuracy == pytest.approx((guesses == queries.labels).mean())
    assert score.details["mean_per_class"] == mean_per_class(guesses, queries.labels)


def test_several_labels_are_scored_by_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "L2_GRID", np.array([1e-2, 1.0]))
    rng = np.random.default_rng(0)
    targets = (rng.random((80, 3)) < 0.4).astype(np.int8)
    features = (targets + 0.1 * rng.normal(size=targets.shape)).astype(np.float32)
    found, l2 = one_vs_rest(features[:60], targets[:60], features[60:], targets[60:])
    assert (found, l2) == (1.0, 1.0)
    ignored = targets.copy()
    ignored[::7, 0] = -1
    assert one_vs_rest(features[:60], ignored[:60], features[60:], ignored[60:])[0] == 1.0
    none = targets.copy()
    none[:, 2] = 0
    none[0, 2] = 1  # a validation sample
    with pytest.raises(ConfigError, match="class 2 must have samples"):
        one_vs_rest(features[:60], none[:60], features[60:], none[60:])


def test_what_cannot_be_learnt_from_is_refused() -> None:
    bank = Samples(np.eye(3, 5, dtype=np.float32), np.array([0, 1, 1]))
    with pytest.raises(ConfigError, match="without every fifth sample"):
        logistic_score(bank, bank)
    with pytest.raises(ConfigError, match="convention must be one of sum, mean, got 'max'"):
        logistic_score(blobs(9, 0), blobs(9, 0), convention="max")  # type: ignore[arg-type]
