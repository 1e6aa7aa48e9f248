"""The table of exporters: the formats of `viewstore export --format`, by name.

A new exporter is one module in this folder and one row of FORMATS.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from viewstore.export.selection import Exported, Selection
    from viewstore.progress import Progress


class Export(Protocol):
    """The function of an exporter."""

    def __call__(
        self,
        selection: Selection,
        out: Path,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Exported:
        """Write `selection` to `out`, all of it or nothing that could be taken for it.

        The same selection gives the same bytes. If `out` is this very export already, nothing
        is written; another export there is replaced only with `overwrite`, and what no export
        wrote is never replaced. `progress` is advanced by 1 for each sample that was written.

        Raises:
            ConfigError: `out` holds something else, or the selection does not fit the format.
            UnavailableError: The disk is too small.
        """


class Format(NamedTuple):
    """Where an exporter lives, and what it writes; the module is imported when it is used."""

    module: str
    function: str
    contents: str

    @property
    def export(self) -> Export:
        """The exporter."""
        module = importlib.import_module(f"viewstore.export.{self.module}")
        found: Export = getattr(module, self.function)
        return found


FORMATS: Mapping[str, Format] = {
    "ffcv": Format("ffcv", "export_beton", "one .beton file"),
    "parquet": Format("parquet", "export_parquet", "one .parquet file, a line for each view"),
    "webdataset": Format("webdataset", "export_tar", "a folder of tars"),
}
