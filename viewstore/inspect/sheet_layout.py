"""Where everything lies on a contact sheet, in pixels from its upper left corner. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from viewstore.errors import ConfigError, counted
from viewstore.format.plan import SOURCE
from viewstore.store.view_set import ViewSet

CELL = 112  # pixels of a view's longer side
ORIGINAL = 168  # pixels of the column of originals, which are as high as views
LEAST_WIDTH = 640  # for the words at the top
GAP, MARGIN, BLOCK_GAP = 9, 16, 22
LINE = 15  # of a caption
VIEWS_ACROSS = 10  # a view set with more of them wraps
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Block:
    """The cells of one view set: the original if it has boxes to show, and its views.

    Views beyond the tenth continue on the next line. Below each is its caption, and `told` lines
    of what columns sets say of it. Without a view set it is the original alone.
    """

    view_set: ViewSet | None
    original: bool
    told: int = 0

    @property
    def views(self) -> int:
        return 0 if self.view_set is None else self.view_set.num_views

    @property
    def lines(self) -> int:
        return max(1, -(-self.views // VIEWS_ACROSS))

    @property
    def width(self) -> int:
        return min(self.views, VIEWS_ACROSS) * (CELL + GAP) - GAP + self._shift

    @property
    def _shift(self) -> int:
        """Width of the column of originals, if there is one."""
        return (ORIGINAL + GAP) * self.original

    def offset(self, view: int) -> tuple[int, int]:
        """Return left and top of a view within the block."""
        line, column = divmod(view, VIEWS_ACROSS)
        return column * (CELL + GAP) + self._shift, line * self.line_height

    @property
    def line_height(self) -> int:
        return CELL + LINE * (1 + self.told) + GAP


@dataclass(frozen=True)
class Layout:
    """A sheet of `rows` samples below a header of `header` pixels, its blocks side by side."""

    blocks: tuple[Block, ...]
    rows: int
    header: int

    @property
    def width(self) -> int:
        inner = sum(block.width for block in self.blocks) + BLOCK_GAP * (len(self.blocks) - 1)
        return max(inner, LEAST_WIDTH) + 2 * MARGIN

    @property
    def row_height(self) -> int:
        return LINE + 3 + max(b.lines * b.line_height for b in self.blocks) + GAP

    @property
    def height(self) -> int:
        return self.header + self.rows * self.row_height + MARGIN

    def lefts(self) -> Iterator[tuple[Block, int]]:
        """Yield each block and its left edge."""
        left = MARGIN
        for block in self.blocks:
            yield block, left
            left += block.width + BLOCK_GAP


def lay_out(
    view_sets: Sequence[ViewSet], rows: int, notes: int, told: Mapping[str, int] | None = None
) -> Layout:
    """Return the layout of a sheet that shows `rows` samples with one or more view sets.

    Args:
        view_sets: The view sets; none: originals stand alone.
        rows: Samples.
        notes: Lines of words below the title.
        told: Lines of words below each view, by view set; below originals alone by "source".

    Raises:
        ConfigError: It has more than 64 megapixels.
    """
    blocks = tuple(
        # The original is shown at least once.
        Block(
            view_set,
            original=number == 0 or "crop_box" in view_set.params,
            told=(told or {}).get(view_set.name, 0),
        )
        for number, view_set in enumerate(view_sets)
    ) or (Block(None, original=True, told=(told or {}).get(SOURCE, 0)),)
    layout = Layout(blocks, rows, header=MARGIN + (notes + 3) * LINE + 2 * GAP)
    if layout.width * layout.height > MAX_PIXELS:
        fitting = (MAX_PIXELS // layout.width - layout.header - MARGIN) // layout.row_height
        raise ConfigError(
            f"a contact sheet must have at most 64 megapixels; {rows} samples give "
            f"{layout.width * layout.height / 1e6:.0f}",
            fix=f"show at most {counted(fitting, 'sample')} with -n, or one --view-set",
        )
    return layout
