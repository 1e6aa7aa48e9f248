"""Lists the opcodes of a pickle without executing any, and checks which, how many and how long."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass


class Malformed(Exception):
    """A rule of the file format is broken; `read` turns it into a CheckpointError."""

    def __init__(self, reason: str, *, fix: str | None = None) -> None:
        super().__init__(reason)
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a file may ask for before it is refused.

    Attributes:
        file_bytes: Size of the file.
        opcodes: Pickle opcodes, those of the storages inside it included.
        tensors: Tensors of all networks of the file.
        module_depth: Modules within modules; a cycle ends here.
        resolution: Greatest side of the images, in pixels.
        dimension: Greatest axis of a tensor that is used.
    """

    file_bytes: int = 2 << 30
    opcodes: int = 5_000_000
    tensors: int = 20_000
    module_depth: int = 16
    resolution: int = 1024
    dimension: int = 16_384


class Budget:
    """What is left of the limits while one file is read, nested pickles included.

    Attributes:
        limits: The limits it started from.
    """

    def __init__(self, limits: Limits, file_bytes: int) -> None:
        self.limits = limits
        self._opcodes = 0
        self._tensors = 0
        # Two copies of everything: a protocol 2 file holds its bytes as text, decoded once, and
        # half-precision weights double. What a file lists many times must not be copied as often.
        self._copies_left = 2 * file_bytes

    def take_opcode(self, position: int) -> None:
        """Account for an opcode at byte `position`. Raises Malformed: it is one too many."""
        self._opcodes += 1
        if self._opcodes > self.limits.opcodes:
            refusal = over_limit("opcodes", self.limits.opcodes)
            raise Malformed(f"{refusal} at byte {position}", fix=refusal.fix)

    def take_tensor(self) -> None:
        """Account for a tensor or module. Raises Malformed: it is one too many."""
        self._tensors += 1
        if self._tensors > self.limits.tensors:
            raise over_limit("tensors", self.limits.tensors)

    def take_copy(self, num_bytes: int) -> None:
        """Account for bytes to be copied out of the file. Raises Malformed: they are too many."""
        self._copies_left -= num_bytes
        if self._copies_left < 0:
            raise Malformed("its tensors hold more than twice the bytes of the file")


def over_limit(name: str, limit: int) -> Malformed:
    """Return the refusal of more than `limit` of what the option `name` of Limits counts."""
    return Malformed(
        f"it is over the limit {name}={limit}",
        fix=f"if you trust where the file comes from, raise Limits.{name}",
    )


def scan(
    stream: io.BytesIO, budget: Budget, *, allowed: frozenset[str]
) -> Iterator[tuple[str, object, int]]:
    """Yield (opcode, argument, byte offset) of one pickle; `stream` is left behind its STOP.

    Raises:
        Malformed: an opcode that is not `allowed`, protocol below 2, a length beyond the end.
    """
    size = _size(stream)
    for count, (name, argument, position) in enumerate(_opcodes(stream)):
        budget.take_opcode(position)
        if name not in allowed:
            raise Malformed(f"opcode {name} at byte {position} is not allowed")
        if (name == "PROTO") != (count == 0):
            raise Malformed(f"a pickle of protocol 2 to 5 was expected at byte {position}")
        if isinstance(argument, int):
            _check_number(name, argument, position, count=count + 1, left=size - stream.tell())
        yield name, argument, position


def _size(stream: io.BytesIO) -> int:
    position = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(position)
    return size


def _opcodes(stream: io.BytesIO) -> Iterator[tuple[str, object, int]]:
    start = stream.tell()
    position = start
    try:
        for opcode, argument, offset in pickletools.genops(stream):
            position = start if offset is None else offset
            yield opcode.name, argument, position
    except Exception as error:  # pickletools raises whatever its decoders raise
        raise Malformed(f"the pickle is cut short or corrupt after byte {position}") from error


def _check_number(name: str, number: int, position: int, *, count: int, left: int) -> None:
    if name == "PROTO" and not 2 <= number <= 5:
        raise Malformed(f"pickle protocol must be 2 to 5, got {number} at byte {position}")
    if name == "FRAME" and number > left:
        raise Malformed(f"the frame at byte {position} ends behind the end of the file")
    if name in ("BINPUT", "LONG_BINPUT") and number > count:
        # CPython's unpickler allocates a table of this length for one such opcode.
        raise Malformed(f"memo index {number} at byte {position} exceeds the number of opcodes")
    if name == "LONG1" and number.bit_length() > 127:
        raise Malformed(f"the integer at byte {position} is longer than 16 bytes")
