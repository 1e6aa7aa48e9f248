"""Votes of nearest neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.eval.made import blobs
from viewstore.errors import ConfigError
from viewstore.train.eval import neighbours
from viewstore.train.eval.neighbours import KNN_PRESETS, WEIGHTINGS, Weighting, knn, knn_score
from viewstore.train.eval.samples import Samples


def by_loops(
    bank: Samples, queries: Samples, k: int, temperature: float, weighting: Weighting
) -> float:
    """The accuracy, in float64, one query at a time."""
    known = bank.features.astype(np.float64)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    right = 0
    for feature, label in zip(queries.features.astype(np.float64), queries.labels, strict=True):
        cosines = known @ (feature / np.linalg.norm(feature))
        votes: dict[int, float] = {}
        for near in np.argsort(-cosines)[:k]:
            weight = np.exp(cosines[near] / temperature) if weighting == "exp" else 1.0
            votes[int(bank.labels[near])] = votes.get(int(bank.labels[near]), 0) + weight
        most = max(votes.values())
        right += min(c for c, vote in votes.items() if vote == most) == label
    return right / len(queries.labels)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    k=st.integers(1, 60),
    temperature=st.sampled_from([0.01, 0.07, 0.1, 1.0]),
    weighting=st.sampled_from(WEIGHTINGS),
)
def test_the_vote_is_that_of_loops_in_float64(
    seed: int, k: int, temperature: float, weighting: Weighting
) -> None:
    bank, queries = blobs(50, seed, spread=0.8), blobs(40, seed + 1, spread=0.8)
    found = knn(bank, queries, neighbours=[k], temperature=temperature, weighting=weighting)
    capped = min(k, 50)
    assert found == {capped: by_loops(bank, queries, capped, temperature, weighting)}


def test_the_size_of_the_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = blobs(50, 0, spread=0.8), blobs(40, 1, spread=0.8)
    whole = knn(bank, queries, neighbours=[3, 9], temperature=0.1)
    monkeypatch.setattr(neighbours, "SIMILARITIES", 150)
    assert knn(bank, queries, neighbours=[3, 9], temperature=0.1) == whole


def test_ties_go_to_the_lower_label() -> None:
    bank = Samples(np.array([[1, 0], [1, 0]], np.float32), np.array([4, 2]))
    queries = Samples(np.array([[1, 0]], np.float32), np.array([2]))
    for weighting in WEIGHTINGS:
        found = knn(bank, queries, neighbours=[2], temperature=0.1, weighting=weighting)
        assert found == {2: 1.0}


def test_near_neighbours_outvote_more_distant_ones_unless_votes_are_uniform() -> None:
    angles = np.array([0.0, 0.9, 1.0])
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    bank = Samples(features, np.array([0, 1, 1]))
    queries = Samples(features[:1], np.array([0]))
    assert knn(bank, queries, neighbours=[3], temperature=0.1) == {3: 1.0}
    uniform = knn(bank, queries, neighbours=[3], temperature=0.1, weighting="uniform")
    assert uniform == {3: 0.0}


def test_a_small_temperature_overflows_no_vote() -> None:
    bank, queries = blobs(30, 0), blobs(30, 1)
    assert knn(bank, queries, neighbours=[5], temperature=1e-4)[5] > 0.9


@pytest.mark.parametrize("preset", KNN_PRESETS)
def test_separable_classes_are_all_found(preset: str) -> None:
    score = knn_score(blobs(700, 0), blobs(60, 1), preset)
    assert (score.accuracy, score.n, score.bank) == (1.0, 60, 700)
    assert score.standard_error == 0.0


def test_features_without_information_are_at_chance() -> None:
    bank = blobs(300, 0)
    noise = np.random.default_rng(2).permutation(300)
    score = knn_score(Samples(bank.features, bank.labels[noise]), blobs(300, 1), "ca")
    assert 0.15 < score.accuracy < 0.55


def test_presets_are_those_of_the_papers() -> None:
    table = {name: (each.neighbours, each.temperature) for name, each in KNN_PRESETS.items()}
    assert table == {
        "ca": ((5,), 0.1),
        "monitor": ((200,), 0.1),
        "gs": ((201,), 0.1),
        "dino": ((20, 10, 100, 200), 0.07),
    }
    resizes = {name: each.transform.resize for name, each in KNN_PRESETS.items()}
    assert resizes == {"ca": "1", "monitor": "1", "gs": "8/7", "dino": "8/7"}


def test_each_number_of_neighbours_is_reported_as_it_was_taken_from_a_small_bank() -> None:
    score = knn_score(blobs(30, 0, spread=0.9), blobs(60, 1, spread=0.9), "dino")
    assert set(score.details["by_k"]) == {10, 20, 30}
    assert score.accuracy == score.details["by_k"][20]
    assert score.settings["neighbours"] == 20


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of monitor, ca, gs, dino, got 'mine'"):
        knn_score(blobs(9, 0), blobs(9, 1), "mine")
