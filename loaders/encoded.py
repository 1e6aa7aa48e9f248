"""Encoded views: each a member of its own, decoded straight into the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2

from viewstore.errors import ConfigError, FormatError
from viewstore.loaders.buffers import Buffer
from viewstore.loaders.stored import Damage, Flips, Rows, StoredViews


class EncodedViews(StoredViews):
    """Fills buffers with views that a codec packed."""

    def _decode(
        self,
        number: int,
        rows: Rows,
        views: Rows,
        places: Rows,
        out: Sequence[Buffer],
        flips: Flips,
        damaged: Damage,
    ) -> None:
        mine = rows[places]
        file = self._opened(number, mine, views[places], places, damaged)
        if file is None:
            return
        members = self._members(mine, views[places])
        begins, sizes = members["offset"].tolist(), members["size"].tolist()
        for i, place in enumerate(places.tolist()):
            if place not in damaged:
                payloads = map(file.payload, begins[i], sizes[i])
                self._decode_row(int(mine[i]), views, place, payloads, out, flips, damaged)

    def _decode_row(
        self,
        row: int,
        views: Rows,
        place: int,
        payloads: Iterable[memoryview | bytes],
        out: Sequence[Buffer],
        flips: Flips,
        damaged: Damage,
    ) -> None:
        """Decode the views of one place in the batch, each of a payload of its own."""
        decode = self.view_set.codec.decode
        for slot, (buffer, flip, payload) in enumerate(zip(out, flips, payloads, strict=True)):
            target = buffer[place]
            try:
                pixels = decode(payload, into=target)
                if pixels.shape == self.shape:
                    if flip is not None and flip[place]:  # while the view is still in the cache
                        cv2.flip(target, 1, dst=target)
                    continue
                what = f"has the size {pixels.shape}"
            except (FormatError, ConfigError) as error:
                what = str(error)
            number, view = row // self.view_set.plan.shard_rows, int(views[place, slot])
            damaged[place] = self._corrupt(number, row, view, what)
            return

    read = _decode
    unpack = _decode_row
