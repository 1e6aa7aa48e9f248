"""Stock webdataset reads a store behind a token, which shows in no list of processes."""

from __future__ import annotations

import gc
import re
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset

import viewstore
from tests.loaders.stores import digits_store
from tests.viewstore.serve.servers import Server, serving
from viewstore.store.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"
TOKEN = "a-t0ken.of_the~interop+tests/="


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return digits_store(tmp_path_factory.mktemp("interop") / "digits")


@pytest.fixture(scope="module")
def server(digits: Store) -> Iterator[Server]:
    with serving(digits.root, environment={"VIEWSTORE_TOKEN": TOKEN}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a .netrc; the one that our own reader uses is the token file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    return tmp_path


@pytest.fixture
def store(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store as our own reader opens it, for the addresses of its shards."""
    tokens = home / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"{server.url.rstrip('/')} {TOKEN}\n")
    monkeypatch.setenv("VIEWSTORE_TOKEN_FILE", str(tokens))
    return viewstore.open(f"{server.url}v1/stores/digits")


def shards_of(store: Store, view_set: str) -> list[str]:
    """Return what the line of the page makes of a view set."""
    (line,) = re.findall(r"^shards = \[f\"pipe:.*$", PAGE.read_text(), re.MULTILINE)
    names: dict[str, object] = {"store": store}
    exec(line.replace("w-search", view_set), names)
    return names["shards"]  # type: ignore[return-value]


def rows_of(shards: list[str], digits: Store) -> int:
    """Read shards with stock webdataset, compare every view with ours; return the rows."""
    rows = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its pipes open
        for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"):
            wanted = digits.view_set("hard")[sample["json"]["index"]]
            assert np.array_equal(sample["views.npy"], wanted)
            rows += 1
        gc.collect()
    return rows


def test_every_view_is_read_with_the_token_of_netrc(
    store: Store, digits: Store, home: Path
) -> None:
    netrc = home / ".netrc"
    netrc.touch(0o600)
    netrc.write_text(f"machine 127.0.0.1 login any password {TOKEN}\n")
    shards = shards_of(store, "hard")
    assert all(shard.startswith("pipe:curl --netrc -f -s http://127.0.0.1:") for shard in shards)
    assert TOKEN not in "".join(shards)
    assert rows_of(shards, digits) == 70


def test_without_the_token_nothing_is_read(store: Store, digits: Store, home: Path) -> None:
    """Else the test above would hold of a server that asks for none."""
    refused = (OSError, tarfile.ReadError)  # whichever webdataset sees first
    with pytest.raises(refused, match=r"exit 22|empty file"):
        rows_of(shards_of(store, "hard"), digits)
