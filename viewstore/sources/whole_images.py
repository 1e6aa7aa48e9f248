"""Finding images that are cut or damaged behind their header, by decoding all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from viewstore.errors import FormatError
from viewstore.sources.reader import SourceReader
from viewstore.sources.table import OnError, Source, no_source, refuse, take_rows


def only_whole_images(
    source: Source, *, on_error: OnError, looked_at: Callable[[], None] = lambda: None
) -> Source:
    """Return a source without the images that cannot be decoded; pixels of arrays always can.

    A scan reads headers alone. `looked_at` is called after each image.

    Raises:
        ConfigError: None of them can.
        FormatError: An image cannot be decoded, and `on_error` is "fail".
    """
    table = source.table
    reader = SourceReader(table)
    skipped = list(source.skipped)
    whole = []
    for row, key in enumerate(table.keys):
        part = table.parts[table.part[row]]
        try:
            if part.kind in ("dir", "file"):
                reader.image(row)
            whole.append(row)
        except FormatError as error:
            why = FormatError(error.why or str(error))
            refuse(error.where or part.uri, key, why, on_error, skipped)
        looked_at()
    if len(whole) == len(table.keys):
        return source
    if not whole:
        raise no_source(table.spelling, "it holds no image that can be read")
    return replace(source, table=take_rows(table, np.array(whole, np.int64)), skipped=skipped)
