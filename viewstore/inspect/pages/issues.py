"""Issues: what is wrong with the rows of a store, how often, and where."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from markupsafe import Markup

from viewstore.errors import quoted
from viewstore.files.remedy import remedy_at
from viewstore.inspect.alike import GROUP
from viewstore.inspect.issues import ALIKE, Issue, IssueSettings
from viewstore.inspect.pages.among import kept_issues, unreadable
from viewstore.inspect.pages.page import Csv, Facts, PageRequest, Tab, opening
from viewstore.inspect.shard_grid import STORED, shard_grid, shards_of_a_cell
from viewstore.inspect.shard_states import (
    STATE_MEANINGS,
    ShardState,
    quick_faults,
    shard_states,
)
from viewstore.store.faults import Fault
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

SECONDS = 10  # for which what was seen of files is kept at least,
REST = 20  # or so many times what it took: it reads all params, and must not keep a core busy
MOST_FAULTS, MOST_SHARDS = 100, 200  # that are listed
LEFTOVER = "orphan"  # a kind of fault that people know as leftovers
FAULT_MEANINGS = {
    "missing": "A file, or a commit of a shard, is not there.",
    "size": "A file has another size than its commit says.",
    "record": "A record cannot be read, or contradicts another one.",
    "commit": "A commit record is damaged, or of another plan.",
    "plan": "A plan is damaged, or is not the one that the manifest names.",
    "derived": "An index, a table of members or a params array is not what the manifest names.",
    "leftovers": "A file that no commit names; viewstore gc drops it.",
    "located": "Where the moved source lies is not known.",
    "source": "A plan names other rows than the store has.",
    "listing": "The listing of an import is gone, or was changed.",
    "parent": "A view set that this one was made from is gone, or is another one.",
    "stale": "A shard was made from other bytes of a view set than are there now.",
    "unpublished": "Shards are committed, and no manifest names their view set.",
    "gone": "The manifest names a view set whose folder has no plan.",
}


def _shown(request: PageRequest) -> list[ViewSet]:
    """Return the view set that was picked with those that describe it; all if none was."""
    store = request.store
    if "view_set" not in request.query or request.view_set is None:
        return list(store.view_sets.values())
    name = request.view_set.name
    return [store.view_sets[each] for each in (name, *store.columns_of(name))]


@dataclass(frozen=True)
class _Seen:
    """What was seen of the files of a store, and until when (`time.monotonic`) that is kept."""

    faults: tuple[Fault, ...]
    until: float


def _look(store: Store) -> _Seen:
    begun = time.monotonic()
    faults = tuple(quick_faults(store))
    now = time.monotonic()
    return _Seen(faults, now + max(SECONDS, REST * (now - begun)))


def _faults(request: PageRequest) -> tuple[Fault, ...]:
    """Return what `verify --quick` finds, looked at anew after some seconds."""
    store, kept = request.store, request.site.facts
    key = ("faults", store.location, store.store_id)
    seen: _Seen = kept.get(key, lambda: _look(store))
    if time.monotonic() > seen.until:
        seen = _look(store)
        kept.put(key, seen)
    return seen.faults


def _facts(request: PageRequest) -> Facts:
    store, shown = request.store, _shown(request)
    names = {each.name for each in shown}
    issues = [each for each in kept_issues(request.site.facts, store) if each.view_set in names]
    everywhere = {name for name in store.names if name in store.view_sets} - names
    faults = [each for each in _faults(request) if each.view_set not in everywhere]
    counts = Counter(_fault_kind(each) for each in faults)
    damaged = unreadable(request.site.facts, store)
    return {
        "samples": store.num_samples,
        "view_sets": sorted(names),
        "settings": asdict(IssueSettings()),
        "kinds": [_issue_facts(store, each) for each in issues],
        "faults": {
            "looked_at": "records" if store.remote else "sizes and records",
            "kinds": {
                kind: {"count": count, "meaning": FAULT_MEANINGS.get(kind, "")}
                for kind, count in sorted(counts.items())
            },
            "first": [{**asdict(each), "kind": _fault_kind(each)} for each in faults[:MOST_FAULTS]],
        },
        "unreadable": {name: words for name, words in damaged.items() if name in names},
        "looks": _looks(store),
        "shards": {
            each.name: _shard_facts(shard_states(each, issues, faults))
            for each in shown
            if each.name not in damaged
        },
    }


def _fault_kind(fault: Fault) -> str:
    return "leftovers" if fault.kind == LEFTOVER else fault.kind


def _issue_facts(store: Store, issue: Issue) -> Facts:
    return {
        "view_set": issue.view_set,
        "kind": issue.kind,
        "meaning": issue.meaning,
        "count": len(issue.rows),
        "views": issue.views,
        "share": len(issue.rows) / store.num_samples,
        "first_key": store.keys[int(issue.rows[0])],
        "where": issue.where,
        "among": None if issue.where else f"issue/{issue.name}",
    }


def _looks(store: Store) -> list[Facts]:
    """Return which kinds of faults are not looked for here, and the command that does."""
    place = shlex.quote(store.location)
    looks = [
        {
            "kinds": ["hash", "tar", "member", "params"],
            "command": f"viewstore verify {quoted(place)}",
            "meaning": "reads every byte: hashes, tars, members and rows of params",
        },
        {
            "kinds": ["proof", "unproven"],
            "command": f"viewstore verify {quoted(place)} --content",
            "meaning": "decodes or renders every view too",
        },
    ]
    if store.remote:
        kinds = ["missing", "size", "derived"]
        meaning = "asks for the size of every file"
        quick = {
            "kinds": kinds,
            "command": f"viewstore verify {quoted(place)} --quick",
            "meaning": meaning,
        }
        return [quick, *looks]
    return looks


def _shard_facts(states: Sequence[ShardState]) -> Facts:
    listed = [each for each in states if each.state != "ok"]
    counts = Counter(each.state for each in states)
    return {
        "states": [each.state for each in states],
        "counts": {state: counts[state] for state in STORED},
        "not_ok": [asdict(each) for each in listed[:MOST_SHARDS]],
    }


def _drawn(request: PageRequest, facts: Facts) -> Facts:
    place = request.store.location
    grids = {
        name: Markup(shard_grid(each["states"], STORED, title=_grid_title(name, each)))
        for name, each in facts["shards"].items()
    }
    return {
        "grids": grids,
        "shards_of_a_cell": {
            name: shards_of_a_cell(len(each["states"])) for name, each in facts["shards"].items()
        },
        "looks": STORED,
        "repair": remedy_at(place, f"viewstore verify {shlex.quote(place)} --repair"),
        "state_meanings": STATE_MEANINGS,
        "rows_of": lambda each: _rows_link(request, each),
        "shard_rows_of": lambda name, each: request.link(
            "browse",
            where=f"index >= {each['first']} and index < {each['last']}",
            view_set=_with_views(request, name),
        ),
    }


def _grid_title(name: str, shards: Facts) -> str:
    counts = [f"{count:,} {state}" for state, count in shards["counts"].items() if count]
    return f"shards of {name}: {', '.join(counts)}"


def _rows_link(request: PageRequest, kind: Facts) -> str:
    shown = _with_views(request, kind["view_set"])
    name = kind["view_set"]
    group = GROUP if shown == name else f"{name}.{GROUP}"
    sort = group if kind["kind"] == ALIKE else None  # so that what looks alike stands together
    return request.link(
        "browse", where=kind["where"], among=kind["among"], sort=sort, view_set=shown
    )


def _with_views(request: PageRequest, name: str) -> str | None:
    """Return the view set that shows what `name` is about; itself unless it is columns."""
    view_sets = request.store.view_sets
    while name in view_sets and view_sets[name].kind == "columns":
        name = view_sets[name].of or ""
    if name in view_sets:
        return name
    return None if request.view_set is None else request.view_set.name


def _csv(request: PageRequest, facts: Facts) -> Csv:
    del request
    header = ("view_set", "kind", "count", "views", "share", "first_key", "where")
    return header, ([each[name] for name in header] for each in facts["kinds"])


def _code(request: PageRequest) -> str:
    """Return Python that opens the store and finds the rows of each issue."""
    return (
        f"{opening(request)}\n"
        "from viewstore.inspect.issues import issues_of\n\n"
        "issues = issues_of(store, list(store.view_sets.values()))\n"
        "rows = {each.name: each.rows for each in issues}"
    )


def _has_data(request: PageRequest) -> bool:
    return bool(request.store.view_sets)


TAB = Tab(
    name="issues",
    title="Issues",
    facts=_facts,
    has_data=_has_data,
    drawn=_drawn,
    csv=_csv,
    code=_code,
)
