"""Copies of raw view sets in memory, of one process or shared by the ranks of a host.

A copy is one contiguous array, from which batches are gathered row by row.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError, ViewStoreError
from viewstore.files.host_file import HostFile
from viewstore.loaders.pipeline.buffers import Buffer, allocate
from viewstore.loaders.read.mirror import mirror_some
from viewstore.loaders.read.raw import RawViews
from viewstore.loaders.read.set_reader import ViewSetReader

COPIED_AT_ONCE = 4 << 20  # bytes a thread copies before it checks whether to go on


class Resident:
    """A copy of a raw view set, made a part at a time, and read once it is complete.

    With a mirrored copy beside it a flip is a choice of rows, which costs nothing.

    Attributes:
        mirrored: Whether there is a mirrored copy.
        num_bytes: Its size.
        ready: Whether it is complete.
    """

    def __init__(
        self, reader: ViewSetReader | RawViews, *, mirrored: bool, memory: Buffer | None = None
    ) -> None:
        """Prepare to copy what `reader` reads into `memory`, uint8 [num_bytes]; None: new."""
        views = reader.view_set
        # Not the reader of a view set, which holds this.
        self._raw = reader if isinstance(reader, RawViews) else reader.raw
        self._views = views.num_views
        self._count = len(views) * views.num_views
        self._shape = (len(views), views.num_views, *reader.shape)
        self.mirrored = mirrored
        self.num_bytes = resident_bytes(reader, mirrored=mirrored)
        self.ready = False
        memory = allocate(self.num_bytes) if memory is None else memory
        self._flat = memory.reshape((1 + mirrored) * self._count, -1)
        self._next = 0

    def copy_some(self) -> bool:
        """Copy some more rows; return whether any are left.

        A damaged view ends the copying: batches are read from the shards then, and report it.
        """
        if self._next >= self._shape[0] or self.ready:
            return False
        row_bytes = self._flat.shape[1] * self._views
        begin = self._next
        plan = self._raw.view_set.plan
        shard = plan.shard_range(begin // plan.shard_rows)
        end = min(shard.stop, begin + max(1, COPIED_AT_ONCE // row_bytes))
        try:
            stored = self._raw.shard_views(range(begin, end))
        except FormatError:
            self._next = self._shape[0]
            return False
        first, last = begin * self._views, end * self._views
        self._flat[first:last].reshape(stored.shape)[...] = stored
        if self.mirrored:
            _, _, _, width, channels = self._shape
            lines = self._flat[first:last].reshape(-1, width, channels)
            copy = self._flat[self._count + first : self._count + last]
            cv2.flip(lines, 1, dst=copy.reshape(lines.shape))
        self._next = end
        self.ready = end == self._shape[0]
        return not self.ready

    def gather(
        self,
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        out: Sequence[Buffer],
        flips: Sequence[NDArray[np.bool_] | None],
    ) -> None:
        """Fill the buffers of some slots, as ViewSetReader.read; only once it is ready."""
        first = rows * self._views
        for slot, (buffer, flip) in enumerate(zip(out, flips, strict=True)):
            indices = first + views[:, slot]
            if flip is not None and self.mirrored:
                indices += flip * np.int64(self._count)
            # "clip", since "raise" would fill a copy of the buffer first.
            target = buffer.reshape(len(rows), self._flat.shape[1])
            np.take(self._flat, indices, axis=0, out=target, mode="clip")
            if flip is not None and not self.mirrored:
                mirror_some(buffer, flip)

    def close(self) -> None:
        """Do nothing: the memory is released with the last array on it."""


def resident_bytes(reader: ViewSetReader | RawViews, *, mirrored: bool) -> int:
    """Return how many bytes a copy of a view set takes."""
    size = len(reader.view_set) * reader.view_set.num_views * int(np.prod(reader.shape))
    return size * (1 + mirrored)


LOOK_SECONDS = 1.0  # until a rank checks again for the file that another one fills
COPIES_PER_SYNC = 16  # so that little is left to sync at the end


class SharedResident:
    """A `Resident` over a file that the ranks of a host share; one of them fills it.

    A thread of each rank fills the file or waits for it, and takes over from a rank that was
    killed. The thread ends with `close`, with the last reference, and with the process.

    Attributes:
        ready: Whether the copy is complete.
        close: Ends the thread and closes the file.
    """

    def __init__(
        self,
        file: HostFile,
        over: Callable[[Buffer], Resident],
        alone: Callable[[], Resident] | None,
    ) -> None:
        """Do nothing yet; `copy_some` starts the thread.

        Args:
            file: The file that is shared.
            over: Makes an empty copy over the bytes of the file.
            alone: Makes an empty copy in memory of this rank, where the file cannot be made;
                None: there is not enough memory for a copy of each rank.
        """
        self.ready = False
        self._copy: Resident | None = None
        self._steps = _copying(file, over, alone)
        ended = threading.Event()
        self._thread = threading.Thread(
            target=_advance, args=(weakref.ref(self), ended), name="viewstore-copy", daemon=True
        )
        self.close = weakref.finalize(self, _join, ended, self._thread, file)

    def copy_some(self) -> bool:
        """Start the thread that copies; return False: the caller has nothing left to do."""
        if self._thread.ident is None:
            self._thread.start()
        return False

    def gather(
        self,
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        out: Sequence[Buffer],
        flips: Sequence[NDArray[np.bool_] | None],
    ) -> None:
        """Fill the buffers of some slots, as ViewSetReader.read; only once it is ready."""
        assert self._copy is not None
        self._copy.gather(rows, views, out, flips)

    def advance(self) -> float | None:
        """Do a short part of the work; return the seconds until the next, None at the end."""
        found = next(self._steps, None)
        if not isinstance(found, Resident):
            return found
        self._copy = found
        self.ready = found.ready
        return None


def _copying(
    file: HostFile,
    over: Callable[[Buffer], Resident],
    alone: Callable[[], Resident] | None,
) -> Iterator[float | Resident]:
    """Yield the seconds until the next part of the work, and at last the copy, if there is one."""
    try:
        yield from _copying_in_file(file, over)
    except OSError as error:
        file.close()
        warnings.warn(
            f"cache {file.path.parents[1]} takes no copy that the ranks of this host "
            f"share, {'each makes its own' if alone else 'views stay in their shards'}: "
            f"{error.strerror}",
            stacklevel=2,
        )
        if alone is not None:
            copy = alone()
            while copy.copy_some():
                yield 0.0
            yield copy


def _copying_in_file(
    file: HostFile, over: Callable[[Buffer], Resident]
) -> Iterator[float | Resident]:
    while True:
        state = file.try_acquire()
        if state == "fill":
            copy = over(file.to_fill())
            parts = 0
            while copy.copy_some():
                parts += 1
                if parts % COPIES_PER_SYNC == 0:
                    file.sync()
                yield 0.0
            if not copy.ready:  # a view is damaged: batches are read from shards, and report it
                file.close()
                return
            del copy  # a published file must not stay mapped for writing
            state = file.publish()
        if state == "ready":
            copy = over(file.map())
            copy.ready = True
            yield copy
            return
        yield LOOK_SECONDS


def _advance(owner: weakref.ref[SharedResident], ended: threading.Event) -> None:
    """Call `owner.advance` until it is done, for as long as somebody holds `owner`."""
    pause: float | None = 0.0
    while pause is not None and not ended.wait(pause):
        shared = owner()
        if shared is None:
            return
        pause = None
        with suppress(ViewStoreError):  # the batch that needs the views will raise the same
            pause = shared.advance()
        del shared


def _join(ended: threading.Event, thread: threading.Thread, file: HostFile) -> None:
    ended.set()
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join()
    file.close()
