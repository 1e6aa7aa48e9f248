"""One sample: its original with all boxes, its views in every view set, and where each lies."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from viewstore.errors import ConfigError
from viewstore.inspect.alike import alike_rows
from viewstore.inspect.drawn_rows import DrawnRow
from viewstore.inspect.numbers import brief_param
from viewstore.inspect.pages.page import Facts, PageError, PageRequest, Tab, opening
from viewstore.inspect.pages.rows import ALONE, BESIDE, MIDDLE, SMALL, linked_row
from viewstore.inspect.shown_rows import Row, read_row
from viewstore.inspect.summary import sample_facts
from viewstore.inspect.told import Chosen, choices_of, chosen_of, is_compared, with_told
from viewstore.inspect.view_set_charts import HASHES
from viewstore.store.described import DEFAULT_CHOICE
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

MOST_WORDS = 3  # below a picture, of what was drawn and of what is told; all of it is in the table
MOST_ALIKE = 12  # of a group of near duplicates, that are shown


def _row(request: PageRequest) -> int:
    """Return the row that the address names: by its key, or by its number.

    Raises:
        PageError: There is no such sample; the nearest keys are named.
    """
    text = request.rest or request.query.get("key", "")
    try:
        return request.store.keys.find(text)
    except ConfigError as error:
        raise PageError(404, error) from error


def _view_sets(request: PageRequest) -> list[ViewSet]:
    """Return the view sets that have views, the picked one first."""
    picked = request.view_set
    sets = [each for each in request.store.view_sets.values() if each.kind != "columns"]
    return sorted(sets, key=lambda each: (each is not picked, each.name))


def _facts(request: PageRequest) -> Facts:
    store, row, chosen = request.store, _row(request), _chosen(request)
    return {
        **sample_facts(store, row, list(store.view_sets.values())),
        "samples": store.num_samples,
        "previous": store.keys[row - 1] if row > 0 else None,
        "next": store.keys[row + 1] if row + 1 < store.num_samples else None,
        "shown": _shown(request, row).to_json(),
        "stored": {each.name: _stored(each, row) for each in store.view_sets.values()},
        "source": _source(request, row),
        "alike": _alike(store, row),
        "choices": _choices(request),
        "chosen": None if chosen is None else chosen.name,
    }


def _alike(store: Store, row: int) -> list[Facts]:
    """Return the groups of near duplicates that a sample is in, with the others of each."""
    return [
        {
            "view_set": name,
            "others": len(rows),
            "samples": [{"row": each, "key": store.keys[each]} for each in rows[:MOST_ALIKE]],
        }
        for name, rows in alike_rows(store, row).items()
    ]


def _choices(request: PageRequest) -> list[str]:
    """Return what columns sets chose of the views of the picked set, the usual choice first."""
    if request.view_set is None or request.view_set.kind == "columns":
        return []
    found = choices_of(request.store, request.view_set)
    return sorted(found, key=lambda name: not name.endswith(f".{DEFAULT_CHOICE}"))


def _chosen(request: PageRequest) -> Chosen | None:
    """Return whose choice is framed: what `pick` names, else the usual one, if it is up to date.

    Raises:
        ConfigError: There is no such choice, or it is one of other views.
    """
    pick = request.query.get("pick")
    if pick is not None:
        return chosen_of(request.store, [request.shown], pick)
    with contextlib.suppress(ConfigError, IndexError):
        return chosen_of(request.store, [request.shown], _choices(request)[0])
    return None


def _shown(request: PageRequest, row: int) -> Row:
    store, sets = request.store, _view_sets(request)
    return with_told(store, read_row(store, row, sets, pixels=False), sets, _chosen(request))


def _stored(view_set: ViewSet, row: int) -> Facts | None:
    """Return in which shard a row of a view set lies, and its members; None: it is not built."""
    shard = view_set.shards.get(row // view_set.plan.shard_rows)
    if shard is None:
        return None
    blob = shard.blob
    found: dict[str, Any] = {
        "shard": shard.entry.shard,
        "file": blob.name,
        "bytes": blob.bytes,
        "sha256": blob.sha256,
        "members": [],
    }
    if view_set.kind == "pixels":
        found["members"] = [
            {
                "member": extension,
                "offset": int(member["offset"]),
                "bytes": int(member["size"]),
                "crc32": f"{int(member['crc32']):08x}",
            }
            for extension, member in zip(view_set.plan.members, view_set.members[row], strict=True)
        ]
    return found


def _source(request: PageRequest, row: int) -> Facts:
    """Return where the source image lies, as the store recorded it."""
    table = request.store.table
    return {
        "part": table.parts[table.part[row]].uri,
        "bytes": int(table.size[row]),
        "crc32": f"{int(table.crc32[row]):08x}",
    }


def _drawn(request: PageRequest, facts: Facts) -> Facts:
    sets = _view_sets(request)
    row = _briefly(_shown(request, facts["row"]))

    def drawn(shown: Sequence[ViewSet], views: int, within: tuple[int, int]) -> DrawnRow:
        return linked_row(request, row, shown, views=views, within=within, beside=True, link=False)

    return {
        "first": drawn(sets[:1], MIDDLE, ALONE) if request.view_set is not None else None,
        "others": drawn(sets[1:], SMALL, BESIDE) if sets[1:] else None,
        "alike": [
            linked_row(request, read_row(request.store, each["row"], [], pixels=False), [])
            for group in facts["alike"]
            for each in group["samples"]
        ],
        "compared": any(is_compared(each) for each in sets),
        "per_view": {
            each.name: [name for name in facts["view_sets"][each.name] if each.plan.per_view(name)]
            for each in request.store.view_sets.values()
        },
        "brief": brief_param,
        "hashes": HASHES,
        "views_of": {each.name: each.num_views for each in request.store.view_sets.values()},
    }


def _briefly(row: Row) -> Row:
    """Return a sample with the first words only of what was drawn for each view and is told."""
    cells = {
        name: tuple(
            replace(each, params=each.params[:MOST_WORDS], told=each.told[:MOST_WORDS])
            for each in views
        )
        for name, views in row.cells.items()
    }
    return replace(row, cells=cells)


def _code(request: PageRequest) -> str:
    key = request.store.keys[_row(request)]
    lines = [opening(request), f"row = store.keys.row({key!r})"]
    if request.view_set is not None and request.view_set.kind != "columns":
        lines.append("pixels = views[row]  # uint8 [V, H, W, C]")
    if request.view_set is not None:
        lines.append("params = {name: views.params.rows(name, [row])[0] for name in views.params}")
    return "\n".join([*lines, "image = store.source.image(row)  # uint8 [H, W, C]"])


TAB = Tab(name="sample", title="Sample", facts=_facts, drawn=_drawn, code=_code, is_tab=False)
