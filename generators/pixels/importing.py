"""Imported views: files that something else made, as its params say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from viewstore.errors import ConfigError, FormatError
from viewstore.files.listed import ListedFiles
from viewstore.files.naming import ViewFiles
from viewstore.files.spelling import absolute_path
from viewstore.format.columns import Column, Status
from viewstore.format.listing import ROLE, Listing
from viewstore.format.plan import MAX_VIEWS
from viewstore.generators.contract import Context, OfSource, Rendered, Sample
from viewstore.images.decode import decode, jpeg_colours
from viewstore.images.header import is_baseline
from viewstore.images.jpg import Jpg
from viewstore.images.resize import resize

JPEG = b"\xff\xd8"
TableColumns = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Import(OfSource):
    """Views that are there already, in a folder or a tar.

    Attributes:
        files: Where they lie: FOLDER/RULE or TAR:RULE. The rule names a view by {key}, or by
            {name}, its sample's key without suffix, or by {stem}, without folder too, and by
            {view}, from 0; without {view} a sample has one.
        params: A .csv or .parquet of what is known of each view: key, view, then numbers. Empty
            is none.
        role: What the views are, for strategies: "generated", "expert", ...
        missing: Whether a view may have no file; it has the status 0 then.
        views: Number of views of each sample. Automatic is the highest that a file is named by.
        height, width: Size of the views in pixels, to which others are resized by area. Automatic
            is that of the files, which must be one.
        table_columns: Name, dtype and extents of each column of `params`; recorded in the plan,
            never to be set.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = (ROLE,)

    files: str = ""
    params: str = ""
    role: str = "generated"
    missing: bool = False
    views: int | None = None
    height: int | None = None
    width: int | None = None
    table_columns: TableColumns | None = None

    def __post_init__(self) -> None:
        for name in ("files", "role"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ConfigError(
                    f"import.{name} must be said",
                    where=name,
                    fix="--set files='views/{key}_{view}.png' names the files of the views",
                )
        if self.views is not None and not 1 <= self.views <= MAX_VIEWS:
            raise ConfigError(f"import.views must be in [1, {MAX_VIEWS}], got {self.views}")
        for side in (self.height, self.width):
            if side is not None and side < 1:
                raise ConfigError(f"import.height and import.width must be >= 1, got {side}")

    def reads_source(self) -> bool:
        """Return that no source image is opened."""
        return False

    def resolve(self, context: Context) -> ResolvedImport:
        """Fill in the number and size of the views that are listed."""
        listing: Listing = context.models[ROLE]
        if self.height is not None and self.width is not None:
            height, width = self.height, self.width
        else:
            height, width = _common_size(listing)
        return ResolvedImport(
            files=str(absolute_path(self.files)),
            params=str(absolute_path(self.params)) if self.params else "",
            role=self.role,
            missing=self.missing,
            views=listing.views,
            height=self.height or height,
            width=self.width or width,
            table_columns=tuple((c.name, c.dtype, c.shape[1:]) for c in listing.columns),
        )


def _common_size(listing: Listing) -> tuple[int, int]:
    """Return height and width of all views. Raises ConfigError: there are several sizes."""
    there = listing.records[listing.there]
    sizes = np.unique(np.stack([there["height"], there["width"]], axis=1), axis=0)
    if len(sizes) == 1:
        return int(sizes[0, 0]), int(sizes[0, 1])
    if not len(sizes):
        raise ConfigError("there is no view to import", code="VS105", where="files")
    first = " and ".join(f"{height}x{width}" for height, width in sizes[:2].tolist())
    raise ConfigError(
        f"views to import are of {len(sizes)} sizes, such as {first}",
        code="VS105",
        why="all views of a view set have one size",
        fix="say it with --size PX: they are resized by area",
    )


@dataclass(frozen=True, kw_only=True)
class ResolvedImport:
    """What `Import` resolves to; its attributes are those of `Import`."""

    files: str
    params: str
    role: str
    missing: bool
    views: int
    height: int
    width: int
    table_columns: TableColumns

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view."""
        return (self.role,) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        columns = [("status", "u1", ()), *self.table_columns]
        return tuple(
            Column(name=name, dtype=dtype, shape=(self.views, *shape))
            for name, dtype, shape in sorted(columns)
        )

    def make(self, context: Context) -> ImportGenerator:
        """Return the generator."""
        return ImportGenerator(self, context)


class ImportGenerator:
    """Reads and decodes the files of a listing."""

    def __init__(self, settings: ResolvedImport, context: Context) -> None:
        self.listing: Listing = context.models[ROLE]
        where = ViewFiles.parse(settings.files)
        self.files = ListedFiles(where.root, self.listing, in_tar=where.in_tar)
        self.there = self.listing.there
        self.names = [column.name for column in self.listing.columns]
        self.shape = settings.views, settings.height, settings.width, 3
        self.keeps_jpeg = isinstance(context.codec, Jpg)

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in the order of the samples."""
        return (self._render(sample.index) for sample in samples)

    def _render(self, row: int) -> Rendered:
        pixels = np.zeros(self.shape, np.uint8)
        encoded: list[bytes | None] = [None] * len(pixels)
        for view in np.flatnonzero(self.there[row]).tolist():
            data = self.files.read(row, view)
            try:
                pixels[view] = resize(decode(data), *self.shape[1:3])
                if self.keeps_jpeg and keeps_bytes(data, self.shape[1:3]):
                    encoded[view] = data
            except FormatError as error:
                raise error.located(self.files.where(row, view)) from error
        record = self.listing.records[row]
        params = {name: record[name] for name in self.names}
        params["status"] = np.where(self.there[row], Status.OK, Status.NEVER_WRITTEN).astype("u1")
        return Rendered(row, pixels, params, tuple(encoded))


def keeps_bytes(data: bytes, size: tuple[int, int]) -> bool:
    """Return whether an image is a baseline JPEG in YCbCr of `size`: it is stored as it is."""
    return data[:2] == JPEG and is_baseline(data) and jpeg_colours(data, size) == "YCbCr"
