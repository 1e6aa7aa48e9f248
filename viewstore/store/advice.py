"""What to do about a store that is not whole where no repair mends it, in words for people.

Each is tried by a test: who follows it comes to a store that is whole.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from viewstore.errors import FormatError, quoted
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.store.committed import (
    build_again,
    committed_shards,
    is_store,
    made_by,
    read_plan,
    shards_there,
    view_sets,
)

BY_KIND = {
    "proof": "install the libraries that its plan names, or build it anew into another --view-set",
    "unproven": "give its source images back, or say where they are with VIEWSTORE_SOURCE=PLACE",
}
STORE_FOLDER = "give the folder that --out named when the store was built"


def unfinished(paths: StorePaths) -> tuple[str, str]:
    """Return why a folder has no manifest, and what to do."""
    names = view_sets(paths)
    if not names:
        if not is_store(paths):
            return "no build has begun there", STORE_FOLDER
        return "no view set of it is begun", f"viewstore build --generator NAME --out {paths.root}"
    there = []
    for name in names:
        with contextlib.suppress(FormatError):  # a damaged plan is a fault of its own
            view_set = paths.view_set(name)
            if _is_built(view_set):
                return (
                    f"all shards of {name} are built, and not published yet",
                    f"if no build is running: {finalise_of(paths.root)}",
                )
            committed = len(committed_shards(view_set))
            there.append(f"{name}: {shards_there(committed, read_plan(view_set))}")
    why = "its build has not ended yet" + (f" ({'; '.join(there)})" if there else "")
    return why, build_again(paths.root)


def finalise_of(root: Path | str) -> str:
    """Return the command that publishes what is built of a store."""
    return f"viewstore finalise {shlex.quote(str(root))}"


def unpublished(paths: ViewSetPaths) -> str:
    """Return what to do about a view set that is begun and that no manifest names."""
    store = paths.root.parents[1]
    if _is_built(paths):
        return finalise_of(store)
    again = f"run the same {made_by(paths.root.name)} command again"
    return f"{again}, or {taking_out(paths)}"


def same_again(paths: ViewSetPaths) -> str:
    """Return what to do about a view set whose plan is gone."""
    again = "build it again with the settings of its first build"
    if made_by(paths.root.name) == "refresh":
        again = "refresh it again with the files that it was made with"
    return f"{again}, or {taking_out(paths)}"


def plan_again(paths: ViewSetPaths) -> str:
    """Return what to do about a plan that is damaged, or another one."""
    return f"remove {paths.plan}, and {same_again(paths)}"


def parent_again(paths: ViewSetPaths, parent: str, *, is_gone: bool) -> str:
    """Return what to do about a view set that was made from another one than the store has."""
    if is_gone:
        former = "files" if made_by(parent) == "refresh" else "settings"
        return f"{made_by(parent)} {parent} again with its former {former}, or {taking_out(paths)}"
    return taking_out(paths)


def by_kind(kind: str) -> str | None:
    """Return what to do about a fault of a kind that no repair mends; None where one does."""
    return BY_KIND.get(kind)


def taking_out(paths: ViewSetPaths) -> str:
    """Return how to take a view set out."""
    return f"take it out: viewstore rm {quoted(paths.root.parents[1])} {paths.root.name}"


def _is_built(paths: ViewSetPaths) -> bool:
    return len(committed_shards(paths)) == read_plan(paths).shards
