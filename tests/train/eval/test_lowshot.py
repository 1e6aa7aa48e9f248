"""Low shot: SVMs of keyed subsets."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from tests.train.eval.made import blobs
from viewstore.errors import ConfigError
from viewstore.train.eval import lowshot
from viewstore.train.eval.lowshot import (
    COSTS,
    low_shot_map,
    low_shot_score,
    multi_label_shots,
)
from viewstore.train.eval.multilabel import Targets
from viewstore.train.eval.samples import Floats, Samples, unit
from viewstore.train.eval.subsets import ranks_in_class


@pytest.fixture
def few_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowshot, "COSTS", 2.0 ** np.array([-4, 0, 4]))


def test_the_costs_are_those_of_the_specification() -> None:
    assert (len(COSTS), COSTS[0], COSTS[-1]) == (24, 2.0**-19, 2.0**4)


@pytest.mark.usefixtures("few_costs")
def test_separable_classes_are_all_found_and_runs_are_averaged() -> None:
    bank, queries = blobs(90, 0), blobs(60, 1)
    score = low_shot_score(bank, queries, np.arange(90), numbers=(2, 4), runs=3)
    assert score.accuracy == 1.0
    assert score.settings == {"seed": 0, "runs": 3, "shots": 4}
    assert set(score.details["by_shots"]) == {2, 4}
    assert score.bank == 12
    hard = low_shot_score(
        blobs(90, 0, spread=1.0), blobs(60, 1, spread=1.0), np.arange(90), numbers=(4,), runs=3
    ).details["by_shots"][4]
    assert hard["mean"] == pytest.approx(np.mean(hard["runs"]))
    assert hard["sd"] == pytest.approx(np.std(hard["runs"], ddof=1))
    assert len(set(hard["runs"])) > 1


def test_two_shots_are_scikit_learns_svm_of_cost_one_on_unit_features() -> None:
    bank, queries = blobs(60, 0, spread=0.7), blobs(60, 1, spread=0.7)
    score = low_shot_score(bank, queries, np.arange(60), numbers=(2,), runs=1, seed=5)
    chosen = ranks_in_class(bank.labels, np.arange(60), seed=5) < 2
    svm = LinearSVC(C=1, random_state=0).fit(unit(bank.features)[chosen], bank.labels[chosen])
    expected = svm.score(unit(queries.features), queries.labels)
    assert score.accuracy == pytest.approx(expected)
    assert score.details["by_shots"][2]["sd"] is None


@pytest.mark.usefixtures("few_costs")
def test_all_arms_learn_from_the_same_samples() -> None:
    """Features that name the sample: what is learnt from can be read off the decisions."""
    bank = blobs(60, 0)
    rows = np.arange(60) + 100
    order = np.random.default_rng(0).permutation(60)
    first = low_shot_score(bank, blobs(60, 1, spread=0.9), rows, numbers=(3,), runs=2)
    again = low_shot_score(
        bank.take(order), blobs(60, 1, spread=0.9), rows[order], numbers=(3,), runs=2
    )
    assert first.details == again.details


def test_numbers_that_are_none_and_classes_that_are_too_small_are_refused() -> None:
    bank = blobs(9, 0)
    with pytest.raises(ConfigError, match="at least 4 samples to learn from"):
        low_shot_score(bank, bank, np.arange(9), numbers=(2, 4))
    for numbers, runs in (((0,), 1), ((), 1), ((1,), 0)):
        with pytest.raises(ConfigError, match="shots and runs must be at least 1"):
            low_shot_score(bank, bank, np.arange(9), numbers=numbers, runs=runs)
    alone = Samples(bank.features, np.zeros(9, np.int64))
    with pytest.raises(ConfigError, match="two classes or more"):
        low_shot_score(alone, bank, np.arange(9), numbers=(1,))


def toy(count: int, seed: int) -> tuple[Floats, Targets]:
    """Images that show up to three things, each in features of its own."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, 3)) < 0.5).astype(np.int8)
    features = targets + 0.05 * rng.normal(size=targets.shape)
    return np.c_[features, np.ones(count)].astype(np.float32), targets


@pytest.mark.usefixtures("few_costs")
@pytest.mark.parametrize("k", [2, 6])
def test_several_labels_are_scored_by_map(k: int) -> None:
    (features, targets), (asked, truth) = toy(80, 0), toy(60, 1)
    rows = np.arange(80)
    found = low_shot_map(features, targets, asked, truth, rows, k=k)
    assert found > 0.95
    noise = np.random.default_rng(3).normal(size=asked.shape).astype(np.float32)
    assert low_shot_map(features, targets, noise, truth, rows, k=k) < 0.75


def test_subsets_of_several_labels_are_nested_and_hold_k_of_each_class() -> None:
    _, targets = toy(80, 0)
    rows = np.arange(80)
    chosen = [set(multi_label_shots(targets, rows, k, seed=0, run=1)) for k in (2, 4)]
    assert chosen[0] < chosen[1]
    for k, each in zip((2, 4), chosen, strict=True):
        assert (targets[sorted(each)].sum(0) >= k).all()
    assert chosen[0] != set(multi_label_shots(targets, rows, 2, seed=0, run=2))
    with pytest.raises(ConfigError, match="class 0 has fewer"):
        multi_label_shots(targets, rows, 70, seed=0, run=0)
