"""The JSON file that says what is to be found."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.eval import made
from viewstore.errors import ConfigError, FormatError
from viewstore.sources.table import SourceTable
from viewstore.train.eval.ground_truth import GroundTruth, read_ground_truth


@pytest.fixture
def table(tmp_path: Path) -> SourceTable:
    return made.source(tmp_path, 12)


def record(table: SourceTable, **changes: object) -> dict[str, Any]:
    keys = table.keys
    first = {"key": keys[3], "box": [1.4, 2, 9.6, 30], "easy": [keys[5], keys[1]], "hard": []}
    query = {**first, "junk": [keys[7]], **changes}
    return {"queries": [query, {**query, "key": keys[0], "box": None}]}


def read(path: Path, what: object, table: SourceTable) -> GroundTruth:
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return read_ground_truth(path, table)


def test_queries_are_no_part_of_the_database_unless_it_is_listed(
    tmp_path: Path, table: SourceTable
) -> None:
    found = read(tmp_path / "g.json", record(table), table)
    assert found.database.tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    first, second = found.queries
    assert (first.row, second.row) == (3, 0)
    # Left, top, right, bottom are rounded and cut to the image of 16 pixels.
    assert first.box == (2, 1, 14, 9)
    assert second.box == (0, 0, 16, 16)
    places = {name: found.database[each].tolist() for name, each in first.lists.items()}
    assert places == {"easy": [1, 5], "hard": [], "junk": [7]}
    listed = {**record(table), "database": [table.keys[row] for row in (7, 5, 1)]}
    found = read(tmp_path / "g.json", listed, table)
    assert found.database.tolist() == [1, 5, 7]
    assert found.queries[0].lists["junk"].tolist() == [2]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"box": [1, 2, 3]}, "must be left, top, right, bottom, or null"),
        ({"box": [1, 2, True, 4]}, "must be left, top, right, bottom, or null"),
        ({"box": [1, 2, 1e300, 4]}, "must be left, top, right, bottom, or null"),
        ({"box": [9, 2, 3, 4]}, "must lie in its image, 16 x 16"),
        ({"box": [40, 2, 60, 4]}, "must lie in its image, 16 x 16"),
        ({"easy": "all"}, "easy must be a list of keys"),
        ({"easy": [3]}, "keys must be texts"),
        ({"soft": []}, "must have key, box, easy, hard, junk"),
    ],
)
def test_what_cannot_be_used_says_why(
    tmp_path: Path, table: SourceTable, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(FormatError, match="the ground truth cannot be used") as caught:
        read(tmp_path / "g.json", record(table, **changes), table)
    assert why in str(caught.value.why)
    assert caught.value.where == str(tmp_path / "g.json")


def test_images_are_those_of_the_source_and_of_the_database(
    tmp_path: Path, table: SourceTable
) -> None:
    path, keys = tmp_path / "g.json", table.keys
    with pytest.raises(ConfigError, match="the source has no image 'none'"):
        read(path, record(table, easy=["none"]), table)
    with pytest.raises(FormatError) as caught:  # a query is none of the database
        read(path, record(table, hard=[keys[0]]), table)
    assert "is not in the database" in str(caught.value.why)
    with pytest.raises(FormatError) as caught:
        read(path, record(table, hard=[keys[5]]), table)
    assert "stands in two of easy, hard, junk" in str(caught.value.why)


@pytest.mark.parametrize(
    "what",
    ["{", "[]", "{}", '{"queries": 3}', '{"queries": []}', '{"queries": [3]}', "[" * 100_000],
)
def test_other_files_are_refused(tmp_path: Path, table: SourceTable, what: str) -> None:
    with pytest.raises(FormatError):
        read(tmp_path / "g.json", what, table)


def test_unknown_parts_repeated_queries_and_absent_files_are_refused(
    tmp_path: Path, table: SourceTable
) -> None:
    path = tmp_path / "g.json"
    with pytest.raises(FormatError) as caught:
        read(path, {**record(table), "more": 1}, table)
    assert "only queries and database are known" in str(caught.value.why)
    one = record(table)["queries"][0]
    with pytest.raises(FormatError) as caught:
        read(path, {"queries": [one, one]}, table)
    assert "each of an image of its own" in str(caught.value.why)
    with pytest.raises(FormatError) as caught:
        read(path, {**record(table), "database": []}, table)
    assert "the database must have an image" in str(caught.value.why)
    with pytest.raises(ConfigError, match="there is no ground truth"):
        read_ground_truth(tmp_path / "none.json", table)
