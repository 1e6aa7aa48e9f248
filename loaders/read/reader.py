"""Reads the view sets that slots show, one alone or several that are mixed, as one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.loaders.pipeline.buffers import Buffer
from viewstore.loaders.plan.mixed import SET_COLUMN, ViewSetGroup
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.read.one_set import SetReader
from viewstore.loaders.read.stored import Damage, Flips

ViewValues = Callable[[SetReader, Rows, Rows], NDArray[Any]]


class CachedReader:
    """Reads the views of a group of view sets, by the numbers that the group gives them.

    A single set is read without any copy in between. Safe to call from several threads.

    Attributes:
        group: The view sets.
        parts: What reads each of them.
        shape: Height, width and channels of a view.
    """

    def __init__(self, group: ViewSetGroup, parts: Sequence[SetReader]) -> None:
        """Read each set of `group` with its part."""
        self.group = group
        self.parts = tuple(parts)
        self.shape = self.parts[0].shape
        self._single = self.parts[0] if len(self.parts) == 1 else None

    def read(
        self,
        rows: Rows,
        views: Rows,
        out: Sequence[Buffer],
        flips: Flips | None = None,
        damaged: Damage | None = None,
    ) -> None:
        """Fill the buffers of some slots; arguments and errors are those of SetReader.read."""
        if self._single is not None:
            self._single.read(rows, views, out, flips, damaged)
            return
        copy_seconds = 0.0
        mirrored = np.zeros(views.shape, np.bool_)
        for slot, flip in enumerate(flips or ()):
            if flip is not None:
                mirrored[:, slot] = flip
        for part, indices, slots, local in self._by_set(views):
            pixels = np.empty((len(indices), *part.shape), np.uint8)
            found: Damage | None = None if damaged is None else {}
            flip = mirrored[indices, slots] if flips else None
            part.read(rows[indices], local, [pixels], [flip], found)
            began = time.perf_counter()
            for slot, buffer in enumerate(out):
                mine = slots == slot
                buffer[indices[mine]] = pixels[mine]
            copy_seconds += time.perf_counter() - began
            if damaged is not None and found:
                damaged.update({int(indices[i]): error for i, error in found.items()})
        self.parts[0].clock.add(copy_seconds=copy_seconds)

    def announce(self, rows: Rows, views: Rows) -> None:
        """Have the operating system load what `read` will touch; same `rows` and `views`."""
        if self._single is not None:
            self._single.announce(rows, views)
            return
        for part, indices, _, local in self._by_set(views):
            part.announce(rows[indices], local)

    def params(self, name: str, rows: Rows, views: Rows) -> NDArray[Any]:
        """Return a column for each row and slot, [B, n, ...]; [B, ...] unless `per_view`.

        A set that lacks the column gives its fill value.
        """
        if self.group.mixed and name == SET_COLUMN:
            return self._set_numbers(views).astype(np.uint8)
        if self._single is not None:
            return self._single.params(name, rows, views)
        form = self.group.form(name)
        values = form.empty(views.size).reshape(*views.shape, *form.shape)
        for part, indices, slots, local in self._by_set(views):
            if name in part.view_set.params:
                found = part.params(name, rows[indices], local)
                values[indices, slots] = found[:, 0] if part.per_view(name) else found
        return values

    def in_memory(self, name: str) -> bool:
        """Whether a column is small enough to be in memory, in every set that has it."""
        having = (part for part in self.parts if name in part.view_set.params)
        return all(part.in_memory(name) for part in having)

    def per_view(self, name: str) -> bool:
        """Whether `params` returns an entry for each view, not one for the sample.

        It does for every column of several sets: the rows of a batch are of all of them.
        """
        if self._single is None or (self.group.mixed and name == SET_COLUMN):
            return True
        return self._single.per_view(name)

    def constant(self, name: str, value: int) -> bool:
        """Whether a column of integers is known to have one value everywhere, or is not there."""
        return all(part.constant(name, value) for part in self.parts)

    @property
    def copies_rows(self) -> bool:
        """Whether a batch is copied from one array: raw views of a single set."""
        return self._single is not None and self._single.strided is not None

    def by_view(self, views: Rows, values: ViewValues) -> NDArray[Any]:
        """Return what `values`(part, indices, views of the part) gives for `views` [B], [B, ...].

        It is called once for each set, with the indices of its views in `views`.
        """
        if self._single is not None:
            return values(self._single, np.arange(len(views)), views)
        parts = [
            (indices, values(part, indices, local[:, 0]))
            for part, indices, _, local in self._by_set(views[:, None])
        ]
        found = np.empty((len(views), *parts[0][1].shape[1:]), parts[0][1].dtype)
        for indices, mine in parts:
            found[indices] = mine
        return found

    def own_numbers(self, views: Rows) -> Rows:
        """Return the numbers that views have in their own sets."""
        if self._single is not None:
            return views
        return views - self.group.starts[self._set_numbers(views)]

    def _set_numbers(self, views: Rows) -> Rows:
        return np.asarray(np.searchsorted(self.group.starts, views, side="right") - 1)

    def _by_set(self, views: Rows) -> list[tuple[SetReader, Rows, Rows, Rows]]:
        """Return each part with the indices and slots of its views, [k], and their numbers, [k, 1].

        `views` is [B, n].
        """
        numbers = self._set_numbers(views)
        found = []
        for number, part in enumerate(self.parts):
            indices, slots = np.nonzero(numbers == number)
            local = views[indices, slots] - self.group.starts[number]
            found.append((part, indices, slots, local[:, None]))
        return found

    def close(self) -> None:
        """Close what is open."""
        for part in self.parts:
            part.close()
