"""The exporter `parquet`: what pandas, DuckDB and pyarrow read in it, memory, stops and damage."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.viewstore.commands import run
from tests.viewstore.small_stores import ROWS, build_small, write_photographs
from viewstore.errors import ConfigError
from viewstore.export import parquet
from viewstore.export.parquet import export_parquet
from viewstore.export.selection import select
from viewstore.progress import Fact, Silent
from viewstore.store.store import Store, open_store


def lines_of(store: Store, name: str) -> np.ndarray[Any, Any]:
    """Return a column with a line for each view, [N x 2, ...]."""
    values = store.view_sets["simclr"].params[name]
    return values.reshape(-1, *values.shape[2:])


def test_pyarrow_reads_every_value_and_dtype_that_is_stored(store: Store, tmp_path: Path) -> None:
    export_parquet(select(store), tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet", page_checksum_verification=True)
    names = sorted(store.view_sets["simclr"].params)
    assert table.column_names == ["row", "view", "key", "label", *names]
    rows = np.repeat(np.arange(ROWS), 2)
    assert table["row"].to_pylist() == rows.tolist()
    assert table["view"].to_pylist() == [0, 1] * ROWS
    assert table["key"].to_pylist() == [store.keys[row] for row in rows]
    assert table["label"].to_pylist() == store.labels[rows].tolist()
    for name in names:
        wanted = lines_of(store, name)
        found = table[name].combine_chunks()
        while pa.types.is_fixed_size_list(found.type):
            found = found.flatten()
        assert found.to_numpy().tobytes() == wanted.tobytes(), name
        assert found.to_numpy().dtype == wanted.dtype
    assert table.schema.field("crop_box").type == pa.list_(pa.float32(), 4)


def test_pandas_and_duckdb_read_it(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    export_parquet(select(store), out)
    frame = pd.read_parquet(out)
    assert np.array_equal(np.stack(frame["crop_box"].tolist()), lines_of(store, "crop_box"))
    assert np.array_equal(frame["blur"].to_numpy(), lines_of(store, "blur"))
    question = f"select row, avg(crop_box[3]) as h from '{out}' group by row order by row"
    heights = lines_of(store, "crop_box")[:, 2].astype(np.float64).reshape(ROWS, 2).mean(axis=1)
    answer = duckdb.sql(question).fetchall()
    assert [row for row, _ in answer] == list(range(ROWS))
    assert np.allclose([height for _, height in answer], heights, rtol=1e-12)
    question = f"select count(*) from '{out}' where flip = 1 and label = 2"
    label = store.labels[np.repeat(np.arange(ROWS), 2)]
    wanted = int(((lines_of(store, "flip") == 1) & (label == 2)).sum())
    assert duckdb.sql(question).fetchall() == [(wanted,)]
    assert 0 < wanted < 2 * ROWS


def test_pictures_are_files_that_decode_to_the_views(store: Store, tmp_path: Path) -> None:
    export_parquet(select(store, columns=["flip"], images=True), tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["row", "view", "key", "label", "flip", "image"]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert table.schema.field("image").type == kind
    views = store.view_sets["simclr"]
    suffix = views.codec.suffix if views.codec.encoded else "png"
    for line, image in enumerate(table["image"].to_pylist()):
        row, view = divmod(line, 2)
        assert image["path"] == f"{row:010d}.v{view}.{suffix}"
        pixels = np.array(Image.open(io.BytesIO(image["bytes"])))
        if suffix == "jpg":  # the bytes of the store, not a second encoding
            assert image["bytes"] == views.payloads(row)[f"v{view}.jpg"]
        else:
            assert np.array_equal(pixels, views[row][view])


def test_the_schema_says_what_hugging_face_datasets_want_to_know(tmp_path: Path) -> None:
    """Their page on features: Value, Sequence with a length, ClassLabel, Image."""
    for name, label in (("cat", 0), ("dog", 1)):
        write_photographs(tmp_path / "images" / name, 2, cut=label)
    build_small(tmp_path / "s", str(tmp_path / "images"), on_error="skip")
    selection = select(open_store(tmp_path / "s"), columns=["crop_box", "flip"], images=True)
    export_parquet(selection, tmp_path / "v.parquet")
    schema = pq.read_schema(tmp_path / "v.parquet")
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"] == {
        "row": {"dtype": "int64", "_type": "Value"},
        "view": {"dtype": "int32", "_type": "Value"},
        "key": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "crop_box": {
            "feature": {"dtype": "float32", "_type": "Value"},
            "length": 4,
            "_type": "Sequence",
        },
        "flip": {"dtype": "uint8", "_type": "Value"},
        "image": {"_type": "Image"},
    }


def test_values_of_the_sample_stand_on_each_of_its_lines_and_halves_stay_halves(
    searched: Path, tmp_path: Path
) -> None:
    store = open_store(searched)
    views = store.view_sets["recon"].params
    columns = ["anchor_shift", "latent"]
    export_parquet(select(store, "recon", columns=columns), tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet")
    assert table["anchor_shift"].to_pylist() == views["anchor_shift"].tolist()
    latent = table["latent"].combine_chunks().flatten().flatten().to_numpy()
    assert latent.dtype == np.float16
    assert latent.tobytes() == views["latent"].tobytes()
    both = store.view_sets["w-search"].params.to_arrow(["anchor_shift", "distance"])
    shift = store.view_sets["w-search"].params["anchor_shift"]
    assert both["anchor_shift"].to_pylist() == np.repeat(shift, 3).tolist()


def test_filters_columns_and_limits_choose_lines(
    raw_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v.parquet"
    line = ["export", raw_store.root, "--format", "parquet", "--out", out, "--columns", "blur"]
    assert run(capsys, *line, "--where", "label = 2", "-n", 3)[0] == 0
    twos = np.flatnonzero(raw_store.labels == 2)[:3]
    assert pd.read_parquet(out)["row"].tolist() == np.repeat(twos, 2).tolist()
    assert run(capsys, *line, "--images", "--overwrite")[1].startswith(f"{out}: 20 samples")
    assert list(pd.read_parquet(out)) == ["row", "view", "key", "label", "blur", "image"]
    code, _, said = run(capsys, *line)  # without pictures it is another export
    assert (code, "it holds another export" in said) == (2, True)


def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 MB of pictures in groups of 64 kB; as one group, the control, they are all in memory."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=noise)
    settings = {"views": 2, "height": 128, "width": 128}
    build_small(tmp_path / "s", str(tmp_path / "images.npz"), settings=settings, codec="raw")
    selection = select(open_store(tmp_path / "s"), images=True)
    peaks = []
    for size in (1 << 16, 1 << 30):
        monkeypatch.setattr(parquet, "GROUP_BYTES", size)
        pool = pa.proxy_memory_pool(pa.default_memory_pool())
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        out = tmp_path / f"{size}.parquet"
        export_parquet(selection, out)
        pa.set_memory_pool(before)
        peaks.append((pool.max_memory(), pq.read_metadata(out).num_row_groups))
    (small, groups), (large, one) = peaks
    assert (groups, one) == (100, 1)
    assert small < 1 << 20
    assert large > out.stat().st_size > 4 << 20


def test_every_flipped_byte_makes_it_another_file(raw_store: Store, tmp_path: Path) -> None:
    """Of pages, footer, record and seal: a damaged export is written anew or is nobody's."""
    out = tmp_path / "v.parquet"
    selection = select(raw_store, columns=["flip"], limit=3)
    export_parquet(selection, out)
    data = out.read_bytes()
    assert len(data) > 1000
    refused = 0
    for at in range(len(data)):
        out.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            done = export_parquet(selection, out)
        except ConfigError:  # its footer does not say whose it is
            refused += 1
            continue
        assert (done.already, out.read_bytes() == data) == (False, True), at
    assert refused < len(data) / 2
    out.write_bytes(data)
    assert export_parquet(selection, out).already


def test_a_stopped_export_leaves_nothing_and_the_next_one_clears_up(
    raw_store: Store, tmp_path: Path
) -> None:
    class Stop(Silent):
        def advance(self, count: int = 1, **facts: Fact) -> None:
            raise KeyboardInterrupt

    out = tmp_path / "v.parquet"
    with pytest.raises(KeyboardInterrupt):
        export_parquet(select(raw_store), out, progress=Stop())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".v.parquet.0.tmp").write_bytes(b"left by a kill")
    export_parquet(select(raw_store), out)
    assert [path.name for path in tmp_path.iterdir()] == ["v.parquet"]


def test_tables_of_others_are_never_replaced(raw_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    pd.DataFrame({"row": [1]}).to_parquet(out)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match="cannot take this export") as caught:
        export_parquet(select(raw_store), out, overwrite=True)
    assert "no export wrote it" in str(caught.value.why)
    assert out.read_bytes() == before


def test_columns_of_other_views_are_a_table_and_no_pictures(source: str, tmp_path: Path) -> None:
    """A set that measures the views of another one; a recipe set has pictures, rendered."""
    build_small(tmp_path / "s", source, codec="params")
    quality = {"generator": "quality", "settings": {"of": "simclr"}}
    build_small(tmp_path / "s", None, **quality)
    store = open_store(tmp_path / "s")
    export_parquet(select(store, "quality"), tmp_path / "q.parquet")
    frame = pd.read_parquet(tmp_path / "q.parquet")
    wanted = store.view_sets["quality"].params["luma_mean"]
    assert frame["luma_mean"].to_numpy().tobytes() == wanted.tobytes()
    with pytest.raises(ConfigError, match="has no views to export") as caught:
        export_parquet(select(store, "quality", images=True), tmp_path / "i.parquet")
    assert "--format parquet" in str(caught.value.fix)
    export_parquet(select(store, "simclr", images=True), tmp_path / "i.parquet")
    (image,) = pq.read_table(tmp_path / "i.parquet")["image"].slice(7, 1).to_pylist()
    pixels = np.array(Image.open(io.BytesIO(image["bytes"])))
    assert np.array_equal(pixels, store.view_sets["simclr"][3][1])
