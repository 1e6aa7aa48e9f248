"""The listing of an import: scanned once, kept in the folder of its view set, found again."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Protocol, cast

from viewstore.build.adopt import make_folders
from viewstore.build.params_table import read_params
from viewstore.errors import FormatError, counted
from viewstore.files import disk
from viewstore.files.naming import ViewFiles
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.listing import NAME, ROLE, Listing
from viewstore.format.paths import ViewSetPaths
from viewstore.format.plan import Plan, Weights
from viewstore.progress import Progress
from viewstore.sources.table import SourceTable
from viewstore.sources.view_files import scan_views

LISTING_BYTES = 4 << 30


class Imports(Protocol):
    """What a scan needs of the settings of an import (generators/pixels/importing.py)."""

    @property
    def files(self) -> str:
        """The rule by which its files are found."""

    @property
    def params(self) -> str:
        """Its table of params; empty: it has none."""

    @property
    def views(self) -> int | None:
        """How many views a sample has; None: as many as are found."""

    @property
    def missing(self) -> bool:
        """Whether some views may have no file."""


def find_listing(
    settings: Imports,
    paths: ViewSetPaths,
    stored: Plan | None,
    table: SourceTable,
    progress: Progress,
) -> Listing:
    """Return the listing that the plan of a view set names, or that of the files that are there.

    Raises:
        ConfigError: Views have no file, or the params do not fit them.
        FormatError: A file cannot be read.
    """
    for path in own_files(paths, stored).values() if stored is not None else ():
        with contextlib.suppress(FormatError, OSError):  # lost: what is there is listed again
            return load_listing(path)
    files = ViewFiles.parse(settings.files)
    found = scan_views(
        files, table.keys, views=settings.views, missing=settings.missing, progress=progress
    )
    if found.unwanted:
        progress.note(
            f"{counted(found.unwanted, 'file')} of {files.root} left out: of no sample of the store"
        )
    listing = Listing.of(found.places, found.names, {})
    if not settings.params:
        return listing
    params = read_params(Path(settings.params), table.keys, listing.there)
    return Listing.of(found.places, found.names, params)


def own_files(paths: ViewSetPaths, plan: Plan) -> dict[str, Path]:
    """Return what of the weights of a plan lies in the folder of its view set, by role.

    Raises:
        FormatError: The plan gives it a name that it cannot have.
    """
    found = {}
    for weights in plan.weights:
        if weights.role == ROLE:
            if not NAME.fullmatch(weights.name):
                raise FormatError(f"a listing cannot be named {weights.name!r}")
            found[ROLE] = paths.root / weights.name
    return found


def load_listing(path: Path) -> Listing:
    """Return the listing in a file. Raises FormatError: it is damaged, or not there."""
    try:
        return Listing.unpack(disk.read_limited(path, LISTING_BYTES), path.name)
    except FileNotFoundError as error:
        raise FormatError("the listing of an import is gone", where=str(path)) from error
    except FormatError as error:
        raise error.located(str(path)) from error


def weights_of_listing(listing: Listing) -> Weights:
    """Return what a plan says of a listing."""
    sha256 = hashlib.sha256(listing.file).hexdigest()
    return Weights(role=ROLE, name=listing.file_name, bytes=len(listing.file), sha256=sha256)


def keep_listing(paths: ViewSetPaths, listing: Listing, upstream: Upstream = FOLDER) -> None:
    """Put a listing into the folder of its view set, if it is not there."""
    make_folders(paths.folders)
    path = paths.root / listing.file_name
    with contextlib.suppress(FormatError):
        load_listing(path)
        return
    disk.write_atomic(path, listing.file, mode=0o444, scratch=paths.tmp)
    upstream.push(path)


def list_again(paths: ViewSetPaths, plan: Plan, table: SourceTable, progress: Progress) -> None:
    """Make the listing that a plan names again, from the files as they are.

    Raises:
        ConfigError, FormatError: Files are gone, or are others than they were.
    """
    from viewstore.generators import make_settings

    made = make_settings(plan.generator["name"], plan.generator["args"])
    settings = cast(Imports, made)
    listing = find_listing(settings, paths, None, table, progress)
    if listing.file_name not in {path.name for path in own_files(paths, plan).values()}:
        raise FormatError(
            f"the files of {plan.view_set} are others than when they were imported",
            code="VS205",
            where=settings.files,
            why="its listing is lost, and a new one would name other bytes",
            fix="give the files back as they were, or import them into another --view-set",
        )
    keep_listing(paths, listing)
