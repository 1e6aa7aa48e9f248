"""A request for a bucket, with the working copy in which its build works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from viewstore.build.request import BuildRequest
from viewstore.errors import ConfigError
from viewstore.files.local import is_url
from viewstore.files.working_copy import store_at


@contextlib.contextmanager
def placed(request: BuildRequest) -> Iterator[BuildRequest]:
    """Give the request to carry out in the block, of which `out` is a folder of this machine.

    Raises:
        ConfigError: The store cannot be built into, or not by several writers.
        RemoteError: The bucket did not answer.
    """
    if request.single_writer and (request.slice_of is not None or not is_url(request.out)):
        raise ConfigError(
            "--single-writer is for one build into a bucket",
            why="slices are several writers"
            if request.slice_of is not None
            else "a disk keeps several writers apart",
            fix="leave --single-writer out",
        )
    if not is_url(request.out):
        yield request
        return
    with store_at(request.out, single_writer=request.single_writer) as (root, upstream):
        upstream.check_writers()
        yield replace(request, out=root, upstream=upstream, single_writer=False)
