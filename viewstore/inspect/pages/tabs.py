"""The table of pages, in the order in which their tabs stand."""

from __future__ import annotations

from viewstore.inspect.pages import browse, overview, picture, sample
from viewstore.inspect.pages.page import Tab

TABS: tuple[Tab, ...] = (overview.TAB, browse.TAB, sample.TAB, picture.TAB)
