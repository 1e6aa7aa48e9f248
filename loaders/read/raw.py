"""Raw views: the views of a row are one array, and rows lie at a fixed stride in their shard."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.files.crc_checks import Verify
from viewstore.format.tar import NPY_BYTES, Strided, pack_npy_header, strided_layout
from viewstore.loaders.pipeline.buffers import Buffer
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.mirror import LARGE_VIEW_BYTES
from viewstore.loaders.read.shards import OpenShards, ShardFile
from viewstore.loaders.read.stored import Payloads, StoredViews, ViewRequest, by_shard
from viewstore.store.view_set import ViewSet


class RawCopy(Protocol):
    """A copy of raw views in memory, read once it is complete: `Resident`, or `SharedResident`."""

    @property
    def ready(self) -> bool:
        """Whether it is complete."""

    def copy_some(self) -> bool:
        """Copy some more rows; return whether any are left."""

    def gather(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Sequence[NDArray[np.bool_] | None],
    ) -> None:
        """Fill the buffers of some slots, as `ViewSetReader.read` does."""

    def close(self) -> object:
        """Release the memory."""


class RawViews(StoredViews):
    """Gathers views from maps of their shards, or by a read call for each."""

    def __init__(
        self, view_set: ViewSet, shards: OpenShards, strided: Strided, *, verify: Verify
    ) -> None:
        """Prepare to gather. Raises FormatError: index and plan disagree about where views lie."""
        super().__init__(view_set, shards, verify=verify)
        self._strided = strided
        self._check_layout()

    def read(self, request: ViewRequest, indices: Rows) -> None:
        rows = request.rows[indices]
        files = self._open(request, indices, np.zeros((len(rows), 1), np.int64))
        for number, some in by_shard(self.view_set, rows):
            if number in files:
                self._gather(files[number], number, request, indices[some])

    def _gather(self, file: ShardFile, number: int, request: ViewRequest, indices: Rows) -> None:
        local = request.rows[indices] - self.view_set.plan.shard_range(number).start
        if not file.mapped:
            began = time.perf_counter()
            for slot, buffer in enumerate(request.out):
                starts = self._strided.offset + local * self._strided.stride
                starts = starts + request.views[indices, slot] * math.prod(self.shape)
                for index, start in zip(indices.tolist(), starts.tolist(), strict=True):
                    file.read_into(buffer[index], start)
            request.fetch_seconds += time.perf_counter() - began
            return
        grid = file.grid(self._strided)
        for slot, buffer in enumerate(request.out):
            views = request.views[indices, slot]
            if math.prod(self.shape) < LARGE_VIEW_BYTES:
                # Fancy indexing copies the rows; np.take would first copy the whole shard.
                buffer[indices] = grid[local, views]
                continue
            triples = zip(indices.tolist(), local.tolist(), views.tolist(), strict=True)
            for index, row, view in triples:
                buffer[index] = grid[row, view]

    def unpack(self, request: ViewRequest, index: int, payloads: Payloads) -> None:
        slots = zip(request.out, request.views[index].tolist(), payloads, strict=True)
        for buffer, view, payload in slots:
            pixels = np.frombuffer(payload, np.uint8, offset=NPY_BYTES)
            buffer[index] = pixels.reshape(self._strided.shape)[view]

    def shard_views(self, rows: range) -> Buffer:
        """Return views of rows of one shard, uint8 [rows, V, H, W, C], checked, not copied.

        Raises:
            FormatError: The shard is missing or of another length, or a CRC does not match.
        """
        number = rows.start // self.view_set.plan.shard_rows
        files = {number: self._shards.open(number)}
        numbers = np.arange(rows.start, rows.stop)
        found = self._check(files, numbers, np.zeros((len(rows), 1), np.int64))
        if found:
            raise found[min(found)]
        first = self.view_set.plan.shard_range(number).start
        return files[number].grid(self._strided)[rows.start - first : rows.stop - first]

    def _check_layout(self) -> None:
        """Raise FormatError unless the index places raw views where the plan says they lie.

        The gather reads without a bound, so a wrong offset must be refused here.
        """
        strided, plan = self._strided, self.view_set.plan
        shape = (self.view_set.num_views, *self.shape)
        size = len(pack_npy_header(repr("|u1"), shape)) + math.prod(shape)
        if strided != strided_layout(plan.members, plan.json_bytes, shape):
            raise FormatError(f"index of {plan.view_set} must place arrays of {shape} as its plan")
        views = self.view_set.members[:, self._columns[0]]
        for number, shard in self.view_set.shards.items():
            mine = views[shard.rows.start : shard.rows.stop]
            first = strided.offset - NPY_BYTES
            wanted = first + strided.stride * np.arange(len(shard.rows))
            fits = wanted[-1] + size <= shard.blob.bytes
            if not fits or (mine["offset"] != wanted).any() or (mine["size"] != size).any():
                raise FormatError(
                    f"index of {plan.view_set} does not place shard {number} as its plan does",
                    fix=self.view_set.finalise,
                )
