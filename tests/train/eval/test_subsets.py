"""Keyed subsets: nested in k, equal for all arms, different between runs."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.train.eval import made
from viewstore.errors import ConfigError
from viewstore.sources.open import open_source
from viewstore.train.eval.features import Images
from viewstore.train.eval.subsets import (
    balanced_share,
    check_shots,
    listed,
    ranks_in_class,
    subset_digest,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**53 - 1), st.integers(0, 99))
def test_each_class_is_drawn_without_repeats_and_runs_differ(seed: int, run: int) -> None:
    labels, rows = np.arange(60) % 3, np.arange(60) + 7
    ranks = ranks_in_class(labels, rows, seed=seed, run=run)
    for label in range(3):
        assert sorted(ranks[labels == label]) == list(range(20))
    other = ranks_in_class(labels, rows, seed=seed, run=run + 1)
    assert (ranks != other).any()


def test_subsets_are_nested_and_keyed_by_row_alone() -> None:
    labels, rows = np.arange(60) % 3, np.arange(60)
    ranks = ranks_in_class(labels, rows, seed=1, run=2)
    chosen = [set(rows[ranks < k].tolist()) for k in (2, 4, 8)]
    assert chosen[0] < chosen[1] < chosen[2]
    # The order in which an arm holds its samples changes nothing.
    order = np.random.default_rng(0).permutation(60)
    again = ranks_in_class(labels[order], rows[order], seed=1, run=2)
    np.testing.assert_array_equal(again, ranks[order])


def test_a_class_with_too_few_samples_is_named() -> None:
    with pytest.raises(ConfigError, match="at least 4 samples to learn from, class 5 has 3"):
        check_shots(np.array([2] * 9 + [5] * 3), 4)


def test_a_share_has_as_many_of_each_class(tmp_path: Path) -> None:
    bank, _ = made.images(tmp_path, 80, classes=4)
    few = balanced_share(bank, 0.25, seed=0)
    assert np.bincount(few.labels).tolist() == [4] * 4  # 60 rows, 15 of each class
    assert set(few.rows) < set(bank.rows)
    assert balanced_share(bank, 0.25, seed=0).rows.tolist() == few.rows.tolist()
    assert balanced_share(bank, 0.25, seed=1).rows.tolist() != few.rows.tolist()
    assert balanced_share(bank, 1, seed=0) is bank
    assert np.bincount(balanced_share(bank, 0.001, seed=0).labels).tolist() == [1] * 4
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(ConfigError, match="share must be above 0 and at most 1"):
            balanced_share(bank, share, seed=0)


def test_a_list_of_keys_is_read_and_checked(tmp_path: Path) -> None:
    bank, queries = made.images(tmp_path)
    keys = [bank.table.keys[row] for row in bank.rows[[5, 2, 9]]]
    path = tmp_path / "keys.txt"
    path.write_text("\n".join(keys) + "\n\n")
    few = listed(bank, path)
    assert few.rows.tolist() == bank.rows[[2, 5, 9]].tolist()
    assert subset_digest(few) == subset_digest(listed(bank, path))
    assert subset_digest(few) != subset_digest(bank)
    path.write_text(bank.table.keys[queries.rows[0]])
    with pytest.raises(ConfigError, match="names no image of the bank") as caught:
        listed(bank, path)
    assert caught.value.where == str(path)
    path.write_text("")
    with pytest.raises(ConfigError, match="must list a key, it is empty"):
        listed(bank, path)
    with pytest.raises(ConfigError, match="there is no list of keys"):
        listed(bank, tmp_path / "none")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="in UTF-8"):
        listed(bank, path)


def test_names_without_folders_are_found_where_they_are_unique(tmp_path: Path) -> None:
    for name in ("a/only.jpg", "a/1.jpg", "b/1.jpg", "b/2.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    table = open_source(str(tmp_path / "photos")).table
    bank = Images(table=table, rows=np.arange(len(table.keys)))
    path = tmp_path / "keys.txt"
    path.write_text("only.jpg\nb/1.jpg\n")
    found = listed(bank, path)
    assert [table.keys[row] for row in found.rows] == ["a/only.jpg", "b/1.jpg"]
    path.write_text("1.jpg\n")
    with pytest.raises(ConfigError, match=r"'1\.jpg' names 2 images of the bank"):
        listed(bank, path)
