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
    import uvicorn

    from viewstore.build.draws import drawn_anew
    from viewstore.inspect.pages.site import Site
    from viewstore.serve.app import application
    from viewstore.serve.local import LocalStore

    served = [LocalStore(Path(each).name, Path(each)) for each in stores]
    folders = {each.name: each.root for each in served}
    site = Site({each.name: each.store for each in served}, folders, replays=drawn_anew)
    uvicorn.run(application(served, site), host=host, port=port, http="h11", log_level="warning")
