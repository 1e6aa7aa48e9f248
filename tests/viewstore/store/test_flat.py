"""Params as tables: `to_arrow` and `to_pandas`, and what is said where the packages are missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from viewstore.errors import ConfigError, UnavailableError
from viewstore.format.columns import Column
from viewstore.store.flat import Samples, flat_table
from viewstore.store.params import Params
from viewstore.store.store import Store


def test_a_frame_has_a_line_for_each_view(raw_store: Store) -> None:
    params = raw_store.view_sets["simclr"].params
    frame = params.to_pandas()
    assert list(frame) == ["row", "view", "key", "label", *params.columns]
    assert frame["row"].tolist() == np.repeat(np.arange(20), 2).tolist()
    assert frame.loc[(frame.row == 7) & (frame.view == 1), "key"].tolist() == [raw_store.keys[7]]
    assert frame.label.to_numpy().tolist() == raw_store.labels.repeat(2).tolist()
    for name in params:
        values = np.array(frame[name].tolist(), params[name].dtype)
        assert values.tobytes() == params[name].tobytes(), name


def test_columns_and_rows_are_chosen_in_the_order_given(raw_store: Store) -> None:
    params = raw_store.view_sets["simclr"].params
    table = params.to_arrow(["gray", "flip"], rows=np.array([9, 3]))
    assert table.column_names == ["row", "view", "key", "label", "gray", "flip"]
    assert table["row"].to_pylist() == [9, 9, 3, 3]
    assert table["flip"].to_numpy().tolist() == params["flip"][[9, 3]].ravel().tolist()
    with pytest.raises(ConfigError, match="no params column 'flop'"):
        params.to_arrow(["flop"])


def test_large_columns_are_left_out_unless_they_are_named(tmp_path: Path) -> None:
    columns = [
        Column(name="latent", dtype="f2", shape=(2, 3, 5), pack=False),
        Column(name="steps", dtype="i4", shape=(2,)),
    ]
    samples = Samples(tuple("abcd"), np.zeros(4, np.int32), 2)
    params = Params(tmp_path, columns, 4, 4, absent=[0], samples=samples)
    assert params.to_arrow().column_names == ["row", "view", "key", "label", "steps"]
    assert params.to_arrow()["steps"].to_pylist() == [-1] * 8  # as `params` has rows not written
    latent = params.to_arrow(["latent"])["latent"]
    assert latent.type == pa.list_(pa.list_(pa.float16(), 5), 3)


def test_a_column_cannot_take_the_place_of_the_key(tmp_path: Path) -> None:
    column = Column(name="key", dtype="f4", shape=(2,))
    params = Params(tmp_path, [column], 4, 4, absent=[0])
    samples = Samples(tuple("abcd"), np.zeros(4, np.int32), 2)
    with pytest.raises(ConfigError, match="'key' would stand twice"):
        flat_table(params.rows, samples, [column], np.arange(4))


@pytest.mark.parametrize("name", ["pandas", "pyarrow"])
def test_a_missing_package_is_named_with_its_extra(
    raw_store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError, match=f"need the package {name}") as caught:
        raw_store.view_sets["simclr"].params.to_pandas()
    assert caught.value.fix == "pip install 'viewstore[tables]'"
