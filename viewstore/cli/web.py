"""The pages of one store for one person: `inspect --web`."""

from __future__ import annotations

import contextlib
import tempfile
import webbrowser
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from viewstore.cli.terminal import Terminal

LEADS_ON = '<!doctype html><meta http-equiv="refresh" content="0; url={address}"><title>.</title>'


def show_pages(terminal: Terminal, store: str, options: dict[str, Any]) -> None:
    """Serve the pages of a store at a one-time address, until Ctrl-C."""
    from viewstore.cli.serving import (
        Serving,
        address_of,
        checked_place,
        checked_root_path,
        pages_of,
        run_server,
        store_name,
    )
    from viewstore.serve.guard import Access
    from viewstore.serve.once import Once
    from viewstore.serve.server import Listening, listen

    name, place = store_name(store), checked_place(store)
    root_path = checked_root_path(options["root_path"]) if options["root_path"] else ""
    listening = Listening(port=options["port"] or 0, drain_seconds=0.0)
    with contextlib.ExitStack() as stack:
        socket = stack.enter_context(listen(listening))
        once = Once(port=socket.getsockname()[1], target=pages_of(name), root_path=root_path)
        access = Access(once=once, root_path=root_path)
        serving = Serving(stores={name: place}, listening=listening, access=access)
        address = address_of(serving, socket)
        page = stack.enter_context(_leading_to(address + once.address))

        def began() -> None:
            terminal.note(f"open {address}{once.address} (it works once; Ctrl-C ends this)")
            if options["open_browser"]:
                webbrowser.open(page.as_uri())

        run_server(terminal, serving, socket, began)
    terminal.result({"address": address, "stores": {name: place}}, "")


@contextlib.contextmanager
def _leading_to(address: str) -> Iterator[Path]:
    """Give a file that leads a browser on: others see what a browser is started with."""
    with tempfile.TemporaryDirectory(prefix="viewstore-") as folder:  # of mode 0700
        page = Path(folder) / "open.html"
        page.write_text(LEADS_ON.format(address=escape(address)))
        yield page
