"""The one table of the kinds of source; the first that matches a spelling takes it.

What exists is told by what it is: a folder by what lies in it, a file by its first bytes where its
name does not say. Only "digits" is always the handwritten digits, for stores record it so.
"""

from __future__ import annotations

from viewstore.sources import arrays, beton, folder, webdataset
from viewstore.sources.table import SourceKind

KINDS: tuple[SourceKind, ...] = (arrays.KIND, beton.KIND, webdataset.KIND, folder.KIND)


def kind_of(spec: str) -> SourceKind | None:
    """Return the kind of source that `spec` names; None: there is no such source."""
    if not spec:  # no name of the current folder
        return None
    if webdataset.is_pattern(spec):
        return webdataset.KIND
    return next((kind for kind in KINDS if kind.matches(spec)), None)
