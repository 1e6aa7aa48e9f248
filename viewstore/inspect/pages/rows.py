"""Rows of samples on pages: what is shown of each, and the addresses of its pictures."""

from __future__ import annotations

from collections.abc import Sequence

from viewstore.inspect.drawn_rows import DrawnRow, DrawnView, drawn_row
from viewstore.inspect.pages.page import PageRequest
from viewstore.inspect.pictures import LOSSLESS_SIDE, PageImage
from viewstore.inspect.shown_rows import Cell, Row
from viewstore.inspect.thumbnails import SIDES
from viewstore.inspect.told import made_from
from viewstore.store.view_set import ViewSet

SMALL, MIDDLE, LARGE = SIDES
# Height and width of an original at most, in CSS pixels: where there are many rows, on a page of
# one sample, and as what that page is about.
BRIEF, BESIDE, ALONE = (140, 187), (240, 320), (448, 448)


def linked_row(
    request: PageRequest,
    row: Row,
    view_sets: Sequence[ViewSet],
    *,
    views: int = SMALL,
    within: tuple[int, int] = BRIEF,
    larger: bool = True,
    beside: bool = False,
    link: bool = True,
) -> DrawnRow:
    """Return a sample for `rows.row` of templates/row.html.

    Args:
        request: The page on which it stands.
        row: What is shown of it, read without pixels.
        view_sets: The view sets whose views it has; none: its original stands alone.
        views: Longer side of the pictures of its views: one of SIDES.
        within: BRIEF, BESIDE or ALONE.
        larger: Whether each picture is a link to a larger one.
        beside: Whether what attacks and mixes were made from stands beside them.
        link: Whether its key is a link to its page.
    """

    def image(view_set: ViewSet, view: int | None, side: int, longer: int) -> PageImage:
        return PageImage(
            request.picture(row.key, view, side, view_set),
            small=longer <= LOSSLESS_SIDE,
            larger=request.picture(row.key, view, LARGE, view_set) if larger else None,
        )

    def draw(view_set: ViewSet, cell: Cell) -> DrawnView:
        longer = max(view_set.height, view_set.width)
        shown = image(view_set, cell.view, views, longer) if cell.built else None
        parent = made_from(request.store, view_set) if beside and cell.parent is not None else None
        clean = None if parent is None else image(parent, cell.parent, views, longer)
        return DrawnView(cell=cell, image=shown, parent=clean)

    return drawn_row(
        row,
        view_sets,
        original=image(
            (*view_sets, request.shown)[0],
            None,
            LARGE if within == ALONE else MIDDLE,
            max(row.height, row.width),
        ),
        draw=draw,
        within=within,
        link=request.sample(row.key) if link else None,
    )
