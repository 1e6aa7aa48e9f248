"""The table of pages, in the order in which their tabs stand."""

from __future__ import annotations

from viewstore.inspect.pages import embeddings, issues, overview, pairs, picture
from viewstore.inspect.pages.page import Tab

TABS: tuple[Tab, ...] = (overview.TAB, pairs.TAB, embeddings.TAB, issues.TAB, picture.TAB)
