"""The benchmark of the pages runs, on a small store, and says what it measured."""

import json
from pathlib import Path

from tests.benchmarks.test_loaders import module
from tests.viewstore.small_stores import write_photographs


def test_figures_of_a_small_store_are_written_as_json(tmp_path: Path) -> None:
    photos = write_photographs(tmp_path / "photos" / "a", 3, cut=2)
    (photos / "2.jpg").unlink()
    out = tmp_path / "out.json"
    options = ["--samples", "2000", "--rounds", "1", "--photos", str(photos.parent)]
    module("pages").main([*options, "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["samples"] == 2000
    assert set(found["medians"]) >= {"open", "first_page", "filter_and_order", "the_same_again"}
    (taken,) = found["rounds"]
    assert taken["html_bytes"] < found["limits"]["html_bytes"]
    assert taken["column_bytes"] == 2000 * 8 * (5 * 4 + 3)  # of the columns that queries name
    assert found["photographs"]["view 96"]["pictures"] == 16
    assert found["photographs"]["original 224"]["most_bytes"] <= 12_000
