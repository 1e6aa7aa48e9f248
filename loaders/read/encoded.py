"""Encoded views: each is a member of its own, decoded straight into the batch."""

from __future__ import annotations

import time

import cv2

from viewstore.errors import FormatError
from viewstore.files.crc_checks import Verify
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.shards import OpenShards, ShardFile
from viewstore.loaders.read.stored import Payloads, StoredViews, ViewRequest
from viewstore.store.view_set import ViewSet


class EncodedViews(StoredViews):
    """Fills buffers with views that a codec packed."""

    def __init__(self, view_set: ViewSet, shards: OpenShards, *, verify: Verify) -> None:
        super().__init__(view_set, shards, verify=verify)
        self._decode = view_set.codec.view_decoder(self.shape).decode

    def read(self, request: ViewRequest, indices: Rows) -> None:
        rows, views = request.rows[indices], request.views[indices]
        files = self._open(request, indices, views)
        members = self._members(rows, views)
        begins, sizes = members["offset"].tolist(), members["size"].tolist()
        shard_rows = self.view_set.plan.shard_rows
        for i, (index, row) in enumerate(zip(indices.tolist(), rows.tolist(), strict=True)):
            if index not in request.damaged:
                number = row // shard_rows
                self._unpack_from(files[number], request, index, begins[i], sizes[i])
                if index in request.damaged and self._mends(request, index, files, number):
                    self._unpack_from(files[number], request, index, begins[i], sizes[i])

    def _unpack_from(
        self,
        file: ShardFile,
        request: ViewRequest,
        index: int,
        begins: list[int],
        sizes: list[int],
    ) -> None:
        began = time.perf_counter()
        payloads = list(map(file.payload, begins, sizes))
        request.fetch_seconds += time.perf_counter() - began
        self.unpack(request, index, payloads)

    def _mends(
        self, request: ViewRequest, index: int, files: dict[int, ShardFile], number: int
    ) -> bool:
        """Whether a sample that did not decode can be read anew, from a shard fetched again."""
        try:
            if not self._renew(files, number):
                return False
        except FormatError as error:
            request.damaged[index] = error
            return False
        del request.damaged[index]
        return True

    def unpack(self, request: ViewRequest, index: int, payloads: Payloads) -> None:
        slots = zip(request.out, request.flips, payloads, strict=True)
        for slot, (buffer, flip, payload) in enumerate(slots):
            target = buffer[index]
            try:
                self._decode(payload, target)
            except FormatError as error:
                row, view = int(request.rows[index]), int(request.views[index, slot])
                request.damaged[index] = self._corrupt(row, view, str(error))
                return
            if flip is not None and flip[index]:  # while the view is still in the cache
                cv2.flip(target, 1, dst=target)
