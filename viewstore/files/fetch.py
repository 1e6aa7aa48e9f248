"""Fetches objects below a URL, resuming where a connection broke, and counts what it received."""

from __future__ import annotations

import random
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from viewstore.errors import ConfigError, FormatError, RemoteError
from viewstore.files.credentials import no_credentials


@dataclass(eq=False)
class Traffic:
    """Counters of one opened store: shard cache hits and misses, bytes fetched. Thread-safe.

    Attributes:
        hits: Times a shard was opened that was in the cache. The first opening of a shard that
            was prefetched is no hit.
        misses: Times a shard was fetched whole.
        fetched_bytes: Bytes received, of any file, those of failed tries included.
    """

    hits: int = 0
    misses: int = 0
    fetched_bytes: int = 0
    _prefetched: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_bytes(self, size: int) -> None:
        """Count bytes from the network."""
        with self._lock:
            self.fetched_bytes += size

    def prefetching(self, sha256: str) -> None:
        """Note that a shard is about to be fetched before it is opened."""
        with self._lock:
            self._prefetched.add(sha256)

    def prefetched(self, sha256: str, *, fetched: bool) -> None:
        """Count a prefetched shard; unless `fetched`, another process had brought it."""
        with self._lock:
            self.misses += fetched
            if not fetched:
                self._prefetched.discard(sha256)

    def opened(self, sha256: str, *, fetched: bool) -> None:
        """Count a shard that is opened to be read."""
        with self._lock:
            self.misses += fetched
            self.hits += not fetched and sha256 not in self._prefetched
            self._prefetched.discard(sha256)


QUIET_SECONDS = 5.0  # without a byte, after which it is said that nothing comes
PROGRESS_BYTES = 1 << 20  # a try that brought so much was no failure
STATUS = re.compile(r"status code: (\d{3})")
ASKED = re.compile(r"status code: (?:429|503)\b[^:]*: retry-after: (\d{1,9})\s*$")
LONGEST_ASKED_SECONDS = 30.0  # of one wait that a server asks for
ASKED_SECONDS = 600.0  # of all such waits in a row


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often and how long a fetch is tried.

    Attributes:
        tries: Connections in a row that brought nothing.
        total_seconds: Seconds without a byte, over all tries.
        first_seconds, longest_seconds: The longest wait before the second try; it doubles up to
            the other. Each wait is drawn evenly between 0 and that (full jitter).
        stall_seconds: A connection without a byte for so long has failed.
        hash_tries: Downloads of a file whose hash is wrong each time.
    """

    tries: int = 10
    total_seconds: float = 180.0
    first_seconds: float = 0.1
    longest_seconds: float = 30.0
    stall_seconds: float = 30.0
    hash_tries: int = 3

    def __post_init__(self) -> None:
        if self.tries < 1 or self.hash_tries < 1:
            raise ConfigError("retry tries and hash_tries must be at least 1")
        if min(self.total_seconds, self.first_seconds, self.longest_seconds) < 0:
            raise ConfigError("retry seconds must not be negative")
        if self.stall_seconds <= 0:
            raise ConfigError(f"retry stall_seconds must be above 0, got {self.stall_seconds}")

    def longest_wait(self, failures: int) -> float:
        """Return the longest wait after so many failures in a row, in seconds."""
        return float(min(self.longest_seconds, self.first_seconds * 2 ** (failures - 1)))


@dataclass(frozen=True)
class Answer:
    """A response: size in bytes and ETag of the whole object, and the requested bytes."""

    size: int
    etag: str | None
    chunks: Iterator[bytes]


class Failed(Exception):
    """One try failed; another may be made.

    Attributes:
        most: Failures of this kind after which no other try is made; None leaves it to Retry.
        missing: Whether the server answered that there is no such object.
        asked: Seconds that the server, which is well, asks to wait; None: it does not.
    """

    def __init__(
        self,
        cause: str,
        *,
        most: int | None = None,
        missing: bool = False,
        asked: int | None = None,
    ) -> None:
        super().__init__(cause)
        self.most = most
        self.missing = missing
        self.asked = asked


class CannotCreate(Exception):
    """The server has no request that gives a name only if it is free."""


class Changed(FormatError):
    """The object became another one while it was read."""


class Transport(Protocol):
    """Makes requests, each once; `ObstoreTransport` and `FsspecTransport` are two."""

    def get(self, name: str, start: int, stop: int | None, etag: str | None) -> Answer:
        """Request bytes [start, stop) of an object, to the end if `stop` is None.

        Chunks may be cut anywhere, and raise Failed where the connection breaks.

        Raises:
            Failed: No answer, an error, or one without the length of its body.
            Changed: The object is not `etag` any more.
        """


def missing(cause: str) -> Failed:
    """Return the failure of an object that is not there; it is tried twice, as stores may lag."""
    return Failed(cause, most=2, missing=True)


def failed_status(status: int, cause: str) -> Failed:
    """Return the failure that an HTTP status stands for.

    A client of ours sees no header, but the first line of the body after the status: a server
    that wants to be asked again later writes `retry-after: SECONDS` there.
    """
    if status == 404:
        return missing(cause)
    asked = ASKED.search(cause)
    if asked is not None:
        return Failed(cause, asked=int(asked[1]))
    return Failed(cause, most=None if _may_pass(status) else 1)


def failed_role(status: int | None, cause: str) -> Failed:
    """Return the failure of a machine that was asked for the credentials of its role.

    Most machines have none, and nothing answers there: it is tried twice.
    """
    return Failed(cause, most=None if status is not None and _may_pass(status) else 2)


def _may_pass(status: int) -> bool:
    return status >= 500 or status in (408, 429)


@dataclass
class Patience:
    """What one fetch has borne since bytes came.

    Attributes:
        retry: How much it bears.
        failures: Tries that failed.
        alike: The same by their `most`, over all of the fetch.
        asked: Seconds of the waits that the server asked for.
        clock: Gives the time in seconds; it never goes back.
        began: When it began, on the clock; those waits move it on.
    """

    retry: Retry
    failures: int = 0
    alike: Counter[int | None] = field(default_factory=Counter)
    asked: float = 0.0
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def silent(self) -> float:
        """Seconds without a byte, but those that the server asked to wait."""
        return self.clock() - self.began

    def renew(self) -> None:
        """Note that bytes came."""
        self.failures, self.asked, self.began = 0, 0.0, self.clock()

    def wait(self, failure: Failed, uniform: Callable[[], float]) -> float | None:
        """Return the seconds to wait after a failure; None: no other try is made.

        A wait that the server asks for is no failed try and no silence.
        """
        if failure.asked is not None:
            wait = min(failure.asked, LONGEST_ASKED_SECONDS) + uniform()
            self.asked += wait
            self.began += wait
            return wait if self.asked <= ASKED_SECONDS else None
        self.failures += 1
        self.alike[failure.most] += 1
        if failure.most is not None and self.alike[failure.most] >= failure.most:
            return None
        if self.failures >= self.retry.tries:
            return None
        wait = uniform() * self.retry.longest_wait(self.failures)
        return wait if self.silent + wait <= self.retry.total_seconds else None


@dataclass
class Fetcher:
    """Streams objects below a URL, continuing where a connection broke.

    Attributes:
        url: Of the store, for messages.
        transport: Makes the connections.
        retry: How often and how long it tries.
        traffic: Counts the bytes received.
        sleep, uniform, clock: Waits for seconds, draws from [0, 1), and gives the time in seconds;
            tests replace them.
        told: Whether it said that the server does not answer, which it says once.
    """

    url: str
    transport: Transport
    retry: Retry
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[], float] = field(default=random.random)
    clock: Callable[[], float] = time.monotonic
    traffic: Traffic = field(default_factory=Traffic)
    told: bool = False

    def where(self, name: str) -> str:
        """Return the URL of an object."""
        return f"{self.url}/{name}"

    def stream(
        self,
        name: str,
        start: int = 0,
        stop: int | None = None,
        *,
        limit: int | None = None,
        whole: int | None = None,
        optional: bool = False,
    ) -> Iterator[bytes]:
        """Yield bytes [start, stop) of an object, each once, over as many tries as it takes.

        Args:
            name: Name below the URL.
            start: First byte.
            stop: End; None is that of the object.
            limit: Refuse an object that is longer.
            whole: Refuse an object that has not so many bytes in all.
            optional: Believe at once that there is none.

        Raises:
            FileNotFoundError: There is none, after two tries unless it is optional.
            RemoteError: The server did not give it within the limits.
            FormatError: It has another size, or it changed while it was read.
        """
        if start == stop:
            return
        offset, etag = start, None
        patience = Patience(self.retry, clock=self.clock)
        while True:
            try:
                answer = self.transport.get(name, offset, stop, etag)
                size, etag = answer.size, answer.etag
                if limit is not None and size > limit:
                    raise FormatError(f"file must be at most {limit} bytes, got {size}")
                if whole is not None and size != whole:
                    raise FormatError(f"file must have {whole} bytes, got {size}")
                end = size if stop is None else stop
                if end > size:
                    raise FormatError(f"file must have {end} bytes at least, got {size}")
                reached = offset
                for chunk in answer.chunks:
                    offset += len(chunk)
                    self.traffic.add_bytes(len(chunk))
                    if offset > end:
                        raise Failed(f"{offset - end} bytes more than its length", most=1)
                    yield chunk
                    if offset - reached >= PROGRESS_BYTES:
                        reached = offset
                        patience.renew()
                if offset == end:
                    return
                raise Failed(f"body ended {end - offset} bytes early")
            except Failed as failure:
                if optional and failure.missing:
                    raise FileNotFoundError(self.where(name)) from failure
                if not self.waited(failure, patience):
                    raise self._gave_up(name, failure, patience) from failure

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of an object. Raises as `stream`."""
        return b"".join(self.stream(name, start, stop))

    def waited(self, failure: Failed, patience: Patience) -> bool:
        """Wait after a failure until the next try; false: no other is made.

        It is said once, as a warning, that nothing comes.
        """
        wait = patience.wait(failure, self.uniform)
        if wait is None:
            return False
        if failure.asked is None:
            wait -= self._wait_quietly(wait, patience)
        self.sleep(wait)
        return True

    def _wait_quietly(self, seconds: float, patience: Patience) -> float:
        """Say once that nothing comes, as soon as that is so for QUIET_SECONDS.

        Returns:
            The part of `seconds`, a wait that is due, that went by until then.
        """
        left = QUIET_SECONDS - patience.silent
        if self.told or left > seconds:
            return 0.0
        if left > 0:
            self.sleep(left)
        self.told = True
        total = self.retry.total_seconds
        warnings.warn(
            f"{self.url} does not answer, trying again for up to {total:g} s", stacklevel=2
        )
        return max(0.0, left)

    def _gave_up(self, name: str, failure: Failed, patience: Patience) -> Exception:
        if failure.missing and patience.alike[failure.most] == failure.most:
            return FileNotFoundError(self.where(name))
        unknown = no_credentials(self.url, str(failure))
        if unknown is not None:
            return unknown
        tried = "tried once" if patience.failures == 1 else f"tried {patience.failures} times"
        if failure.asked is not None:
            tried = f"asked to wait {patience.asked:.0f} s in all"
        return RemoteError(
            f"remote store did not give {name}, {tried}: {failure}",
            where=self.where(name),
            why=str(failure),
            fix="check the address, the credentials and the network, and run it again",
        )
