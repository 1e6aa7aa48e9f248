"""What a chain drew, rendered from the record alone; and the check of a record from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.images.colours import Pixels
from viewstore.images.operators.jigsaw import rearranged, shapes
from viewstore.images.operators.spaces import NO_MORE, Size
from viewstore.images.operators.table import LARGEST, OPERATORS

OPS_COLUMNS = ("jigsaw", "ops", "ops_args")
_HAS_VALUE = np.array([operator.has_value for operator in OPERATORS])
_CUTS = np.array([bool(operator.cuts) for operator in OPERATORS])


def render(view: Pixels, params: Mapping[str, Any]) -> Pixels:
    """Return a picture with its recorded operators, then its recorded jigsaw.

    Args:
        view: uint8 [H, W, 3]; it is left as it is.
        params: Of one view: "ops" [P] and "ops_args" [P, 3], "jigsaw" [grid * grid]; what is not
            there is off. Those that were read from outside have passed `check`.
    """
    for number, arguments in zip(params.get("ops", ()), params.get("ops_args", ()), strict=True):
        if number == NO_MORE:
            break
        view = OPERATORS[number](view, *map(float, arguments))
    return rearranged(view, params["jigsaw"]) if "jigsaw" in params else view


def check(
    params: Mapping[str, NDArray[Any]],
    size: Size,
    rows: NDArray[np.int64],
    views: NDArray[np.int64],
    view_set: str,
) -> None:
    """Check recorded operators of views before they steer a renderer.

    Args:
        params: Columns by name, [B, ...]; others than OPS_COLUMNS are left to others.
        size: Height and width of the views.
        rows: Rows of the views, [B], for the message.
        views: Their numbers, [B].
        view_set: Whose views they are.

    Raises:
        FormatError: VS203 naming row, view and column: an unknown operator, one after the end of
            its list, a value or a centre that is none, or a jigsaw that is no permutation of
            tiles of equal shape.
    """
    faults: list[tuple[str, NDArray[np.bool_], str]] = []
    if "ops" in params:
        numbers, arguments = params["ops"], params["ops_args"]
        used = numbers != NO_MORE
        unknown = used & (numbers >= len(OPERATORS))
        faults.append(("ops", unknown.any(axis=1), "has an operator that is not known here"))
        late = used[:, 1:] & ~used[:, :-1]
        faults.append(("ops", late.any(axis=1), "goes on after its end"))
        wrong = _wrong_arguments(np.where(used & ~unknown, numbers, NO_MORE), arguments)
        faults.append(("ops_args", wrong, f"has a value that is not in +-{LARGEST}"))
    if "jigsaw" in params:
        faults.append(("jigsaw", _wrong_order(params["jigsaw"], size), "is no order of its tiles"))
    for column, wrong, what in faults:
        if wrong.any():
            place = int(wrong.argmax())
            raise FormatError(
                f"{column} of row {rows[place]} view {views[place]} of {view_set} {what}",
                code="VS203",
            )


def _wrong_arguments(numbers: NDArray[Any], arguments: NDArray[Any]) -> NDArray[np.bool_]:
    known = np.minimum(numbers, len(OPERATORS) - 1)
    used = numbers != NO_MORE
    value, *centre = np.moveaxis(arguments, -1, 0)
    wrong = _HAS_VALUE[known] & ~(np.abs(value) <= LARGEST)
    for each in centre:
        wrong |= _CUTS[known] & ~((each >= 0) & (each <= LARGEST))
    return np.asarray((used & wrong).any(axis=1))


def _wrong_order(order: NDArray[Any], size: Size) -> NDArray[np.bool_]:
    count = order.shape[1]
    grid = round(count**0.5)
    if grid * grid != count:
        return np.ones(len(order), np.bool_)
    no_permutation = (np.sort(order, axis=1) != np.arange(count)).any(axis=1)
    shape = shapes(size, grid)
    moved = shape[np.minimum(order, count - 1)] != shape
    return np.asarray(no_permutation | moved.any(axis=(1, 2)))
