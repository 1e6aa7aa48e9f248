"""A store that was built into a bucket is trained on, and served, from there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import viewstore
from tests.remote.bucket_builds import ROWS, build_into
from tests.remote.servers import BUCKET
from tests.viewstore.commands import run
from tests.viewstore.serve.servers import serving
from viewstore.files.cache_settings import CacheSettings
from viewstore.loaders import ViewLoader
from viewstore.store.store import Store
from viewstore.train.encoder_file import load_encoder

SMALL = ("--backbone", "conv3", "--projector", "16,8", "--batch-size", "8", "--threads", "1")


@pytest.fixture(scope="module")
def built(s3_endpoint: str, source: str) -> str:
    """The URL of a store that was built into the bucket."""
    url = f"s3://{BUCKET}/built"
    build_into(url, source)
    return url


def batches(store: Store) -> np.ndarray:
    with ViewLoader(store, "cached:simclr,cached:simclr", batch_size=8, seed=1) as loader:
        return np.stack([np.asarray(batch.views[0].pixels) for batch in loader])


def test_an_encoder_is_trained_on_it(
    built: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path / "cache"))
    given = (
        built,
        "--views",
        "cached:simclr,cached:simclr",
        "--epochs",
        1,
        "--out",
        tmp_path / "run",
        *SMALL,
    )
    code, out, err = run(capsys, "--json", "--progress", "off", "train", *given)
    assert code == 0, err
    result = json.loads(out)["result"]
    assert result["steps"] == ROWS // 8
    trained = load_encoder(result["encoder"])
    assert trained.settings.provenance["store"] == viewstore.open(built).store_id


def test_a_server_passes_it_on(built: str, tmp_path: Path) -> None:
    def opened(url: str, cache: str) -> Store:
        return viewstore.open(url, cache=CacheSettings(directory=tmp_path / cache))

    own = {"VIEWSTORE_CACHE__DIRECTORY": str(tmp_path / "of the server")}
    with serving(f"built={built}", environment=own) as server:
        passed_on = opened(f"{server.url}v1/stores/built", "a")
        direct = opened(built, "b")
        assert passed_on.store_id == direct.store_id
        assert np.array_equal(batches(passed_on), batches(direct))
        assert list((tmp_path / "of the server" / "obj").iterdir())
