"""Params of imported views: CSV and Parquet with a line for each view, and garbage."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from viewstore.build.params_table import STANDARD, read_params
from viewstore.errors import ConfigError

KEYS = ["a", "b", "c"]
THERE = np.array([[True, True], [True, False], [True, True]])
HEAD = "key,view,"


def table(path: Path, head: str, values: list[str]) -> Path:
    """Write a CSV with a line for each view that is there, and two that are nobody's."""
    lines = [f"{KEYS[row]},{view}," for row, view in np.argwhere(THERE).tolist()]
    body = [line + value for line, value in zip(lines, values, strict=True)]
    body = [*body[::-1], "zzz,0," + values[0], "a,7," + values[0]]
    path.write_text("\n".join([HEAD + head, *body, ""]))
    return path


def test_numbers_come_to_their_view_in_their_dtype(tmp_path: Path) -> None:
    path = table(
        tmp_path / "p.csv",
        "FID score,seed,distance,flip,x_n",
        [
            "1.5,0,.1,0,-3",
            ",18446744073709551614,.2,1,4",
            "2,2,.3,0,5",
            "3,3,.4,1,6",
            "4,4,5e-1,0,7",
        ],
    )
    found = read_params(path, KEYS, THERE)
    assert {name: each.dtype.str for name, each in found.items()} == {
        "x_fid_score": "<f4",
        "seed": "<u8",
        "distance": "<f4",
        "flip": "|u1",
        "x_n": "<i8",
    }
    nan = np.nan
    assert np.array_equal(found["x_fid_score"], [[1.5, nan], [2, nan], [3, 4]], equal_nan=True)
    assert found["seed"].tolist() == [[0, 18446744073709551614], [2, 2**64 - 1], [3, 4]]
    wanted = np.array([[0.1, 0.2], [0.3, nan], [0.4, 0.5]], np.float32)
    assert np.array_equal(found["distance"], wanted, equal_nan=True)
    assert found["flip"].tolist() == [[0, 1], [0, 255], [1, 0]]
    assert found["x_n"].tolist() == [[-3, 4], [5, -(2**63)], [6, 7]]


def test_a_parquet_of_pandas_and_one_with_lists_are_read(tmp_path: Path) -> None:
    addresses = np.argwhere(np.ones((3, 2))).tolist()
    frame = pd.DataFrame(
        {
            "row": 0,
            "key": pd.Categorical([KEYS[row] for row, _ in addresses]),
            "view": [view for _, view in addresses],
            "label": "passed over",
            "blur": [0.5 * n for n in range(6)],
            "good": [n % 2 == 0 for n in range(6)],
            "score": [None, 2, 3, 4, 5, 6],
        }
    )
    arrow = pa.Table.from_pandas(frame)
    boxes = np.arange(24, dtype=np.float64).reshape(6, 4)
    for kind in (pa.list_(pa.float64()), pa.list_(pa.float64(), 4)):
        path = tmp_path / "p.parquet"
        pq.write_table(arrow.append_column("crop_box", pa.array(boxes.tolist(), kind)), path)
        found = read_params(path, KEYS, np.ones((3, 2), bool))
        assert found["crop_box"].dtype == np.float32
        assert np.array_equal(found["crop_box"], boxes.reshape(3, 2, 4))
        assert found["blur"].tolist() == [[0, 0.5], [1, 1.5], [2, 2.5]]
        assert found["x_good"].tolist() == [[1, 0]] * 3
        assert np.isnan(found["x_score"][0, 0])  # pandas writes what is missing as null
        assert found["x_score"].dtype == np.float32
        assert sorted(found) == ["blur", "crop_box", "x_good", "x_score"]


@pytest.mark.parametrize(
    ("head", "values", "said"),
    [
        ("blur", ["1", "2", "abc", "4", "5"], "blur must be numbers: could not convert"),
        ("blur", ["1", "2", "nan", "4", "5"], "blur must be numbers of type f4, got nan"),
        ("blur", ["1", "2", "", "4", "5"], "blur must be numbers of type f4, got nan"),
        ("blur", ["1", "2", "inf", "4", "5"], "blur must be numbers of type f4, got inf"),
        ("blur", ["1", "2", "1e39", "4", "5"], "got 1e+39"),
        ("x_a", ["1", "2", "-inf", "4", "5"], "x_a must be numbers of type f4, got -inf"),
        ("flip", ["1", "0", "256", "0", "1"], "flip must be numbers of type u1, got 256"),
        ("flip", ["1", "0", "0.5", "0", "1"], "flip must be numbers of type u1, got 0.5"),
        ("seed", ["1", "0", "-1", "0", "1"], "seed must be numbers of type u8, got -1"),
        ("x_b", ["1", "0", "9" * 20, "0", "1"], "must be numbers of at most 64 bits"),
        ("crop_box", ["1", "2", "3", "4", "5"], "crop_box must have [4] numbers"),
        ("latent", ["1", "2", "3", "4", "5"], "'latent' cannot be a column of params"),
        ("latent0", ["1", "2", "3", "4", "5"], "'latent0' cannot be a column of params"),
        ("u" * 40, ["1", "2", "3", "4", "5"], "cannot be a column of params"),
        ("fid,FID", ["1,1", "2,2", "3,3", "4,4", "5,5"], "two of its columns would be x_fid"),
        ("a,a", ["1,1", "2,2", "3,3", "4,4", "5,5"], "two of its columns have one name"),
        ("a", ["1,1", "2", "3", "4", "5"], "must have 3 values, got 4"),
    ],
)
def test_garbage_is_refused_with_its_column(
    tmp_path: Path, head: str, values: list[str], said: str
) -> None:
    path = table(tmp_path / "p.csv", head, values)
    with pytest.raises(ConfigError, match="params cannot be taken from this table") as caught:
        read_params(path, KEYS, THERE)
    assert (caught.value.code, caught.value.where) == ("VS105", str(path))
    assert said in str(caught.value.why)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no column 'key'"),
        ("key,blur\na,1\n", "it has no column 'view'"),
        ("key,view\na,0\n", "it has no line for 4 views, first a view 1, b view 0, c view 0"),
        ("key,view\na,0\na,0\n", "it has two lines for a view 0"),
        ("key,view\na,0.5\n", "view must be a whole number"),
        ("key,view\na,x\n", "view must be numbers"),
        ('key,view\n"a,0\n', "it is no CSV"),
        ("key,view\n\xff,0\n", "it is no CSV"),
    ],
)
def test_tables_without_the_addresses_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_params(path, KEYS, THERE)
    assert said in str(caught.value.why)


def test_parquet_with_nulls_texts_ragged_lists_or_garbage_is_refused(tmp_path: Path) -> None:
    address = {"key": ["a", "b"], "view": [0, 0]}
    path = tmp_path / "p.parquet"
    for column, said in {
        "blur must be numbers of type f4, got nan": pa.array([1.0, None]),
        "lists of several": pa.array([[1.0], None]),
        "must be numbers": pa.array(["1", "2"]),
        "lists of several lengths": pa.array([[1.0], [1.0, 2.0, 3.0]]),
    }.items():
        pq.write_table(pa.table({**address, "blur": said}), path)
        with pytest.raises(ConfigError) as caught:
            read_params(path, ["a", "b"], np.ones((2, 1), bool))
        assert column in str(caught.value.why)
    path.write_bytes(b"PAR1 no, not really PAR1")
    with pytest.raises(ConfigError) as caught:
        read_params(path, ["a", "b"], np.ones((2, 1), bool))
    assert "it cannot be read as Parquet" in str(caught.value.why)
    with pytest.raises(ConfigError) as caught:
        read_params(tmp_path / "none.csv", ["a"], np.ones((1, 1), bool))
    assert caught.value.why == "there is no such file"


def test_the_known_columns_are_those_of_the_format() -> None:
    page = (Path(__file__).parents[3] / "docs" / "format.md").read_text()
    section = page[page.index("### 3.1") : page.index("### 3.2")]
    known = {}
    for line in section.splitlines():
        if line.startswith("| "):
            names, kind = (each.strip() for each in line.split("|")[1:3])
            dtypes = re.findall(r"[uif]\d", kind)
            for place, name in enumerate(names.split(", ")):
                known[name] = dtypes[place % len(dtypes)] if dtypes else "", "[V,4]" in kind
    assert {n: (dtype, shape == (4,)) for n, (dtype, shape) in STANDARD.items()}.items() <= (
        known.items()
    )
