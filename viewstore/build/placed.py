"""A request for a bucket, with the working copy in which its build works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from viewstore.build.request import BuildRequest
from viewstore.errors import ConfigError
from viewstore.files.enclosing import enclosing_store
from viewstore.files.upstream import FOLDER
from viewstore.files.working_copy import store_at
from viewstore.format.paths import StorePaths
from viewstore.store.committed import is_store


@contextlib.contextmanager
def placed(request: BuildRequest) -> Iterator[BuildRequest]:
    """Give the request to carry out in the block, whose `out` is a folder of this machine.

    Raises:
        ConfigError: The store cannot be built into, or not by several writers; or it would lie
            in another store.
        RemoteError: The bucket did not answer.
    """
    if request.single_writer and request.slice_of is not None:
        raise ConfigError(
            "--single-writer cannot be given with --shard",
            why="slices are several writers",
            fix="leave --shard out, or build into a bucket that keeps writers apart",
        )
    if request.upstream is not FOLDER:  # of a view set that is built first, in the same copy
        yield request
        return
    with store_at(request.out, single_writer=request.single_writer) as (root, upstream):
        _check_outside(request.out, root)
        upstream.check_writers()
        yield replace(request, out=root, upstream=upstream, single_writer=False)


def _check_outside(out: Path | str, root: Path) -> None:
    """Raise ConfigError if a new store would lie in another, which nothing could be built into."""
    outer = None if is_store(StorePaths(root)) else enclosing_store(out)
    if outer is not None:
        raise ConfigError(
            f"{out} lies in the store {outer}",
            where=str(out),
            why="a store never shares its folder",
            fix=f"name an --out that is not below {outer}",
        )
