"""A build of columns, and a refresh, that is killed resumes, and ends with the id of another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import viewstore
from tests.faults import columns_driver
from tests.faults.drive import killed_stores
from tests.generators.scored.encoders import classifier, export
from tests.viewstore.small_stores import build_small, whole_id, write_npz


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two encoders, and a store of many shards of views for each kind of work.

    That of "refresh" has the columns of the other encoder.
    """
    folder = tmp_path_factory.mktemp("killed")
    source = write_npz(folder / "images.npz", rows=120)
    build_small(folder / "embed", source, shard_rows=4, codec="params")
    export(folder / "net.pt2", classifier())
    export(folder / "older.pt2", classifier(logits=False))
    shutil.copytree(folder / "embed", folder / "refresh")
    columns_driver.embed_first(folder / "refresh", folder / "older.pt2")
    return folder


@pytest.mark.parametrize("what", ["embed", "refresh"])
@pytest.mark.parametrize(
    ("builders", "kills"),
    [(1, 6), pytest.param(1, 100, marks=pytest.mark.slow),
     pytest.param(3, 100, marks=pytest.mark.slow)],
)  # fmt: skip
def test_killed_builds_of_columns_end_as_if_undisturbed(
    begun: Path, tmp_path: Path, what: str, builders: int, kills: int
) -> None:
    arguments = (what, begun / what, begun / "net.pt2", kills, builders, 1)
    stores = killed_stores(columns_driver.__name__, tmp_path, *arguments)
    undisturbed = viewstore.open(tmp_path / "undisturbed")
    assert ("embed-r2" in undisturbed.view_sets) == (what == "refresh")
    assert {whole_id(store) for store in stores} == {undisturbed.store_id}
