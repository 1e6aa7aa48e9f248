"""What is built into the buckets of these tests, and what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import viewstore
from viewstore.files.bucket import Bucket
from viewstore.format.manifest import Manifest

DEADLINE_SECONDS = 100
NOT_IN_BUCKETS = ("params.zarr/", "tmp/")
CHILDREN: tuple[dict[str, Any], ...] = (
    {},
    {"generator": "heavy", "settings": {"of": "simclr", "derive": "from_view"}, "workers": 2},
    {"generator": "embed", "settings": {"of": "simclr"}},  # with a column in files of its own
)
Run = Callable[..., tuple[int, str, str]]


def content(url: str) -> dict[str, bytes]:
    bucket = Bucket(url)
    return {name: bucket.get(name, 1 << 30) for name in bucket.listed()}


def kept(name: str) -> bool:
    """Whether a file of a local store is an object of a bucket too, with the same bytes."""
    return not any(part in f"{name}/" for part in (*NOT_IN_BUCKETS, "commits/"))


def simclr_of(local: Path) -> object:
    manifest: Manifest = viewstore.open(local).manifest
    return manifest.view_sets["simclr"]
