"""Opening a store: what is in it, checked, and read by key or by row."""

from __future__ import annotations

import bisect
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore import disk
from viewstore.commit import read_plan, view_sets
from viewstore.errors import ConfigError, FormatError
from viewstore.finalise import read_manifest
from viewstore.image import Codec
from viewstore.layout import StorePaths, ViewSetPaths
from viewstore.manifest import Index, IndexedShard, Manifest, ViewSetEntry
from viewstore.mapped import map_npy
from viewstore.params import Params
from viewstore.plan import Plan, nearest
from viewstore.records import LARGE_BYTES
from viewstore.source_record import read_sources
from viewstore.sources import SourceReader, SourceTable
from viewstore.stats import ColumnStats, unpack_stats
from viewstore.tar import MEMBER_DTYPE, NPY_BYTES, pack_npy_header


@dataclass(frozen=True)
class Shard:
    """A committed shard on this disk: its file, and its rows."""

    path: Path
    rows: range
    entry: IndexedShard

    def open(self) -> int:
        """Return a descriptor of the file, whose size was checked.

        Raises:
            FormatError: The file is missing, or not as long as its commit says: reading a map
                of it would end the process.
        """
        blob = self.entry.file("views")
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise self._damaged("is missing") from error
        size = os.fstat(descriptor).st_size
        if size != blob.bytes:
            os.close(descriptor)
            shorter = "shorter" if size < blob.bytes else "longer"
            raise self._damaged(f"is {shorter} than its commit says")
        return descriptor

    def _damaged(self, what: str) -> FormatError:
        view_set = self.path.parent.name
        shard = self.entry.shard
        return FormatError(
            f"shard {shard} of {view_set} {what}",
            code="VS203",
            where=f"{self.path}: expected {self.entry.file('views').bytes} bytes",
            why="the file was changed after it was written; its sha256 cannot match",
            fix=f"viewstore verify {self.path.parents[2]} --repair --view-set {view_set} "
            f"--only {shard}",
        )


class ViewSet:
    """The cached views of one generator configuration.

    `views[17]` is uint8 [V, H, W, C] of row 17, CRC checked; `views.params["distance"]` is the
    column [N, V].
    """

    def __init__(self, paths: ViewSetPaths, entry: ViewSetEntry) -> None:
        self.paths = paths
        self._entry = entry
        self.plan: Plan = read_plan(paths)
        if self.plan.id != entry.plan_id:
            raise FormatError(
                f"plan of {self.plan.view_set} is not the one the manifest names",
                where=str(paths.plan),
            )
        self._maps: dict[int, mmap.mmap] = {}

    def __repr__(self) -> str:
        codec = self.plan.codec["name"]
        return (
            f"ViewSet({self.name!r}, {len(self)} samples x {self.num_views} views, "
            f"{self.height}x{self.width}x{self.channels}, {codec})"
        )

    @property
    def name(self) -> str:
        return self.plan.view_set

    @property
    def num_views(self) -> int:
        return self.plan.views

    @property
    def height(self) -> int:
        return self.plan.height

    @property
    def width(self) -> int:
        return self.plan.width

    @property
    def channels(self) -> int:
        return self.plan.channels

    @property
    def roles(self) -> tuple[str, ...]:
        return self.plan.roles

    @cached_property
    def codec(self) -> Codec:
        return Codec.from_plan(self.plan.codec)

    @cached_property
    def index(self) -> Index:
        return Index.unpack(self._derived("index.json"))

    @property
    def complete(self) -> bool:
        """Whether every shard exists; rows of absent shards read status 0."""
        return self.index.complete

    @cached_property
    def shards(self) -> Mapping[int, Shard]:
        """The committed shards by number."""
        return {
            entry.shard: Shard(
                self.paths.root / entry.file("views").name,
                self.plan.shard_range(entry.shard),
                entry,
            )
            for entry in self.index.shards
        }

    @cached_property
    def members(self) -> NDArray[Any]:
        """Places of all members, MEMBER_DTYPE [N, M], M = len(plan.members)."""
        shape = (self.plan.rows, len(self.plan.members))
        name = "index/members.npy"
        size, sha256 = self._entry.derived[name]
        try:
            return map_npy(self.paths.root / name, MEMBER_DTYPE, shape, size=size, sha256=sha256)
        except (FormatError, OSError) as error:
            raise self._changed(name) from error

    @cached_property
    def params(self) -> Params:
        """The params columns by name."""
        absent = set(range(self.plan.shards)) - set(self.shards)
        return Params(
            self.paths.params,
            self.plan.columns,
            self.plan.rows,
            self.plan.shard_rows,
            absent=absent,
        )

    @cached_property
    def stats(self) -> dict[str, ColumnStats]:
        """Statistics of each column."""
        return unpack_stats(self._derived("stats.json"))

    @property
    def num_bytes(self) -> int:
        """Size of all blobs."""
        return sum(blob.bytes for entry in self.index.shards for blob in entry.files)

    def __len__(self) -> int:
        return self.plan.rows

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return the views of a row, uint8 [V, H, W, C].

        Raises:
            IndexError: There is no such row.
            FormatError: The row's shard is absent, or its bytes differ from their CRC.
        """
        if not -len(self) <= row < len(self):
            raise IndexError(f"row must be in [0, {len(self)}), got {row}")
        row %= len(self)
        payloads = self.payloads(row)
        shape = (self.num_views, self.height, self.width, self.channels)
        if "views.npy" in payloads:
            payload = payloads["views.npy"]
            if payload[:NPY_BYTES] != pack_npy_header(repr("|u1"), shape):
                raise FormatError(f"views of row {row} of {self.name} must be uint8 {shape}")
            return np.frombuffer(payload, np.uint8, offset=NPY_BYTES).reshape(shape)
        names = [name for name in self.plan.members if name not in ("cls", "json")]
        return np.stack([self.codec.decode(payloads[name]) for name in names])

    def urls(self) -> list[str]:
        """Return the shard files, for stock readers of WebDataset."""
        return [str(shard.path) for shard in self.shards.values()]

    def payloads(self, row: int) -> dict[str, bytes]:
        """Return the members of a row by extension, CRC checked, as they are stored."""
        number = row // self.plan.shard_rows
        if number not in self.shards:
            raise FormatError(f"shard {number} of {self.name} was not built yet")
        data = self._map(number)
        payloads = {}
        for extension, place in zip(self.plan.members, self.members[row], strict=True):
            begin, size = int(place["offset"]), int(place["size"])
            payload = data[begin : begin + size]
            if zlib.crc32(payload) != place["crc32"]:
                raise FormatError(
                    f"{extension} of row {row} of {self.name} does not match its CRC-32",
                    code="VS203",
                    where=str(self.shards[number].path),
                    fix=f"viewstore verify {self.paths.root.parents[1]} --repair "
                    f"--view-set {self.name} --only {number}",
                )
            payloads[extension] = payload
        return payloads

    def _map(self, number: int) -> mmap.mmap:
        if number not in self._maps:
            descriptor = self.shards[number].open()
            try:
                self._maps[number] = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(descriptor)
        return self._maps[number]

    def _derived(self, name: str) -> bytes:
        """Return a derived file. Raises FormatError: it is not the one the manifest names."""
        path = self.paths.root / name
        size, sha256 = self._entry.derived[name]
        if not path.is_file() or path.stat().st_size != size or disk.sha256_of(path) != sha256:
            raise self._changed(name)
        return disk.read_limited(path, max(size, LARGE_BYTES))

    def _changed(self, name: str) -> FormatError:
        return FormatError(
            f"{name} of {self.name} is missing or changed",
            where=str(self.paths.root / name),
            why="the manifest holds another sha256",
            fix=f"viewstore finalise {self.paths.root.parents[1]}",
        )


class Keys(Sequence[str]):
    """The sample keys in row order, with look-up by bisection."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys

    @cached_property
    def _order(self) -> list[int]:
        return sorted(range(len(self._keys)), key=lambda row: self._keys[row].encode())

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, row: Any) -> Any:  # noqa: ANN401
        return self._keys[row]

    def row(self, key: str) -> int:
        """Return the row of a key. Raises ConfigError naming the nearest key."""
        place = bisect.bisect_left(
            self._order, key.encode(), key=lambda row: self._keys[row].encode()
        )
        if place < len(self._order) and self._keys[self._order[place]] == key:
            return self._order[place]
        hint = nearest(key, [self._keys[row] for row in self._order[max(0, place - 50) :][:100]])
        raise ConfigError(f"there is no sample with key {key!r}; {hint}", code="VS102")


class Store:
    """A store: its rows, and its view sets by name."""

    def __init__(self, paths: StorePaths, manifest: Manifest) -> None:
        self.paths = paths
        self.manifest = manifest
        self.table: SourceTable
        self.table, self.shard_rows, sources_id = read_sources(paths)
        if sources_id != manifest.sources_id:
            raise FormatError(
                "sources are not the ones the manifest names", where=str(paths.sources_record)
            )

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}, {self.num_samples} samples, {list(self.view_sets)})"

    @property
    def root(self) -> Path:
        return self.paths.root

    @property
    def store_id(self) -> str:
        """Digest of the sources and of every shard: equal ids, equal bytes."""
        return self.manifest.store_id

    @property
    def num_samples(self) -> int:
        return len(self.table.keys)

    @cached_property
    def keys(self) -> Keys:
        """The key of each row."""
        return Keys(self.table.keys)

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [N]; -1 where a sample has none."""
        return self.table.label

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.table.label_names)

    @cached_property
    def source(self) -> SourceReader:
        """Reads the source images; raises on use if they cannot be reached."""
        return SourceReader(self.table)

    @cached_property
    def view_sets(self) -> Mapping[str, ViewSet]:
        """The view sets of the newest manifest by name."""
        return {
            name: ViewSet(self.paths.view_set(name), entry)
            for name, entry in self.manifest.view_sets.items()
        }

    def view_set(self, name: str) -> ViewSet:
        """Return a view set by name. Raises ConfigError naming the nearest."""
        if name not in self.view_sets:
            raise ConfigError(
                f"there is no view set {name!r} in this store; "
                f"{nearest(name, list(self.view_sets))}",
                code="VS102",
                where=str(self.root),
                fix=f"viewstore inspect {self.root}",
            )
        return self.view_sets[name]

    def urls(self, view_set: str) -> list[str]:
        """Return the shard files of a view set, for stock readers of WebDataset."""
        return self.view_set(view_set).urls()


def open_store(path: str | Path) -> Store:
    """Return the store at `path`, its records checked.

    Raises:
        ConfigError: There is no store at `path`, or no build in it has ended yet.
        FormatError: A record is damaged or of another format version.
    """
    paths = StorePaths(Path(path))
    if not paths.root.is_dir():
        raise ConfigError(
            f"there is no store at {path}",
            code="VS202",
            where=str(path),
            why="the folder does not exist" if not paths.root.exists() else "it is not a folder",
            fix=f"viewstore build --generator w-search --out {path}",
        )
    manifest = read_manifest(paths)
    if manifest is None:
        unfinished = bool(view_sets(paths))
        raise ConfigError(
            f"{path} has no manifest.json",
            code="VS202",
            where=str(path),
            why="its build has not ended yet" if unfinished else "it is not a store",
            fix="run the same build command again"
            if unfinished
            else f"viewstore build --generator w-search --out {path}",
        )
    return Store(paths, manifest)
