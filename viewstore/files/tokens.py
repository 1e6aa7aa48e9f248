"""Tokens of stores at http(s) URLs, each bound to the origin that it was written down for.

VIEWSTORE_TOKEN_FILE names a file of lines `ORIGIN TOKEN`; without it, ~/.netrc or the file that
NETRC names is asked. Where a token goes is decided here alone: to its own origin.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from viewstore.errors import ConfigError, RemoteError

TOKEN_FILE = "VIEWSTORE_TOKEN_FILE"
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
PORTS = {"http": 80, "https": 443}
OTHERS = 0o077  # what a file of secrets allows neither its group nor others


@dataclass(frozen=True)
class Origin:
    """What a token belongs to: a scheme, a host and a port, which may be the default one.

    Attributes:
        scheme: "http" or "https".
        host: In lower case; an IPv6 address without its brackets.
        port: The one that is connected to.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the origin of a URL. Raises ValueError: it is no http(s) URL."""
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError("it names no host, or is not http(s)")
        port = PORTS[parts.scheme] if parts.port is None else parts.port
        return cls(parts.scheme, parts.hostname, port)

    def __str__(self) -> str:
        """Return it as an address: "https://data.example"."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


@dataclass(frozen=True)
class Token:
    """A token, and the file that it stands in.

    Attributes:
        text: The token itself; no representation shows it.
        file: Where it was read.
    """

    text: str = field(repr=False)
    file: Path


def token_for(origin: Origin) -> Token | None:
    """Return the token that this machine holds for an origin; None: it holds none.

    Raises:
        ConfigError: A file of tokens cannot be read, is malformed, or others may read it.
    """
    named = os.environ.get(TOKEN_FILE)
    path = _at_home(named) if named else netrc_path()
    text = dict(_lines_of(path)).get(origin) if named else _password_of(path, origin)
    return None if text is None else Token(text, path)


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=place, query="", fragment="").geturl()


def netrc_path() -> Path:
    """Return the file that NETRC names, else the one of the home."""
    return _at_home(os.environ.get("NETRC") or "~/.netrc")


def check_private(path: Path, mode: int) -> None:
    """Raise ConfigError if the mode of a file of secrets lets its group or others open it."""
    if mode & OTHERS:
        raise _unusable(
            path,
            f"{path} holds tokens, and others may open it: its mode is {mode & 0o777:04o}",
            fix=f"chmod 600 {path}",
        )


def refused(url: str, origin: Origin, token: Token | None, status: int) -> RemoteError:
    """Return the error of a server that wants a token for `url`, or another one than it got."""
    named, netrc_file = os.environ.get(TOKEN_FILE), netrc_path()
    said, why = "asks for a token", f"{TOKEN_FILE} names no file, and {netrc_file} has none for it"
    if token is not None:
        said, why = "refused the token that was sent", f"the token stands in {token.file}"
    elif named:
        why = f"{named}, which {TOKEN_FILE} names, has none for it"
    if named:
        rest = f"{named}, which {TOKEN_FILE} names; {netrc_file} is asked where it names none"
    elif origin.scheme == "https":
        machine = f"`machine {origin.host} password TOKEN`"
        rest = f"a file of mode 0600 that {TOKEN_FILE} names, or {machine} into {netrc_file}"
    else:
        rest = f"a file of mode 0600 that {TOKEN_FILE} names; {netrc_file} counts for https alone"
    return RemoteError(
        f"{origin} {said}, status {status}",
        code="VS402",
        where=url,
        why=why,
        fix=f"write the line `{origin} TOKEN` into {rest}",
    )


def _lines_of(path: Path) -> Iterator[tuple[Origin, str]]:
    """Yield the origins of a token file with their tokens. Raises ConfigError."""
    seen = set()
    for number, line in enumerate(_private_lines(path), 1):
        address, *rest = line.split() or [""]
        if not address or address.startswith("#"):
            continue
        origin = _bare_origin(address)
        if origin is None or len(rest) != 1 or not TOKEN.fullmatch(rest[0]):
            raise _unusable(path, f"line {number} of {path} is not `ORIGIN TOKEN`")
        if origin in seen:
            raise _unusable(path, f"line {number} of {path} names {origin} a second time")
        seen.add(origin)
        yield origin, rest[0]
    if not seen:
        raise _unusable(path, f"{path} holds no token")


def _private_lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            check_private(path, os.fstat(file.fileno()).st_mode)
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise _unusable(path, f"{path} cannot be read: {why}") from None


def _bare_origin(address: str) -> Origin | None:
    """Return the origin that an address is, if it is nothing more."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        return None if more else Origin.of(address)
    return None


def _password_of(path: Path, origin: Origin) -> str | None:
    """Return what a netrc file holds for a host with its port, else for the host.

    Its entry `default` is for every host there is, so it is for none here.
    """
    if origin.scheme != "https":
        return None
    try:
        hosts = netrc(str(path)).hosts
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError, NetrcParseError) as error:
        line = getattr(error, "lineno", None)
        at = f" at line {line}" if line else ""
        # Not `from error`: its message may quote the secret.
        raise _unusable(path, f"{path} cannot be read as a netrc file{at}") from None
    names = (f"{origin.host}:{origin.port}", origin.host)
    found = next((hosts[name][2] for name in names if name in hosts and name != "default"), "")
    if not TOKEN.fullmatch(found):
        return None
    check_private(path, mode)
    return found


def _at_home(path: str) -> Path:
    with contextlib.suppress(RuntimeError):  # there is no such home
        return Path(path).expanduser()
    return Path(path)


def _unusable(path: Path, message: str, *, fix: str | None = None) -> ConfigError:
    return ConfigError(
        message,
        code="VS602",
        where=str(path),
        why="tokens stand in a file of mode 0600 or stricter (docs/remote.md)",
        fix=fix or f"mend {path}, or name another file in {TOKEN_FILE}",
    )
