"""What a chain drew, rendered from the record alone; and what no record from outside may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.images.colours import Pixels
from viewstore.images.operators.jigsaw import Size, rearranged, shapes
from viewstore.images.operators.spaces import NO_MORE
from viewstore.images.operators.table import LARGEST, OPERATORS

OPS_COLUMNS = ("jigsaw", "ops", "ops_args")
_HAS_VALUE = np.array([operator.has_value for operator in OPERATORS])
_CUTS = np.array([bool(operator.cuts) for operator in OPERATORS])


def operated(view: Pixels, params: Mapping[str, Any]) -> Pixels:
    """Return a picture with its recorded operators.

    Args:
        view: uint8 [H, W, 3]; it is left as it is.
        params: Of one view: "ops" [P] and "ops_args" [P, 3]; none are off. Those that were read
            from outside have passed `wrong`.
    """
    for number, arguments in zip(params.get("ops", ()), params.get("ops_args", ()), strict=True):
        if number == NO_MORE:
            break
        view = OPERATORS[number](view, *map(float, arguments))
    return view


def put_together(view: Pixels, params: Mapping[str, Any]) -> Pixels:
    """Return a picture with its recorded "jigsaw" [grid * grid], if there is one."""
    return rearranged(view, params["jigsaw"]) if "jigsaw" in params else view


def wrong(
    params: Mapping[str, NDArray[Any]], size: Size
) -> list[tuple[str, NDArray[np.bool_], str]]:
    """Return which recorded params may not steer a renderer: column, where [...], and why not.

    Args:
        params: Columns by name, [..., *shape of one view]; others than OPS_COLUMNS are left alone.
        size: Height and width of the views.
    """
    faults: list[tuple[str, NDArray[np.bool_], str]] = []
    if "ops" in params:
        numbers, arguments = params["ops"], params["ops_args"]
        used = numbers != NO_MORE
        unknown = used & (numbers >= len(OPERATORS))
        faults.append(("ops", unknown.any(-1), "has an operator that is not known here"))
        late = used[..., 1:] & ~used[..., :-1]
        faults.append(("ops", late.any(-1), "goes on after its end"))
        bad = _wrong_arguments(np.where(used & ~unknown, numbers, NO_MORE), arguments)
        faults.append(("ops_args", bad, f"has a value that is not in +-{LARGEST}"))
    if "jigsaw" in params:
        faults.append(("jigsaw", _wrong_order(params["jigsaw"], size), "is no order of its tiles"))
    return faults


def _wrong_arguments(numbers: NDArray[Any], arguments: NDArray[Any]) -> NDArray[np.bool_]:
    known = np.minimum(numbers, len(OPERATORS) - 1)
    used = numbers != NO_MORE
    value, *centre = np.moveaxis(arguments, -1, 0)
    bad = _HAS_VALUE[known] & ~(np.abs(value) <= LARGEST)
    for each in centre:
        bad |= _CUTS[known] & ~((each >= 0) & (each <= LARGEST))
    return np.asarray((used & bad).any(-1))


def _wrong_order(order: NDArray[Any], size: Size) -> NDArray[np.bool_]:
    count = order.shape[-1]
    grid = round(count**0.5)
    if grid * grid != count:
        return np.ones(order.shape[:-1], np.bool_)
    no_permutation = (np.sort(order, axis=-1) != np.arange(count)).any(-1)
    shape = shapes(size, grid)
    moved = shape[np.minimum(order, count - 1)] != shape
    return np.asarray(no_permutation | moved.any(axis=(-2, -1)))
