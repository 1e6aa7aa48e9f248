"""Which view set a name means: its newest complete round, or one round by its number.

Rounds of a view set BASE are called BASE, BASE-r2, BASE-r3, ...; BASE-r1 means the first.
"""

from __future__ import annotations

from collections.abc import Iterable

from viewstore.format.plan import ROUND
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet


def newest_round(store: Store, name: str) -> ViewSet:
    """Return the newest complete round of view set `name`, or the one round that it names.

    Raises:
        ConfigError: There is no such view set; the nearest one is named.
        FormatError: It is gone from disk.
    """
    rounds = rounds_of(store, name)
    found = next((each for each in rounds if each.complete), None)
    if found is not None:
        return found
    return rounds[-1] if rounds else store.view_set(name)


def rounds_of(store: Store, name: str) -> list[ViewSet]:
    """Return the rounds that a name means, the newest first; none where there are none."""
    match = ROUND.fullmatch(name)
    if match is not None:
        first = match[1] if int(match[2]) == 1 and name not in store.view_sets else name
        return [store.view_sets[first]] if first in store.view_sets else []
    return [store.view_sets[each] for each in numbered_rounds(store.view_sets, name).values()]


def numbered_rounds(names: Iterable[str], base: str) -> dict[int, str]:
    """Return those among the names of view sets that are rounds of `base`, the newest first."""
    numbered = {}
    for name in names:
        match = ROUND.fullmatch(name)
        if name == base:
            numbered[1] = name
        elif match is not None and match[1] == base:
            numbered[int(match[2])] = name
    return dict(sorted(numbered.items(), reverse=True))


def round_names(name: str, other: str) -> tuple[str, str]:
    """Return two names of view sets, with the number of the first round if both are rounds of one.

    ("w-search", "w-search-r2") gives ("w-search-r1", "w-search-r2").
    """
    bases = [ROUND.sub(r"\1", each) for each in (name, other)]
    if bases[0] != bases[1] or name == other:
        return name, other
    first, second = (each if ROUND.fullmatch(each) else f"{each}-r1" for each in (name, other))
    return first, second
