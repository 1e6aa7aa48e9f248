"""Browse: the samples that a filter finds, in an order, a page at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from viewstore.errors import ConfigError, UnavailableError, ViewStoreError
from viewstore.format.columns import Status
from viewstore.inspect.pages.among import rows_among
from viewstore.inspect.pages.marks import filter_of, marked_rows, with_mark
from viewstore.inspect.pages.page import (
    Csv,
    Facts,
    PageRequest,
    Tab,
    error_facts,
    opening,
)
from viewstore.inspect.pages.rows import linked_row
from viewstore.inspect.query import (
    FAILED,
    RANDOM,
    WORST,
    Deadline,
    Query,
    Understood,
    sortable,
    understand,
)
from viewstore.inspect.ranking import ranking_of
from viewstore.inspect.shown_rows import Row, read_row
from viewstore.inspect.told import looked_at, with_told

ROWS, MOST_ROWS = 24, 100  # of a page
LONGEST_PAGE = 9  # digits of the number of a page
OFF_GOAL, NOT_BUILT = "any(status = 2)", "status is missing"
TOLD = ("key", "index", "label", "height", "width", "distance")  # by the row itself
OF_ROW = ("key", "row", "label", "height", "width")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the fields of the address ask for: a query, and a page of its rows."""

    query: Query
    page: int
    rows: int
    marks: list[int]

    @classmethod
    def of(cls, request: PageRequest) -> Asked:
        """Read the fields. Raises ConfigError: one cannot be understood."""
        fields = request.query
        return cls(
            query=Query(
                where=fields.get("where", ""),
                sort=fields.get("sort", ""),
                seed=_number(fields.get("seed", "0"), "seed", 0, digits=16),
            ),
            page=_number(fields.get("page", "1"), "page", 1),
            rows=min(MOST_ROWS, _number(fields.get("n", str(ROWS)), "n", 1)),
            marks=marked_rows(fields.get("marks", ""), request.store.num_samples),
        )

    @property
    def begin(self) -> int:
        """Place of the first row of the page among those of the query."""
        return (self.page - 1) * self.rows


def _number(text: str, name: str, least: int, *, digits: int = LONGEST_PAGE) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= digits and int(text) >= least):
        raise ConfigError(f"{name} must be a whole number from {least}, got {text[:40]!r}")
    return int(text)


def _facts(request: PageRequest) -> Facts:
    """Return the query as it was understood, how many rows it has, and those of the page.

    What is wrong with the query stands in "error", and there are no rows.
    """
    facts: Facts = {
        "view_set": request.shown.name,
        "samples": request.store.num_samples,
        "where": request.query.get("where", ""),
        "among": request.query.get("among", ""),
        "sort": request.query.get("sort", ""),
        "ordered_by": None,
        "understood": "",
        "terms": [],
        "columns": [],
        "ranked": "",
        "count": 0,
        "page": 1,
        "pages": 1,
        "first": 0,
        "rows": [],
        "marks": [],
        "error": None,
    }
    try:
        asked = Asked.of(request)
        return facts | _answer(
            request, asked, understand(request.store, asked.query, request.view_set)
        )
    except ConfigError as error:
        return facts | {"error": {"status": 400, **error_facts(error)}}
    except UnavailableError as error:
        return facts | {"error": {"status": 503, **error_facts(error)}}


def _answer(request: PageRequest, asked: Asked, query: Understood) -> Facts:
    site = request.site
    among = request.query.get("among", "")
    chosen = rows_among(site.facts, request.store, among) if among else None
    found = site.results.get(
        (query.id, among), lambda: query.find(Deadline(site.query_seconds), chosen)
    )
    rows = found.page(asked.begin, asked.begin + asked.rows)
    shown = looked_at(request.store, [request.shown])
    read = [read_row(request.store, row, shown, pixels=False) for row in rows]
    if not shown:  # only what is said of the originals is to be seen
        read = [with_told(request.store, each, shown) for each in read]
    values = {name: query.values(name, rows) for name in query.columns}
    sort = asked.query.sort.removeprefix("-") if query.order else None
    return {
        "ordered_by": sort,
        "understood": query.text,
        "terms": [{"term": term, "others": others} for term, others in query.terms],
        "columns": query.columns,
        "ranked": query.ranked(found),
        "count": len(found),
        "page": asked.page,
        "pages": max(1, math.ceil(len(found) / asked.rows)),
        "first": asked.begin,
        "marks": asked.marks,
        "rows": [
            {
                **each.to_json(),
                "values": {name: column[place] for name, column in values.items()},
                "by_view": query.deciding(values[sort][place]) if sort else None,
            }
            for place, each in enumerate(read)
        ],
    }


def _drawn(request: PageRequest, facts: Facts) -> Facts:
    shown = looked_at(request.store, [request.shown])
    return {
        "samples": [
            linked_row(request, Row.of_json(each), shown, larger=False) for each in facts["rows"]
        ],
        "told": TOLD,
        "with_mark": with_mark,
        "only_marked": request.again(where=filter_of(facts["marks"]), page=None),
        "orders": list(_orders(request)),
        "presets": _presets(request),
        "random": request.link(
            "browse",
            where=facts["where"],
            among=facts["among"],
            sort=RANDOM,
            seed=_next_seed(request),
        ),
    }


def _orders(request: PageRequest) -> Iterator[tuple[str, str]]:
    """Yield the orders that can be chosen: as the address has them, and in words."""
    yield "", "row"
    if ranking_of(request.shown) is not None:
        yield WORST, "worst first"
    yield RANDOM, "random"
    for name in sortable(request.store, request.view_set):
        if name != "index":  # the order of the rows
            yield name, f"{name}, least first"
        yield f"-{name}", f"{name}, greatest first"


def _presets(request: PageRequest) -> dict[str, str]:
    """Return addresses of what people ask for, by its name, where there is any of it."""
    stats = request.shown.stats.get("status")
    worst = 0 if stats is None or stats.max is None else stats.max
    wheres = {
        "failed": FAILED if worst >= Status.FAILED else None,
        "off goal": OFF_GOAL if worst >= Status.GOAL_NOT_MET else None,
        "not built": NOT_BUILT if stats is not None and stats.fill else None,
    }
    named = {"all": request.link("browse")}
    named |= {name: request.link("browse", where=where) for name, where in wheres.items() if where}
    if ranking_of(request.shown) is not None:
        named["worst first"] = request.link("browse", sort=WORST)
    return named


def _next_seed(request: PageRequest) -> int:
    seed = request.query.get("seed", "0")
    return int(seed) + 1 if seed.isascii() and seed.isdecimal() and len(seed) < 16 else 1


def _csv(request: PageRequest, facts: Facts) -> Csv:
    """Return a line for each row; a column with a value for each view has one for each."""
    header = list(OF_ROW)
    lines: list[list[Any]] = [[each[name] for name in OF_ROW] for each in facts["rows"]]
    for name in facts["columns"]:
        if name in OF_ROW:
            continue
        values = [each["values"][name] for each in facts["rows"]]
        views = len(values[0]) if values and isinstance(values[0], list) else None
        header += [name] if views is None else [f"{name}.{view}" for view in range(views)]
        for line, value in zip(lines, values, strict=True):
            line += [value] if views is None else value
    return header, lines


def _code(request: PageRequest) -> str:
    """Return Python that opens the store and selects the rows of the page, or the marked ones."""
    try:
        asked = Asked.of(request)
    except ViewStoreError:
        return opening(request)
    if asked.marks:
        return f"{opening(request)}\nrows = {asked.marks}  # those that are marked"
    query = asked.query
    given = {"where": query.where, "sort": query.sort}
    if query.sort == RANDOM:
        given["seed"] = str(query.seed)
    fields = ", ".join(
        f"{name}={value if name == 'seed' else repr(value)}"
        for name, value in given.items()
        if value
    )
    import_line, chosen = "from viewstore.inspect.query import Query, understand\n", ""
    if among := request.query.get("among"):
        import_line = (
            "from viewstore.inspect.pages.among import rows_among\n"
            f"{import_line}from viewstore.store.kept import Kept\n"
        )
        chosen = f"among=rows_among(Kept(1), store, {among!r})"
    return (
        opening(request).replace("import viewstore\n", f"import viewstore\n{import_line}", 1)
        + f"\nfound = understand(store, Query({fields}), views).find({chosen})"
        + f"\nrows = found.page({asked.begin}, {asked.begin + asked.rows})"
    )


TAB = Tab(
    name="browse",
    title="Browse",
    facts=_facts,
    has_data=lambda request: request.view_set is not None,
    drawn=_drawn,
    csv=_csv,
    code=_code,
    status=lambda facts: facts["error"]["status"] if facts["error"] else 200,
)
