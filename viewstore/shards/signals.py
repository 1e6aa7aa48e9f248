"""The signals by which a scheduler asks for a stop, and who hears them."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
IMPORT_SECONDS = 0.05  # until a signal that fell into an import is sent again
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
    """Signal handler: raise Stopped, once an import that is under way is over.

    If the stack is unwound for it already, do nothing: some senders signal the process and then
    its group, and the second must not break what cleans up.
    """
    if _unwinding():
        return
    if _importing(frame):
        signal.signal(signal.SIGALRM, _Again(number))
        signal.setitimer(signal.ITIMER_REAL, IMPORT_SECONDS)
        return
    raise Stopped(number)


def _unwinding() -> bool:
    handled = sys.exc_info()[1]
    while handled is not None and not isinstance(handled, Stopped):
        handled = handled.__context__
    return handled is not None


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is under way, which swallows or renames what is raised in places of it."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


@dataclass(frozen=True)
class _Again:
    """Handler of the alarm: send the signal once more, to whoever hears it now."""

    number: int

    def __call__(self, number: int, frame: FrameType | None) -> None:
        signal.raise_signal(self.number)


@contextlib.contextmanager
def heard_by(handler: Handler, *, then: signal.Handlers | None = None) -> Iterator[None]:
    """Let `handler` hear stop signals while the block runs, if this is the main thread.

    Afterwards `then` hears them, and none is sent again; None means who heard them before.
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
        if then is not None and isinstance(signal.getsignal(signal.SIGALRM), _Again):
            signal.setitimer(signal.ITIMER_REAL, 0)


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
