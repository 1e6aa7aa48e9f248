"""The contact sheet of `viewstore inspect --sheet`: a PNG, a line per sample with all its views."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from viewstore.errors import ConfigError, counted
from viewstore.format.plan import SOURCE
from viewstore.images.colours import Pixels
from viewstore.inspect.origin import made_words, origin_facts, outdated_words
from viewstore.inspect.pictures import fit
from viewstore.inspect.sheet_layout import CELL, GAP, LINE, MARGIN, ORIGINAL, Layout, lay_out
from viewstore.inspect.shown_rows import Box, Cell, Row, read_row
from viewstore.inspect.told import (
    OF_IMAGE,
    Chosen,
    about_images,
    described,
    told_columns,
    told_of,
    told_of_image,
    with_told,
)
from viewstore.store.store import Store
from viewstore.store.verdict import goal_text, verdict_of
from viewstore.store.view_set import ViewSet

DASH, SPACE = 6, 4
FRAME = 3
LEGEND = (
    "A box on an original has the number, colour and dash of its view.",
    "area: share of the original in the box; d: distance to the anchor; !: what is wrong.",
)

INK, FAINT, ALARM, PAPER, BLANK = "#1b1b1b", "#6a6a6a", "#a32800", "#ffffff", "#ececec"
BORDER = "#b0b0b0"  # a white view stays a view


def draw_sheet(
    store: Store,
    rows: Sequence[int],
    view_sets: Sequence[ViewSet],
    *,
    seed: int = 0,
    query: str = "",
    chosen: Chosen | None = None,
) -> bytes:
    """Return the PNG of a contact sheet; the same arguments give the same bytes.

    Args:
        store: An open store.
        rows: The samples to draw, from top to bottom.
        view_sets: Some of its view sets, from left to right; none: originals stand alone, with what
            columns sets say of them.
        seed: Only written down, in the text chunks that say what the sheet shows.
        query: Likewise: the filter and order that chose the samples.
        chosen: The views to frame.

    Raises:
        ConfigError: The store has no view set, or the sheet has more than 64 megapixels.
    """
    if not store.view_sets:
        raise ConfigError("the store has no view set to show")
    notes = notes_of(store, view_sets, chosen)
    told = {
        each.name: max(
            (len(words) for row in rows for words in told_of(store, each, row, chosen)), default=0
        )
        for each in view_sets
    }
    told[SOURCE] = max((len(told_of_image(store, row)) for row in rows), default=0)
    layout = lay_out(view_sets, len(rows), len(notes), told)
    sheet = Image.new("RGB", (layout.width, layout.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, store, notes, layout)
    top = layout.header
    for row in rows:
        shown = with_told(store, read_row(store, row, view_sets), view_sets, chosen)
        _draw_row(sheet, draw, shown, layout, top)
        top += layout.row_height
    text = PngImagePlugin.PngInfo()
    text.add_text("viewstore:store_id", store.store_id)
    text.add_text("viewstore:view_set", " ".join(each.name for each in view_sets) or SOURCE)
    text.add_text("viewstore:rows", " ".join(map(str, rows)))
    text.add_text("viewstore:seed", str(seed))
    if query:
        text.add_text("viewstore:query", query)
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


def notes_of(
    store: Store, view_sets: Sequence[ViewSet], chosen: Chosen | None = None
) -> list[tuple[str, str]]:
    """Return the lines of words below the title, with their colours.

    They say what the view sets came to, what is shown of them, with what they were made, what is
    said of them, and how to read it.
    """
    verdict = verdict_of(store, view_sets or about_images(store))
    notes = [(verdict.headline(), ALARM if verdict.unfit else INK)]
    for view_set in view_sets:
        views = counted(view_set.num_views, "view")
        roles = ", ".join(sorted(set(view_set.roles)))
        goal = goal_text(view_set)
        said = f"{view_set.name}: {views} ({roles}) of {view_set.height} x {view_set.width} px"
        notes.append((said + (f"; goal: {goal}" if goal else ""), FAINT))
        notes += _origin(store, view_set)
        for each in described(store, view_set):
            notes.append((f"{each.name}, columns of {view_set.name}: {_columns(each)}", FAINT))
            notes += _origin(store, each)
    for each in about_images(store) if not view_sets else ():
        names = ", ".join(column.name for column in told_columns(each, OF_IMAGE))
        notes.append((f"{each.name}, columns of the images: {names or 'nothing in words'}", FAINT))
        notes += _origin(store, each)
    if chosen is not None:
        notes.append((f"A frame marks the views that {chosen.name} chose.", FAINT))
    if any("mix_box" in each.params for each in view_sets):
        notes.append(("A box in a view is what was pasted into it.", FAINT))
    return notes + [(line, FAINT) for line in LEGEND if view_sets]


def _columns(columns_set: ViewSet) -> str:
    """Return which columns stand below views, or else that they do not."""
    told = [column.name for column in told_columns(columns_set)]
    if told:
        return ", ".join(told)
    others = [each.name for each in columns_set.plan.columns if each.name != "status"]
    return f"{', '.join(others)} (not written below the views)"


def _origin(store: Store, view_set: ViewSet) -> list[tuple[str, str]]:
    """Return by what a view set was made, as lines; that it is out of date stands out."""
    name, facts = view_set.name, origin_facts(store, view_set)
    made = [(f"{name}: {words}", FAINT) for words in made_words(name, facts)]
    return made + [(f"{name}: {words}", ALARM) for words in outdated_words(name, facts)]


def _draw_header(
    draw: ImageDraw.ImageDraw,
    store: Store,
    notes: Sequence[tuple[str, str]],
    layout: Layout,
) -> None:
    width = layout.width - 2 * MARGIN
    title = f"{store.name}: {counted(store.num_samples, 'sample')}, store {store.store_id[:12]}"
    draw.text((MARGIN, MARGIN), _elide(title, width, _font(13)), INK, font=_font(13))
    top = MARGIN + LINE + GAP
    for note, colour in notes:
        draw.text((MARGIN, top), _elide(note, width, _font()), colour, font=_font())
        top += LINE
    top += GAP
    for block, left in layout.lefts():
        x, _ = block.offset(0)
        if block.original:
            draw.text((left, top), "original", INK, font=_font())
        if block.view_set is not None:
            name = _elide(block.view_set.name, max(block.width - x, CELL), _font())
            draw.text((left + x, top), name, INK, font=_font())


def _draw_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Row, layout: Layout, top: int
) -> None:
    draw.line((MARGIN, top - 4, layout.width - MARGIN, top - 4), BLANK)
    label = f"label {row.label}, " if row.label else ""
    facts = f"row {row.row}, {label}{row.width} x {row.height} px"
    room = layout.width - 2 * MARGIN - _font().getlength(facts) - 2 * GAP
    key = _elide(row.key, max(room, CELL), _font())
    draw.text((MARGIN, top), key, INK, font=_font())
    after = MARGIN + round(_font().getlength(key)) + 2 * GAP
    facts = _elide(facts, layout.width - MARGIN - after, _font())
    draw.text((after, top), facts, FAINT, font=_font())
    top += LINE + 3
    for block, left in layout.lefts():
        cells = () if block.view_set is None else row.cells[block.view_set.name]
        if block.original:
            _draw_original(sheet, draw, row, cells, (left, top))
        if block.view_set is None:
            _draw_words(draw, row.told, (left, top + CELL + FRAME + 2), ORIGINAL)
        several = len({cell.role for cell in cells}) > 1
        for cell in cells:
            x, y = block.offset(cell.view)
            _draw_view(sheet, draw, cell, (left + x, top + y), with_role=several)


def _draw_original(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    row: Row,
    cells: Sequence[Cell],
    at: tuple[int, int],
) -> None:
    left, top, width, height = _paste(
        sheet, draw, row.original, at, row.original_note, wide=ORIGINAL
    )
    if row.original is None:
        return
    x_scale, y_scale = width / row.width, height / row.height
    boxed = [(cell, cell.box) for cell in cells if cell.box is not None]
    # The widest first, so that a small box is never hidden below a large one.
    for cell, box in sorted(boxed, key=lambda pair: -pair[1].height * pair[1].width):
        _draw_box(draw, _corners(box, left, top, x_scale, y_scale), cell)
    for cell, box in boxed:
        x0, y0, _, _ = _corners(box, left, top, x_scale, y_scale)
        _draw_number(draw, cell, (min(x0, left + width - 11), min(y0, top + height - 12)))


def _draw_view(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: Cell,
    at: tuple[int, int],
    *,
    with_role: bool,
) -> None:
    place = _paste(sheet, draw, cell.pixels, at, cell.note)
    if cell.mix is not None and cell.pixels is not None:
        height, width = cell.pixels.shape[:2]
        _draw_mix(draw, _corners(cell.mix, *place[:2], place[2] / width, place[3] / height))
    if cell.chosen:
        _draw_frame(draw, place)
    left, top = at[0], at[1] + CELL + FRAME + 2
    _draw_number(draw, cell, (left, top))
    words = [] if cell.distance is None else [f"d {cell.distance:.3f}"]
    if cell.note:
        words.append(f"! {cell.note}")
    elif cell.area is not None:
        words.append(f"area {cell.area:.0%}")
    if with_role:
        words.insert(0, cell.role)
    text = _elide(" ".join(words), CELL - 22, _font())
    draw.text((left + 20, top - 1), text, ALARM if cell.note else FAINT, font=_font())
    _draw_words(draw, cell.told, (left, top + LINE), CELL)


def _draw_words(
    draw: ImageDraw.ImageDraw, words: Sequence[str], at: tuple[int, int], width: int
) -> None:
    """Write what columns sets say, a line each."""
    for number, line in enumerate(words):
        place = (at[0], at[1] + number * LINE - 1)
        draw.text(place, _elide(line, width, _font()), FAINT, font=_font())


def _draw_frame(draw: ImageDraw.ImageDraw, place: tuple[int, int, int, int]) -> None:
    """Draw a frame around a picture, of the pixels that lie between it and its neighbours.

    It is black with a white line to the picture: it shows on a black one too. Beyond it is paper.
    """
    left, top, width, height = place
    for far, near, colour in ((FRAME + 1, FRAME, INK), (1, 1, PAPER)):
        outside = (left - far, top - far, left + width + far - 1, top + height + far - 1)
        draw.rectangle(outside, outline=colour, width=near)


def _draw_mix(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int]) -> None:
    """Draw the box of what was pasted into a view: black between white, it shows on any picture."""
    x0, y0, x1, y1 = corners
    draw.rectangle(corners, outline=PAPER, width=3)
    draw.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=INK)


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    pixels: Pixels | None,
    at: tuple[int, int],
    absent: str,
    *,
    wide: int = CELL,
) -> tuple[int, int, int, int]:
    """Draw a picture in its cell, centred, with a border; return its left, top, width, height."""
    if pixels is None:
        draw.rectangle((*at, at[0] + wide - 1, at[1] + CELL - 1), BLANK)
        text = _elide(absent, wide - 8, _font())
        draw.text((at[0] + 4, at[1] + CELL // 2 - 8), text, FAINT, font=_font())
        return *at, wide, CELL
    image = fit(pixels, CELL, wide=wide)
    left, top = at[0] + (wide - image.width) // 2, at[1] + (CELL - image.height) // 2
    draw.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=BORDER)
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
