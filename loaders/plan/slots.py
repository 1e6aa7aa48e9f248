"""What a loader is asked to show: cached and online views, named or in short form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from viewstore.errors import ConfigError, nearest
from viewstore.format.records import canonical
from viewstore.images.policies import ViewPolicy, as_policies, output_size
from viewstore.images.resize import Filter
from viewstore.loaders.plan.asked import AnyView, Cached, Mix, Online, Views
from viewstore.loaders.plan.mixed import MixedViews
from viewstore.loaders.plan.schedule import Pick, check_count
from viewstore.store.store import Store, newest_round
from viewstore.store.view_set import ViewSet

SMALL_PIXELS = 64  # up to this side, online views are as large as their source
LARGE_VIEW = 224
DIGEST_DIGITS = 16


@dataclass(frozen=True)
class OnlineSlot:
    """One slot that is rendered. Its number keys the draws."""

    slot: int
    policy: ViewPolicy
    size: tuple[int, int]
    filter: Filter


@dataclass(frozen=True)
class CachedSlots:
    """The slots that show one view set, or several that are mixed.

    Attributes:
        view_set: Where the views lie.
        slots: Their numbers.
        pick: How views are chosen over epochs.
        params: Columns to deliver.
        then: For each slot what is rendered on its cached view, or None.
    """

    view_set: ViewSet | MixedViews
    slots: tuple[int, ...]
    pick: Pick
    params: tuple[str, ...]
    then: tuple[OnlineSlot | None, ...]

    @property
    def view_sets(self) -> tuple[ViewSet, ...]:
        """The view set, or all that are mixed."""
        if isinstance(self.view_set, MixedViews):
            return self.view_set.view_sets
        return (self.view_set,)

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Height, width and channels of each slot's views."""
        stored = self.view_set.height, self.view_set.width
        sizes = (stored if then is None else then.size for then in self.then)
        return tuple((*size, self.view_set.channels) for size in sizes)

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each slot's views; that of a global or local crop stands over the stored one."""
        stored = self.view_set.roles[0] if len(set(self.view_set.roles)) == 1 else "mixed"
        return tuple(
            stored if then is None or then.policy.role == "expert" else then.policy.role
            for then in self.then
        )


def resolve(views: Views, store: Store) -> tuple[list[CachedSlots], list[OnlineSlot]]:
    """Return the slots of `views` against a store, cached ones by view set.

    Raises:
        ConfigError: No views, an unknown view set, or more slots than a view set has views.
    """
    if not views:
        raise ConfigError("views must name at least one view")
    slots = list(_slots(views))
    rendered: dict[int, OnlineSlot] = {}
    base = _base_size(slots, store)
    seen: dict[str | ViewPolicy, int] = {}
    for slot, view in slots:
        policy = view.policy if isinstance(view, Online) else view.then
        if policy is not None:
            place = seen.get(policy, 0)
            seen[policy] = place + 1
            within = base if isinstance(view, Online) else _stored_size(view, store)
            rendered[slot] = _rendered(slot, policy, place, view, within)
    cached = _cached_slots(slots, rendered, store) + _mixed_slots(slots, rendered, store)
    online = [rendered[slot] for slot, view in slots if isinstance(view, Online)]
    return cached, online


def _rendered(
    slot: int,
    policy: str | ViewPolicy,
    place: int,
    view: AnyView,
    within: tuple[int, int],
) -> OnlineSlot:
    size = (view.size, view.size) if view.size else output_size(policy, *within)
    pair = as_policies(policy)
    return OnlineSlot(slot, pair[place % len(pair)].for_size(*size), size, view.filter)


def _slots(views: Views) -> Iterator[tuple[int, AnyView]]:
    slot = 0
    for view in views:
        for _ in range(view.n):
            yield slot, view
            slot += 1


def _cached_slots(
    slots: Sequence[tuple[int, AnyView]],
    rendered: Mapping[int, OnlineSlot],
    store: Store,
) -> list[CachedSlots]:
    groups: dict[Cached, list[int]] = {}
    for slot, view in slots:
        if isinstance(view, Cached):
            # Two mentions of a view set share its views: they must not show the same one.
            key = Cached(view.name, pick=view.pick, params=view.params)
            groups.setdefault(key, []).append(slot)
    found = []
    for view, numbers in groups.items():
        view_set = newest_round(store, view.name)
        check_count(view.name, len(numbers), view_set.num_views)
        names = _columns(view_set, view)
        then = tuple(rendered.get(number) for number in numbers)
        found.append(CachedSlots(view_set, tuple(numbers), view.pick, names, then))
    return found


def _mixed_slots(
    slots: Sequence[tuple[int, AnyView]], rendered: Mapping[int, OnlineSlot], store: Store
) -> list[CachedSlots]:
    groups: list[tuple[Mix, list[int]]] = []
    for slot, view in slots:
        if isinstance(view, Mix):
            # Equal mixes are one: their slots must not show the same view.
            key = replace(view, n=1, then=None, size=None, filter="area")
            numbers = next((numbers for other, numbers in groups if other == key), None)
            if numbers is None:
                groups.append((key, [slot]))
            else:
                numbers.append(slot)
    found = []
    for view, numbers in groups:
        mixed = view.view_sets(store)
        for view_set in mixed.view_sets:
            check_count(view_set.name, len(numbers), view_set.num_views)
        then = tuple(rendered.get(number) for number in numbers)
        columns = mixed.columns(view.params)
        found.append(CachedSlots(mixed, tuple(numbers), view.pick, columns, then))
    return found


def _columns(view_set: ViewSet, view: Cached) -> tuple[str, ...]:
    columns = view_set.plan.columns
    names = tuple(c.name for c in columns if c.pack) if view.params is None else view.params
    for name in names:
        if name not in view_set.params:
            hint = nearest(name, list(view_set.params))
            raise ConfigError(f"view set {view.name} has no column {name!r}; {hint}", code="VS102")
    return names


def _stored_size(view: Cached | Mix, store: Store) -> tuple[int, int]:
    view_set = view.view_sets(store) if isinstance(view, Mix) else newest_round(store, view.name)
    return view_set.height, view_set.width


def _base_size(slots: Sequence[tuple[int, AnyView]], store: Store) -> tuple[int, int]:
    for _, view in slots:
        if not isinstance(view, Online):
            return _stored_size(view, store)
    height, width = store.table.height, store.table.width
    small = max(height.max(), width.max()) <= SMALL_PIXELS
    if small and (height == height[0]).all() and (width == width[0]).all():
        return int(height[0]), int(width[0])
    return LARGE_VIEW, LARGE_VIEW


def views_digest(
    by_store: Sequence[tuple[Sequence[CachedSlots], Sequence[OnlineSlot]]], *, scaled: bool
) -> str:
    """Return what the views of one or several stores are known by in loader states."""
    found: list[Any] = [scaled]
    for cached, online in by_store:
        parts = [[_identity(each.view_set), list(each.slots), each.pick] for each in cached]
        then = [asdict(slot) for each in cached for slot in each.then if slot is not None]
        found.append([parts, then, [asdict(each) for each in online]])
    return hashlib.sha256(canonical(found)).hexdigest()[:DIGEST_DIGITS]


def _identity(view_set: ViewSet | MixedViews) -> str | list[Any]:
    if isinstance(view_set, MixedViews):
        plans = [each.plan.id for each in view_set.view_sets]
        return [plans, list(view_set.weights), view_set.balanced]
    return view_set.plan.id
