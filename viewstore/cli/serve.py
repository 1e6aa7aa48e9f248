"""The command serve: stores over HTTP, their files for readers and their pages for people."""

from __future__ import annotations

from pathlib import Path

import click

from viewstore.cli.command import command
from viewstore.cli.terminal import Terminal


@command("serve", example="viewstore serve views --port 8765")
@click.argument("stores", nargs=-1, required=True, metavar="STORE|NAME=STORE..")
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen at this address.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535))
def serve(terminal: Terminal, stores: tuple[str, ...], host: str, port: int) -> None:
    """Serve stores over HTTP: to viewstore.open, to stock webdataset, and as pages."""
    from viewstore.inspect.pages.site import Site
    from viewstore.serve.app import application
    from viewstore.serve.limits import Limiter, Limits
    from viewstore.serve.local import LocalStore
    from viewstore.serve.server import Listening, Server, listen

    served = [LocalStore(Path(each).name, Path(each)) for each in stores]
    site = Site({each.name: each.store for each in served})
    socket = listen(host, port)
    address = f"http://{host}:{socket.getsockname()[1]}/"
    limiter = Limiter(application(served, site), Limits())
    Server(
        limiter,
        Listening(host=host, port=port),
        limiter,
        lambda: terminal.note(f"serving views at {address}"),
    ).run([socket])
