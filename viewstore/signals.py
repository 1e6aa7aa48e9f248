"""The signals by which a scheduler asks for a stop, and who hears them."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
Handler = Callable[[int, FrameType | None], object]


class Stopped(BaseException):
    """A stop signal was heard.

    No Exception, as KeyboardInterrupt is none: what handles errors must not take it for an
    image that cannot be read or for a fault of a store.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """Signal handler: raise Stopped, unless the stack is unwound for it already.

    Some senders signal the process and then its group: the second must not break what cleans up.
    """
    handled = sys.exc_info()[1]
    while handled is not None:
        if isinstance(handled, Stopped):
            return
        handled = handled.__context__
    raise Stopped(number)


@contextlib.contextmanager
def heard_by(handler: Handler, *, then: signal.Handlers | None = None) -> Iterator[None]:
    """Let `handler` hear stop signals while the block runs, if this is the main thread.

    Afterwards `then` hears them; None means who did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, handler)
        yield
    finally:
        for number, earlier in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, earlier if then is None else then)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold stop signals back while the block runs; a process that starts in it never hears them.

    A signal to the whole group then spares a worker that is still starting, and the resource
    tracker of multiprocessing, without which the parent ends in a heap of tracebacks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
