"""Which samples and view sets sheet, report and pages show, and what they show of each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from viewstore.errors import ViewStoreError
from viewstore.format.columns import Status
from viewstore.format.stats import COMPONENTS
from viewstore.images.colours import Pixels
from viewstore.images.operators.table import OPERATORS
from viewstore.inspect.numbers import is_off
from viewstore.inspect.summary import label_text
from viewstore.store.constraints import constraints_of
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

# Okabe and Ito: told apart by most people who see colours differently.
COLOURS = ("E69F00", "56B4E9", "009E73", "CC79A7", "F0E442", "0072B2", "D55E00", "000000")
# Columns that are told apart from the others, or say nothing to a reader.
TOLD = frozenset({"crop_box", "distance", "jitter_order", "latent", "mix_box", "mix_partner"})
TOLD |= {"ops_args", "parent", "pixel_crc", "seed", "status"}
LOSSES = frozenset({"loss0", "loss"})  # told together where views were made to raise them
NOT_TOLD: Mapping[str, Any] = {"blur": 0, "jitter": [1, 1, 1, 0]}  # by in_words: they are off
SWITCHES = frozenset({"flip", "gray", "converged"})
REMARKS: Mapping[int, str] = {
    Status.NEVER_WRITTEN: "not built",
    Status.GOAL_NOT_MET: "off goal",
    Status.FAILED: "failed",
    Status.UNREADABLE: "source unreadable",
}


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle: a crop box in source pixels, or what was pasted in those of a view."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One view of a sample.

    Attributes:
        view_set: Name of its view set.
        view: Its number there.
        role: Its role.
        built: Whether its shard is there.
        pixels: uint8 [H, W, C]; None if it cannot be shown, and `note` says why, or if pixels were
            not read.
        box: Its crop box, if it has one.
        area: Area of the crop box, as a share of that of the source image.
        distance: Distance to the anchor, if it was measured.
        params: What else was drawn or measured for it, in words.
        note: Words for what is wrong with it; empty if nothing is.
        parent: Number of the view that it was made from, in the set that its own starts from;
            None: it was made from the image.
        mix: What was pasted into it from another image, in its own pixels; None: nothing.
        told: What it was made from, and what columns sets say of it, in words (told.py).
        chosen: Whether it is framed: a columns set chose it.
    """

    view_set: str
    view: int
    role: str
    built: bool
    pixels: Pixels | None
    box: Box | None
    area: float | None
    distance: float | None
    params: tuple[str, ...]
    note: str
    parent: int | None = None
    mix: Box | None = None
    told: tuple[str, ...] = ()
    chosen: bool = False

    @property
    def colour(self) -> str:
        """Colour of its box, six hex digits."""
        return COLOURS[self.view % len(COLOURS)]

    @property
    def ink(self) -> str:
        """Colour of its number, six hex digits: legible on `colour`, or on grey without a box."""
        return "ffffff" if self.box is not None and _is_dark(self.colour) else "000000"

    @property
    def dashed(self) -> bool:
        """Whether its box is dashed: every other one is, for people who see colours differently."""
        return self.view % 2 == 1

    @classmethod
    def of_json(cls, view_set: str, facts: Mapping[str, Any]) -> Cell:
        """Return the view of a view set that `to_json` gave these facts of."""
        boxes = {name: facts[name] and Box(**facts[name]) for name in ("box", "mix")}
        words = {name: tuple(facts[name]) for name in ("params", "told")}
        return cls(view_set=view_set, pixels=None, **{**facts, **words, **boxes})

    def to_json(self) -> dict[str, Any]:
        """Return what is shown of it as JSON values, without its pixels."""
        return {
            "view": self.view,
            "role": self.role,
            "built": self.built,
            "box": None if self.box is None else asdict(self.box),
            "area": self.area,
            "distance": self.distance,
            "params": list(self.params),
            "note": self.note,
            "parent": self.parent,
            "mix": None if self.mix is None else asdict(self.mix),
            "told": list(self.told),
            "chosen": self.chosen,
        }


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample.

    Attributes:
        key: Its key.
        row: Its row in the store.
        label: Name or number of its label; empty if it has none.
        height: Of the source image, in pixels.
        width: Of the source image, in pixels.
        original: The source image, uint8 [H, W, C], maybe smaller; None if it cannot be read, or
            was not.
        original_note: Words for why it cannot be read; empty if it can, or was not.
        cells: Its views, by name of the view set.
        told: What columns sets say of the image itself, in words (told.py).
    """

    key: str
    row: int
    label: str
    height: int
    width: int
    original: Pixels | None
    cells: dict[str, tuple[Cell, ...]]
    original_note: str = ""
    told: tuple[str, ...] = ()

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> Row:
        """Return the sample that `to_json` gave these facts of."""
        cells = {
            name: tuple(Cell.of_json(name, each) for each in views)
            for name, views in facts["view_sets"].items()
        }
        own = {name: facts[name] for name in ("key", "row", "label", "height", "width")}
        return cls(**own, original=None, cells=cells, told=tuple(facts["told"]))

    def to_json(self) -> dict[str, Any]:
        """Return what is shown of it as JSON values, without pixels."""
        return {
            "key": self.key,
            "row": self.row,
            "label": self.label,
            "height": self.height,
            "width": self.width,
            "told": list(self.told),
            "view_sets": {
                name: [cell.to_json() for cell in cells] for name, cells in self.cells.items()
            },
        }


def _is_dark(colour: str) -> bool:
    """Return whether white text reads better than black on a colour of six hex digits."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))
    luminance: float = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return luminance < 0.18


def in_words(name: str, value: Any) -> list[str]:  # noqa: ANN401
    """Return a param as "blur 1.2", a switch as its name; nothing if it is off or not measured.

    Operators are told by their names, a jigsaw as moved.
    """
    if name == "ops":
        return [OPERATORS[number].name for number in value if number < len(OPERATORS)]
    if name == "jigsaw":
        return [name] * (value != sorted(value))
    if name == "duplicate":
        return [f"alike: group of row {value}"]
    values = value if isinstance(value, list) else [value]
    if value == NOT_TOLD.get(name) or is_off(name, value):
        return []
    if any(isinstance(v, float) and math.isnan(v) for v in values):
        return []
    if name in SWITCHES:
        return [name] * (value == 1)
    short = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values]
    if name in COMPONENTS:
        return list(map(" ".join, zip(COMPONENTS[name], short, strict=True)))
    return [f"{name.removeprefix('x_').replace('_', ' ')} {', '.join(short)}"]


class Samples(Protocol):
    """What a row needs to be told beside its views: a store has it, and the source of a view set.

    `table` is the source table; `source` reads the source images.
    """

    @property
    def table(self) -> Any:  # noqa: ANN401
        """The rows: key, label, height and width of each."""

    @property
    def source(self) -> Any:  # noqa: ANN401
        """Reads source images."""


def read_row(store: Samples, row: int, view_sets: Sequence[ViewSet], *, pixels: bool = True) -> Row:
    """Read what sheet, report and pages show of a sample.

    An original or views that cannot be read are no error: the original is None, the cells of
    the views have no pixels, and their notes say why.

    Args:
        store: An open store, or what it knows of its samples.
        row: The sample.
        view_sets: Those of its view sets that are shown.
        pixels: Whether to read pixels. Pages read none: they name pictures by their addresses.

    Raises:
        FormatError: The params are damaged.
    """
    table = store.table
    height, width = int(table.height[row]), int(table.width[row])
    original, note = _original(store, row) if pixels else (None, "")
    return Row(
        key=table.keys[row],
        row=row,
        label=label_text(table.label_names, int(table.label[row]), unlabelled=""),
        height=height,
        width=width,
        original=original,
        original_note=note,
        cells={each.name: _cells(each, row, height * width, pixels) for each in view_sets},
    )


def _original(store: Samples, row: int) -> tuple[Pixels | None, str]:
    """Return the source image of a row; None and a note if it cannot be read."""
    try:
        return store.source.image(row), ""
    except ViewStoreError as error:
        return None, original_note(error)


def original_note(error: ViewStoreError) -> str:
    """Return why a source image is not shown, in few words."""
    if error.code == "VS207":
        return "source not reachable"
    return f"cannot be read: {error.why}" if error.why else "cannot be read"


def is_attack(view_set: ViewSet) -> bool:
    """Whether its views are those of another set, changed until a network's loss was greater."""
    return LOSSES | {"parent", "delta_norm"} <= set(view_set.params)


def unreadable_originals(store: Store, rows: Sequence[int]) -> list[ViewStoreError]:
    """Return an error for each of `rows` whose original cannot be read, and is shown as gray."""
    errors = []
    for row in rows:
        try:
            store.source.read(row)
        except ViewStoreError as error:
            errors.append(error)
    return errors


def _cells(view_set: ViewSet, row: int, source_area: int, pixels: bool) -> tuple[Cell, ...]:
    built = row // view_set.plan.shard_rows in view_set.shards
    views, unreadable = _read_views(view_set, row, built) if pixels else (None, "")
    constraints = constraints_of(view_set)
    boxes, distances, statuses, parents, pasted = (
        _read_column(view_set, name, row)
        for name in ("crop_box", "distance", "status", "parent", "mix_box")
    )
    told = TOLD | LOSSES if is_attack(view_set) else TOLD
    columns = [
        (column.name, _read_column(view_set, column.name, row))
        for column in view_set.plan.columns
        if column.pack and column.name not in told and view_set.plan.per_view(column.name)
    ]
    cells = []
    for view, role in enumerate(view_set.roles):
        box, distance = _box(boxes[view]), distances[view]
        if distance is not None and math.isnan(distance):
            distance = None
        missed = "" if constraints is None or distance is None else constraints.verdict(distance)
        cells.append(
            Cell(
                view_set=view_set.name,
                view=view,
                role=role,
                built=built,
                pixels=None if views is None else views[view],
                box=box,
                area=None if box is None else box.height * box.width / source_area,
                distance=distance,
                params=tuple(
                    words for name, values in columns for words in in_words(name, values[view])
                ),
                note=unreadable or missed or REMARKS.get(statuses[view] or 0, ""),
                parent=parents[view] if parents[view] is not None and parents[view] >= 0 else None,
                mix=_mix(pasted[view]),
            )
        )
    return tuple(cells)


def _read_views(view_set: ViewSet, row: int, built: bool) -> tuple[Pixels | None, str]:
    """Return the views of a row; None and a note if they are damaged, None if not built."""
    try:
        return view_set[row], ""
    except ViewStoreError:
        return None, "cannot be read" if built else ""


def _read_column(view_set: ViewSet, name: str, row: int) -> list[Any]:
    """Return what a column holds of each view of a row: None if there is no such column."""
    if name not in view_set.params:
        return [None] * view_set.num_views
    values: list[Any] = view_set.params.rows(name, np.array([row]))[0].tolist()
    return values


def _box(values: list[float] | None) -> Box | None:
    if values is None or not all(math.isfinite(value) for value in values):
        return None
    top, left, height, width = values
    return Box(top=top, left=left, height=height, width=width)


def _mix(values: list[int] | None) -> Box | None:
    if values is None or values[2] <= values[0]:
        return None
    left, top, right, bottom = values
    return Box(top=top, left=left, height=bottom - top, width=right - left)
