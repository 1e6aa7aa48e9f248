"""Stats: how the values of each column are distributed, and of two columns together."""

from __future__ import annotations

from viewstore.errors import ConfigError, nearest
from viewstore.inspect.columns import (
    column_filter,
    column_values,
    holds_floats,
    single_columns,
)
from viewstore.inspect.distributions import Bar, density_of
from viewstore.inspect.figures import density_panel, figure, histogram_panel
from viewstore.inspect.pages.page import Facts, PageRequest, Tab, opening
from viewstore.inspect.summary import column_facts, unsummarised
from viewstore.inspect.told import described
from viewstore.inspect.view_set_charts import column_bars, said_instead
from viewstore.store.view_set import ViewSet

SHOWN = ("count", "fill", "min", "max", "mean", "std", "percentiles", "left_out", "summarised")


def _facts(request: PageRequest) -> Facts:
    return {
        "view_set": request.shown.name,
        "sets": [_set_facts(request, each) for each in _sets(request)],
        "choices": list(_columns(request)),
        "x": request.query.get("x", ""),
        "y": request.query.get("y", ""),
        **_together(request),
    }


def _sets(request: PageRequest) -> list[ViewSet]:
    """Return the view set that was picked, then the columns sets that describe it."""
    return [request.shown, *described(request.store, request.shown)]


def _set_facts(request: PageRequest, view_set: ViewSet) -> Facts:
    key = ("columns", view_set.index.root)
    found = request.site.facts.get(key, lambda: column_facts(view_set))
    return {
        "view_set": view_set.name,
        "generator": view_set.plan.generator["name"],
        "of": view_set.of if view_set.kind == "columns" else None,
        "columns": [_column(request, view_set, name, stats) for name, stats in found.items()],
        "unsummarised": unsummarised(view_set),
    }


def _column(request: PageRequest, view_set: ViewSet, name: str, stats: Facts) -> Facts:
    """Return the numbers of a column, what finds its extremes, and its panel if that says much."""
    base = name.partition(".")[0]
    tests = column_filter(request.store, request.shown, view_set, base)
    greatest, said = stats["max"], said_instead(name, stats)

    def where(bar: Bar) -> str:
        return "" if tests is None else tests.bar(bar, greatest)

    finds = {}
    if tests is not None and not said:
        finds = {"min": tests.at_most(stats["min"]), "max": tests.at_least(greatest)}
    if tests is not None and (left := stats["left_out"]):
        ends = {"min": stats["min"], "max": greatest, "left_out": left["value"]}
        finds = {end: tests.within(value, value) for end, value in ends.items()}
    if tests is not None and stats["fill"]:
        finds["fill"] = tests.missing()
    caption = name if view_set is request.shown else f"{view_set.name}.{name}"
    panel = None if said else histogram_panel(caption, column_bars(stats), where=where)
    return {
        "name": name,
        **{fact: stats[fact] for fact in SHOWN},
        "finds": finds,
        "said": said,
        "panel": panel,
    }


def _columns(request: PageRequest) -> dict[str, tuple[ViewSet, str]]:
    """Return the columns of single numbers that can be looked at together, by name.

    Those of a columns set are called SET.column.
    """
    return {
        name if each is request.shown else f"{each.name}.{name}": (each, name)
        for each in _sets(request)
        for name in single_columns(each)
    }


def _together(request: PageRequest) -> Facts:
    """Return the panel of the two columns that were asked for, or why there is none, in words.

    Raises:
        ConfigError: There is no such column.
    """
    names = request.query.get("x", ""), request.query.get("y", "")
    if not any(names):
        return {"together": None, "apart": ""}
    known = _columns(request)
    for axis, name in zip("xy", names, strict=True):
        if name not in known:
            raise ConfigError(
                f"{axis} must be a column of {request.shown.name}, got {name!r}; "
                f"{nearest(name, list(known))}",
                code="VS102",
            )
    of_sets = [known[name] for name in names]
    key = ("together", *((view_set.index.root, name) for view_set, name in of_sets))
    panel: Facts | None = request.site.facts.get(key, lambda: _density(names, of_sets))
    apart = "" if panel else f"No view has a value of both {names[0]} and {names[1]}."
    return {"together": panel, "apart": apart}


def _density(names: tuple[str, str], of_sets: list[tuple[ViewSet, str]]) -> Facts | None:
    across, up = (column_values(*each) for each in of_sets)
    x_whole, y_whole = (not holds_floats(*each) for each in of_sets)
    grid = density_of(across, up, whole=(x_whole, y_whole))
    if grid is None:
        return None
    return density_panel(f"{names[1]} (up) over {names[0]} (across)", names, grid)


def _drawn(request: PageRequest, facts: Facts) -> Facts:
    together = facts["together"]
    return {
        "figures": {
            each["view_set"]: {
                column["name"]: figure(column["panel"])
                for column in each["columns"]
                if column["panel"]
            }
            for each in facts["sets"]
        },
        "together": None if together is None else figure(together),
    }


def _code(request: PageRequest) -> str:
    """Return Python that opens the store and reads the statistics, or the two columns."""
    names = request.query.get("x", ""), request.query.get("y", "")
    known = _columns(request)
    if not all(name in known for name in names):
        sets = [each.name for each in _sets(request)]
        return (
            f"{opening(request)}\n"
            "from viewstore.inspect.summary import column_facts\n\n"
            f"columns = {{name: column_facts(store.view_sets[name]) for name in {sets!r}}}"
        )
    lines = [opening(request), "from viewstore.inspect.columns import column_values", ""]
    for axis, name in zip("xy", names, strict=True):
        view_set, column = known[name]
        found = "views" if view_set is request.shown else f"store.view_sets[{view_set.name!r}]"
        lines.append(f"{axis} = column_values({found}, {column!r})  # [N, V], NaN where missing")
    return "\n".join(lines)


TAB = Tab(
    name="stats",
    title="Stats",
    facts=_facts,
    has_data=lambda request: request.view_set is not None,
    drawn=_drawn,
    code=_code,
)
