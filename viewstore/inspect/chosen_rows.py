"""Which samples and view sets are shown: those of a seed, of a key, or the worst."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.format.columns import Status
from viewstore.format.plan import checked_seed
from viewstore.inspect.ranking import ranking_of
from viewstore.randomness import Stream
from viewstore.store.committed import read_commit
from viewstore.store.progress import created
from viewstore.store.store import Store
from viewstore.store.verdict import worst_status
from viewstore.store.view_set import ViewSet


def choose_rows(
    store: Store, *, count: int, random: bool = False, seed: int = 0, key: str | None = None
) -> list[int]:
    """Return the rows to show, ascending: that of `key`, or `count` that a seed chooses.

    The same seed chooses the same rows of a store in every version: those to which the stream
    of the seed gives the least words, one of each of `count` equal ranges of rows, or if
    `random` anywhere.

    Raises:
        ConfigError: There is no sample `key`, or `count` is below 1.
    """
    if key is not None:
        return [store.keys.find(key)]
    if count < 1:
        raise ConfigError(f"the number of samples to show must be at least 1, got {count}")
    if random:
        words = _words(store.num_samples, checked_seed(seed))
        count = min(count, len(words))
        near = np.flatnonzero(words <= np.partition(words, count - 1)[count - 1])
        return sorted(near[np.argsort(words[near], kind="stable")[:count]].tolist())
    return spread_rows(store.num_samples, count, seed=checked_seed(seed))


def spread_rows(samples: int, count: int, *, seed: int = 0) -> list[int]:
    """Return up to `count` of so many rows, ascending: one of each of equal ranges of them."""
    ranges = np.array_split(_words(samples, seed), min(count, samples))
    starts = np.cumsum([0, *map(len, ranges)])[:-1].tolist()
    return [start + int(each.argmin()) for start, each in zip(starts, ranges, strict=True)]


def _words(samples: int, seed: int) -> NDArray[np.uint64]:
    """Return a word for each row, by which a seed chooses rows: those of the least words."""
    return Stream(seed).seed_word(np.arange(samples, dtype=np.uint64), 0)


def worst_rows(view_set: ViewSet, count: int) -> list[int]:
    """Return up to `count` rows with a view that failed or missed its goal, the worst first."""
    status, ranking = worst_status(view_set), ranking_of(view_set)
    wrong = np.flatnonzero(status >= Status.GOAL_NOT_MET)
    found: list[int] = (wrong if ranking is None else ranking.order(wrong))[:count].tolist()
    return found


def choose_view_sets(store: Store, name: str | None) -> list[ViewSet]:
    """Return the view set `name`, or all of them in the order of their names.

    Raises:
        ConfigError: There is no such view set; it names the nearest.
    """
    if name is not None:
        return [store.view_set(name)]
    return [store.view_sets[each] for each in sorted(store.view_sets)]


def first_shown(store: Store) -> ViewSet | None:
    """Return the view set to show where none is named; None: the store has none.

    Of those with views from which no other starts it is the one whose first shard was committed
    first, so that another one that is added later does not take its place; where commits do not
    say when, as in a store at a URL, it is the first by name.
    """
    if not store.view_sets:
        return None
    parents = {each.of for each in store.view_sets.values() if each.kind != "columns"}
    last = [
        each
        for each in store.view_sets.values()
        if each.kind != "columns" and each.name not in parents
    ]
    among = sorted(last or store.view_sets.values(), key=lambda each: each.name)
    if len(among) == 1 or store.remote:
        return among[0]
    return min(among, key=_begun)


def _begun(view_set: ViewSet) -> datetime:
    """Return when the first shard of a view set was committed; the last moment if no one says."""
    last = datetime.max.replace(tzinfo=UTC)
    try:
        commit = read_commit(view_set.paths, 0, view_set.plan)
    except FormatError:  # which is a fault of its own
        return last
    return last if commit is None else created(commit) or last
