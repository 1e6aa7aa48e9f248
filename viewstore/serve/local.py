"""A store in a folder, as it is served: the name table of each generation, and bytes from disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import anyio.to_thread

from viewstore.format.manifest import Manifest
from viewstore.format.records import LARGE_BYTES
from viewstore.serve.objects import Listed
from viewstore.store.committed import read_manifest
from viewstore.store.store import Store, open_store

CHUNK_BYTES = 1 << 20


class LocalGeneration:
    """One generation of a store in a folder."""

    def __init__(self, store: Store) -> None:
        """List what a store serves."""
        self.number = store.manifest.generation
        self.store_id = store.store_id
        self.root = store.root
        self.files: Mapping[str, Listed] = {each.name: each for each in _listed(store)}

    async def body(self, listed: Listed, start: int, stop: int) -> AsyncIterator[bytes]:
        descriptor = os.open(self.root / listed.name, os.O_RDONLY)
        try:
            while start < stop:
                size = min(CHUNK_BYTES, stop - start)
                data = await anyio.to_thread.run_sync(os.pread, descriptor, size, start)
                yield data
                start += len(data)
        finally:
            os.close(descriptor)


class LocalStore:
    """A store in a folder."""

    def __init__(self, name: str, root: Path) -> None:
        """Serve the store at `root` under `name`."""
        self.name, self.root = name, root
        self._store: Store | None = None
        self._generation: LocalGeneration | None = None

    async def generation(self, *, fresh: bool = False) -> LocalGeneration | None:
        return await anyio.to_thread.run_sync(self._newest)

    def store(self) -> Store:
        store = open_store(self.root) if self._store is None else self._store
        if read_manifest(store.paths) != store.manifest:
            store = open_store(self.root)
        self._store = store
        return store

    def _newest(self) -> LocalGeneration | None:
        store = self.store()
        if self._generation is None or self._generation.number != store.manifest.generation:
            self._generation = LocalGeneration(store)
        return self._generation


def _listed(store: Store) -> Iterator[Listed]:
    yield _whole("manifest.json", _limited(store.paths.manifest))
    for name, view_set in store.view_sets.items():
        below = f"views/{name}"
        yield _whole(f"{below}/plan.json", _limited(view_set.paths.plan))
        for derived, (size, sha256) in _entry(store.manifest, name).items():
            yield Listed(name=f"{below}/{derived}", size=size, sha256=sha256, immutable=False)
        for entry in view_set.index.shards:
            for blob in entry.files:
                yield Listed(
                    name=f"{below}/{blob.name}", size=blob.bytes, sha256=blob.sha256, immutable=True
                )


def _entry(manifest: Manifest, name: str) -> dict[str, tuple[int, str]]:
    derived = manifest.view_sets[name].derived
    return {each: facts for each, facts in derived.items() if not each.startswith("params.zarr/")}


def _whole(name: str, data: bytes) -> Listed:
    digest = hashlib.sha256(data).hexdigest()
    return Listed(name=name, size=len(data), sha256=digest, immutable=False)


def _limited(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGE_BYTES)
