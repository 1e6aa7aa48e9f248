"""The command that makes one stored view anew from its params: replay."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.options import FILE, check_file
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError

if TYPE_CHECKING:
    from viewstore.images.colours import Pixels


@command("replay", example="viewstore replay views 0 2 --view-set simclr --out view.png")
@click.argument("store")
@click.argument("key")
@click.argument("view", type=click.IntRange(min=0))
@click.option(
    "-o", "--out", type=FILE, required=True, metavar="F.png", help="The PNG file to write."
)
@click.option(
    "--view-set",
    metavar="NAME",
    help="The view set that holds the view.  [default: the only one of the store]",
)
@click.option(
    "--gan",
    type=FILE,
    metavar="FILE",
    help="The StyleGAN2 file, or the decoder, that made the view.  [default: the packaged one]",
)
def replay(terminal: Terminal, store: str, key: str, view: int, **options: Any) -> int:  # noqa: ANN401
    """Make one view anew from its stored params, and compare it with the stored one.

    KEY is the key of a sample, or its row number; VIEW is the number of the view. A view that was
    cut from its source image is equal to the stored one bit for bit; if it is not, the command
    exits with 1. A view that a network made needs the network and the stored latent, which
    w-search and w-perturb store only with --set keep_latents=true. It has fewer digits than the
    one the view was made from: the two may differ by a few levels.
    """
    import numpy as np

    from viewstore.build.replay import latent_decoder
    from viewstore.files import disk
    from viewstore.store.store import chosen_view_set, open_store

    out: Path = options["out"]
    check_file("--out", out, (".png",))
    opened = open_store(store)
    terminal.store_id = opened.store_id
    chosen = chosen_view_set(opened, options["view_set"], purpose="replay")
    row = opened.keys.find(key)
    if view >= chosen.num_views:
        raise ConfigError(
            f"VIEW must be below {chosen.num_views}, the views of {chosen.name}, got {view}"
        )
    latent = "latent" in chosen.params
    if options["gan"] is not None and not latent:
        raise ConfigError(f"--gan has no effect: no latents of {chosen.name} are stored")
    files = {} if options["gan"] is None else {"gan": options["gan"]}
    decode = latent_decoder(chosen.plan, files, terminal) if latent else None
    pixels = chosen.replay(row, view, decode=decode)
    apart = np.abs(pixels.astype(np.int16) - chosen[row][view])
    disk.make_directory(out.absolute().parent)
    disk.write_atomic(out, _png(pixels))
    facts = {
        "file": str(out),
        "view_set": chosen.name,
        "key": opened.keys[row],
        "row": row,
        "view": view,
        "equal": not apart.any(),
        "largest_difference": int(apart.max()),
    }
    verdict = (
        "equal to the stored view bit for bit"
        if facts["equal"]
        else f"differs from the stored view by up to {facts['largest_difference']} of 255 levels"
    )
    terminal.result(facts, f"{out}: view {view} of {facts['key']}, {verdict}")
    return int(not facts["equal"] and not latent)


def _png(pixels: Pixels) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
