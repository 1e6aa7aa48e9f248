"""The command serve: stores over HTTP, their files for readers and their pages for people."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.options import FILE, NOT_NEGATIVE, POSITIVE
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError

if TYPE_CHECKING:
    from viewstore.serve.server import Listening
    from viewstore.serve.tokens import Tokens

TOKEN = "VIEWSTORE_TOKEN"  # the environment variable


@command("serve", example="viewstore serve views --port 8765")
@click.argument("stores", nargs=-1, required=True, metavar="STORE|NAME=STORE..")
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen at this address.")
@click.option(
    "--port",
    default=8765,
    show_default=True,
    type=click.IntRange(0, 65535),
    metavar="P",
    help="Listen at this port; 0 takes a free one.",
)
@click.option(
    "--token-file",
    type=FILE,
    metavar="FILE",
    help=f"Ask for one of the tokens in this file of mode 0600, one a line.  [default: {TOKEN}]",
)
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Speak TLS with this certificate.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="The key of --tls-cert, a PEM file.")
@click.option(
    "--behind-proxy",
    is_flag=True,
    help="A proxy stands before the server: believe its X-Forwarded headers.",
)
@click.option(
    "--insecure-http", is_flag=True, help="Let tokens and views cross the network unencrypted."
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="H",
    help="Answer requests for this host name too; may be given many times.",
)
@click.option("--root-path", metavar="/P", help="All addresses begin with this, as behind a proxy.")
@click.option(
    "--max-streams",
    default=256,
    show_default=True,
    type=POSITIVE,
    metavar="N",
    help="Answer at most N requests at once.",
)
@click.option(
    "--max-streams-per-client",
    default=16,
    show_default=True,
    type=POSITIVE,
    metavar="N",
    help="Answer at most N requests at once with one token, or else from one address.",
)
@click.option(
    "--fills",
    type=POSITIVE,
    metavar="N",
    help="Fetch at most N objects at once from stores at URLs.  [default: 16]",
)
@click.option(
    "--drain",
    default=120.0,
    show_default=True,
    type=NOT_NEGATIVE,
    metavar="S",
    help="After SIGTERM or Ctrl-C let what runs go on for at most S seconds.",
)
def serve(terminal: Terminal, stores: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
    """Serve stores over HTTP: to viewstore.open, to stock webdataset, and as pages.

    A store is a folder or a URL, of which what was read once is kept. Beyond this machine it needs
    a token, and --tls-cert, --behind-proxy or --insecure-http.
    """
    from viewstore.cli.serving import (
        Serving,
        address_of,
        checked_host,
        checked_root_path,
        named_stores,
        pages_of,
        run_server,
    )
    from viewstore.files.local import is_url
    from viewstore.serve.guard import Access
    from viewstore.serve.limits import Limits
    from viewstore.serve.server import Listening, listen

    places = named_stores(stores)
    if options["fills"] is not None and not any(map(is_url, places.values())):
        raise ConfigError("--fills is for stores at URLs, and there is none", fix="leave it out")
    listening = Listening(
        host=options["host"],
        port=options["port"],
        tls_cert=options["tls_cert"],
        tls_key=options["tls_key"],
        drain_seconds=options["drain"],
    )
    tokens = _tokens(options["token_file"])
    _check_exposure(listening, options, has_token=tokens is not None)
    serving = Serving(
        stores=places,
        listening=listening,
        access=Access(
            hosts=frozenset({listening.host.lower(), *map(checked_host, options["allowed_hosts"])}),
            tokens=tokens,
            behind_proxy=options["behind_proxy"],
            root_path=checked_root_path(options["root_path"]) if options["root_path"] else "",
        ),
        limits=Limits(
            streams=options["max_streams"],
            streams_per_client=options["max_streams_per_client"],
        ),
        fills=options["fills"] or 16,
    )
    with listen(listening) as socket:
        address = address_of(serving, socket)

        def began() -> None:
            terminal.note(f"serving views at {address}")
            for name in places:
                terminal.note(f"  {name}: pages at {address}{pages_of(name)}")

        run_server(terminal, serving, socket, began)
    terminal.result({"address": address, "stores": places}, "")


def _tokens(path: Path | None) -> Tokens | None:
    """Return the tokens that a file or the environment names; None: neither does."""
    from viewstore.serve.tokens import FixedTokens, TokenFile

    if path is not None:
        return TokenFile(path)
    given = os.environb.get(TOKEN.encode())
    return None if given is None else FixedTokens(given, TOKEN)


def _check_exposure(listening: Listening, options: Mapping[str, Any], *, has_token: bool) -> None:
    """Raise ConfigError unless what leaves this machine is protected, or said not to be."""
    from viewstore.serve.server import is_local

    if (listening.tls_cert is None) != (listening.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together", fix="give both")
    ways = {
        "--tls-cert": listening.tls_cert is not None,
        "--behind-proxy": options["behind_proxy"],
        "--insecure-http": options["insecure_http"],
    }
    chosen = [name for name, is_set in ways.items() if is_set]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} contradict each other", fix="give one of them")
    if is_local(listening):
        if options["insecure_http"]:
            raise ConfigError(
                "--insecure-http has no effect: nothing leaves this machine", fix="leave it out"
            )
        return
    if not has_token:
        raise ConfigError(
            "this would serve the stores to others without a token",
            code="VS601",
            where=f"--host {listening.host}",
            fix=f"give --token-file or {TOKEN}, or listen at 127.0.0.1",
        )
    if not chosen:
        raise ConfigError(
            "this would send tokens and views over the network unencrypted",
            code="VS601",
            where=f"--host {listening.host}",
            fix="give --tls-cert and --tls-key, --behind-proxy, or --insecure-http",
        )
