"""Running a server from the command line: what it says, and what ends it."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket as sockets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from viewstore.build.draws import drawn_anew
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError, ViewStoreError
from viewstore.files.local import is_url, local_path
from viewstore.inspect.pages.site import Site
from viewstore.inspect.template import compile_templates
from viewstore.serve.fill import Fills
from viewstore.serve.guard import Access, host_of
from viewstore.serve.limits import Limits, Running
from viewstore.serve.local import LocalStore
from viewstore.serve.metrics import Metrics
from viewstore.serve.server import Listening, Server
from viewstore.serve.service import service
from viewstore.serve.through import ThroughStore
from viewstore.shards.signals import stop_signals_to

if TYPE_CHECKING:
    from viewstore.serve.objects import Served


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What is served, and how.

    Attributes:
        stores: Path or URL of each store, by its name in addresses.
        listening: Where, and how it ends.
        access: Who may ask, and how.
        limits: How much runs at once.
        fills: How many objects come from origins at once.
    """

    stores: Mapping[str, str]
    listening: Listening
    access: Access
    limits: Limits = field(default_factory=Limits)
    fills: int = 16


def run_server(
    terminal: Terminal,
    serving: Serving,
    socket: sockets.socket,
    began: Callable[[], None],
) -> None:
    """Serve over a socket that listens until a signal ends it; call `began` once it answers."""
    running = Running()
    metrics = Metrics(version("viewstore"), running)
    fills = Fills(serving.fills)
    served = [_served(name, place, fills, metrics) for name, place in serving.stores.items()]

    async def started() -> None:
        began()
        for each in served:
            await _warn_of(terminal, each)

    site = Site(
        {each.name: each.store for each in served},
        {each.name: each.root for each in served if isinstance(each, LocalStore)},
        replays=drawn_anew,
    )
    app = service(
        served,
        site,
        access=serving.access,
        limits=serving.limits,
        running=running,
        metrics=metrics,
        say=terminal.note if terminal.verbosity > 0 else None,
    )
    compile_templates()
    server = Server(app, serving.listening, running, started)
    with _logged(terminal), stop_signals_to(server.handle_exit, then=signal.SIG_IGN):
        server.run([socket])
    fills.close()


def address_of(serving: Serving, socket: sockets.socket) -> str:
    """Return the address of a server, with a slash at its end."""
    host, port = serving.listening.host, socket.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return f"{serving.listening.scheme}://{shown}:{port}{serving.access.root_path}/"


def pages_of(name: str) -> str:
    """Return the address of the pages of a store, below that of the server."""
    return f"inspect/{quote(name)}/"


def checked_place(place: str) -> str:
    """Return a store's path or URL. Raises ConfigError: it can be no store."""
    if is_url(place):
        _check_origin(place)
        return place
    folder = local_path(place)
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder}",
            code="VS202",
            where=str(folder),
            fix="name the folder of a store; a new one is served once "
            f"viewstore build --out {folder} has begun",
        )
    return str(folder)


def checked_root_path(path: str) -> str:
    """Return a root path without a slash at its end. Raises ConfigError: it is none."""
    found = path.rstrip("/")
    parts = found.split("/")[1:]
    if found != quote(found) or not found.startswith("/") or {"", ".", ".."} & set(parts):
        raise ConfigError(f"--root-path must be a path like /views, got {path[:80]!r}")
    return found


def checked_host(given: str) -> str:
    """Return the name in an --allowed-host. Raises ConfigError: no Host header says that."""
    if any(each in given for each in "/@,") or not host_of(given):
        raise ConfigError(f"--allowed-host must be a host like data.example, got {given[:80]!r}")
    return host_of(given)


def _served(name: str, place: str, fills: Fills, metrics: Metrics) -> Served:
    if not is_url(place):
        return LocalStore(name, Path(place))
    found = ThroughStore(name, place, fills=fills, metrics=metrics.of(name))
    found.check_room()
    return found


def _check_origin(url: str) -> None:
    """Raise ConfigError where the host of a URL is a link-local address, however it is written.

    At such addresses machines of clouds find their own credentials.
    """
    host = (urlsplit(url).hostname or "").partition("%")[0]
    with contextlib.suppress(OSError):  # 0xa9fea9fe and 169.254.43518 are addresses too
        host = sockets.inet_ntoa(sockets.inet_aton(host))
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    mapped = getattr(address, "ipv4_mapped", None)
    if (mapped or address).is_link_local:
        raise ConfigError(
            "an origin must not be a link-local address", where=url, fix="name it by its host"
        )


async def _warn_of(terminal: Terminal, served: Served) -> None:
    """Say of a store that it is not ready."""
    try:
        if await served.generation() is None:
            terminal.warn(f"{served.name} has no manifest yet: it is served once a build ends")
    except ViewStoreError as error:
        terminal.warn(f"{served.name} cannot be served: {error} ({error.where})")


class _Told(logging.Handler):
    """Writes what libraries log where the command writes."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.note(f"{record.levelname.lower()}: {self.format(record)}")


@contextlib.contextmanager
def _logged(terminal: Terminal) -> Iterator[None]:
    handler = _Told(terminal)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def named_stores(given: Sequence[str]) -> dict[str, str]:
    """Return path or URL by name of STORE or NAME=STORE. Raises ConfigError: two have one name."""
    found: dict[str, str] = {}
    for text in given:
        name, place = _named(text)
        if name in found:
            raise ConfigError(
                f"two stores have the name {name!r}",
                where=f"{found[name]}, {place}",
                fix=f"name one of them: NAME={place}",
            )
        found[name] = checked_place(place)
    return found


def _named(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if equals and place and name.replace("-", "").replace(".", "").replace("_", "").isalnum():
        return name, place
    return store_name(text), text


def store_name(place: str) -> str:
    """Return the name of a store that was given none: the last part of its path or URL."""
    if is_url(place):
        parts = urlsplit(place)
        return parts.path.rstrip("/").rpartition("/")[2] or parts.netloc
    return local_path(place).resolve().name or "store"
