"""The benchmarks of recipes and of all generators run, and say what they compare."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.benchmarks.test_loaders import module
from tests.viewstore.small_stores import write_photographs
from viewstore.generators import GENERATORS

recipes, table = module("recipes"), module("generator_table")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_photographs(tmp_path_factory.mktemp("bench") / "photos", 4, cut=3)
    (folder / "3.jpg").unlink()
    return folder


def test_every_recipe_is_compared_with_what_would_have_been_stored(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"simclr", "dino-local", "digits", "heavy", "jigsaw"} < set(recipes.with_recipes())
    assert not {"w-search", "import", "embed"} & set(recipes.with_recipes())
    monkeypatch.setattr(recipes, "with_recipes", lambda: ["moco", "heavy"])
    found = list(recipes.compare(tmp_path, str(photos), 3))
    assert [each["generator"] for each in found] == ["moco", "heavy"]
    for each in found:
        assert (each["views"], each["differing_samples"]) == (6, 0)
        assert each["bytes_a_view"]["params"] < each["bytes_a_view"]["raw"]


def test_every_generator_has_a_row_on_the_page() -> None:
    record = json.loads(table.RESULTS.read_text())
    assert {row["generator"] for row in record["rows"]} <= set(GENERATORS) == set(table.PAPERS)
    page = table.README.read_text()
    assert table.page_of(page, record) == page


@pytest.mark.parametrize(
    "name", ["heavy", "quality", "import", "hard", "stn-local", "viewmaker", "selection"]
)
def test_a_generator_is_measured_in_each_form_that_it_allows(
    tmp_path: Path, photos: Path, name: str
) -> None:
    assert name in GENERATORS
    options = argparse.Namespace(photos=photos, photographs=3, digits=3)
    row = table.measure(name, tmp_path, options)
    assert row["views_per_second"] > 0
    assert ("params" in row["bytes_a_view"]) == (name == "heavy")
    columns = "columns" in row["bytes_a_view"]
    refused = set() if columns or name == "heavy" else {"params"}
    assert set(row.get("refused", {})) == refused
