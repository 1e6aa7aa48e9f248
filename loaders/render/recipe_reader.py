"""Reads recipe sets: views are rendered from the images, or the views, that they start from."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from viewstore.images.policies import Drawn
from viewstore.loaders.pipeline.buffers import Buffer, Scratch
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.plan.slots import RecordedSlot
from viewstore.loaders.read.mirror import mirror_some
from viewstore.loaders.read.one_set import SetReader
from viewstore.loaders.read.stored import Damage, Flips
from viewstore.loaders.render.online import SourceImages, by_sample
from viewstore.store.view_set import ViewSet


class RecipeReader(SetReader):
    """Renders views of one recipe set into buffers. Safe to call from several threads.

    Attributes:
        parent: Reads the view set that its views start from; None: they start from source images.
    """

    def __init__(
        self,
        view_set: ViewSet,
        images: SourceImages,
        parent: SetReader | None,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Render `view_set` from `images`, or from what `parent` reads."""
        super().__init__(view_set, clock)
        self._images = images
        self.parent = parent
        self._slot = RecordedSlot.of(-1, view_set)
        self._scratch = Scratch()

    def read(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Flips | None = None,
        damaged: Damage | None = None,
    ) -> None:
        """Render views into the buffers of some slots, as `SetReader.read` says."""
        if not len(rows):
            return
        params, made = self.view_set.rendering.params(rows, views)
        for column, buffer in enumerate(out):
            drawn = {name: values[:, column] for name, values in params.items()}
            self._render(rows, drawn, made[:, column], buffer, damaged)
        for buffer, flip in zip(out, flips or [None] * len(out), strict=True):
            if flip is not None:
                mirror_some(buffer, flip)

    def _render(
        self, rows: Rows, drawn: Drawn, made: NDArray[np.bool_], out: Buffer, damaged: Damage | None
    ) -> None:
        if self.parent is None:
            self._images.render([self._slot], rows, [drawn], [out], damaged, made=[made])
            return
        starts = self._scratch.take(len(rows), self.parent.shape)
        numbers = np.maximum(drawn["parent"], 0).astype(np.int64)[:, None]
        self.parent.read(rows, numbers, [starts], None, damaged)
        render_recorded(self._slot, drawn, made, starts, out, self.clock)

    def close(self) -> None:
        """Close what its parent's reader has open."""
        if self.parent is not None:
            self.parent.close()


def render_recorded(
    slot: RecordedSlot,
    drawn: Drawn,
    made: NDArray[np.bool_],
    starts: Buffer,
    out: Buffer,
    clock: Clock,
) -> None:
    """Render views from the views that they start from, uint8 [B, h, w, 3].

    Args:
        slot: What renders them.
        drawn: Their params, [B, ...].
        made: Which of them were made, [B]; the others become black.
        starts: What each starts from, uint8 [B, H, W, 3].
        out: Takes them.
        clock: Takes the seconds.
    """
    began = time.perf_counter()
    for i, one in enumerate(by_sample(drawn)):
        if made[i]:
            slot.policy.render(starts[i], one, slot.size, slot.filter, out[i])
        else:
            out[i] = 0
    clock.add(render_seconds=time.perf_counter() - began)
