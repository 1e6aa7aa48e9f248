"""Pictures: one view of a sample, or its original, in one of a few sizes.

An address names what is in the picture: root of the view set, view set, view and key. It gives
that picture or none, never another one, and so whoever fetched it may keep it.
"""

from __future__ import annotations

from viewstore.errors import ConfigError, ViewStoreError
from viewstore.inspect.pages.page import Facts, Page, PageError, PageRequest, Tab
from viewstore.inspect.shown_rows import original_note
from viewstore.inspect.thumbnails import (
    SIDES,
    media_type,
    original_picture,
    placeholder,
    view_picture,
)
from viewstore.store.view_set import ViewSet

DAMAGED = "cannot be read"


def _page(request: PageRequest) -> Page:
    root, name, number, key = (*request.rest.split("/", 3), "", "", "", "")[:4]
    store, side = request.store, _side(request.query.get("side", ""))
    view_set = store.view_sets.get(name)
    if view_set is None:
        raise _gone(f"this store has no view set {name[:80]!r}")
    view = _view(view_set, number)
    now = view_set.index.root if view is not None else store.manifest.sources_id
    if root != now[:16]:
        raise _gone("this picture is of other bytes than the store has now")
    try:
        row = store.keys.row(key)
    except ConfigError as error:
        raise PageError(404, error) from error

    def picture() -> bytes:
        if view is None:
            return original_picture(store, row, side)
        return view_picture(view_set, row, view, side)

    content = (now, name if view is not None else "", view, row, side)
    try:
        made = request.site.thumbnails.get(content, picture)
    except ViewStoreError as error:
        height, width = int(store.table.height[row]), int(store.table.width[row])
        if view is None:
            return Page(200, "image/svg+xml", placeholder(original_note(error), height, width))
        return Page(200, "image/svg+xml", placeholder(DAMAGED, view_set.height, view_set.width))
    return Page(200, media_type(made), made, immutable=True)


def _side(text: str) -> int:
    """Return the side that is asked for. Raises PageError: there are no pictures of it."""
    found = {str(side): side for side in SIDES}.get(text)
    if found is None:
        raise PageError(400, ConfigError(f"side must be one of {SIDES}, got {text[:20]!r}"))
    return found


def _view(view_set: ViewSet, number: str) -> int | None:
    """Return the number of a view, None for the original. Raises PageError: there is none."""
    if number == "original":
        return None
    if number not in map(str, range(view_set.num_views)) or view_set.kind == "columns":
        raise _gone(f"{view_set.name} has no view {number[:80]!r}")
    return int(number)


def _gone(message: str) -> PageError:
    return PageError(404, ViewStoreError(message, code="VS202"))


def _no_facts(request: PageRequest) -> Facts:
    return {}


TAB = Tab(name="picture", title="Picture", facts=_no_facts, whole=_page, is_tab=False)
