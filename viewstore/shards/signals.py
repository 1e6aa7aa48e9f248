"""Stop signals: SIGTERM and SIGUSR1, by which a scheduler asks a process to end soon.

While a command runs, its handler is `RaiseOnce`: the first signal ends whatever it does. While an
executor runs shards, the handler is `StopRequest.request`: a flag that workers check per sample.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from viewstore.errors import StoppedError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
AGAIN_SECONDS = 0.05  # until a signal that arrived at a bad moment is sent again
Handler = Callable[[int, FrameType | None], object]


class Stopped(BaseException):
    """A stop signal arrived.

    No Exception, as KeyboardInterrupt is none: what handles errors must not take it for an
    image that cannot be read or for a fault of a store.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class RaiseOnce:
    """Signal handler that raises Stopped at the first signal, and ignores all later ones.

    Some senders signal the process and then its group: the second signal must not break what
    cleans up after the first. A signal that arrives within an import is sent again a little
    later, because imports swallow or rename what is raised in some places of them. So is one that
    Python could not pass on, as it arrived while an object was deleted: see `unraisable`.

    Attributes:
        raised: Whether Stopped was raised.
        other: The hook for all else that Python cannot raise.
    """

    raised: bool = False
    other: Callable[[sys.UnraisableHookArgs], object] = field(
        default_factory=lambda: sys.unraisablehook
    )

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            return
        if _importing(frame):
            _send_again(number)
            return
        self.raised = True
        raise Stopped(number)

    def unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """Send a stop signal or an interrupt that was lost again; `sys.unraisablehook`."""
        if isinstance(lost.exc_value, Stopped):
            self.raised = False
            _send_again(lost.exc_value.number)
        elif isinstance(lost.exc_value, KeyboardInterrupt):
            _send_again(signal.SIGINT)
        else:
            self.other(lost)


def _send_again(number: int) -> None:
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)


def _importing(frame: FrameType | None) -> bool:
    """Return whether `frame` runs within an import."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


class StopRequest:
    """A flag with a deadline: no new shard begins, running ones may go on until the deadline.

    Attributes:
        grace_seconds: Time from the first signal to the deadline.
        deadline: On the clock of time.monotonic(), in seconds; 0 while nothing was requested.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.deadline = 0.0

    @property
    def requested(self) -> bool:
        return self.deadline > 0

    def request(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Request a stop; a signal handler. Repeats do not move the deadline."""
        self.deadline = self.deadline or time.monotonic() + self.grace_seconds

    def request_now(self) -> None:
        """Request a stop without grace, or end the one that was given."""
        self.deadline = min(self.deadline or math.inf, time.monotonic())

    def is_over_by(self, seconds: float) -> bool:
        """Whether the deadline passed so long ago."""
        return self.requested and time.monotonic() >= self.deadline + seconds

    def check(self) -> None:
        """Raise StoppedError if the deadline has passed."""
        check_deadline(self.deadline)


def check_deadline(deadline: float) -> None:
    """Raise StoppedError if `deadline` (0: none; else seconds of time.monotonic()) has passed."""
    if deadline and time.monotonic() > deadline:
        raise stopped_on_request()


def stopped_on_request() -> StoppedError:
    """Return the error of work that ended early because of a StopRequest."""
    return StoppedError(
        "stopped on request",
        why="every committed shard is kept; the unfinished one was dropped",
        fix="run the same command again",
    )


@contextlib.contextmanager
def stop_signals_to(handler: Handler, *, then: signal.Handlers | None = None) -> Iterator[None]:
    """Send stop signals to `handler` while the block runs, if this is the main thread.

    Afterwards they go to the handlers from before; or to `then`, and none is sent again.
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
        if then is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def stop_signals_raise(*, then: signal.Handlers | None = None) -> Iterator[None]:
    """Raise Stopped at the first stop signal while the block runs, if this is the main thread.

    Afterwards all is as before; or stop signals go to `then`, and none is sent again.
    """
    handler = RaiseOnce()
    sys.unraisablehook = handler.unraisable
    try:
        with stop_signals_to(handler, then=then):
            yield
    finally:
        sys.unraisablehook = handler.other


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Block stop signals while the block runs; a process that starts in it inherits that.

    A signal to the whole group then spares a worker that is still starting, and the resource
    tracker of multiprocessing, without which the parent ends in a heap of tracebacks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
