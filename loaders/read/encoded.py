"""Encoded views: each is a member of its own, decoded straight into the batch."""

from __future__ import annotations

import time

import cv2

from viewstore.errors import FormatError
from viewstore.files.crc_checks import Verify
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.shards import OpenShards
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
                began = time.perf_counter()
                payloads = list(map(files[row // shard_rows].payload, begins[i], sizes[i]))
                request.fetch_seconds += time.perf_counter() - began
                self.unpack(request, index, payloads)

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
