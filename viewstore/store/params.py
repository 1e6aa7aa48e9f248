"""Reads the params columns of a view set, whole or by rows, through their checksums."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, nearest, quoted
from viewstore.files.maps import file_bytes
from viewstore.format.chunks import chunk_key, unpack_chunk
from viewstore.format.columns import Column
from viewstore.store.flat import Samples, flat_table, package
from viewstore.store.kept import Kept

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ReadChunk = Callable[[Column, int], memoryview]
Columns = Kept[NDArray[Any]]  # whole columns in memory
WHOLE_BYTES = 256 << 20  # of the columns of a view set that stay in memory, together
CHUNKS_AT_ONCE = 1024
READ_AGAIN = frozenset({"_whole", "_shared", "_chunks", "_checked", "_lock"})
MOST_KEPT = 4096  # a process may have 65 530 maps, and shards are mapped too


class Params(Mapping[str, NDArray[Any]]):
    """The columns of a view set, read through their checksums.

    `params[name]` is the whole column, [N, ...], kept in memory once read, for ever or as long as
    a memory that is shared has room; `rows` maps chunks and copies only the rows it returns.
    """

    def __init__(
        self,
        root: Path,
        columns: Sequence[Column],
        rows: int,
        shard_rows: int,
        *,
        absent: Collection[int] = (),
        chunk: ReadChunk | None = None,
        at_once: int = 1,
        samples: Samples | None = None,
        kept: tuple[Columns, str] | None = None,
    ) -> None:
        """Read the chunks below `root`; the rows of `absent` shards were never written.

        For a remote store, `chunk`(column, shard) returns the bytes of a chunk; `at_once` chunks
        are fetched at one time. `samples` is what tables of them say of each row. `kept` is a
        bounded memory of whole columns that others share, and what names these ones in it.
        """
        self.samples = samples
        self._read = chunk or self._local
        self._at_once = at_once
        self.root = root
        self.absent = frozenset(absent)
        self.columns = {column.name: column for column in columns}
        self.num_rows = rows
        self.shard_rows = shard_rows
        self._shared = kept
        self._whole: dict[str, NDArray[Any]] = {}
        self._chunks: dict[tuple[str, int], NDArray[Any]] = {}
        self._checked: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is read or mapped: it is read again where it is needed."""
        return {name: each for name, each in vars(self).items() if name not in READ_AGAIN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        empty: dict[str, Any] = {"_whole": {}, "_chunks": {}, "_checked": set(), "_shared": None}
        self.__dict__.update(state, **empty, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"Params({self.num_rows} rows, {list(self.columns)})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return column `name`, [N, *shape]. Raises ConfigError if there is none of that name."""
        if self._shared is not None:
            memory, own = self._shared
            return memory.get((own, name), lambda: self._read_whole(self._column(name)))
        if name not in self._whole:
            self._whole[name] = self._read_whole(self._column(name))
        return self._whole[name]

    def _read_whole(self, column: Column) -> NDArray[Any]:
        whole = np.empty((self.num_rows, *column.shape), column.numpy_dtype)
        for shard, chunk in enumerate(self._each(column, range(self._shards))):
            mine = whole[shard * self.shard_rows : (shard + 1) * self.shard_rows]
            mine[...] = chunk[: len(mine)]
        whole.flags.writeable = False
        return whole

    def stays(self, name: str) -> bool:
        """Return whether a whole column is kept in a memory that others share, once it is read."""
        if self._shared is None:
            return False
        return self._column(name).row_bytes * self.num_rows <= self._shared[0].limit

    def _in_memory(self, name: str) -> NDArray[Any] | None:
        if self._shared is None:
            return self._whole.get(name)
        memory, own = self._shared
        return memory.find((own, name))

    @cached_property
    def small(self) -> frozenset[str]:
        """The columns that may stay in memory: the smallest ones, up to WHOLE_BYTES together."""
        columns = sorted(self.columns.values(), key=lambda each: (each.row_bytes, each.name))
        ends = itertools.accumulate(each.row_bytes * self.num_rows for each in columns)
        pairs = zip(columns, ends, strict=True)
        return frozenset(each.name for each, end in pairs if end <= WHOLE_BYTES)

    def take(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of a column that `rows` [B] names, from memory where it is small."""
        if name in self.small:
            taken: NDArray[Any] = self[name][rows]
            return taken
        return self.rows(name, rows)

    def cells(self, name: str, rows: NDArray[Any], views: NDArray[Any]) -> NDArray[Any]:
        """Return entry `views` [B] of rows `rows` [B] of a column per view, [B, ...].

        Of a column that is mapped only these entries are touched.
        """
        whole = self[name] if name in self.small else self._in_memory(name)
        if whole is not None:
            found: NDArray[Any] = whole[rows, views]
            return found
        column = self._column(name)
        rows = np.asarray(rows, dtype=np.int64)
        values = np.empty((len(rows), *column.shape[1:]), column.numpy_dtype)
        for here, chunk, offsets in self._by_chunk(column, rows):
            values[here] = chunk[offsets, views[here]]
        return values

    def rows(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of column `name` that `rows` [B] names, [B, *shape]."""
        whole = self._in_memory(name)
        if whole is not None:
            found: NDArray[Any] = whole[rows]
            return found
        column = self._column(name)
        rows = np.asarray(rows, dtype=np.int64)
        values = np.empty((len(rows), *column.shape), column.numpy_dtype)
        for here, chunk, offsets in self._by_chunk(column, rows):
            values[here] = chunk[offsets]
        return values

    def to_arrow(
        self,
        columns: Sequence[str] | None = None,
        *,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> pa.Table:
        """Return a pyarrow Table with one line for each view, all in memory.

        Args:
            columns: Names; None takes all but latents and other large ones.
            rows: Rows of the store, [B]; None takes all of them.

        Returns:
            `row`, `view`, `key`, `label` (-1: none) and the columns, B x V lines. What is known
            of a sample stands on each of its lines; `crop_box` and its like are lists of fixed
            size. Values are those stored: `status` tells which views were made.

        Raises:
            ConfigError: There is no such column.
            UnavailableError: pyarrow is not installed.
        """
        assert self.samples is not None, "params of a store have them"
        if columns is None:
            columns = [name for name, column in self.columns.items() if column.pack]
        chosen = [self._column(name) for name in columns]
        which = range(self.num_rows) if rows is None else rows
        return flat_table(self.rows, self.samples, chosen, np.asarray(which, dtype=np.int64))

    def to_pandas(
        self,
        columns: Sequence[str] | None = None,
        *,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> pd.DataFrame:
        """Return `to_arrow(columns, rows=rows)` as a pandas DataFrame; lists are arrays in cells.

        Raises:
            ConfigError: There is no such column.
            UnavailableError: pandas or pyarrow is not installed.
        """
        package("pandas")
        frame: pd.DataFrame = self.to_arrow(columns, rows=rows).to_pandas()
        return frame

    @property
    def _shards(self) -> int:
        return math.ceil(self.num_rows / self.shard_rows)

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            hint = nearest(name, list(self.columns))
            raise ConfigError(f"there is no params column {name!r}; {hint}", code="VS102")
        return self.columns[name]

    def _by_chunk(
        self, column: Column, rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]]:
        """Yield indices into `rows`, the chunk that has these rows, and their offsets in it."""
        order = np.argsort(rows, kind="stable")
        shards, offsets = np.divmod(rows[order], self.shard_rows)
        numbers, begins = np.unique(shards, return_index=True)
        bounds = itertools.pairwise([*begins.tolist(), len(rows)])
        chunks = self._cached(column, numbers.tolist())
        for (begin, end), chunk in zip(bounds, chunks, strict=True):
            yield order[begin:end], chunk, offsets[begin:end]

    def _cached(self, column: Column, shards: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield chunks of a column, which stay mapped, and small ones in memory."""
        for begin in range(0, len(shards), CHUNKS_AT_ONCE):
            some = shards[begin : begin + CHUNKS_AT_ONCE]
            found = {shard: self._chunks.get((column.name, shard)) for shard in some}
            missing = [shard for shard in some if found[shard] is None]
            for shard, chunk in zip(missing, self._each(column, missing), strict=True):
                found[shard] = chunk
                with self._lock:
                    while len(self._chunks) >= MOST_KEPT:
                        del self._chunks[next(iter(self._chunks))]
                    self._chunks[column.name, shard] = chunk
            yield from (chunk for chunk in found.values() if chunk is not None)

    def _each(self, column: Column, shards: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield chunks of a column, `at_once` of them fetched at one time."""
        if self._at_once == 1 or len(shards) < 2:
            yield from (self._chunk(column, shard) for shard in shards)
            return
        pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="viewstore-params")
        try:
            yield from pool.map(partial(self._chunk, column), shards)
        finally:
            pool.shutdown(cancel_futures=True)  # of an error, no more than what is under way

    def _chunk(self, column: Column, shard: int) -> NDArray[Any]:
        """Return a chunk; its checksum is computed once, when it is first touched."""
        if shard in self.absent:
            return column.empty(self.shard_rows)
        key = (column.name, shard)
        try:
            raw = self._read(column, shard)
            chunk = unpack_chunk(column, raw, self.shard_rows, checked=key in self._checked)
        except FormatError as error:
            if error.fix is not None:  # what reads a remote store has said all
                raise
            raise self._damaged(column, shard, error) from error
        with self._lock:
            self._checked.add(key)
        return chunk

    def _local(self, column: Column, shard: int) -> memoryview:
        path = self.root / column.name / chunk_key(column, shard)
        if not path.is_file():  # zarr would read fill here, without a word
            raise FormatError(f"chunk {shard} of column {column.name} is missing")
        with path.open("rb") as file:
            return file_bytes(file.fileno()).data

    def _damaged(self, column: Column, shard: int, error: FormatError) -> FormatError:
        """Return the error of a chunk of this machine, with its file, its shard and the repair."""
        view_set = self.root.parent
        return FormatError(
            f"column {column.name} of shard {shard} of {view_set.name}: {error}",
            code=error.code,
            where=str(self.root / column.name / chunk_key(column, shard)),
            why="the file was changed after it was written",
            fix=f"viewstore verify {quoted(view_set.parents[1])} --repair",
        )
