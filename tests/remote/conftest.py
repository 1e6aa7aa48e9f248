"""Stores served by an S3 server and by plain HTTP, and places in buckets to build into."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.stores import digits_store
from tests.remote.bucket_builds import ROWS, Behind, Place, Undisturbed, build_into
from tests.remote.buckets import Inside
from tests.remote.servers import (
    BUCKET,
    Faults,
    plain_server,
    proxy,
    s3_environment,
    s3_server,
    upload,
)
from tests.viewstore.small_stores import write_npz
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.shards.builder import ShardBuilder
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


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_npz(tmp_path_factory.mktemp("source") / "images.npz", rows=ROWS)


@pytest.fixture(scope="session")
def undisturbed(
    source: str, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    folder = tmp_path_factory.mktemp("local") / "store"
    build_into(folder, source)
    build_into(f"s3://{BUCKET}/undisturbed", source)
    objects = Inside(s3_endpoint, "undisturbed/").objects()
    return Undisturbed(viewstore.open(folder).store_id, objects)


@pytest.fixture
def behind(s3_endpoint: str, request: pytest.FixtureRequest) -> Iterator[Behind]:
    """Return a place of this test behind a proxy with the given faults."""
    folder = f"builds/{zlib.crc32(request.node.name.encode()):08x}"
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())

        def placed(faults: Faults) -> Place:
            patch.setenv("AWS_ENDPOINT_URL", stack.enter_context(proxy(s3_endpoint, faults)))
            return Place(f"s3://{BUCKET}/{folder}", faults, Inside(s3_endpoint, f"{folder}/"))

        yield placed


@pytest.fixture
def place(behind: Behind) -> Place:
    return behind(Faults())


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards that were rendered in this process, in the order in which it was begun."""
    begun: list[int] = []
    build = ShardBuilder._build

    def counted(builder: ShardBuilder, unit: Any, *rest: Any) -> Any:  # noqa: ANN401
        begun.append(unit.shard)
        return build(builder, unit, *rest)

    monkeypatch.setattr(ShardBuilder, "_build", counted)
    return begun
