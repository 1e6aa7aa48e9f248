"""A view set of a store: its plan, its shards and params, checked as they are read."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, counted, quoted
from viewstore.files.local import LOCAL, Files, whole_file
from viewstore.files.remedy import on_a_disk
from viewstore.format.columns import Column
from viewstore.format.manifest import Index, ViewSetEntry
from viewstore.format.paths import ViewSetPaths
from viewstore.format.plan import Kind, Plan, Weights
from viewstore.format.stats import ColumnStats, unpack_stats
from viewstore.format.tar import MEMBER_DTYPE, NPY_BYTES, pack_npy_header
from viewstore.images.codec import Codec, codec_from_plan
from viewstore.images.colours import Pixels
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import SourceTable
from viewstore.store.committed import read_plan
from viewstore.store.flat import Samples
from viewstore.store.html import html_of
from viewstore.store.mapped_shards import MappedShards
from viewstore.store.params import Columns, Params
from viewstore.store.rendering import Rendering, warn_of_versions
from viewstore.store.replay import DecodeLatent, replay
from viewstore.store.shard import Shard
from viewstore.store.stored_columns import read_chunk
from viewstore.store.stored_members import StoredMembers

FETCHES = 8  # small remote files at one time
MOST_MAPS = 1 << 14  # of a view set; a process may have four times as many


class ViewSet:
    """The views of one generator configuration, or what is known of the views of another set.

    `views[17]` is uint8 [V, H, W, C] of row 17: read, CRC checked, or, of a recipe set, rendered.
    `views.params["distance"]` is the column [N, V]. A set of columns has params alone.
    """

    def __init__(
        self,
        paths: ViewSetPaths,
        entry: ViewSetEntry,
        files: Files = LOCAL,
        *,
        source: SourceReader | None = None,
        others: Mapping[str, ViewSet] | None = None,
    ) -> None:
        """Open a view set.

        `source` reads the images that its views were made of, and `others` has the view sets of
        its store by name: recipes are rendered from them.
        """
        self.paths = paths
        self.files = files
        self.source = source
        self._others = {} if others is None else others
        self._columns: Columns | None = None
        self._entry = entry
        self.plan: Plan = read_plan(paths, files)
        if self.plan.id != entry.plan_id:
            raise FormatError(
                f"plan of {self.plan.view_set} is not the one the manifest names",
                where=files.where(paths.plan),
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open or derived: it is read again where it is needed."""
        derived = {n for n, each in vars(type(self)).items() if isinstance(each, cached_property)}
        kept = {name: each for name, each in vars(self).items() if name not in derived}
        return {**kept, "_columns": None}

    def __repr__(self) -> str:
        samples, views = counted(len(self), "sample"), counted(self.num_views, "view")
        if self.kind == "columns":
            return f"ViewSet({self.name!r}, columns of {samples} x {views} of {self.of})"
        size = f"{self.height}x{self.width}x{self.channels}"
        return f"ViewSet({self.name!r}, {samples} x {views}, {size}, {self.plan.form})"

    def _repr_html_(self) -> str | None:
        return html_of(self)

    @property
    def name(self) -> str:
        return self.plan.view_set

    @property
    def kind(self) -> Kind:
        """How it holds its views: "pixels" or "recipe"; "columns" where it describes others."""
        return self.plan.kind

    @property
    def of(self) -> str | None:
        """Name of the view set that its views start from, or that it describes; None: of none."""
        return None if self.plan.parent is None else self.plan.parent["view_set"]

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The files of networks, and of what else a user named, that it was made with."""
        return self.plan.weights

    @property
    def round(self) -> int:
        """1, or n where `viewstore refresh` made it the n-th by newer networks."""
        return self.plan.round

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
        return codec_from_plan(self.plan.codec)

    @cached_property
    def index(self) -> Index:
        try:
            index = Index.unpack(self._derived("index.json"))
            index.check(self.plan)
        except FormatError as error:
            raise error.located(self.files.where(self.paths.index), fix=self.finalise) from error
        return index

    @property
    def complete(self) -> bool:
        """Whether every shard exists; rows of absent shards read status 0."""
        return self.index.complete

    @cached_property
    def shards(self) -> Mapping[int, Shard]:
        """The committed shards by number."""
        return {
            entry.shard: Shard(
                entry, self.plan.shard_range(entry.shard), self.paths.root, self.files
            )
            for entry in self.index.shards
        }

    @cached_property
    def members(self) -> NDArray[Any]:
        """Offset, size and CRC of all members, MEMBER_DTYPE [N, M], M = len(plan.members)."""
        shape = (self.plan.rows, len(self.plan.members))
        name = "index/members.npy"
        size, sha256 = self._entry.derived[name]
        try:
            return self.files.array(self.paths.root / name, MEMBER_DTYPE, shape, size, sha256)
        except FormatError as error:
            raise self._changed(name, error) from error

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
            chunk=self._chunk if self.remote else None,
            at_once=FETCHES if self.remote else 1,
            samples=None if self.source is None else self._samples(self.source.table),
            kept=None if self._columns is None else (self._columns, self.index.root),
        )

    def keep_columns(self, memory: Columns) -> None:
        """Keep whole columns of params in a bounded memory, which others share."""
        if self._columns is not memory:
            self._columns = memory
            vars(self).pop("params", None)

    def _samples(self, table: SourceTable) -> Samples:
        return Samples(table.keys, table.label, self.num_views)

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

    def __getitem__(self, row: int | slice) -> NDArray[np.uint8]:
        """Return the views of a row, uint8 [V, H, W, C], or of a slice of rows, [n, V, H, W, C].

        Raises:
            IndexError: There is no such row.
            ConfigError: It is neither a row number nor a slice.
            FormatError: The row's shard is absent, or its bytes differ from their CRC.
        """
        if isinstance(row, slice):
            rows = range(len(self))[row]
            found = np.empty(
                (len(rows), self.num_views, self.height, self.width, self.channels), np.uint8
            )
            for place, each in enumerate(rows):
                found[place] = self[each]
            return found
        try:
            row = operator.index(row)
        except TypeError:
            raise ConfigError(
                f"views are read by row number or slice of them, got {row!r}",
                fix="store.keys.row(key) is the row of a key",
            ) from None
        if not -len(self) <= row < len(self):
            raise IndexError(f"row must be in [0, {len(self)}), got {row}")
        row %= len(self)
        self._check_shown(row)
        if self.kind == "recipe":
            return self.rendering.views(row)
        payloads = self.payloads(row)
        if "views.npy" in payloads:
            return self._array(row, payloads["views.npy"])
        names = [name for name in self.plan.members if name != "json"]
        return np.stack([self.codec.decode(payloads[name]) for name in names])

    def view(self, row: int, view: int) -> NDArray[np.uint8]:
        """Return one view of a row, uint8 [H, W, C]; its member alone is read, or it is rendered.

        Raises:
            ConfigError: It describes views of another set, and has none.
            FormatError: The row's shard is absent, or its bytes differ from their CRC.
        """
        self._check_shown(row)
        if self.kind == "recipe":
            rendered: NDArray[np.uint8] = self.rendering.views(row, only=view)[view]
            return rendered
        names = [name for name in self.plan.members if name != "json"]
        name = names[view] if self.codec.encoded else names[0]
        payload = self.payloads(row, [name])[name]
        if self.codec.encoded:
            return self.codec.decode(payload)
        stored: NDArray[np.uint8] = self._array(row, payload)[view]
        return stored

    def _array(self, row: int, payload: bytes) -> NDArray[np.uint8]:
        """Return the views in a member that holds them as one array."""
        shape = (self.num_views, self.height, self.width, self.channels)
        if payload[:NPY_BYTES] != pack_npy_header(repr("|u1"), shape):
            raise FormatError(f"views of row {row} of {self.name} must be uint8 {shape}")
        return np.frombuffer(payload, np.uint8, offset=NPY_BYTES).reshape(shape)

    def _check_shown(self, row: int) -> None:
        """Raise ConfigError unless it has views, FormatError unless those of `row` are built."""
        if self.kind == "columns":
            raise ConfigError(
                f"{self.name} has no views, it describes those of {self.of}",
                fix=f"store.view_sets[{self.of!r}][{row}] for them, "
                f"store.view_sets[{self.name!r}].params for what is known of them",
            )
        self._check_built(row)

    def replay(self, row: int, view: int, *, decode: DecodeLatent | None = None) -> Pixels:
        """Return a view made anew from its stored params, uint8 [H, W, 3], as it would be stored.

        A view that was cut and coloured from its source image by recorded params is equal to
        `self[row][view]` bit for bit, on a machine with the libraries of the plan. A view that a
        network made needs `decode`, which returns the image of a latent: that of `recon` is equal
        too; others were made from latents of more digits than are stored, and differ slightly.

        Raises:
            IndexError: There is no such row or view.
            ConfigError: The view was never made, its params do not say how, or `decode` is needed.
            FormatError: The source image cannot be read, or the params are damaged.
        """
        return replay(self, row, view, decode)

    def urls(self) -> list[str]:
        """Return the shard files, for stock readers of WebDataset."""
        return [shard.where for shard in self.shards.values() if self.kind == "pixels"]

    def prefetch(self, shards: Sequence[int], *, role: str = "views") -> None:
        """Begin to fetch the files of a role of remote shards that are read next, in this order.

        Raises nothing: a file that cannot be had raises where it is opened.
        """
        if self.files.cache is not None and (role != "views" or self.kind == "pixels"):
            entries = [self.shards[number].entry for number in shards if number in self.shards]
            blobs = [entry.file(role) for entry in entries]
            self.files.cache.prefetch([(self.paths.root / blob.name, blob) for blob in blobs])

    @property
    def remote(self) -> bool:
        """Whether its shards are downloaded before they are read."""
        return self.files.cache is not None

    def check_cache(self, *, beside: int = 0) -> None:
        """Raise ConfigError if its shards are remote and the cache is too small for them.

        `beside`: Bytes of other files that are read with each shard.
        """
        if self.files.cache is not None:
            self.files.cache.check_limit(self._largest + beside)

    def at_hand(self, shard: int) -> bool:
        """Whether a shard is on this machine now."""
        cache = self.files.cache
        if self.kind != "pixels":
            return True
        return cache is None or cache.holds(self.shards[shard].blob.sha256)

    def most_open(self, sharing: int = 1) -> int:
        """Return how many shards to keep open: an evicted one takes disk until it is closed.

        `sharing`: View sets that are read through the cache together.
        """
        if self.files.cache is None:
            return MOST_MAPS
        return self.files.cache.most_open(self._largest * sharing)

    @property
    def _largest(self) -> int:
        shards = self.shards.values() if self.kind == "pixels" else ()
        return max((shard.blob.bytes for shard in shards), default=0)

    def repair(self, shard: int) -> str:
        """Return the command that rebuilds a shard."""
        return self.shards[shard].repair

    @property
    def finalise(self) -> str:
        """The command that writes its index, params and statistics again."""
        if self.files.cache is None:
            return f"viewstore finalise {quoted(self.paths.root.parents[1])}"
        return on_a_disk("viewstore finalise STORE")

    @cached_property
    def _stored(self) -> StoredMembers:
        mapped = MappedShards(self.shards, self.most_open)
        return StoredMembers(self.plan, self.members, self.shards, mapped, self.files.cache)

    @cached_property
    def rendering(self) -> Rendering:
        """What renders the views of a recipe set; warns once of libraries of other versions.

        Raises:
            ConfigError: It is none.
        """
        if self.plan.recipe is None:
            raise ConfigError(f"view set {self.name} stores {self.kind}, not a recipe")
        parent = None if self.of is None else self.parent
        warn_of_versions(self.name, self.plan.recipe["libraries"])
        return Rendering(self, self.source, parent, self.plan.recipe)

    @cached_property
    def parent(self) -> ViewSet:
        """The view set that its views start from.

        Raises:
            ConfigError: There is none, or the store has none of its plan.
        """
        planned = self.plan.parent
        if planned is None or self.of is None:
            raise ConfigError(f"view set {self.name} starts from no other")
        found = self._others.get(self.of)
        if found is None or found.plan.id != planned["plan_id"]:
            raise ConfigError(
                f"{self.name} was made from another {self.of!r} than the store has now"
                if found
                else f"{self.name} was made from {self.of!r}, which the store lacks",
                code="VS103",
                where=self.files.where(self.paths.plan),
                fix=f"viewstore verify {quoted(self.files.where(self.paths.root.parents[1]))} "
                "says more",
            )
        return found

    def damaged(self, row: int, what: str, *, why: str) -> FormatError:
        """Return the error of a row that is stored wrong, with what mends it."""
        number = row // self.plan.shard_rows
        return FormatError(
            what,
            code="VS203",
            where=self.files.where(self.paths.params),
            why=why,
            fix=self.repair(number) if number in self.shards else None,
        )

    def _check_built(self, row: int) -> int:
        """Return the shard of a row. Raises FormatError: it was not built."""
        number = row // self.plan.shard_rows
        if number not in self.shards:
            raise FormatError(f"shard {number} of {self.name} was not built yet")
        return number

    def payloads(self, row: int, only: Collection[str] | None = None) -> dict[str, bytes]:
        """Return the members of a row by extension, CRC checked, as they are stored.

        `only`: The extensions that are wanted; of a remote shard that is not here just their bytes
        are fetched. None means all.

        Raises:
            FormatError: Its shard was not built, or differs from its CRC.
            ConfigError: It stores no pixels.
        """
        if self.kind != "pixels":
            raise ConfigError(
                f"{self.name} stores no pixels, its kind is {self.kind}",
                fix=f"store.view_sets[{self.name!r}][{row}] renders its views"
                if self.kind == "recipe"
                else None,
            )
        return self._stored.read(row, self._check_built(row), only)

    def _chunk(self, column: Column, number: int) -> memoryview:
        return read_chunk(self.files, self.paths.root, self.shards[number], column)

    def _derived(self, name: str) -> bytes:
        """Return a derived file. Raises FormatError: it is not the one the manifest names."""
        size, sha256 = self._entry.derived[name]
        try:
            return whole_file(self.files, self.paths.root / name, size, sha256)
        except FormatError as error:
            raise self._changed(name, error) from error

    def _changed(self, name: str, error: FormatError) -> FormatError:
        return FormatError(
            f"{name} of {self.name} is missing or changed",
            where=error.where,
            why=f"the manifest holds another sha256: {error}",
            fix=self.finalise,
        )
