"""The table of pages, in the order in which their tabs stand."""

from __future__ import annotations

from viewstore.inspect.pages import (
    augment,
    browse,
    compare,
    constraints,
    overview,
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
    sample.TAB,
    picture.TAB,
)
