"""How near the reconstructions of a view set came to their images, and which are the worst."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.format.columns import Status
from viewstore.inspect.numbers import number, percent
from viewstore.inspect.ranking import ERROR, SHIFT, ranking_of
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

WORST = 16


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and 95th percentile of a figure over the samples."""

    p50: float
    p95: float


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """One sample: its key, its pixel error and feature distance (None: not measured)."""

    key: str
    row: int
    mse: float | None
    shift: float | None
    met: bool


@dataclass(frozen=True, kw_only=True)
class InversionReport:
    """What an inversion came to.

    Attributes:
        samples: With a reconstruction.
        mse: Mean squared error of stored pixels, of images in [-1, 1].
        shift: Distance of the features of stored pixels to those of the source image; None
            without an encoder.
        off_goal: Share of the samples that missed their goal.
        worst: Those farthest from their image, the worst first.
    """

    samples: int
    mse: Spread | None
    shift: Spread | None
    off_goal: float
    worst: tuple[Reconstruction, ...]

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = []
        for name, spread in (("pixel error (mse)", self.mse), ("feature shift", self.shift)):
            if spread is not None:
                lines.append(f"  {name}: p50 {number(spread.p50)}, p95 {number(spread.p95)}")
        lines.append(f"  off goal: {percent(self.off_goal)} of {self.samples} samples")
        if self.worst:
            shown = (f"{each.key} ({number(_first(each.shift, each.mse))})" for each in self.worst)
            lines.append(f"  worst: {', '.join(shown)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def inversion_report(store: Store, view_set: ViewSet) -> InversionReport:
    """Return what the inversion `view_set` came to. Raises FormatError: params are damaged."""
    params = view_set.params
    status = params["status"][:, 0]
    made = (status == Status.OK) | (status == Status.GOAL_NOT_MET)
    columns = {name: params[name] for name in (ERROR, SHIFT) if name in params}
    worst = []
    for row in _worst(view_set, status):
        figures = {name: _finite(values[row]) for name, values in columns.items()}
        worst.append(
            Reconstruction(
                key=store.keys[row],
                row=row,
                mse=figures[ERROR],
                shift=figures.get(SHIFT),
                met=bool(status[row] == Status.OK),
            )
        )
    return InversionReport(
        samples=int(made.sum()),
        mse=_spread(columns[ERROR][made]),
        shift=_spread(columns[SHIFT][made]) if SHIFT in columns else None,
        off_goal=float((status[made] == Status.GOAL_NOT_MET).mean()) if made.any() else 0.0,
        worst=tuple(worst),
    )


def _worst(view_set: ViewSet, status: NDArray[np.uint8]) -> list[int]:
    """Return the rows of the report's worst; a source that could not be read is none of them."""
    ranking = ranking_of(view_set)
    assert ranking is not None, "every inversion has one"
    ordered = ranking.order()
    rows: list[int] = ordered[status[ordered] != Status.UNREADABLE][:WORST].tolist()
    return rows


def _spread(values: NDArray[Any]) -> Spread | None:
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return None
    p50, p95 = np.percentile(known, (50, 95)).tolist()
    return Spread(p50=p50, p95=p95)


def _finite(value: Any) -> float | None:  # noqa: ANN401
    return float(value) if np.isfinite(value) else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
