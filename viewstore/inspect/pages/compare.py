"""Compare: two view sets of one store or of two, joined by the keys of their samples."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, ViewStoreError, nearest
from viewstore.format.records import differences, jsonable
from viewstore.inspect.columns import column_values, single_columns
from viewstore.inspect.comparison import (
    Join,
    difference_of,
    join_keys,
    row_differences,
    same_rows,
)
from viewstore.inspect.distributions import paired_bars
from viewstore.inspect.drawn_rows import DrawnRow
from viewstore.inspect.figures import figure, paired_panel
from viewstore.inspect.numbers import brief
from viewstore.inspect.pages.page import Csv, Facts, PageRequest, Tab, opening
from viewstore.inspect.pages.policies import kept_replays, policy_facts
from viewstore.inspect.pages.rows import linked_row
from viewstore.inspect.query import Result
from viewstore.inspect.shown_rows import Row, read_row
from viewstore.inspect.told import looked_at, with_told
from viewstore.inspect.view_set_charts import HASHES
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

ROWS = 12  # of a page: each has the views of two view sets
LONGEST = 9  # digits of the number of a page
WITH = "with"
DERIVED = frozenset({"members", "json_bytes"})  # of a plan: they follow from the rest of it


@dataclass(frozen=True)
class Side:
    """One of the two: a view set, and the request under which its samples are shown."""

    label: str
    request: PageRequest

    @property
    def store(self) -> Store:
        """Its store."""
        return self.request.store

    @property
    def view_set(self) -> ViewSet:
        """The view set."""
        return self.request.shown

    def row(self, row: int) -> Row:
        """Return a sample as it is shown, without pixels."""
        shown = looked_at(self.store, [self.view_set])
        found = read_row(self.store, row, shown, pixels=False)
        return found if shown else with_told(self.store, found, shown)

    def drawn(self, facts: Facts) -> DrawnRow:
        """Return a sample with its links."""
        shown = looked_at(self.store, [self.view_set])
        row = linked_row(self.request, Row.of_json(facts), shown, larger=False)
        named = tuple(replace(each, name=self.label) for each in row.blocks)
        return replace(row, blocks=named)


@dataclass(frozen=True)
class Pair:
    """The two sides, joined."""

    first: Side
    second: Side
    join: Join

    @property
    def key(self) -> tuple[str, ...]:
        """What names the numbers of the two, with their keys, in the memory of the pages."""
        sides = (self.first, self.second)
        return tuple(
            part for each in sides for part in (each.store.store_id, each.view_set.index.root)
        )

    @property
    def columns(self) -> list[str]:
        """The columns that both have."""
        theirs = set(single_columns(self.second.view_set))
        both = (each for each in single_columns(self.first.view_set) if each in theirs)
        return [name for name in both if name not in HASHES]

    def values(
        self, name: str, places: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a column of the samples in both, [n, V] and [n, W], or of some of them."""
        rows = (self.join.first, self.join.second)
        ours, theirs = rows if places is None else (each[places] for each in rows)
        return (
            column_values(self.first.view_set, name, ours),
            column_values(self.second.view_set, name, theirs),
        )


def _others(request: PageRequest) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the view sets to compare with: what names them in the address, store and view set.

    Those of the same store come first.
    """
    for name, each in request.store.view_sets.items():
        if each is not request.shown and _comparable(request.shown, each):
            yield name, (request.name, name)
    for store in request.site.stores:
        if store != request.name:
            with contextlib.suppress(ViewStoreError):  # its own pages say what is wrong with it
                for name, each in request.site.stores[store]().view_sets.items():
                    if _comparable(request.shown, each):
                        yield f"{store}/{name}", (store, name)


def _comparable(first: ViewSet, second: ViewSet) -> bool:
    """Whether both have views, or both are columns that say the same of something."""
    if "columns" not in (first.kind, second.kind):
        return True
    both = set(first.params) & set(second.params) - {"status"}
    return first.kind == second.kind and bool(both)


def _pair(request: PageRequest) -> Pair:
    """Return what is compared.

    Raises:
        ConfigError: There is no such view set.
    """
    others = dict(_others(request))
    asked = request.query.get(WITH) or next(iter(others))
    if asked not in others:
        raise ConfigError(
            f"there is no view set {asked!r} to compare with; {nearest(asked, list(others))}",
            code="VS102",
        )
    name, view_set = others[asked]
    first = Side(request.shown.name, request)
    if name == request.name:
        other = replace(request, view_set=request.store.view_set(view_set))
    else:
        store = request.site.stores[name]()
        store.keep_columns(request.site.columns)
        other = replace(
            request,
            name=name,
            store=store,
            view_set=store.view_set(view_set),
            root=f"{request.root}../{quote(name, safe='')}/",
        )
    other = replace(other, query={"view_set": view_set})
    return Pair(first, Side(asked, other), _join(first.store, other.store, request))


def _join(first: Store, second: Store, request: PageRequest) -> Join:
    if first.manifest.sources_id == second.manifest.sources_id:
        return same_rows(first.num_samples)
    key = ("join", first.manifest.sources_id, second.manifest.sources_id)
    found: Join = request.site.facts.get(
        key, lambda: join_keys(first.table.keys, second.table.keys)
    )
    return found


def _facts(request: PageRequest) -> Facts:
    pair = _pair(request)
    names = pair.columns
    sort = request.query.get("sort", "")
    if sort and sort not in names:
        raise ConfigError(
            f"sort must be a column of both, got {sort!r}; {nearest(sort, names)}", code="VS102"
        )
    page = _page(request.query.get("page", "1"))
    order = _order(request, pair, sort)
    columns = request.site.facts.get(("compare", *pair.key), lambda: list(_columns(pair)))
    return {
        "first": pair.first.label,
        "second": pair.second.label,
        "choices": [name for name, _ in _others(request)],
        "plans": list(_plans(pair)),
        "policies": _policies(pair),
        "both": len(pair.join.first),
        "only_first": pair.join.only_first,
        "only_second": pair.join.only_second,
        "columns": columns,
        "sorts": names,
        "sort": sort,
        "page": page,
        "pages": max(1, math.ceil(len(order) / ROWS)),
        "rows": list(_rows(pair, order.page((page - 1) * ROWS, page * ROWS), sort)),
    }


def _page(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= LONGEST and int(text)):
        raise ConfigError(f"page must be a whole number from 1, got {text[:40]!r}")
    return int(text)


def _plans(pair: Pair) -> Iterator[Facts]:
    """Yield the keys in which the two plans differ, with both values."""
    first, second = (_plan(each.view_set) for each in (pair.first, pair.second))
    found = differences(first, second)
    for key, ours, theirs in sorted(
        found, key=lambda each: each[0].startswith(("columns", "libr"))
    ):
        yield {"key": key, "first": ours, "second": theirs}


def _plan(view_set: ViewSet) -> Facts:
    """Return a plan as it is compared: columns and weights by name."""
    plan: Facts = jsonable(view_set.plan.to_json())
    kept = {key: value for key, value in plan.items() if key not in DERIVED}
    columns = {each.name: f"{each.dtype} {list(each.shape)}" for each in view_set.plan.columns}
    weights = {each.role: f"{each.name} {each.sha256[:12]}" for each in view_set.weights}
    return kept | {"columns": columns, "weights": weights}


def _policies(pair: Pair) -> Facts | None:
    """Return the policies that both draw from as values, and the settings in which they differ.

    None: one of the two draws from no policy, or nothing here knows its generator.
    """
    sides = []
    for each in (pair.first, pair.second):
        replays = kept_replays(each.request.site, each.store, each.view_set)
        sides.append([] if replays is None else policy_facts(replays))
    if not all(sides):
        return None
    every = [policy["values"] for side in sides for policy in side]
    differ = [name for name in every[0] if any(each[name] != every[0][name] for each in every)]
    return {"first": sides[0], "second": sides[1], "differ": differ, "settings": len(every[0])}


def _columns(pair: Pair) -> Iterator[Facts]:
    """Yield how each common column differs."""
    for name in pair.columns:
        ours, theirs = pair.values(name)
        found = difference_of(ours, theirs)
        if found is None:
            continue
        names = (pair.first.label, pair.second.label)
        bars = paired_bars(ours, theirs)
        panel = paired_panel(name, names, bars) if len(bars[0]) > 1 else None
        yield {"name": name, **asdict(found), "mean": found.mean, "panel": panel}


def _order(request: PageRequest, pair: Pair, sort: str) -> Result:
    """Return the places of the joined samples in order: those that differ most in `sort` first."""
    if not sort:
        return Result.in_order(np.arange(len(pair.join.first)))

    def made() -> Result:
        apart = row_differences(*pair.values(sort))
        unknown = np.isnan(apart)
        known = np.flatnonzero(~unknown)
        return Result(known, apart[known], np.flatnonzero(unknown), descending=True)

    return request.site.results.get(("apart", sort, *pair.key), made)


def _rows(pair: Pair, places: list[int], sort: str) -> Iterator[Facts]:
    """Yield the samples at some places of the join, as both sides show them."""
    some = np.array(places, np.int64)
    apart = row_differences(*pair.values(sort, some)).tolist() if sort else [None] * len(places)
    for place, difference in zip(places, apart, strict=True):
        first, second = int(pair.join.first[place]), int(pair.join.second[place])
        yield {
            "key": pair.first.store.keys[first],
            "difference": difference,
            "first": pair.first.row(first).to_json(),
            "second": pair.second.row(second).to_json(),
        }


def _drawn(request: PageRequest, facts: Facts) -> Facts:
    pair = _pair(request)
    return {
        "figures": [(each, figure(each["panel"])) for each in facts["columns"] if each["panel"]],
        "samples": [
            _together(pair.first.drawn(each["first"]), pair.second.drawn(each["second"]))
            for each in facts["rows"]
        ],
        "brief": brief,
    }


def _together(first: DrawnRow, second: DrawnRow) -> list[DrawnRow]:
    """Return one row with the views of both, or two where their originals differ in size."""
    sizes = [(each.row.height, each.row.width) for each in (first, second)]
    if sizes[0] != sizes[1]:
        return [first, second]
    return [replace(first, blocks=(*first.blocks, *second.blocks))]


def _csv(request: PageRequest, facts: Facts) -> Csv:
    """Return a line for each sample of the page."""
    rows = (
        [each["key"], each["first"]["row"], each["second"]["row"], each["difference"]]
        for each in facts["rows"]
    )
    return ("key", "row", "other_row", "difference"), rows


def _code(request: PageRequest) -> str:
    """Return Python that opens both view sets, joins them by key, and orders them as the page."""
    other, sort = _pair(request).second, request.query.get("sort", "")
    name = "store" if other.store is request.store else "other"
    lines = [opening(request)]
    if name == "other":
        lines.append(f"other = viewstore.open({other.request.place!r})")
    lines += [
        f"others = {name}.view_sets[{other.view_set.name!r}]",
        "import numpy as np",
        "from viewstore.inspect.columns import column_values",
        "from viewstore.inspect.comparison import join_keys, row_differences",
        "",
        f"both = join_keys(store.keys, {name}.keys)  # rows of the samples that both have",
        "order = np.arange(len(both.first))",
    ]
    if sort:
        lines += [
            f"ours = column_values(views, {sort!r}, both.first)",
            f"theirs = column_values(others, {sort!r}, both.second)",
            'order = np.argsort(-row_differences(ours, theirs), kind="stable")',
        ]
    begin = (_page(request.query.get("page", "1")) - 1) * ROWS
    return "\n".join([*lines, f"rows = both.first[order[{begin}:{begin + ROWS}]]"])


TAB = Tab(
    name="compare",
    title="Compare",
    facts=_facts,
    has_data=lambda request: request.view_set is not None and any(_others(request)),
    drawn=_drawn,
    csv=_csv,
    code=_code,
)
