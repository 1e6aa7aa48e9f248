"""Raw views in memory: one contiguous array, from which batches are gathered row by row."""

from __future__ import annotations

import math
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, ViewStoreError
from viewstore.files.cache import Cache
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.host_file import HostFile
from viewstore.format.records import digest_of
from viewstore.loaders.pipeline.buffers import Buffer, pages
from viewstore.loaders.read.mirror import mirror_some
from viewstore.loaders.read.reader import CachedReader

# Of the machine's memory, for all view sets and all ranks of the host together.
MEMORY_SHARE = 0.25
LAYOUT = 1  # of a shared copy: raise it with each change of where its bytes lie
COPIED_AT_ONCE = 4 << 20  # a thread copies this much before it asks whether to go on

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Resident:
    """A copy of a raw view set, made a part at a time, of use once it is whole.

    A mirrored copy beside it makes a flip a choice of rows: it costs nothing then.
    """

    def __init__(
        self, reader: CachedReader, *, mirrored: bool, memory: Buffer | None = None
    ) -> None:
        """Prepare to copy what `reader` reads into `memory`, uint8 [num_bytes], or a new one."""
        views = reader.view_set
        self._reader = reader
        self._views = views.num_views
        self._count = len(views) * views.num_views
        self._shape = (len(views), views.num_views, *reader.shape)
        self.mirrored = mirrored
        self.num_bytes = resident_bytes(reader, mirrored=mirrored)
        self.ready = False
        memory = pages(self.num_bytes) if memory is None else memory
        self._flat = memory.reshape((1 + mirrored) * self._count, -1)
        self._next = 0

    def copy_some(self) -> bool:
        """Copy some more rows; return whether any are left.

        A damaged view ends the copying: it is read, and reported, from its shard.
        """
        if self._next >= self._shape[0] or self.ready:
            return False
        row_bytes = self._flat.shape[1] * self._views
        shard = self._reader.shard_of(self._next)
        begin = self._next
        end = min(shard.stop, begin + max(1, COPIED_AT_ONCE // row_bytes))
        try:
            stored = self._reader.stored(range(begin, end))
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
        """Fill the buffers of some slots, as CachedReader.read."""
        first = rows * self._views
        for slot, (buffer, flip) in enumerate(zip(out, flips, strict=True)):
            places = first + views[:, slot]
            if flip is not None and self.mirrored:
                places += flip * np.int64(self._count)
            # "clip", since "raise" would fill a copy of the buffer first.
            target = buffer.reshape(len(rows), self._flat.shape[1])
            np.take(self._flat, places, axis=0, out=target, mode="clip")
            if flip is not None and not self.mirrored:
                mirror_some(buffer, flip)

    def close(self) -> None:
        """Nothing to let go of: the memory ends with its last array."""


def resident_bytes(reader: CachedReader, *, mirrored: bool) -> int:
    """Return how much memory a copy of a view set takes."""
    size = len(reader.view_set) * reader.view_set.num_views * int(np.prod(reader.shape))
    return size * (1 + mirrored)


def machine_bytes() -> int:
    """Return the memory of this machine, or of the container that the process runs in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _CGROUP_LIMITS:
        limit = Path(name)
        if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
            found.append(int(text))
    return min(found)


def keep_resident(
    readers: Sequence[tuple[CachedReader, bool]], wanted: bool | Literal["auto"], *, ranks: int
) -> None:
    """Give readers a resident copy, in turn, while there is memory for it.

    Several ranks map one file in the cache; one alone has huge pages of its own, which are faster.

    Args:
        readers: What reads the view sets, and whether flips of its views are asked for.
        wanted: "auto" stays within the share of the memory; True does not, False copies none.
        ranks: Ranks on this host, which share the memory.

    Raises:
        ConfigError: `wanted` is True, and no view set can be copied.
    """
    if wanted is False:
        return
    room = machine_bytes() * MEMORY_SHARE if wanted == "auto" else math.inf
    room_alone = room / ranks
    for reader, flipped in readers:
        whole = reader.view_set.complete and reader.verify != "always"
        if reader.strided is None or not whole or not reader.mapped:
            continue
        if wanted == "auto" and not reader.at_hand:  # copying would wait for downloads
            continue
        alone = _mirrored_within(room_alone, reader, flipped=flipped)
        if alone is not None:
            room_alone -= resident_bytes(reader, mirrored=alone)
        if ranks == 1:
            reader.resident = None if alone is None else Resident(reader, mirrored=alone)
            continue
        shared = _mirrored_within(room, reader, flipped=flipped)
        if shared is not None:
            room -= resident_bytes(reader, mirrored=shared)
            reader.resident = _shared(reader, mirrored=shared, alone=alone)
    if wanted is True and all(reader.resident is None for reader, _ in readers):
        raise ConfigError(
            "resident=True needs a complete raw view set, and verify other than always",
            fix="pass resident='auto'",
        )


def _mirrored_within(room: float, reader: CachedReader, *, flipped: bool) -> bool | None:
    """Return whether a copy of at most `room` bytes is mirrored too; None: none is that small."""
    if resident_bytes(reader, mirrored=False) > room:
        return None
    return flipped and resident_bytes(reader, mirrored=True) <= room


def _shared(reader: CachedReader, *, mirrored: bool, alone: bool | None) -> SharedResident:
    """Return a copy shared by the ranks of this host; `alone` is one for want of it, if any."""
    views = reader.view_set
    cache = views.files.cache
    settings = CacheSettings.from_environment() if cache is None else cache.disk.settings
    blobs = {number: shard.blob.sha256 for number, shard in views.shards.items()}
    key = digest_of(
        {
            "layout": LAYOUT,
            "mirrored": mirrored,
            "plan": views.plan.id,
            "verify": reader.verify,  # a rank that checks what it reads takes nothing unchecked
            "views": [blobs[number] for number in sorted(blobs)],
        }
    )
    size = resident_bytes(reader, mirrored=mirrored)
    return SharedResident(
        HostFile(Cache(settings), key, size),
        over=lambda memory: Resident(reader, mirrored=mirrored, memory=memory),
        alone=None if alone is None else partial(Resident, reader, mirrored=alone),
    )


LOOK_SECONDS = 1.0  # until a file that another rank fills is looked for again
COPIES_A_SYNC = 16  # so that what is not on the disk yet delays the end by no more than that


class SharedResident:
    """This rank's part in a copy that the ranks of its host share; of use as `Resident` is.

    A rank that is killed while it fills the file is replaced by one that looks for it. The
    thread ends with `close`, with the last reference, and with the process.
    """

    def __init__(
        self,
        file: HostFile,
        over: Callable[[Buffer], Resident],
        alone: Callable[[], Resident] | None,
    ) -> None:
        """Begin nothing yet.

        Args:
            file: What is shared.
            over: Makes an empty copy over the bytes of the file.
            alone: Makes an empty copy in memory of this rank, for want of a file; None: there
                is not enough memory for one of each rank.
        """
        self.ready = False
        self._file = file
        self._over = over
        self._alone = alone
        self._copy: Resident | None = None
        self._steps = self._bring()
        ended = threading.Event()
        self._thread = threading.Thread(
            target=_advance, args=(weakref.ref(self), ended), name="viewstore-copy", daemon=True
        )
        self.close = weakref.finalize(self, _end, ended, self._thread, file)

    def copy_some(self) -> bool:
        """Begin to copy; nothing is left to do for who asks."""
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
        """Fill the buffers of some slots, as CachedReader.read; once it is ready."""
        assert self._copy is not None
        self._copy.gather(rows, views, out, flips)

    def advance(self) -> float | None:
        """Do a short part of the work; return the seconds until the next one, None at the end."""
        return next(self._steps, None)

    def _bring(self) -> Iterator[float]:
        try:
            yield from self._bring_file()
        except OSError as error:
            self._file.close()
            warnings.warn(
                f"cache {self._file.path.parents[1]} takes no copy that the ranks of this host "
                f"share, {'each makes its own' if self._alone else 'views stay in their shards'}: "
                f"{error.strerror}",
                stacklevel=2,
            )
            if self._alone is not None:
                copy = self._alone()
                while copy.copy_some():
                    yield 0.0
                self._use(copy)

    def _bring_file(self) -> Iterator[float]:
        while True:
            state = self._file.try_acquire()
            if state == "fill":
                copy = self._over(self._file.to_fill())
                parts = 0
                while copy.copy_some():
                    parts += 1
                    if parts % COPIES_A_SYNC == 0:
                        self._file.sync()
                    yield 0.0
                if not copy.ready:  # a view is damaged: it is read, and reported, from its shard
                    self._file.close()
                    return
                del copy  # what others read is not left open for writing
                state = self._file.publish()
            if state == "ready":
                copy = self._over(self._file.map())
                copy.ready = True
                self._use(copy)
                return
            yield LOOK_SECONDS

    def _use(self, copy: Resident) -> None:
        self._copy = copy
        self.ready = copy.ready


def _advance(owner: weakref.ref[SharedResident], ended: threading.Event) -> None:
    """Do the work of `owner` part by part, for as long as somebody holds it."""
    pause: float | None = 0.0
    while pause is not None and not ended.wait(pause):
        shared = owner()
        if shared is None:
            return
        pause = None
        with suppress(ViewStoreError):  # the batch that needs the views will raise the same
            pause = shared.advance()
        del shared


def _end(ended: threading.Event, thread: threading.Thread, file: HostFile) -> None:
    ended.set()
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join()
    file.close()
