"""Hostile inputs made of valid ones, and what must hold for a reader of any of them."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import strategies as st

from viewstore.errors import ViewStoreError
from viewstore.format.records import canonical, digest_of

CPU_SECONDS = 10.0  # of one input, on any machine; a reader takes milliseconds
MEMORY_BYTES = 512 << 20  # an image of 64 million pixels is the most that a reader may hold
WORDS = (
    *(b"\0", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8, b"-1", b"1e999", b"NaN"),
    *(b"{", b"[" * 40, b'"\\ud800"', b"../", b"/", b"\x80\x02", b"7" * 11, b"9" * 14),
)

Read = Callable[[bytes, Path], object]
Inputs = st.SearchStrategy[bytes]


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a valid input that was flipped, cut, spliced, repeated or told other lengths."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(("flip", "word", "cut", "splice", "repeat", "drop", "length")))
        begin = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.sampled_from((1, 2, 4, 8, 16, 100, 512, 5000)))
        if kind == "flip" and data:
            data[begin] ^= draw(st.integers(1, 255))
        elif kind == "word":
            word = draw(st.sampled_from(WORDS))
            data[begin : begin + len(word) * draw(st.booleans())] = word
        elif kind == "cut":
            del data[begin:]
        elif kind == "splice":
            other = draw(st.sampled_from(seeds))
            start = draw(st.integers(0, max(0, len(other) - 1)))
            data[begin : begin + size] = other[start : start + size]
        elif kind == "repeat":
            data[begin:begin] = bytes(data[begin : begin + size]) * draw(st.integers(1, 50))
        elif kind == "drop":
            del data[begin : begin + size]
        elif kind == "length":
            order = draw(st.sampled_from(("little", "big")))
            width = draw(st.sampled_from((1, 2, 4, 8)))
            value = draw(st.integers(0, 2 ** (8 * width) - 1))
            data[begin : begin + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
    return bytes(data)


@dataclass(frozen=True)
class Reader:
    """A reader, the valid inputs that it must take, and hostile ones."""

    valid: Sequence[bytes]
    hostile: Inputs
    read: Read

    @classmethod
    def of(cls, valid: Sequence[bytes], read: Read, *more: Inputs) -> Reader:
        """Read mutations of `valid`, and `more` inputs."""
        return cls(valid, st.one_of(mutated(valid), *more), read)


def with_file(name: str, read: Callable[[Path], object]) -> Read:
    """Return what writes an input to a file of this name and reads that."""

    def read_file(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return read_file


@st.composite
def retarred(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a tar with changes in one header, whose checksum is right again, or in a payload."""
    data = bytearray(draw(st.sampled_from(seeds)))
    begin = 512 * draw(st.integers(0, min(40, len(data) // 512 - 1)))
    place = begin + draw(st.integers(0, 511))
    new = draw(st.one_of(st.binary(min_size=1, max_size=20), st.just(b"7" * 11)))
    data[place : place + len(new)] = new
    header = data[begin : begin + 512]
    header[148:156] = b" " * 8
    data[begin + 148 : begin + 156] = b"%06o\0 " % sum(header)
    return bytes(data)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from((2**31, 2**32, 2**53 - 1, -(2**53), 2**63, 2**64, 10**400)),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(("", "../x", "/etc/passwd", "\ud800", "\0", "a" * 5000, "1e999", "raw", "f4")),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=6,
)


@st.composite
def altered_records(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a valid record with other values in some places, sealed again where that can be."""
    value = json.loads(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        value = draw(_altered(value))
    if isinstance(value, dict) and "digest" in value:
        bare = {key: item for key, item in value.items() if key != "digest"}
        try:
            return canonical(bare | {"digest": digest_of(bare)})
        except (ValueError, RecursionError):  # an infinity has no canonical form
            pass
    text = json.dumps(value)
    return re.sub("-?Infinity", "1e999", text).encode("utf-8", "surrogatepass")


@st.composite
def _altered(draw: st.DrawFn, value: Any) -> Any:  # noqa: ANN401
    """Draw `value` with one part, at any depth, replaced, dropped, renamed or repeated."""
    path = draw(st.sampled_from(list(_paths(value))))
    if not path:
        return draw(VALUES)
    changed = json.loads(json.dumps(value))
    *above, last = path
    parent = changed
    for key in above:
        parent = parent[key]
    action = draw(st.sampled_from(("set", "set", "set", "drop", "more")))
    if action == "set":
        parent[last] = draw(VALUES)
    elif action == "more" and isinstance(parent, list):
        parent.insert(last, parent[last])
    else:
        kept = parent.pop(last)
        if action == "more":
            parent[draw(st.text(max_size=8))] = kept
    return changed


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
    """Yield the keys that lead to each part; of long lists only the first and last parts."""
    yield ()
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list):
        parts = [*enumerate(value[:2]), *((len(value) - 1, item) for item in value[2:][-1:])]
    for key, item in parts:
        yield from ((key, *below) for below in _paths(item))


@dataclass
class Guard:
    """Watches what a reader does while it reads one input.

    Attributes:
        folder: Where the input may be written.
        shared: Where the readers keep files that they overwrite with an input, and mend.
    """

    folder: Path
    shared: Path
    watching: bool = False
    deeds: list[str] | None = None

    def __post_init__(self) -> None:
        self.deeds = []
        sys.addaudithook(self._audit)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Fail unless the body stays within time and memory, and writes below `folder` alone."""
        self.deeds = []
        before = _status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        signal.signal(signal.SIGPROF, _out_of_time)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        self.watching = True
        try:
            yield
        finally:
            self.watching = False
            signal.setitimer(signal.ITIMER_PROF, 0)
        grown = _status_bytes("VmHWM") - before
        assert grown < MEMORY_BYTES, f"it took {grown >> 20} MiB"
        assert not self.deeds, f"it did {self.deeds}"

    @property
    def _allowed(self) -> tuple[str, ...]:
        return (str(self.folder), str(self.shared))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching or self.deeds is None:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str) and not path.startswith(self._allowed):
                self.deeds.append(f"open {path}")
        elif event in FORBIDDEN:
            self.deeds.append(f"{event} {arguments}")


FORBIDDEN = frozenset(
    (
        *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen"),
        *("pickle.find_class", "socket.connect"),
        *("shutil.rmtree", "os.rename", "os.remove", "os.mkdir", "os.link"),
    )
)


class OutOfTime(BaseException):
    """An input took too long; no reader may catch this."""


def _out_of_time(signal_number: int, frame: FrameType | None) -> None:
    raise OutOfTime(f"it took more than {CPU_SECONDS} s of CPU")


def _status_bytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) << 10


def check(read: Read, data: bytes, guard: Guard) -> bool:
    """Return whether `read` took an input; an error that is not ours, or a misdeed, is raised."""
    with guard.watch():
        try:
            read(data, guard.folder)
        except ViewStoreError as error:
            if "not enough memory" in str(error):
                raise MemoryError(str(error)) from error
            return False
    return True
