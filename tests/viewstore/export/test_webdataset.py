"""The exporter `webdataset`: what stock webdataset reads in its tars, stops and damage."""

from __future__ import annotations

import gc
import json
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import webdataset

from tests.viewstore.small_stores import ROWS, build_small
from viewstore.errors import ConfigError, FormatError
from viewstore.export.selection import select
from viewstore.export.webdataset import export_tar
from viewstore.files import disk
from viewstore.progress import Fact, Silent
from viewstore.store.store import Store, open_store


def test_tars_hold_views_labels_and_params(store: Store, tmp_path: Path) -> None:
    """Read by webdataset itself, through a brace pattern."""
    done = export_tar(select(store), tmp_path / "wds")
    assert [path.name for path in done.paths] == ["000000.tar", "000001.tar", "000002.tar"]
    views = store.view_sets["simclr"]
    pattern = str(tmp_path / "wds" / "{000000..000002}.tar")
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files open
        for row, sample in enumerate(
            webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8")
        ):
            codec = views.codec.suffix
            names = ["views.npy"] if codec in ("npy", "") else [f"v0.{codec}", f"v1.{codec}"]
            pixels = np.concatenate([sample[name].reshape(-1, 16, 16, 3) for name in names])
            assert np.array_equal(pixels, views[row])
            assert sample["cls"] == store.labels[row]
            assert sample["json"]["key"] == store.keys[row]
            for name in views.params:
                found, wanted = sample[f"{name}.npy"], views.params[name][row]
                assert found.dtype == wanted.dtype
                assert np.array_equal(found, wanted, equal_nan=True)
            count += 1
        gc.collect()
    assert count == ROWS


def test_tars_are_whole_or_begun_again(raw_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "wds"
    calls = 0

    class Stopper(Silent):
        def advance(self, count: int = 1, **facts: Fact) -> None:
            nonlocal calls
            calls += count
            if calls == 12:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_tar(select(raw_store), out, progress=Stopper())
    assert [path.name for path in out.iterdir()] == ["000000.tar"]
    (out / ".000001.tar.0.tmp").write_bytes(b"left by a kill")
    assert not export_tar(select(raw_store), out).already
    names = ["000000.tar", "000001.tar", "000002.tar", "index.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    index = json.loads((out / "index.json").read_bytes())
    assert [entry["nsamples"] for entry in index["shardlist"]] == [8, 8, 4]
    for entry in index["shardlist"]:
        assert disk.sha256_of(out / entry["url"]) == entry["hash"]
        assert (out / entry["url"]).stat().st_size == entry["filesize"]
    assert export_tar(select(raw_store), out).already
    (out / "000001.tar").write_bytes(b"damage")
    calls = 0
    with pytest.raises(KeyboardInterrupt):
        export_tar(select(raw_store), out, progress=Stopper())
    assert not (out / "index.json").exists()  # it would promise tars that are not there
    assert not export_tar(select(raw_store), out).already
    assert export_tar(select(raw_store), out).already
    again = export_tar(select(raw_store), tmp_path / "again")
    for path in again.paths:
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_a_folder_that_holds_something_else_is_refused(raw_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "wds"
    export_tar(select(raw_store), out)
    with pytest.raises(ConfigError, match="cannot take this export") as caught:
        export_tar(select(raw_store, limit=3), out)
    assert caught.value.why == "it holds another export"
    index = json.loads((out / "index.json").read_bytes())
    for damage in (None, [None], [{"url": "000000.tar"}]):
        (out / "index.json").write_text(json.dumps(index | {"shardlist": damage}))
        with pytest.raises(FormatError, match=r"index\.json"):
            export_tar(select(raw_store), out)
    (out / "index.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        export_tar(select(raw_store), out)
    assert caught.value.why == "its index.json is not that of an export"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        export_tar(select(raw_store), other)
    assert caught.value.why == "it holds thesis.txt, which no export wrote"
    with pytest.raises(ConfigError, match="must name a folder"):
        export_tar(select(raw_store), other / "thesis.txt")


def test_unlabelled_samples_have_no_cls(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=np.zeros((4, 16, 16, 3), np.uint8))
    build_small(tmp_path / "s", str(tmp_path / "i.npz"))
    export_tar(select(open_store(tmp_path / "s"), columns=["flip"]), tmp_path / "wds")
    with tarfile.open(tmp_path / "wds" / "000000.tar") as tar:
        names = tar.getnames()[:3]
    assert names == ["0000000000.flip.npy", "0000000000.json", "0000000000.views.npy"]


def test_tars_that_a_smaller_export_does_not_have_are_removed(
    raw_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it is killed, the same command goes on, and names of other tars are safe."""
    out = tmp_path / "wds"
    export_tar(select(raw_store), out)
    index = json.loads((out / "index.json").read_bytes())
    index["shardlist"].append(index["shardlist"][0] | {"url": "../mine.tar"})
    (out / "index.json").write_text(json.dumps(index))
    (tmp_path / "mine.tar").write_bytes(b"mine")
    removed: list[str] = []
    real = disk.unlink

    def unlink(path: Path) -> None:
        removed.append(path.name)
        if len(removed) == 2:
            raise KeyboardInterrupt
        real(path)

    with monkeypatch.context() as patched:
        patched.setattr(disk, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            export_tar(select(raw_store, limit=3), out, overwrite=True)
    assert removed == ["000001.tar", "000002.tar"]
    export_tar(select(raw_store, limit=3), out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["000000.tar", "index.json"]
    assert (tmp_path / "mine.tar").read_bytes() == b"mine"
    assert export_tar(select(raw_store, limit=3), out).already
