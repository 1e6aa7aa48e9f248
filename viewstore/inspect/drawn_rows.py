"""A sample as templates/row.html draws it: what is shown of it, and the addresses of its pictures.

The report and the notebook hold the pictures themselves, pages their relative addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from viewstore.inspect.pictures import PageImage
from viewstore.inspect.shown_rows import Cell, Row
from viewstore.store.verdict import goal_text
from viewstore.store.view_set import ViewSet


@dataclass(frozen=True, kw_only=True)
class DrawnView:
    """A view.

    Attributes:
        cell: What is shown of it.
        image: Its picture; None where there is none to show.
        parent: The picture of the view that it was made from, to stand beside it; None: it does
            not.
    """

    cell: Cell
    image: PageImage | None
    parent: PageImage | None = None


@dataclass(frozen=True, kw_only=True)
class DrawnBlock:
    """The views of one view set.

    Attributes:
        name: Of the view set.
        goal: What its views had to be, in words; empty if any will do.
        height: Of a view, in pixels.
        width: Likewise.
        views: Its views.
    """

    name: str
    goal: str
    height: int
    width: int
    views: tuple[DrawnView, ...]

    @property
    def several_roles(self) -> bool:
        """Whether its views differ in their roles: else a role says nothing of one of them."""
        return len({each.cell.role for each in self.views}) > 1

    def caption(self, cell: Cell) -> str:
        """Return what is said first of a view: its role, area and distance, where they say much."""
        words = [cell.role] if self.several_roles else []
        if cell.area is not None:
            words.append(f"area\N{NO-BREAK SPACE}{cell.area:.0%}")
        if cell.distance is not None:
            words.append(f"d\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{cell.distance:.3f}")
        return ", ".join(words)

    @property
    def boxed(self) -> list[Cell]:
        """The views with a crop box, the largest first, so that none hides a smaller one."""
        cells = [each.cell for each in self.views if each.cell.box is not None]
        return sorted(cells, key=lambda cell: -(cell.area or 0))


@dataclass(frozen=True, kw_only=True)
class DrawnRow:
    """A sample.

    Attributes:
        row: What is shown of it.
        width: Of its original, in CSS pixels.
        height: Likewise.
        original: The picture of its original; None where it cannot be shown.
        blocks: Its view sets.
        link: Address of its page; None: it has none.
    """

    row: Row
    width: int
    height: int
    original: PageImage | None
    blocks: tuple[DrawnBlock, ...]
    link: str | None = None


def drawn_row(
    row: Row,
    view_sets: Sequence[ViewSet],
    *,
    original: PageImage | None,
    draw: Callable[[ViewSet, Cell], DrawnView],
    within: tuple[int, int] = (240, 320),
    link: str | None = None,
) -> DrawnRow:
    """Return a sample as the template draws it.

    Args:
        row: What is shown of it.
        view_sets: The view sets whose views it has.
        original: The picture of its original.
        draw: Returns a view with its picture.
        within: Height and width of the original at most, in CSS pixels.
        link: Address of its page.
    """
    scale = min(within[0] / row.height, within[1] / row.width)
    return DrawnRow(
        row=row,
        width=max(1, round(row.width * scale)),
        height=max(1, round(row.height * scale)),
        original=original,
        blocks=tuple(
            DrawnBlock(
                name=each.name,
                goal=goal_text(each),
                height=each.height,
                width=each.width,
                views=tuple(draw(each, cell) for cell in row.cells[each.name]),
            )
            for each in view_sets
        ),
        link=link,
    )
