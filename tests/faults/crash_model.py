"""What a power cut may leave of recorded file-system operations: a model, not a file system.

Data is durable once its file was synced, a name once its directory was. Whatever was not, a crash
keeps, loses or tears, in any combination: stricter than ext4, which is what POSIX promises.
"""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

import pytest

KINDS = (
    *("create", "write", "sync", "link", "rename", "unlink", "mkdir", "sync_directory"),
    "mark",  # somebody was told of something that must survive
)
DIRECTORY = -1  # what a name of a directory leads to
Tree = Mapping[str, bytes | None]  # contents by path; None is a directory


@dataclass(frozen=True)
class Op:
    """One operation of one of KINDS. `site`: the functions that called it, innermost first."""

    kind: str
    name: str = ""
    file: int = DIRECTORY
    data: bytes = b""
    old: str = ""
    site: str = ""


@dataclass
class Recorder:
    """Records what happens below `root`, while it happens.

    Attributes:
        stop_before: Raise Killed before this operation, as a killed process would end there.
    """

    root: Path
    ops: list[Op] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    descriptors: dict[int, str | int] = field(default_factory=dict)
    stop_before: int | None = None

    def mark(self, label: str) -> None:
        """Note that somebody was told of something that must now survive."""
        self.ops.append(Op("mark", label))

    def add(self, op: Op) -> None:
        if self.stop_before is not None and len(self.ops) >= self.stop_before:
            raise Killed
        self.ops.append(op)

    def below(self, path: Any) -> str | None:  # noqa: ANN401
        whole = Path(path)
        return whole.relative_to(self.root).as_posix() if whole.is_relative_to(self.root) else None

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Record the calls of the operating system by which Python changes a file system."""
        real = {
            name: getattr(os, name)
            for name in ("open", "close", "write", "fdopen", "fsync", "link", "rename", "unlink")
        } | {"mkdir": os.mkdir}

        def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:  # noqa: ANN401
            name = self.below(path) if isinstance(path, str | os.PathLike) else None
            fresh = name is not None and flags & os.O_CREAT and not Path(path).exists()
            if name is not None and fresh:
                self.add(Op("create", name, file=len(self.ops)))
                self.names[name] = len(self.ops) - 1
            descriptor: int = real["open"](path, flags, *rest, **named)
            if name is not None:
                self.descriptors[descriptor] = self.names.get(name, name)
            return descriptor

        def closed(descriptor: int) -> None:
            self.descriptors.pop(descriptor, None)
            real["close"](descriptor)

        def written(descriptor: int, data: Any) -> int:  # noqa: ANN401
            file = self.descriptors.get(descriptor)
            if isinstance(file, int):
                self.add(Op("write", file=file, data=bytes(data)))
            count: int = real["write"](descriptor, data)
            return count

        def streamed(descriptor: int, *rest: Any, **named: Any) -> Any:  # noqa: ANN401
            if isinstance(self.descriptors.get(descriptor), int):
                return io.BufferedWriter(Raw(descriptor, written, closed))
            return real["fdopen"](descriptor, *rest, **named)

        def synced(descriptor: int) -> None:
            what = self.descriptors.get(descriptor)
            if isinstance(what, int):
                self.add(Op("sync", file=what, site=site()))
            elif what is not None:
                self.add(Op("sync_directory", what, site=site()))

        def linked(source: Any, target: Any) -> None:  # noqa: ANN401
            old, new = self.below(source), self.below(target)
            if old is not None and new is not None and not Path(target).exists():
                self.add(Op("link", new, file=self.names[old]))
                self.names[new] = self.names[old]
            real["link"](source, target)

        def renamed(source: Any, target: Any) -> None:  # noqa: ANN401
            old, new = self.below(source), self.below(target)
            if old is not None and new is not None:
                self.add(Op("rename", new, file=self.names[old], old=old))
                self.names[new] = self.names.pop(old)
            real["rename"](source, target)

        def unlinked(path: Any) -> None:  # noqa: ANN401
            name = self.below(path)
            if name is not None and Path(path).exists():
                self.add(Op("unlink", name))
                self.names.pop(name, None)
            real["unlink"](path)

        def made(path: Any, *rest: Any) -> None:  # noqa: ANN401
            name = self.below(path)
            if name is not None and not Path(path).exists():
                self.add(Op("mkdir", name))
            real["mkdir"](path, *rest)

        calls: dict[str, Callable[..., Any]] = {
            "open": opened,
            "close": closed,
            "write": written,
            "fdopen": streamed,
            "fsync": synced,
            "link": linked,
            "rename": renamed,
            "unlink": unlinked,
            "mkdir": made,
        }
        for name, call in calls.items():
            patch.setattr(os, name, call)


class Killed(BaseException):
    """The recorded process ends here."""


class Raw(io.RawIOBase):
    """A descriptor whose writes and whose end are told."""

    def __init__(
        self, descriptor: int, write: Callable[[int, Any], int], close: Callable[[int], None]
    ) -> None:
        self.descriptor, self.tell_write, self.tell_close = descriptor, write, close

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401
        return self.tell_write(self.descriptor, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self.tell_close(self.descriptor)


def site() -> str:
    """Return the functions of the package that lead to a sync, innermost first."""
    names: list[str] = []
    outside = 0
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and outside < 2:
        path = PurePosixPath(frame.f_code.co_filename)
        if path.parent.name == "viewstore":
            names.append(frame.f_code.co_name)
            outside += path.name != "disk.py"
        frame = frame.f_back
    return " < ".join(names)


@dataclass(frozen=True)
class Crash:
    """A state after a power cut: what is there, and what had been promised before it."""

    tree: Tree
    marks: tuple[str, ...]


def crashes(
    ops: list[Op], *, without: str | None = None, after: Collection[str] = KINDS
) -> Iterator[tuple[int, Crash]]:
    """Yield the states that a power cut after each operation may leave, if its kind is in `after`.

    `without` leaves out the syncs of that site: a mutation that the states must show.
    """
    done = Replay()
    for number, op in enumerate(ops):
        if op.kind not in ("sync", "sync_directory") or op.site != without:
            done.add(number, op)
        if op.kind in after:
            for crash in done.states():
                yield number, crash


@dataclass
class Replay:
    """The operations so far, and which of them are durable."""

    ops: list[Op] = field(default_factory=list)
    data: dict[int, bytes] = field(default_factory=dict)
    safe: dict[int, int] = field(default_factory=dict)  # durable bytes of each file
    pending: dict[str, list[int]] = field(default_factory=dict)  # unsynced names by directory
    marks: tuple[str, ...] = ()

    def add(self, number: int, op: Op) -> None:
        if op.kind == "mark":
            self.marks += (op.name,)
        elif op.kind == "write":
            self.data[op.file] += op.data
        elif op.kind == "sync":
            self.safe[op.file] = len(self.data[op.file])
        elif op.kind == "sync_directory":
            self.pending.pop(op.name, None)
        else:
            if op.kind == "create":
                self.data[op.file], self.safe[op.file] = b"", 0
            parent = PurePosixPath(op.name).parent.as_posix()
            self.pending.setdefault(parent, []).append(len(self.ops))
            self.ops.append(op)

    def states(self) -> Iterator[Crash]:
        """Yield each combination of lost names and lost data; scratch is lost or kept as one."""
        scratch = {
            place
            for parent, places in self.pending.items()
            if PurePosixPath(parent).name == "tmp"
            for place in places
        }
        names = {place for places in self.pending.values() for place in places} - scratch
        order = sorted(names)
        newest, odd = set(order[-1:]), set(order[::2])
        losses = [set(), scratch, names, names | scratch]
        losses += [newest, names - newest, odd, names - odd]
        for lost in losses:
            visible = self.visible(lost)
            unsafe = any(
                file != DIRECTORY and self.safe[file] < len(self.data[file])
                for file in visible.values()
            )
            for kept in (0.0, 0.5, 1.0) if unsafe else (1.0,):
                yield Crash(
                    {name: self.content(file, kept) for name, file in visible.items()}, self.marks
                )

    def visible(self, lost: set[int]) -> dict[str, int]:
        names: dict[str, int] = {}
        for place, op in enumerate(self.ops):
            if place in lost:
                continue
            if op.kind == "unlink":
                names.pop(op.name, None)
                continue
            if op.kind == "rename":
                names.pop(op.old, None)
            names[op.name] = op.file
        return {
            name: file
            for name, file in names.items()
            if all(folder in names for folder in folders_of(name))
        }

    def content(self, file: int, kept: float) -> bytes | None:
        if file == DIRECTORY:
            return None
        safe, data = self.safe[file], self.data[file]
        return data[: safe + int(kept * (len(data) - safe))]


@functools.cache
def folders_of(name: str) -> tuple[str, ...]:
    """Return the folders that a file is in, without the one that names begin in."""
    return tuple(parent.as_posix() for parent in PurePosixPath(name).parents)[:-1]


def tree_of(root: Path) -> dict[str, bytes | None]:
    """Return what is below `root`."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }
