"""A request for a bucket, with the working copy in which its build works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from viewstore.build.request import BuildRequest
from viewstore.errors import ConfigError
from viewstore.files.enclosing import check_alone
from viewstore.files.upstream import FOLDER
from viewstore.files.working_copy import store_at
from viewstore.format.paths import StorePaths
from viewstore.store.committed import view_sets


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
        if not view_sets(StorePaths(root)):
            check_alone(request.out)
        upstream.check_writers()
        yield replace(request, out=root, upstream=upstream, single_writer=False)
