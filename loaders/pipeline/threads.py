"""A fixed pool of daemon threads over one queue, on which a `Pipeline` makes batches."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

import cv2

Work = Callable[[], object]


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
        self.close = weakref.finalize(self, _join, self._queue, closed, threads)
        for thread in threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Append work to the queue. It must not raise; after `close` it is never run."""
        self._queue.put(work)


def _run(queue: SimpleQueue[Work | None], closed: threading.Event) -> None:
    # Our threads are the parallelism; OpenCV's own would only contend with them.
    cv2.setNumThreads(1)
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
