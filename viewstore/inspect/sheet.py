"""The contact sheet of `viewstore inspect --sheet`: a PNG, a line per sample with all its views."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from viewstore.errors import ConfigError
from viewstore.images.colours import Pixels
from viewstore.inspect.pictures import fit
from viewstore.inspect.sheet_layout import CELL, LINE, MARGIN, Layout, lay_out
from viewstore.inspect.shown_rows import Box, Cell, Row, read_row
from viewstore.store.constraints import constraints_of
from viewstore.store.store import Store
from viewstore.store.verdict import verdict_of
from viewstore.store.view_set import ViewSet

DASH, SPACE = 6, 4

INK, FAINT, ALARM, PAPER, BLANK = "#1b1b1b", "#6a6a6a", "#a32800", "#ffffff", "#ececec"


def draw_sheet(
    store: Store, rows: Sequence[int], view_sets: Sequence[ViewSet], *, seed: int = 0
) -> bytes:
    """Return the PNG of a contact sheet; the same arguments give the same bytes.

    Args:
        store: An open store.
        rows: The samples to draw, from top to bottom.
        view_sets: Some of its view sets, from left to right.
        seed: Only written down, in the text chunk that says what the sheet shows.

    Raises:
        ConfigError: There is no view set, or the sheet has more than 64 megapixels.
    """
    if not view_sets:
        raise ConfigError("the store has no view set to show")
    layout = lay_out(view_sets, len(rows))
    sheet = Image.new("RGB", (layout.width, layout.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, store, layout)
    top = layout.header
    for row in rows:
        _draw_row(sheet, draw, read_row(store, row, view_sets), layout, top)
        top += layout.row_height
    text = PngImagePlugin.PngInfo()
    text.add_text("viewstore:store_id", store.store_id)
    text.add_text("viewstore:view_set", " ".join(each.name for each in view_sets))
    text.add_text("viewstore:rows", " ".join(map(str, rows)))
    text.add_text("viewstore:seed", str(seed))
    file = io.BytesIO()
    sheet.save(file, "PNG", pnginfo=text, compress_level=6)
    return file.getvalue()


def _elide(text: str, width: float, font: Any) -> str:  # noqa: ANN401
    """Return `text`, its middle replaced by dots if it is wider than `width` pixels."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:4096])
    if font.getlength(text) <= width:
        return text
    length = len(text)
    while length > 2:
        length -= max(1, length // 16)
        tail = length // 2
        shorter = f"{text[: length - tail]}...{text[-tail:]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "..."


@cache
def _font(size: int = 11) -> Any:  # noqa: ANN401
    return ImageFont.load_default(size)


def _draw_header(draw: ImageDraw.ImageDraw, store: Store, layout: Layout) -> None:
    width = layout.width - 2 * MARGIN
    title = f"{store.name}: {store.num_samples} samples, store {store.store_id[:12]}"
    draw.text((MARGIN, MARGIN), _elide(title, width, _font(13)), INK, font=_font(13))
    verdict = verdict_of(store, [block.view_set for block in layout.blocks])
    said, ink = _elide(verdict.headline(), width, _font()), ALARM if verdict.unfit else FAINT
    draw.text((MARGIN, MARGIN + LINE + 4), said, ink, font=_font())
    for block, left in layout.lefts():
        view_set = block.view_set
        constraints = constraints_of(view_set)
        views = "1 view" if view_set.num_views == 1 else f"{view_set.num_views} views"
        facts = f"{views}, {view_set.height} x {view_set.width} px"
        lines = [view_set.name, facts]
        if constraints is not None:
            lines[1] += f"; ! = not within {constraints.eps1:.3f} +- {constraints.tolerance:g}"
        widest = max(block.width, 3 * CELL) if len(layout.blocks) == 1 else block.width
        for number, line in enumerate(lines):
            at = left, MARGIN + LINE * (number + 2) + 8
            draw.text(at, _elide(line, widest, _font()), (INK, FAINT)[number], font=_font())


def _draw_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Row, layout: Layout, top: int
) -> None:
    draw.line((MARGIN, top - 4, layout.width - MARGIN, top - 4), BLANK)
    width = layout.width - 2 * MARGIN
    draw.text((MARGIN, top), _elide(row.key, width, _font()), INK, font=_font())
    top += LINE + 3
    for block, left in layout.lefts():
        cells = row.cells[block.view_set.name]
        if block.original:
            _draw_original(sheet, draw, row, cells, (left, top))
        for cell in cells:
            x, y = block.offset(cell.view)
            _draw_view(sheet, draw, cell, (left + x, top + y))


def _draw_original(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    row: Row,
    cells: Sequence[Cell],
    at: tuple[int, int],
) -> None:
    left, top, width, height = _paste(sheet, draw, row.original, at, "source not reachable")
    x_scale, y_scale = width / row.width, height / row.height
    boxed = [(cell, cell.box) for cell in cells if cell.box is not None]
    # The widest first, so that a small box is never hidden below a large one.
    for cell, box in sorted(boxed, key=lambda pair: -pair[1].height * pair[1].width):
        _draw_box(draw, _corners(box, left, top, x_scale, y_scale), cell)
    for cell, box in boxed:
        x0, y0, _, _ = _corners(box, left, top, x_scale, y_scale)
        _draw_number(draw, cell, (min(x0, left + width - 11), min(y0, top + height - 12)))
    facts = f"{row.label}  {row.width} x {row.height}".strip()
    draw.text((at[0], at[1] + CELL + 1), _elide(facts, CELL, _font()), FAINT, font=_font())


def _draw_view(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, at: tuple[int, int]
) -> None:
    _paste(sheet, draw, cell.pixels, at, cell.note)
    left, top = at[0], at[1] + CELL + 2
    _draw_number(draw, cell, (left, top))
    words = "" if cell.distance is None else f"{cell.distance:.3f}"
    if cell.note:
        words = f"{words} ! {cell.note}".strip()
    area = "" if cell.area is None else f" {cell.area:.0%}"
    text = _elide(words or cell.role + area, CELL - 22, _font())
    draw.text((left + 20, top - 1), text, ALARM if cell.note else FAINT, font=_font())


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    pixels: Pixels | None,
    at: tuple[int, int],
    absent: str,
) -> tuple[int, int, int, int]:
    """Draw a picture centred in its cell; return its left, top, width and height."""
    if pixels is None:
        draw.rectangle((*at, at[0] + CELL - 1, at[1] + CELL - 1), BLANK)
        text = _elide(absent, CELL - 8, _font())
        draw.text((at[0] + 4, at[1] + CELL // 2 - 8), text, FAINT, font=_font())
        return *at, CELL, CELL
    image = fit(pixels, CELL)
    left, top = at[0] + (CELL - image.width) // 2, at[1] + (CELL - image.height) // 2
    sheet.paste(image, (left, top))
    return left, top, image.width, image.height


def _corners(
    box: Box, left: int, top: int, x_scale: float, y_scale: float
) -> tuple[int, int, int, int]:
    x0, y0 = left + box.left * x_scale, top + box.top * y_scale
    x1, y1 = x0 + box.width * x_scale - 1, y0 + box.height * y_scale - 1
    return round(x0), round(y0), round(x1), round(y1)


def _draw_box(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], cell: Cell) -> None:
    """Draw a box of 2 pixels over a white one of 3: every colour shows on every picture."""
    x0, y0, x1, y1 = corners
    draw.rectangle((x0, y0, x1, y1), outline="#ffffff", width=3)
    colour = f"#{cell.colour}"
    if not cell.dashed:
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=2)
        return
    for x in range(x0, x1 + 1, DASH + SPACE):
        end = min(x + DASH - 1, x1)
        draw.rectangle((x, y0, end, y0 + 1), colour)
        draw.rectangle((x, y1 - 1, end, y1), colour)
    for y in range(y0, y1 + 1, DASH + SPACE):
        end = min(y + DASH - 1, y1)
        draw.rectangle((x0, y, x0 + 1, end), colour)
        draw.rectangle((x1 - 1, y, x1, end), colour)


def _draw_number(draw: ImageDraw.ImageDraw, cell: Cell, at: tuple[int, int]) -> None:
    """Draw the number of a view on its colour; grey if it has no box to find."""
    text = str(cell.view)
    fill = f"#{cell.colour}" if cell.box is not None else BLANK
    right = at[0] + 5 + round(_font(10).getlength(text))
    draw.rectangle((*at, right, at[1] + 11), fill)
    draw.text((at[0] + 3, at[1]), text, f"#{cell.ink}", font=_font(10))
