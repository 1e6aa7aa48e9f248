"""Rows that no filter has words for, by a name that stands in addresses.

"issue/simclr/box small" are the rows of an issue, "map/teacher.feature/-1,1,0,2" those in a part of
the map of an embedding, "map/teacher.feature/0/-1,1,0,2" those whose view 0 lies there, and
"outliers/teacher.feature" or "outliers/teacher.feature/0" those that are far from all others there.
Pages keep what they are made from.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, UnavailableError
from viewstore.inspect.embeddings import Area, Embedding, Map, embedding_named, map_of, rows_in
from viewstore.inspect.issues import Issue, issue_named, issues_of
from viewstore.inspect.outliers import Outliers, outliers_of
from viewstore.store.kept import Kept
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


def rows_among(kept: Kept[Any], store: Store, name: str) -> NDArray[np.int64]:
    """Return the rows that a name means, ascending.

    Args:
        kept: What pages keep of facts (`Site.facts`).
        store: Whose rows.
        name: "issue/SET/KIND", "map/SET.COLUMN[/VIEW]/X0,X1,Y0,Y1" or
            "outliers/SET.COLUMN[/VIEW]".

    Raises:
        ConfigError: It names nothing.
        FormatError: The params are damaged.
    """
    kind, _, rest = name.partition("/")
    if kind == "issue":
        return issue_named(kept_issues(kept, store), rest).rows
    if kind == "map":
        of, *view, area = rest.split("/")
        found = kept_map(kept, embedding_named(store, of)).of_view(view_number(*view))
        return rows_in(found, Area.parse(area))
    if kind == "outliers":
        of, *view = rest.split("/")
        return kept_outliers(kept, embedding_named(store, of), view_number(*view)).farthest
    raise ConfigError(
        f"among must name an issue, a part of a map or outliers, got {name[:200]!r}", code="VS102"
    )


def view_number(text: str = "", *more: str) -> int | None:
    """Return the number of a view; None for "". Raises ConfigError: it is none."""
    if more or not (text == "" or (text.isascii() and text.isdigit() and len(text) < 4)):
        raise ConfigError(f"a view must be a number, got {text[:20]!r}")
    return int(text) if text else None


def kept_map(kept: Kept[Any], embedding: Embedding) -> Map:
    """Return the map of an embedding, made once for the bytes of its set."""
    columns = embedding.view_set
    key = ("map", embedding.name, columns.plan.id, columns.index.root)
    found: Map = kept.get(key, lambda: map_of(embedding))
    return found


def kept_outliers(kept: Kept[Any], embedding: Embedding, view: int | None) -> Outliers:
    """Return the outliers of a map, or of the points of one view, found once likewise."""
    columns = embedding.view_set
    key = ("outliers", embedding.name, columns.plan.id, columns.index.root, view)
    found: Outliers = kept.get(
        key, lambda: outliers_of(embedding, kept_map(kept, embedding).of_view(view))
    )
    return found


def kept_issues(kept: Kept[Any], store: Store) -> list[Issue]:
    """Return the issues of all view sets of a store, found once for its id.

    View sets whose columns are damaged, or need a package that is missing, have none: `unreadable`
    names them.
    """
    found: list[Issue] = []
    for each in store.view_sets.values():
        with contextlib.suppress(FormatError, UnavailableError):
            found += _issues_of_one(kept, store, each)
    return found


def unreadable(kept: Kept[Any], store: Store) -> dict[str, str]:
    """Return the view sets whose columns cannot be read, and why, in words."""
    found = {}
    for each in store.view_sets.values():
        try:
            _issues_of_one(kept, store, each)
        except (FormatError, UnavailableError) as error:
            found[each.name] = str(error)
    return found


def _issues_of_one(kept: Kept[Any], store: Store, view_set: ViewSet) -> list[Issue]:
    key = ("issues", store.store_id, view_set.name)
    found: list[Issue] = kept.get(key, lambda: issues_of(store, [view_set]))
    return found
