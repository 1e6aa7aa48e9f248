"""The stores of the loading tests, served by an S3 server and by plain HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.stores import digits_store
from tests.remote.servers import plain_server, s3_environment, s3_server, upload
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.store.store import Store

IMPATIENT = Retry(first_seconds=0.001, longest_seconds=0.01, stall_seconds=1.0)

Open = Callable[..., Store]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """70 digits: view sets `digits` (3 views) and `hard` (4 views), raw, 5 shards."""
    return digits_store(tmp_path_factory.mktemp("remote") / "digits")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(endpoint).items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture(scope="session")
def s3_url(s3_endpoint: str, digits: Store) -> str:
    return upload(digits.root, "digits", s3_endpoint)


@pytest.fixture(scope="session")
def http_url(digits: Store) -> Iterator[str]:
    with plain_server(digits.root) as url:
        yield url


@pytest.fixture
def open_remote(tmp_path: Path) -> Open:
    """Open a URL with a cache of this test alone, and little patience."""

    def open_url(
        url: str,
        *,
        limit_bytes: int = 1 << 30,
        retry: Retry = IMPATIENT,
        **changes: Any,  # noqa: ANN401
    ) -> Store:
        cache = CacheSettings(directory=tmp_path / "cache", limit_bytes=limit_bytes, **changes)
        return viewstore.open(url, cache=cache, retry=retry)

    return open_url
