"""The rows of a build: those of a new store's source, or those that a store has fixed."""

from __future__ import annotations

from collections.abc import Callable

from viewstore.build.adopt import planned_shard_rows, rows_are_fixed, stored_rows
from viewstore.build.request import BuildRequest
from viewstore.build.roles import networks
from viewstore.costs.estimate import choose_shard_rows
from viewstore.errors import counted
from viewstore.format.paths import StorePaths
from viewstore.progress import Progress, tracked
from viewstore.sources.open import open_source
from viewstore.sources.record import read_sources
from viewstore.sources.table import Source, SourceTable
from viewstore.sources.whole_images import only_whole_images

DEFAULT_SOURCE = "digits"


def build_rows(
    request: BuildRequest, paths: StorePaths, progress: Progress, *, keep: bool = True
) -> tuple[SourceTable, tuple[tuple[str, str], ...]]:
    """Return the rows of a build, and the images that were left out with the reason.

    Those of a new store come from its source; those of a store are fixed, and a source that is
    given is compared with them (`stored_rows`).
    """
    if rows_are_fixed(paths):
        return stored_rows(
            paths,
            source=request.source,
            limit=request.limit,
            shard_rows=request.shard_rows,
            on_error=request.on_error,
            progress=progress,
            keep=keep,
        ), ()
    spec = DEFAULT_SOURCE if request.source is None else request.source
    progress.note(f"reading the source {spec}")
    source = _new_source(request, spec, request.limit, progress)
    say_left_out(source, spec, progress)
    return source.table, tuple(source.skipped)


def say_left_out(source: Source, spec: str, progress: Progress) -> None:
    """Warn of the images of a source that cannot be read, and of what else was not read."""
    if source.skipped:
        keys = ", ".join(key for key, _ in source.skipped[:3])
        more = " ..." if len(source.skipped) > 3 else ""
        are = "is" if len(source.skipped) == 1 else "are"
        images = counted(len(source.skipped), "image")
        progress.warn(f"{images} cannot be read and {are} left out: {keys}{more}")
    for note in source.notes:
        progress.warn(f"{note} (in {spec})")


def _new_source(request: BuildRequest, spec: str, limit: int | None, progress: Progress) -> Source:
    """Open the source of a new store.

    Where networks make the views, all images are decoded now: that costs less than a tenth of
    such a build, and one that is cut would end it late. The others decode what they need.
    """
    from viewstore.generators import settings_class

    source = open_source(spec, limit=limit, on_error=request.on_error)
    if not networks(settings_class(request.generator).NEEDS):
        return source
    count = len(source.table.keys)
    with tracked(progress, "source", count, "images"):
        whole = only_whole_images(
            source, on_error=request.on_error, looked_at=lambda: progress.advance()
        )
    missing = 0 if request.limit is None else request.limit - len(whole.table.keys)
    if missing > 0 and limit == count:  # there may be more behind them
        return _new_source(request, spec, count + missing, progress)
    return whole


def whole_source(request: BuildRequest, paths: StorePaths) -> Callable[[], SourceTable] | None:
    """Return what opens the source without a limit; None if it was opened so just now."""
    if request.source is not None and request.limit is None:
        return None
    spec = DEFAULT_SOURCE if request.source is None else request.source
    if request.source is None and rows_are_fixed(paths):
        spec = read_sources(paths)[0].spelling
    return lambda: open_source(spec, on_error="skip").table


def shard_rows_of(
    request: BuildRequest, paths: StorePaths, *, views: int, height: int, width: int
) -> Callable[[int], int]:
    """Return what says for a number of rows how many a shard has.

    That is what the user gives, what the view sets of a store that lost its rows know, or for a
    new store what suits the views of its first view set.
    """
    known = request.shard_rows or planned_shard_rows(paths)
    return lambda rows: known or choose_shard_rows(rows, max(1, views * height * width * 3))
