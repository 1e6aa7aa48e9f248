"""A fixed pool of daemon threads over one queue, on which a `Pipeline` makes batches."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

import cv2

Work = Callable[[], object]


class OneOpenCVThread:
    """Keeps OpenCV to one thread while pools of ours are at work: they are the parallelism.

    That is a setting of the process. The last pool to end puts back what was there before the
    first one, unless somebody else has changed it meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a pool may be collected within `begin`
        self._pools = self._before = 0

    def begin(self) -> None:
        """Note that a pool begins."""
        with self._lock:
            if not self._pools:
                self._before = cv2.getNumThreads()
                cv2.setNumThreads(1)
            self._pools += 1

    def end(self) -> None:
        """Note that a pool that began has ended."""
        with self._lock:
            self._pools -= 1
            if not self._pools and cv2.getNumThreads() == 1:
                cv2.setNumThreads(self._before)


ONE_OPENCV_THREAD = OneOpenCVThread()


class ThreadPool:
    """A fixed pool of daemon threads over one FIFO queue.

    The threads are joined on close, on garbage collection and at exit. They are daemons, so that
    an interrupt while they start cannot keep the process from ending.

    Attributes:
        size: Number of threads.
        close: Joins the threads; what waits in the queue is dropped. `close.alive` is False
            after that.
    """

    def __init__(self, size: int, name: str) -> None:
        """Start `size` threads, named `name`-0, `name`-1, ..."""
        self.size = size
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        closed = threading.Event()
        threads = [
            threading.Thread(
                target=_run, args=(self._queue, closed), name=f"{name}-{number}", daemon=True
            )
            for number in range(size)
        ]
        ONE_OPENCV_THREAD.begin()
        self.close = weakref.finalize(self, _join, self._queue, closed, threads)
        for thread in threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Append work to the queue. It must not raise; after `close` it is never run."""
        self._queue.put(work)


def _run(queue: SimpleQueue[Work | None], closed: threading.Event) -> None:
    while (work := queue.get()) is not None and not closed.is_set():
        work()
        del work  # while this thread waits, it must not keep a batch alive


def _join(
    queue: SimpleQueue[Work | None], closed: threading.Event, threads: list[threading.Thread]
) -> None:
    closed.set()
    for _ in threads:
        queue.put(None)
    for thread in threads:
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join()
    ONE_OPENCV_THREAD.end()
