"""Retrieval: average precision, E, M and H, on hand-made ground truths."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.eval import made
from viewstore.errors import ConfigError
from viewstore.sources.open import open_source
from viewstore.train.eval.features import Work
from viewstore.train.eval.ground_truth import GroundTruth, Query
from viewstore.train.eval.retrieval import (
    average_precision,
    precision_at,
    ranks_of,
    retrieval_scores,
    retrieve,
)


def query(
    easy: tuple[int, ...] = (),
    hard: tuple[int, ...] = (),
    junk: tuple[int, ...] = (),
    row: int = 0,
    box: tuple[int, int, int, int] = (0, 0, 16, 16),
) -> Query:
    named = {"easy": easy, "hard": hard, "junk": junk}
    lists = {name: np.array(each, np.int64) for name, each in named.items()}
    return Query(row=row, box=box, lists=lists)


def truth(*queries: Query, database: int = 10) -> GroundTruth:
    return GroundTruth(database=np.arange(database), queries=queries)


def test_a_perfect_ranking_is_one() -> None:
    for count in (1, 2, 7):
        assert average_precision(range(count), count) == 1
        assert precision_at(range(count), 10) == 1


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 5))
def test_average_precision_is_the_area_under_the_trapezia(ranks: set[int], missing: int) -> None:
    """Between the precision before and after each image that is right, at steps of recall."""
    count = len(ranks) + missing
    ordered = sorted(ranks)
    area = 0.0
    for found, rank in enumerate(ordered):
        right_before = sum(other < rank for other in ordered)
        before = right_before / rank if rank > 0 else 1.0
        after = (right_before + 1) / (rank + 1)
        area += (before + after) / 2 / count
        assert right_before == found
    assert average_precision(ordered, count) == pytest.approx(area)


def test_a_hand_made_ranking_has_a_known_precision() -> None:
    # Ranks 0 and 2: (1 + 1) / 4 + (1/2 + 2/3) / 4.
    assert average_precision([0, 2], 2) == pytest.approx(0.5 + (1 / 2 + 2 / 3) / 4)
    assert precision_at([0, 2], 10) == pytest.approx(2 / 3)  # the last is third
    assert precision_at([0, 2, 30], 10) == pytest.approx(2 / 10)


def test_junk_is_taken_out_of_the_ranking() -> None:
    ranking = np.array([4, 1, 3, 0, 2])
    assert ranks_of(ranking, np.array([1, 2]), np.array([], np.int64)) == [1, 4]
    assert ranks_of(ranking, np.array([1, 2]), np.array([4, 0])) == [0, 2]
    # Wherever junk is ranked, the score is the same.
    without = np.array([1, 3, 2])
    assert ranks_of(without, np.array([1, 2]), np.array([4, 0])) == [0, 2]


def test_easy_medium_and_hard_count_other_images() -> None:
    """The ranking is 0, 1, 2, ..: junk first, then hard, then easy, then others."""
    similarity = -np.arange(10.0)[None]
    found = retrieval_scores(similarity, truth(query(easy=(2,), hard=(1,), junk=(0,))))
    assert found.mean_average_precision == {"E": 1.0, "M": 1.0, "H": 1.0}
    # An image that is neither comes first: ranks E [1], M [1, 2], H [1].
    found = retrieval_scores(similarity, truth(query(easy=(2,), hard=(1,), junk=(3,))))
    assert found.mean_average_precision == {
        "E": pytest.approx(average_precision([1], 1)),
        "M": pytest.approx(average_precision([1, 2], 2)),
        "H": pytest.approx(average_precision([1], 1)),
    }
    assert found.precision_at_k["M"] == pytest.approx(2 / 3)


def test_queries_with_nothing_to_find_are_skipped() -> None:
    similarity = -np.stack([np.arange(10.0), np.arange(10.0)])
    found = retrieval_scores(similarity, truth(query(easy=(0,)), query(hard=(5,))))
    assert found.queries == {"E": 1, "M": 2, "H": 1}
    assert found.mean_average_precision["E"] == 1
    assert np.isnan(found.standard_error["E"])
    values = [1.0, average_precision([5], 1)]
    assert found.mean_average_precision["M"] == pytest.approx(np.mean(values))
    assert found.standard_error["M"] == pytest.approx(np.std(values, ddof=1) / 2**0.5)
    with pytest.raises(ConfigError, match="no query has an easy or a hard image"):
        retrieval_scores(similarity[:1], truth(query(junk=(1,))))


def test_an_encoder_finds_the_image_that_a_query_is_cut_from(tmp_path: Path) -> None:
    """Each query shows in a corner what an image of the database shows in whole."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (4, 2, 2, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    frames = np.zeros((4, 24, 24, 3), np.uint8)
    frames[:, 4:20, 6:22] = scenes
    padded = np.zeros((4, 24, 24, 3), np.uint8)
    padded[:] = scenes.repeat(2, 1).repeat(2, 2)[:, 4:28, 4:28]
    np.savez(tmp_path / "set.npz", images=np.concatenate([frames, padded]), labels=np.zeros(8, int))
    table = open_source(str(tmp_path / "set.npz")).table
    queries = tuple(query(easy=(i,), row=i, box=(4, 6, 16, 16)) for i in range(4))
    wanted = GroundTruth(database=np.arange(4, 8), queries=queries)
    found = retrieve(made.encoder(), table, wanted, Work(threads=1))
    assert found.mean_average_precision["E"] > 0.85
    assert found.database == 4
