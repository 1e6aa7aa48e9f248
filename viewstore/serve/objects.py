"""What a store serves, and what HTTP answers to a request for it; nothing is opened here.

Names come from the records of a store. No text of a URL becomes a path: it is looked up. Answers
follow RFC 9110: `answer` judges the conditions of a request in the order of its section 13.2.2.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from viewstore.store.store import Store

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATED = "no-cache"
MEDIA_TYPES = {".json": "application/json", ".tar": "application/x-tar"}
OTHER_MEDIA_TYPE = "application/octet-stream"

TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
BEYOND = 1 << 63  # no file has so many bytes
DIGITS = len(str(BEYOND))


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A file that a store serves.

    Attributes:
        name: Below the address of the store: "views/w-search/000017-9f31c2d4a1b0e577.tar".
        size: In bytes.
        sha256: Of its bytes, in hex.
        immutable: Whether its name holds the digest, so that it never changes under it.
    """

    name: str
    size: int
    sha256: str
    immutable: bool

    @property
    def etag(self) -> str:
        """Its strong ETag: every replica of a store gives the same one."""
        return f'"sha256-{self.sha256}"'

    @property
    def cache_control(self) -> str:
        """How long others may keep it."""
        return IMMUTABLE if self.immutable else REVALIDATED

    @property
    def media_type(self) -> str:
        """What its bytes are."""
        return MEDIA_TYPES.get(self.name[self.name.rfind(".") :], OTHER_MEDIA_TYPE)

    @property
    def repr_digest(self) -> str:
        """Its sha256 as the header Repr-Digest of RFC 9530 says it."""
        return f"sha-256=:{base64.b64encode(bytes.fromhex(self.sha256)).decode()}:"


class Generation(Protocol):
    """One generation of a store: what it lists, and the bytes of it.

    Attributes:
        number: Of its manifest.
        store_id: Of its manifest.
        files: What it serves, by name.
    """

    number: int
    store_id: str
    files: Mapping[str, Listed]

    def body(self, listed: Listed, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield bytes [start, stop) of a file.

        Of an empty range, which HEAD asks for, nothing is yielded; a file that lies here is looked
        at all the same.

        Raises:
            FormatError: It is not the file that the records name; nothing was yielded.
            RemoteError: The origin did not give it.
            BusyError: It can be had a little later; nothing was yielded.
        """


class Served(Protocol):
    """A store that is served: `local` and `through` are two.

    Attributes:
        name: In addresses: the last part of its path or URL unless it was given one.
    """

    name: str

    async def generation(self, *, fresh: bool = False) -> Generation | None:
        """Return its newest generation; None: it has no manifest yet.

        `fresh`: The manifest itself is asked for, so look for a newer one now.

        Raises:
            ViewStoreError: Its records are damaged, or its origin does not answer.
        """

    def store(self) -> Store:
        """Return the store of the newest generation, opened, for its pages.

        Raises:
            ViewStoreError: There is none, or its records are damaged.
        """


class BusyError(Exception):
    """Too much is under way; the client is asked to come back in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"come back in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What HTTP answers.

    Attributes:
        status: Of the response.
        headers: Its headers; Content-Length is among them wherever there may be a body.
        text: Its body, where that says what went wrong.
        range: Bytes [start, stop) of the file that are its body; None: it is `text`.
    """

    status: int
    headers: Mapping[str, str]
    text: bytes = b""
    range: tuple[int, int] | None = None


def failure(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer whose body is one line that says what went wrong."""
    body = text.encode("utf-8", "backslashreplace").replace(b"\n", b" ") + b"\n"
    always = {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
        "cache-control": "no-store",
    }
    return Answer(status=status, headers={**always, **(headers or {})}, text=body)


def answer(method: str, headers: Mapping[str, str], listed: Listed | None) -> Answer:
    """Return the answer to GET or HEAD of a file.

    Args:
        method: Of the request.
        headers: Of the request, by lower-case name; values of a repeated one joined by commas.
        listed: What the name stands for; None: it is not listed.
    """
    if listed is None:
        return failure(404, "there is no such file")
    if "if-match" in headers and not _matches(headers["if-match"], listed.etag):
        return failure(412, "the file is another one now", {"etag": listed.etag})
    kept = {"etag": listed.etag, "cache-control": listed.cache_control}
    if "if-none-match" in headers and _matches(headers["if-none-match"], listed.etag, weak=True):
        return Answer(status=304, headers=kept)
    facts = {
        "content-type": listed.media_type,
        "accept-ranges": "bytes",
        "repr-digest": listed.repr_digest,
        **kept,
    }
    whole = (0, listed.size)
    wanted = None
    if method == "GET" and headers.get("if-range", listed.etag) == listed.etag:
        wanted = byte_range(headers.get("range", ""), listed.size)
    if wanted is None:
        length = {"content-length": str(listed.size)}
        return Answer(status=200, headers={**facts, **length}, range=whole)
    start, stop = wanted
    if start >= stop:
        return failure(
            416, "the range begins behind the end", {"content-range": f"bytes */{listed.size}"}
        )
    part = {
        "content-length": str(stop - start),
        "content-range": f"bytes {start}-{stop - 1}/{listed.size}",
    }
    return Answer(status=206, headers={**facts, **part}, range=wanted)


def byte_range(value: str, size: int) -> tuple[int, int] | None:
    """Return bytes [start, stop) that a Range header asks for of a file of `size` bytes.

    Returns:
        None: there is no Range, it names several ranges, or it is not well-formed; the whole file
        is sent. An empty range: none of what it names is in the file.
    """
    found = RANGE.fullmatch(value)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return max(0, size - _number(found[2])), size
    start = _number(found[1])
    last = _number(found[2]) if found[2] else BEYOND
    if last < start:
        return None
    return min(start, size), min(last + 1, size)


def view_sets(files: Iterable[str]) -> list[str]:
    """Return the names of the view sets of which files are listed."""
    return sorted(name.split("/")[1] for name in files if name.endswith("/plan.json"))


def _number(digits: str) -> int:
    """Return a number of any length, which `int` would refuse; what no file can have is BEYOND."""
    digits = digits.lstrip("0") or "0"
    return BEYOND if len(digits) >= DIGITS else int(digits)


def _matches(value: str, etag: str, *, weak: bool = False) -> bool:
    """Whether `*`, or one of the tags of a header, is ours; weak ones count if `weak`."""
    if value == "*":
        return True
    return any(tag == etag and (weak or not mark) for mark, tag in TAG.findall(value))
