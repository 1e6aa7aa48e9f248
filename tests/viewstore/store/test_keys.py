"""Looking a key up: by a few comparisons, however many keys there are."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.viewstore.small_stores import build_small
from viewstore.errors import ConfigError
from viewstore.store.keys import SEARCHED_KEYS, Keys
from viewstore.store.store import open_store


class Counted(Sequence[str]):
    """Keys of a million rows, which are counted as they are read."""

    def __init__(self, size: int) -> None:
        self.size, self.read = size, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: Any) -> Any:  # noqa: ANN401
        self.read += 1
        return f"{self.size - 1 - row:08d}"  # the last row has the first key


def test_a_key_is_found_by_reading_a_few() -> None:
    keys = Counted(1_281_167)
    lookup = Keys(keys, np.arange(len(keys), dtype=np.uint64)[::-1])
    for row in (0, 1, 77_777, 1_281_166):
        assert lookup.row(f"{1_281_166 - row:08d}") == row
    assert keys.read < 4 * 25


def test_a_key_that_is_not_there_is_refused_with_its_nearest() -> None:
    keys = ["bee", "cat", "ant"]
    lookup = Keys(keys, [2, 0, 1])
    assert [lookup.row(key) for key in keys] == [0, 1, 2]
    for key in ("cats", "", "zebra"):
        with pytest.raises(ConfigError, match="there is no sample with key"):
            lookup.row(key)
    with pytest.raises(ConfigError, match="did you mean 'cat'"):
        lookup.row("cats")


def test_a_key_comes_before_a_row_number() -> None:
    lookup = Keys(["2", "x", "0"], [2, 0, 1])
    assert [lookup.find(text) for text in ("2", "x", "0", "1")] == [0, 1, 2, 1]
    with pytest.raises(ConfigError, match="did you mean"):
        lookup.find("3")
    with pytest.raises(ConfigError, match="there is only 'a'"):
        Keys(["a"], [0]).find("1")


def test_a_store_that_was_pickled_is_the_same_store(tmp_path: Path, source: str) -> None:
    build_small(tmp_path / "s", source)
    store = open_store(tmp_path / "s")
    again = pickle.loads(pickle.dumps(store))
    assert (again.root, again.remote, again.name) == (store.root, False, store.name)
    assert again.keys.row(store.keys[7]) == 7
    read = store.view_sets["simclr"].params
    assert read["status"].all()
    params = pickle.loads(pickle.dumps(read))
    assert (params["crop_box"] == read["crop_box"]).all()
    views = pickle.loads(pickle.dumps(store.view_sets["simclr"]))
    assert not views.remote
    assert np.array_equal(views[3], store.view_sets["simclr"][3])


def test_keys_with_the_text_in_them_are_named_first_whatever_its_case() -> None:
    keys = [*(f"cat/{number}" for number in range(9)), "zoo/Gila monster 1", "lizard/gila_2"]
    lookup = Keys(keys, np.argsort(keys).astype(np.uint64))
    near = "did you mean 'zoo/Gila monster 1', 'lizard/gila_2' or "
    for text in ("Gila", "gILA"):
        with pytest.raises(ConfigError, match=near):
            lookup.find(text)


def test_a_part_of_a_key_is_looked_for_in_a_bounded_number_of_keys() -> None:
    keys = Counted(1_281_167)
    lookup = Keys(keys, np.arange(len(keys), dtype=np.uint64)[::-1])
    with pytest.raises(ConfigError):
        lookup.row("x")
    assert keys.read < SEARCHED_KEYS + 1000
