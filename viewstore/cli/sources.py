"""Sources that a command reads itself, without a store: what is left out of them is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from viewstore.cli.options import ON_ERROR
from viewstore.cli.terminal import Terminal
from viewstore.errors import FormatError

if TYPE_CHECKING:
    from viewstore.sources.table import OnError, SourceTable

UNREADABLE = "VS205"
SKIP_FIX = "mend the file, or leave such images out with --on-error skip"
ON_UNREADABLE = click.option(
    "--on-error",
    type=ON_ERROR,
    help="At an image of --source that cannot be read: fail ends, skip goes on without it, after "
    "a look at all images.  [default: fail]",
)


def read_source(terminal: Terminal, spec: str, on_error: OnError | None) -> SourceTable:
    """Return the rows of a source; those that cannot be read are skipped if `on_error` says so.

    Raises:
        ConfigError, FormatError: As `open_source` and `only_whole_images`.
    """
    from viewstore.build.rows import say_left_out
    from viewstore.sources.open import open_source
    from viewstore.sources.whole_images import only_whole_images

    source = open_source(spec, on_error=on_error or "fail")
    if on_error == "skip":
        source = only_whole_images(source, on_error=on_error)
    say_left_out(source, spec, terminal)
    return source.table


@contextmanager
def skip_advised() -> Iterator[None]:
    """Have errors of images in a block advise --on-error, not another build."""
    try:
        yield
    except FormatError as error:
        if error.code != UNREADABLE:
            raise
        raise FormatError(
            str(error), code=error.code, where=error.where, why=error.why, fix=SKIP_FIX
        ) from error
