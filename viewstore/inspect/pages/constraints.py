"""Constraints: whether views have the distances that their search was asked for."""

from __future__ import annotations

from dataclasses import asdict

from viewstore.inspect.columns import ColumnFilter
from viewstore.inspect.constraint_lines import constraint_lines, finding, quadrants
from viewstore.inspect.figures import figure
from viewstore.inspect.pages.page import Facts, PageRequest, Tab, opening
from viewstore.inspect.view_set_charts import constraint_panels, step_limit
from viewstore.store.constraints import Constraints, constraints_of, tally
from viewstore.store.view_set import ViewSet


def _facts(request: PageRequest) -> Facts:
    shown = request.shown
    wanted = constraints_of(shown)
    assert wanted is not None, "the tab is absent without"
    found: Facts = request.site.facts.get(
        ("constraints", shown.index.root), lambda: _view_set_facts(shown, wanted)
    )
    return found


def _view_set_facts(shown: ViewSet, wanted: Constraints) -> Facts:
    said, alarm = finding(shown.params["distance"], wanted)
    prefix = f"{shown.name}."
    panels = constraint_panels(
        shown,
        wanted,
        lambda name, bar: _filter(shown, name).bar(bar, shown.stats[name].max or 0.0),
    )
    return {
        "view_set": shown.name,
        "generator": dict(shown.plan.generator),
        "weights": [asdict(each) for each in shown.weights],
        "finding": said,
        "alarm": alarm,
        "views": shown.num_views,
        "constraints": {**asdict(wanted), "unreachable": wanted.unreachable},
        "tally": asdict(tally(shown, wanted)),
        "lines": [asdict(line) for line in constraint_lines(shown.params, wanted, prefix)],
        "quadrants": quadrants(shown.params, wanted),
        "steps": _steps(shown),
        "panels": panels,
    }


def _filter(shown: ViewSet, name: str) -> ColumnFilter:
    column = shown.plan.column(name)
    return ColumnFilter(f"{shown.name}.{name}", floats=column.dtype.startswith("f"))


def _steps(shown: ViewSet) -> Facts | None:
    """Return how many views took all the steps that the search had; None: that is not known."""
    limit = step_limit(shown)
    if limit is None or "steps" not in shown.params:
        return None
    steps = shown.params["steps"]
    known = ~shown.plan.column("steps").missing(steps)
    return {
        "limit": limit,
        "at_limit": int((known & (steps >= limit)).sum()),
        "views": int(known.sum()),
        "where": _filter(shown, "steps").at_least(limit),
    }


def _code(request: PageRequest) -> str:
    """Return Python that opens the store and holds its distances against what was asked for."""
    return (
        f"{opening(request)}\n"
        "from viewstore.store.constraints import constraints_of, tally\n\n"
        "wanted = constraints_of(views)  # eps1, eps2, tolerance\n"
        "distance = views.params['distance']  # float32 [N, V], NaN where not measured\n"
        "off = distance - wanted.eps1\n"
        "counts = tally(views, wanted)"
    )


TAB = Tab(
    name="constraints",
    title="Constraints",
    facts=_facts,
    has_data=lambda request: (
        request.view_set is not None and constraints_of(request.view_set) is not None
    ),
    drawn=lambda request, facts: {"figures": [figure(panel) for panel in facts["panels"]]},
    code=_code,
)
