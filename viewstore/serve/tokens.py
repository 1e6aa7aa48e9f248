"""Tokens that the server accepts: from a file that is read again when it changes, or one.

A token is never part of a message.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
from pathlib import Path
from typing import Protocol

from viewstore.errors import ConfigError

FORM = re.compile(rb"[A-Za-z0-9._~+/=-]{16,}")
MAX_FILE = 1 << 16  # bytes
Seen = tuple[int, int, int]  # inode, size and time of change of a file

log = logging.getLogger(__name__)


class Tokens(Protocol):
    """Tells right tokens from wrong ones."""

    def accepts(self, given: bytes) -> bool:
        """Whether `given` is one of them; how long it takes does not tell how near it was."""


class FixedTokens:
    """Tokens that do not change while the server runs."""

    def __init__(self, lines: bytes, where: str) -> None:
        """Take one token a line. Raises ConfigError (VS602): there is none, or one is no token."""
        self._tokens = tuple(line.strip() for line in lines.splitlines() if line.strip())
        if not self._tokens:
            raise _unusable("there is no token", where, "put one token a line into it")
        for number, token in enumerate(self._tokens, 1):
            if not FORM.fullmatch(token):
                raise _unusable(
                    f"token {number} has another form than a token's",
                    where,
                    "a token has at least 16 characters of A-Z a-z 0-9 . _ ~ + / = -",
                )

    def accepts(self, given: bytes) -> bool:
        right = False
        for token in self._tokens:  # all of them: where one stops tells which it was
            right |= hmac.compare_digest(token, given)
        return right


class TokenFile:
    """Tokens of a file, one a line; it is read again when it changes, so that they can rotate."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises ConfigError (VS602): it is missing, others can read it, its form."""
        self._path = path
        self._tokens, self._seen = _read(path)

    def accepts(self, given: bytes) -> bool:
        self._look()
        return self._tokens.accepts(given)

    def _look(self) -> None:
        """Read the file if it changed; where that does not work the tokens from before stay."""
        try:
            seen: Seen | None = _seen(self._path.stat())
        except OSError:
            seen = None
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._tokens, self._seen = _read(self._path)
        except ConfigError as error:
            why = error.why or error.fix
            log.warning("%s (%s): %s; the tokens from before stay", error, error.where, why)


def _read(path: Path) -> tuple[FixedTokens, Seen | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(
            "the token file cannot be read",
            str(path),
            "write one token a line into a file of mode 0600",
            error.strerror,
        ) from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise _unusable("the token file is no regular file", str(path), "name a file")
        if facts.st_mode & 0o077:
            raise _unusable(
                "others can read the token file",
                str(path),
                f"chmod 600 {path}",
                f"its mode is {stat.S_IMODE(facts.st_mode):04o}",
            )
        if facts.st_size > MAX_FILE:
            raise _unusable("the token file is too long", str(path), "keep the tokens in use")
        return FixedTokens(os.read(descriptor, MAX_FILE), str(path)), _seen(facts)
    finally:
        os.close(descriptor)


def _seen(facts: os.stat_result) -> Seen:
    return facts.st_ino, facts.st_size, facts.st_ctime_ns


def _unusable(message: str, where: str, fix: str, why: str | None = None) -> ConfigError:
    return ConfigError(message, code="VS602", where=where, why=why, fix=fix)
