"""Encoded views: each a member of its own, decoded straight into the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2

from viewstore.crc_checks import Verify
from viewstore.errors import FormatError
from viewstore.loaders.buffers import Buffer
from viewstore.loaders.opened import OpenShards
from viewstore.loaders.stored import Damage, Flips, Rows, StoredViews
from viewstore.view_decoder import ViewDecoder
from viewstore.view_set import ViewSet


class EncodedViews(StoredViews):
    """Fills buffers with views that a codec packed."""

    def __init__(self, view_set: ViewSet, opened: OpenShards, *, verify: Verify) -> None:
        super().__init__(view_set, opened, verify=verify)
        self._decode = ViewDecoder(view_set.codec, self.shape).decode

    def read(
        self,
        rows: Rows,
        views: Rows,
        places: Rows,
        out: Sequence[Buffer],
        flips: Flips,
        damaged: Damage,
    ) -> None:
        mine, shown = rows[places], views[places]
        files = self._opened(mine, shown, places, damaged)
        members = self._members(mine, shown)
        begins, sizes = members["offset"].tolist(), members["size"].tolist()
        shard_rows = self.view_set.plan.shard_rows
        for i, (place, row) in enumerate(zip(places.tolist(), mine.tolist(), strict=True)):
            if place not in damaged:
                payloads = map(files[row // shard_rows].payload, begins[i], sizes[i])
                self.unpack(row, views, place, payloads, out, flips, damaged)

    def unpack(
        self,
        row: int,
        views: Rows,
        place: int,
        payloads: Iterable[memoryview | bytes],
        out: Sequence[Buffer],
        flips: Flips,
        damaged: Damage,
    ) -> None:
        for slot, (buffer, flip, payload) in enumerate(zip(out, flips, payloads, strict=True)):
            target = buffer[place]
            try:
                self._decode(payload, target)
            except FormatError as error:
                damaged[place] = self._corrupt(row, int(views[place, slot]), str(error))
                return
            if flip is not None and flip[place]:  # while the view is still in the cache
                cv2.flip(target, 1, dst=target)
