"""Raw views in one file that all ranks of a host map: filled by one of them, in a thread beside.

No rank waits for it: until the file is whole each reads shards, and looks from time to time.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ViewStoreError
from viewstore.host_file import HostFile
from viewstore.loaders.buffers import Buffer

if TYPE_CHECKING:
    from viewstore.loaders.resident import Resident

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
            state = self._file.look()
            if state == "ours":
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
            if state == "whole":
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
