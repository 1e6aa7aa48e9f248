"""The errors of the package, as one tree. All pickle with their facts.

ViewStoreError
├── ConfigError       a setting contradicts another setting or the store (also a ValueError)
├── FormatError       bytes do not follow docs/format.md or their recorded checksum
│   └── CheckpointError   a file cannot be read as a network; nothing in it was executed
├── DivergedError     a training left the finite numbers
├── UnavailableError  a device, a package or disk space that the work needs is not there
├── StoppedError      the work stopped early, kept what was committed, and can be resumed
└── RemoteError       a remote store did not answer within the retry limits
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from itertools import groupby
from typing import ClassVar, Self


class ViewStoreError(Exception):
    """An error for people: what happened, and where, why, and what to do about it.

    Attributes:
        code: Stable code of the docs/errors.md table, for example "VS203".
        where: The file, setting or key it is about.
        why: The rule that was broken.
        fix: What to do next; a command to paste where one exists.
        exit_code: What the command line exits with (spec: 2 settings, 3 cannot, 4 resumable).
    """

    code: str = "VS900"
    exit_code: ClassVar[int] = 3

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        where: str | None = None,
        why: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.where = where
        self.why = why
        self.fix = fix

    def located(self, where: str, *, fix: str | None = None) -> Self:
        """Return the same error with `where` and `fix` filled in, unless it has its own."""
        found = self.where or where
        return type(self)(str(self), code=self.code, where=found, why=self.why, fix=self.fix or fix)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the keyword facts when the error crosses a process boundary."""
        return (_rebuild, (type(self), str(self), self.code, self.where, self.why, self.fix))


def _rebuild(
    kind: type[ViewStoreError],
    message: str,
    code: str,
    where: str | None,
    why: str | None,
    fix: str | None,
) -> ViewStoreError:
    return kind(message, code=code, where=where, why=why, fix=fix)


class ConfigError(ViewStoreError, ValueError):
    """A setting contradicts another setting or the store."""

    code = "VS101"
    exit_code = 2


class FormatError(ViewStoreError):
    """Bytes do not follow docs/format.md or their recorded checksum."""

    code = "VS201"


class CheckpointError(FormatError):
    """A file is not the planned one, or cannot be read as a network; nothing in it was executed."""

    code = "VS210"


class DivergedError(ViewStoreError):
    """A training left the finite numbers: what it would write is worth nothing."""

    code = "VS502"


class UnavailableError(ViewStoreError):
    """A device, a package or disk space that the work needs is not there."""

    code = "VS301"


class StoppedError(ViewStoreError):
    """The work stopped early, kept what was committed, and can be resumed."""

    code = "VS501"
    exit_code = 4


class RemoteError(ViewStoreError):
    """A remote store did not answer within the retry limits."""

    code = "VS401"


def bug(error: Exception, fix: str) -> ViewStoreError:
    """Return an exception that no code of ours expects as an error in its four lines."""
    return ViewStoreError(
        f"viewstore failed: {type(error).__name__}: {error}",
        why="this is a bug in viewstore, not in what you did",
        fix=fix,
    )


def quoted(path: object) -> str:
    """Return a path as a word of a command, for texts that name one to run."""
    return shlex.quote(str(path))


def counted(number: int, noun: str) -> str:
    """Return "1 fault" or "2 faults", for a noun that takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers as --only takes them: "17,20-22"."""
    parts = []
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        parts.append(f"{found[0]}-{found[-1]}" if len(found) > 1 else f"{found[0]}")
    return ",".join(parts)


def _shortens(short: str, name: str) -> bool:
    """Whether `short` has the first letter of `name` and others of it in their order: "tb"."""
    letters = iter(name)
    return len(short) > 1 and short[0] == name[:1] and all(each in letters for each in short)


def nearest(name: str, names: list[str]) -> str:
    """Return "did you mean 'x'?" with the name nearest to `name`, else a list of all `names`."""
    meant = near(name, names)
    if meant is not None:
        return f"did you mean {meant!r}?"
    return "there are " + (", ".join(sorted(names)) or "none")


def near(name: str, names: list[str]) -> str | None:
    """Return which of `names` may have been meant by `name`, None where none is near."""
    close = difflib.get_close_matches(name, names, n=1) or [
        each for each in names if _shortens(name, each)
    ]
    return close[0] if close else None
