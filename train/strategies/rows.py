"""Rows of views that a strategy makes within a step, of rows that it is given."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from viewstore.train.plan import Domain, Row
from viewstore.train.views import Views


def made_row(
    views: Views,
    row: Row,
    pixels: Tensor,
    role: str,
    *,
    made_from: int | None,
    bn: Domain | None = None,
    params: Mapping[str, Tensor] | None = None,
) -> tuple[Views, Row]:
    """Return the views with one that was made of a row, and the row that shows it.

    It has the params of that row's views, and others that made it.

    Args:
        views: What the row numbers.
        row: What it was made of.
        pixels: Its levels, [B, C, r, r].
        role: Its role.
        made_from: Place of the clean row among the students, as in `Row`.
        bn: Its domain of batch norms; None: that of the row.
        params: Columns that it has besides.
    """
    inherited = _params_of(views, row.view)
    parent = row.view if isinstance(row.view, int) else -1
    views, view = views.plus(
        pixels, role=role, parent=parent, params={**inherited, **(params or {})}
    )
    return views, Row(view, bn=bn or row.bn, made_from=made_from)


def _params_of(views: Views, view: int | Tensor) -> dict[str, Tensor]:
    """Return the columns of a view, or those that all views chosen for a row have, [B, ...]."""
    if isinstance(view, int):
        return dict(views.params[view])
    shown = [views.params[each] for each in view.unique().tolist()]  # type: ignore[no-untyped-call]
    names = [name for name in shown[0] if all(name in params for params in shown)]
    return {name: views.column(name, view) for name in names}
