"""Params: chunks that any zarr client reads, and damage that none of ours misses."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from viewstore.errors import ConfigError, FormatError
from viewstore.format.chunks import (
    chunk_key,
    pack_chunk,
    pack_params,
    unpack_chunk,
    unpack_params,
    zarr_array,
    zarr_group,
)
from viewstore.format.columns import Column
from viewstore.format.tar import MEMBER_DTYPE
from viewstore.store.params import Params

DISTANCE = Column(name="distance", dtype="f4", shape=(2,))
STEPS = Column(name="steps", dtype="i4", shape=(2,))
ROWS, SHARD_ROWS = 5, 3
VALUES = np.arange(10, dtype="<f4").reshape(5, 2)


def write_arrays(root: Path, column: Column, values: np.ndarray) -> None:
    (root / column.name).mkdir(parents=True)
    (root / "zarr.json").write_bytes(zarr_group())
    (root / column.name / "zarr.json").write_bytes(zarr_array(column, ROWS, SHARD_ROWS))
    for shard in range(2):
        path = root / column.name / chunk_key(column, shard)
        path.parent.mkdir(parents=True)
        rows = values[shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS]
        path.write_bytes(pack_chunk(column, rows, SHARD_ROWS))


def test_zarr_reads_our_chunks(tmp_path: Path) -> None:
    write_arrays(tmp_path, DISTANCE, VALUES)
    group = zarr.open_group(tmp_path, mode="r")
    assert np.array_equal(np.asarray(group["distance"]), VALUES)
    params = Params(tmp_path, [DISTANCE], ROWS, SHARD_ROWS)
    assert np.array_equal(params["distance"], VALUES)
    rows = np.array([4, 0, 4])
    fresh = Params(tmp_path, [DISTANCE], ROWS, SHARD_ROWS)
    assert np.array_equal(fresh.rows("distance", rows), VALUES[rows])


def test_every_bit_flip_of_a_chunk_is_found() -> None:
    raw = pack_chunk(DISTANCE, VALUES[:3], SHARD_ROWS)
    for place in range(len(raw) * 8):
        bad = bytearray(raw)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(FormatError, match="CRC-32C"):
            unpack_chunk(DISTANCE, bytes(bad), SHARD_ROWS)


def test_a_missing_chunk_is_an_error_and_not_fill(tmp_path: Path) -> None:
    write_arrays(tmp_path, DISTANCE, VALUES)
    (tmp_path / "distance" / chunk_key(DISTANCE, 1)).unlink()
    with pytest.raises(FormatError, match="chunk 1 of column distance is missing"):
        Params(tmp_path, [DISTANCE], ROWS, SHARD_ROWS)["distance"]
    partial = Params(tmp_path, [DISTANCE], ROWS, SHARD_ROWS, absent=[1])
    assert np.isnan(partial["distance"][3:]).all()


def test_a_chunk_that_is_cut_ends_no_reader_and_is_an_error_of_the_next(tmp_path: Path) -> None:
    """Small chunks are no pages of the file: where those are gone, the system ends the process."""
    write_arrays(tmp_path, DISTANCE, VALUES)
    params = Params(tmp_path, [DISTANCE], ROWS, SHARD_ROWS)
    rows = np.array([4, 0])
    assert np.array_equal(params.rows("distance", rows), VALUES[rows])
    for shard in range(2):
        os.truncate(tmp_path / "distance" / chunk_key(DISTANCE, shard), 5)
    assert np.array_equal(params.rows("distance", rows), VALUES[rows])
    with pytest.raises(FormatError, match="column distance of shard 0") as caught:
        Params(tmp_path, [DISTANCE], ROWS, SHARD_ROWS).rows("distance", rows)
    assert caught.value.where == str(tmp_path / "distance" / chunk_key(DISTANCE, 0))


def test_an_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'distance'"):
        Params(tmp_path, [DISTANCE], ROWS, SHARD_ROWS)["distence"]


def test_a_pack_holds_its_columns_and_refuses_others() -> None:
    members = np.array([(512, 3, 7)], MEMBER_DTYPE)
    chunks = {
        "steps": pack_chunk(STEPS, VALUES[:3].astype("<i4"), SHARD_ROWS),
        "distance": pack_chunk(DISTANCE, VALUES[:3], SHARD_ROWS),
    }
    pack = pack_params(members, chunks)
    found, columns = unpack_params(pack.data, ["steps", "distance"])
    assert np.array_equal(found, members)
    assert {name: bytes(chunk) for name, chunk in columns.items()} == chunks
    offset, size, _ = pack.columns["steps"]
    assert pack.data[offset : offset + size] == chunks["steps"]
    with pytest.raises(FormatError):
        unpack_params(pack.data, ["steps"])


def test_values_of_another_dtype_or_shape_are_refused() -> None:
    with pytest.raises(FormatError, match="column steps must be i4"):
        pack_chunk(STEPS, VALUES[:3], SHARD_ROWS)
