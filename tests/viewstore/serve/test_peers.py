"""What reads stores reads them through a server: ours, its loader, verify, stock webdataset."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import numpy as np
import pytest
import webdataset
from click.testing import CliRunner

import viewstore
from tests.viewstore.serve.requests import store_url
from tests.viewstore.serve.servers import Server
from viewstore.cli.main import root
from viewstore.cli.mend import LOOKED_AT
from viewstore.loaders import Cached, ViewLoader
from viewstore.store.store import Store


@pytest.fixture
def remote(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of every kind, opened at its URL, with a cache of this test alone."""
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path / "cache"))
    return viewstore.open(store_url(server, "kinds"))


def test_viewstore_open_reads_all_kinds_of_view_sets(remote: Store, kinds: Path) -> None:
    here = viewstore.open(kinds)
    assert (remote.store_id, list(remote.view_sets)) == (here.store_id, list(here.view_sets))
    assert list(remote.keys) == list(here.keys)
    for name, views in here.view_sets.items():
        other = remote.view_sets[name]
        assert other.kind == views.kind
        for column in views.params:
            assert np.array_equal(
                np.asarray(other.params[column]), np.asarray(views.params[column]), equal_nan=True
            )
        if views.kind != "columns":
            assert all(np.array_equal(other[row], views[row]) for row in range(len(views)))


def test_a_loader_gives_the_batches_of_the_folder(remote: Store, kinds: Path) -> None:
    asked = [
        Cached("simclr", n=2, params=("teacher.score",)),
        Cached("jpgs", n=1),
        Cached("recipe", n=1),
    ]
    found = []
    for store in (remote, viewstore.open(kinds)):
        with ViewLoader(store, asked, batch_size=5, seed=3, missing="resample") as loader:
            found.append(
                [
                    [batch.index.tolist(), *(views.pixels.numpy().copy() for views in batch.views)]
                    for batch in loader
                ]
            )
    assert len(found[0]) == 4
    for there, here in zip(*found, strict=True):
        assert all(np.array_equal(one, two) for one, two in zip(there, here, strict=True))


@pytest.mark.parametrize("level", ["--quick", "--content"])
def test_verify_finds_the_store_at_its_url_whole(server: Server, level: str) -> None:
    url = store_url(server, "kinds")
    done = CliRunner().invoke(root, ["verify", url, level], standalone_mode=False)
    said = f"{url} is whole" if level == "--content" else f"{url}: {LOOKED_AT}"
    assert (done.return_value, done.output) == (0, f"{said}\n")


@pytest.mark.parametrize("name", ["simclr", "jpgs"])
def test_stock_webdataset_reads_every_shard(remote: Store, name: str) -> None:
    views, rows = remote.view_sets[name], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files open
        for sample in webdataset.WebDataset(views.urls(), shardshuffle=False).decode("rgb8"):
            members = ["v0.jpg", "v1.jpg"] if name == "jpgs" else ["views.npy"]
            pixels = np.concatenate([sample[each].reshape(-1, 16, 16, 3) for each in members])
            assert np.array_equal(pixels, views[sample["json"]["index"]])
            rows += 1
        gc.collect()
    assert rows == len(views)
