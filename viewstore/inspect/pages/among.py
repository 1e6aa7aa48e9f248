"""Rows that no filter has words for, by a name that stands in addresses.

"issue/simclr/box small" are the rows of an issue, "map/teacher/feature/0/-1,1,0,2" those in a part
of the map of an embedding. Pages keep what they are made from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.inspect.issues import Issue, issue_named, issues_of
from viewstore.store.kept import Kept
from viewstore.store.store import Store


def rows_among(kept: Kept[Any], store: Store, name: str) -> NDArray[np.int64]:
    """Return the rows that a name means, ascending.

    Args:
        kept: What pages keep of facts (`Site.facts`).
        store: Whose rows.
        name: "issue/SET/KIND", or "map/SET/COLUMN/VIEW/X0,X1,Y0,Y1".

    Raises:
        ConfigError: It names nothing.
        FormatError: The params are damaged.
    """
    kind, _, rest = name.partition("/")
    if kind == "issue":
        return issue_named(kept_issues(kept, store), rest).rows
    raise ConfigError(
        f"among must name an issue or a part of a map, got {name[:200]!r}", code="VS102"
    )


def kept_issues(kept: Kept[Any], store: Store) -> list[Issue]:
    """Return the issues of all view sets of a store, found once for its id."""
    sets = list(store.view_sets.values())
    found: list[Issue] = kept.get(("issues", store.store_id), lambda: issues_of(store, sets))
    return found
