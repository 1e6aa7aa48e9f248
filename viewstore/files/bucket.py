"""A bucket that is written to: objects put, put if absent, listed and removed, with retries.

Nothing in a bucket is renamed or appended to, and an object is there whole or not at all. What
one of several writers got is decided by `put_if_absent` alone.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, RemoteError
from viewstore.files.credentials import no_credentials
from viewstore.files.fetch import CannotCreate, Changed, Failed, Fetcher, Patience, Retry
from viewstore.files.maps import map_file
from viewstore.files.transport import ObstoreTransport, connect_bucket

Answered = TypeVar("Answered")
Body = bytes | NDArray[np.uint8]

KEPT = "every committed shard is kept"
NO_BUCKET = "make the bucket first, or check its name, its region and AWS_ENDPOINT_URL"
PROBES = "tmp"  # the folder of what is written only to see what comes of it


@dataclass(frozen=True)
class Bucket:
    """The objects below a URL of S3, Google Cloud Storage or Azure; can be sent to a process.

    Attributes:
        url: Without a slash at its end.
        retry: How often and how long each request is tried.
        single_writer: The user says that nobody else writes: a name is looked up before it is
            given, which is enough then.
    """

    url: str
    retry: Retry = field(default_factory=Retry)
    single_writer: bool = False

    def __reduce__(self) -> tuple[object, ...]:
        return (Bucket, (self.url, self.retry, self.single_writer))

    @cached_property
    def _transport(self) -> ObstoreTransport:
        return connect_bucket(self.url, self.retry)

    @cached_property
    def _fetcher(self) -> Fetcher:
        return Fetcher(self.url, self._transport, self.retry)

    def get(
        self, name: str, limit: int, is_whole: Callable[[bytes], bool] = lambda data: True
    ) -> bytes:
        """Return the bytes of an object; they are fetched again while they are not whole.

        What does not become whole by that is returned as it is: its reader says what is wrong.

        Raises:
            FileNotFoundError: There is none.
            FormatError: It has more than `limit` bytes.
            RemoteError: The bucket did not give it.
        """

        def whole() -> bytes:
            try:
                return b"".join(self._fetcher.stream(name, limit=limit, optional=True))
            except Changed as error:  # another writer replaced it meanwhile
                raise Failed(str(error)) from error

        data = self._tried(name, whole)
        for _ in range(1, self.retry.hash_tries):
            if is_whole(data):
                break
            data = self._tried(name, whole)
        return data

    def put(self, name: str, data: bytes | Path) -> None:
        """Give an object its content, whatever it had. Raises RemoteError."""
        body = _body(data)
        self._tried(name, lambda: self._transport.put(name, body, create=False))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Give a new object its content; false if the name is taken by other bytes.

        That the name is taken is not yet the answer: a request whose answer was lost gave the
        name to these very bytes.

        Raises:
            RemoteError: The bucket did not answer; the object may be there or not.
            ConfigError: It cannot create objects, only replace them.
        """

        def create() -> bool:
            if not self.single_writer and self._transport.put(name, data, create=True):
                return True
            try:
                return self.get(name, len(data)) == data
            except FormatError:  # it is longer
                return False
            except FileNotFoundError as error:
                if not self.single_writer:  # another request was under way, or it was removed
                    raise Failed("the name was taken, and then it was free") from error
                return self._transport.put(name, data, create=False)

        try:
            return self._tried(name, create)
        except CannotCreate as error:
            raise ignores_conditions(self.url, str(error)) from error

    def ages(self) -> dict[str, float]:
        """Return the seconds since each object was written, on the bucket's clock.

        Raises:
            RemoteError: The bucket did not answer.
        """
        clock = f"{PROBES}/clock-{uuid.uuid4().hex}"
        self.put(clock, b"")

        def listing() -> dict[str, tuple[int, float]]:
            found = self._all_pages("")
            if clock not in found:
                raise Failed("it does not list what was just written")
            return found

        listed = self._tried("", listing)
        self.remove(clock)
        _, now = listed.pop(clock)
        return {name: now - written for name, (_, written) in listed.items()}

    def listed(self, prefix: str = "") -> dict[str, tuple[int, float]]:
        """Return bytes, and seconds since 1970 when it was written, of all objects below a folder.

        Raises:
            RemoteError: The bucket did not answer.
        """
        return self._tried(prefix, lambda: self._all_pages(prefix))

    def first(self, is_wanted: Callable[[str], bool]) -> str | None:
        """Return the first name that is wanted, in their order, or None; no more pages are listed.

        An object without bytes has none: it may stand for a folder, as consoles make them.

        Raises:
            RemoteError: The bucket did not answer.
        """

        def found() -> str | None:
            names = (name for name, size, _ in self._transport.listed("") if size)
            return next(filter(is_wanted, names), None)

        return self._tried("", found)

    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none. Raises RemoteError."""
        return self._tried(name, lambda: self._transport.size(name))

    def copy(self, name: str, to: str) -> bool:
        """Give the bytes of an object to another name; false if there is none.

        Raises:
            RemoteError: The bucket did not answer.
        """
        return self._tried(name, lambda: self._transport.copy(name, to))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there. Raises RemoteError."""
        self._tried(name, lambda: self._transport.remove(name))

    def check_conditional(self) -> None:
        """Raise ConfigError unless a name can be given once only: of two creates one must fail."""
        if self.single_writer:
            return
        name = f"{PROBES}/probe-{uuid.uuid4().hex}"
        self.put_if_absent(name, b"first")
        try:
            if self.put_if_absent(name, b"second"):
                raise ignores_conditions(self.url, "it gave one name to two objects")
        finally:
            self.remove(name)

    def _all_pages(self, prefix: str) -> dict[str, tuple[int, float]]:
        """Return what `listed` does. Raises Failed."""
        return {name: (size, at) for name, size, at in self._transport.listed(prefix)}

    def _tried(self, name: str, request: Callable[[], Answered]) -> Answered:
        """Return the answer to a request, over as many tries as it takes.

        Raises:
            RemoteError: The bucket did not answer within the limits, or refused it.
        """
        patience = Patience(self.retry)
        while True:
            try:
                return request()
            except Failed as failure:
                if not self._fetcher.waited(failure, patience):
                    raise self._gave_up(name, failure, patience) from failure

    def _gave_up(self, name: str, failure: Failed, patience: Patience) -> RemoteError:
        where = self._fetcher.where(name) if name else self.url
        if failure.missing:  # of a request that writes or lists
            return RemoteError(
                f"there is no bucket at {self.url}", where=where, why=str(failure), fix=NO_BUCKET
            )
        unknown = no_credentials(self.url, str(failure))
        if unknown is not None:
            return unknown
        kept = KEPT if name.startswith("views/") else None
        if failure.most == 1:  # it is believed at once
            return RemoteError(
                f"the bucket refused the request: {failure}",
                where=where,
                why=kept,
                fix="check the credentials, which may have expired, and what they allow there; "
                "then run it again",
            )
        tried = "tried once" if patience.failures == 1 else f"tried {patience.failures} times"
        return RemoteError(
            f"the bucket did not answer, {tried}: {failure}",
            where=where,
            why=kept,
            fix="check the address, the credentials and the network, and run it again",
        )


def ignores_conditions(url: str, found: str) -> ConfigError:
    """Return the error of a bucket in which two writers would overwrite each other's records."""
    return ConfigError(
        "this bucket does not keep a second writer from replacing an object",
        where=url,
        why=f"asked to create one only if its name is free, {found}",
        fix="run the same command with --single-writer, and no other that writes there meanwhile",
    )


def _body(data: bytes | Path) -> Body:
    """Return what is sent: the pages of a file, which take no memory of their own."""
    if isinstance(data, bytes):
        return data
    descriptor = os.open(data, os.O_RDONLY)
    try:
        return map_file(descriptor)
    finally:
        os.close(descriptor)
