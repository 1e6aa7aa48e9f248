"""The table of the kinds of source; the first that matches a spelling is used."""

from __future__ import annotations

from viewstore.sources import arrays, beton, folder, webdataset
from viewstore.sources.table import SourceKind

KINDS: tuple[SourceKind, ...] = (arrays.KIND, webdataset.KIND, beton.KIND, folder.KIND)


def kind_of(spec: str) -> SourceKind | None:
    """Return the kind of source that `spec` names; None: there is no such source."""
    return next((kind for kind in KINDS if kind.matches(spec)), None)
