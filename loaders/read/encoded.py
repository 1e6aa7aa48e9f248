"""Encoded views: each a member of its own, decoded straight into the batch."""

from __future__ import annotations

import time

import cv2

from viewstore.errors import FormatError
from viewstore.files.crc_checks import Verify
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.shards import OpenShards
from viewstore.loaders.read.stored import Asked, Payloads, StoredViews
from viewstore.store.view_set import ViewSet


class EncodedViews(StoredViews):
    """Fills buffers with views that a codec packed."""

    def __init__(self, view_set: ViewSet, opened: OpenShards, *, verify: Verify) -> None:
        super().__init__(view_set, opened, verify=verify)
        self._decode = view_set.codec.view_decoder(self.shape).decode

    def read(self, asked: Asked, places: Rows) -> None:
        mine, shown = asked.rows[places], asked.views[places]
        files = self._opened(asked, places, shown)
        members = self._members(mine, shown)
        begins, sizes = members["offset"].tolist(), members["size"].tolist()
        shard_rows = self.view_set.plan.shard_rows
        for i, (place, row) in enumerate(zip(places.tolist(), mine.tolist(), strict=True)):
            if place not in asked.damaged:
                began = time.perf_counter()
                payloads = list(map(files[row // shard_rows].payload, begins[i], sizes[i]))
                asked.fetch_seconds += time.perf_counter() - began
                self.unpack(asked, place, payloads)

    def unpack(self, asked: Asked, place: int, payloads: Payloads) -> None:
        slots = zip(asked.out, asked.flips, payloads, strict=True)
        for slot, (buffer, flip, payload) in enumerate(slots):
            target = buffer[place]
            try:
                self._decode(payload, target)
            except FormatError as error:
                row, view = int(asked.rows[place]), int(asked.views[place, slot])
                asked.damaged[place] = self._corrupt(row, view, str(error))
                return
            if flip is not None and flip[place]:  # while the view is still in the cache
                cv2.flip(target, 1, dst=target)
