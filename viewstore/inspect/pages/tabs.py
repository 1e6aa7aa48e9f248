"""The table of pages, in the order in which their tabs stand."""

from __future__ import annotations

from viewstore.inspect.pages import (
    augment,
    browse,
    compare,
    constraints,
    embeddings,
    issues,
    overview,
    pairs,
    picture,
    sample,
    stats,
)
from viewstore.inspect.pages.page import Tab

TABS: tuple[Tab, ...] = (
    overview.TAB,
    browse.TAB,
    stats.TAB,
    constraints.TAB,
    compare.TAB,
    augment.TAB,
    pairs.TAB,
    embeddings.TAB,
    issues.TAB,
    sample.TAB,
    picture.TAB,
)
