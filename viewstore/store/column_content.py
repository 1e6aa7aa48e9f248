"""What params columns mean, where a check can tell: proofs of pixels, choices, features, top-k."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import Status
from viewstore.format.plan import Plan
from viewstore.images.colours import Pixels

PIXEL_CRC = "pixel_crc"  # the column of a recipe set that proves its pixels
NO_CHOICE = 255
LENGTH_SLACK = 2e-3  # of unit features in half precision

Values = Mapping[str, NDArray[Any]]


def has_proof(plan: Plan) -> bool:
    """Whether a view set keeps a CRC-32 of the pixels of each view."""
    return any(column.name == PIXEL_CRC for column in plan.columns)


def pixel_crcs(pixels: Pixels, made: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each view, uint32 [V]: what a recipe set keeps as proof of its pixels.

    That of a view that was never `made` [V] is the fill value, which no other view has.
    """
    fill = np.iinfo(np.uint32).max
    crcs = [min(zlib.crc32(view.tobytes()), fill - 1) for view in pixels]
    return np.where(made, np.array(crcs, np.uint32), np.uint32(fill))


def meaning_faults(plan: Plan, values: Values) -> Iterator[tuple[str, str]]:
    """Yield kind and description of each column of a shard that cannot mean what it says.

    `values` has the columns of its rows, [rows, *shape].
    """
    ok = values["status"] == Status.OK
    if (values["status"] > max(Status)).any():
        yield "params", f"column status holds {int(values['status'].max())}, which says nothing"
    for column in plan.columns:
        array = values[column.name]
        if column.per == "choice" and not _are_choices(array, plan.views):
            yield "params", f"column {column.name} has choices that are no distinct views"
        check = CHECKS.get(column.name)
        if check is not None and plan.kind == "columns":
            wrong = check(array[ok] if column.per == "view" else array, plan)
            if wrong:
                yield "params", f"column {column.name} {wrong}"


def _are_choices(choices: NDArray[Any], views: int) -> bool:
    """Whether each row [G, m] names distinct views below `views`, or none at all."""
    none = (choices == NO_CHOICE).all(-1)
    ordered = np.sort(choices, axis=-1)
    distinct = (ordered[..., 1:] != ordered[..., :-1]).all(-1)
    return bool((none | (distinct & (ordered[..., -1] < views))).all())


def _wrong_feature(features: NDArray[Any], plan: Plan) -> str | None:
    if not np.isfinite(features).all():
        return "has values that are not finite where the status is 1"
    if plan.generator["args"].get("normalise"):
        lengths = np.linalg.norm(features.astype(np.float64), axis=-1)
        if (np.abs(lengths - 1) > LENGTH_SLACK).any():
            return "has features that are not of unit length"
    return None


def _wrong_logits(logits: NDArray[Any], plan: Plan) -> str | None:
    del plan
    descends = (np.diff(logits.astype(np.float32), axis=-1) <= 0).all()
    return None if descends else "does not go down"


def _wrong_losses(losses: NDArray[Any], plan: Plan) -> str | None:
    del plan
    scored = np.isfinite(losses).any(-1).all()
    return None if scored else "has views without a finite loss where the status is 1"


CHECKS: Mapping[str, Callable[[NDArray[Any], Plan], str | None]] = {
    "feature": _wrong_feature,
    "pair_loss": _wrong_losses,
    "topk_logit": _wrong_logits,
}
