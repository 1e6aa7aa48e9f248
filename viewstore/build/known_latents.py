"""Latents that the images of a source were made from, found beside them and compared with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from viewstore.errors import ConfigError
from viewstore.sources.table import SourceTable

if TYPE_CHECKING:
    from viewstore.generators.latent.generated_source import Latents


def known_latents(table: SourceTable) -> Latents | None:
    """Return the latents of the rows of a store, in their order; None: its source has none.

    Raises:
        CheckpointError: Their file cannot be read.
        ConfigError: An image is not the one that its latents made.
    """
    if len(table.parts) != 1 or table.parts[0].kind != "dir":
        return None
    from viewstore.generators.latent.generated_source import LATENTS_FILE, read_latents

    path = Path(table.parts[0].uri) / LATENTS_FILE
    if not path.is_file():
        return None
    try:
        return read_latents(path).of_rows(table.keys, table.crc32)
    except ConfigError as error:
        raise error.located(
            str(path),
            fix="give the images back as viewstore gan sample made them; or have them inverted: "
            "viewstore gan invert --set known_latents=false",
        ) from error
