"""Threads that do what they are given, in order, and end with the one who hired them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

import cv2

Work = Callable[[], object]


class Crew:
    """Some threads and one queue.

    They are daemons, so that an interrupt while they begin cannot keep the process from ending;
    closing, garbage collection and the end of the process join them.
    """

    def __init__(self, count: int, name: str) -> None:
        self.size = count
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        ended = threading.Event()
        threads = [
            threading.Thread(
                target=_labour, args=(self._queue, ended), name=f"{name}-{number}", daemon=True
            )
            for number in range(count)
        ]
        self.close = weakref.finalize(self, _end, self._queue, ended, threads)
        for thread in threads:
            thread.start()

    def do(self, work: Work) -> None:
        """Put work behind what waits. It must not raise; once closed it is never done."""
        self._queue.put(work)


def _labour(queue: SimpleQueue[Work | None], ended: threading.Event) -> None:
    # Our threads are the parallelism; OpenCV's own would only contend with them.
    cv2.setNumThreads(1)
    while (work := queue.get()) is not None and not ended.is_set():
        work()
        del work  # while this thread waits, it must not keep a batch alive


def _end(
    queue: SimpleQueue[Work | None], ended: threading.Event, threads: list[threading.Thread]
) -> None:
    ended.set()
    for _ in threads:
        queue.put(None)
    for thread in threads:
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join()
