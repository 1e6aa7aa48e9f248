"""Resolves the views that a loader is asked for against a store, into slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from viewstore.errors import ConfigError
from viewstore.images.policies import AnyPolicy, ViewPolicy, as_policies, output_size
from viewstore.loaders.plan.asked import AnyView, Cached, Mix, Online, Views
from viewstore.loaders.plan.choices import check_size, choices_of
from viewstore.loaders.plan.joined import joined_columns, warn_of_moved_targets
from viewstore.loaders.plan.mixed import ViewSetGroup
from viewstore.loaders.plan.schedule import Pick, check_count
from viewstore.loaders.plan.slots import CachedSlots, LinkedSlot, OnlineSlot, public_slots
from viewstore.store.described import is_joined
from viewstore.store.rounds import newest_round
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

SMALL_PIXELS = 64  # up to this side, online views are as large as their source
LARGE_VIEW = 224


def resolve(views: Views, store: Store) -> tuple[list[CachedSlots], list[OnlineSlot]]:
    """Return the slots of `views` against a store, cached ones by view set.

    Those that are rendered on other slots come last, ascending: each after the slot it is `on`.

    Raises:
        ConfigError: No views, an unknown view set, more slots than a view set has views, or a
            view that is to be rendered on no earlier slot.
    """
    if not views:
        raise ConfigError("views must name at least one view")
    slots = list(_numbered(views))
    rendered: dict[int, OnlineSlot] = {}
    base = _base_size(slots, store)
    entries = _pair_entries(slots)
    for slot, view in slots:
        if slot in entries and not _is_linked(view):
            within = base if isinstance(view, Online) else _stored_size(view, store)
            rendered[slot] = _rendered(slot, entries[slot], view, within)
    cached = _cached_slots(slots, rendered, store) + _mixed_slots(slots, rendered, store)
    online = [
        rendered[slot] for slot, view in slots if isinstance(view, Online) and not _is_linked(view)
    ]
    return cached, [*online, *_linked_slots(slots, entries, cached, online)]


def _is_linked(view: AnyView) -> bool:
    return isinstance(view, Online) and view.on is not None


def _pair_entries(slots: Sequence[tuple[int, AnyView]]) -> dict[int, ViewPolicy]:
    """Return the policy of each slot that renders one; slots of a pair take turns."""
    uses: dict[AnyPolicy, int] = {}
    found = {}
    for slot, view in slots:
        policy = view.policy if isinstance(view, Online) else view.then
        if policy is not None:
            use = uses.get(policy, 0)
            uses[policy] = use + 1
            pair = as_policies(policy)
            found[slot] = pair[use % len(pair)]
    return found


def _linked_slots(
    slots: Sequence[tuple[int, AnyView]],
    entries: Mapping[int, ViewPolicy],
    cached: Sequence[CachedSlots],
    online: Sequence[OnlineSlot],
) -> list[LinkedSlot]:
    """Return the slots that are rendered on others, ascending. Raises ConfigError."""
    public = {each.number: each for each in public_slots(cached, online)}
    linked = []
    for slot, view in slots:
        if not isinstance(view, Online) or view.on is None:
            continue
        if view.on >= slot:
            raise ConfigError(
                f"on must name an earlier slot, got on={view.on} for slot {slot}",
                why="slots are numbered from 0 in the order of the views, n of each",
                fix="name the slot whose pixels it is rendered on, and put that one before it",
            )
        above = public[view.on]
        within = above.height, above.width
        plain = _rendered(slot, entries[slot], view, within)
        roles = above.roles if plain.policy.role == "expert" else (plain.policy.role,)
        each = LinkedSlot(**vars(plain), on=view.on, within=within, roles=roles)
        public[slot] = each.public
        linked.append(each)
    return linked


def _rendered(slot: int, policy: ViewPolicy, view: AnyView, within: tuple[int, int]) -> OnlineSlot:
    """Return a slot that renders `policy`, in the size of `view` or beside one of `within`."""
    size = (view.size, view.size) if view.size else output_size(policy, *within)
    return OnlineSlot(slot, policy.for_size(*size), size, view.filter)


def _numbered(views: Views) -> Iterator[tuple[int, AnyView]]:
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
    by_view: dict[Cached, list[int]] = {}
    for slot, view in slots:
        if isinstance(view, Cached):
            # Two mentions of a view set share its views: they must not show the same one.
            key = replace(view, n=1, then=None, size=None, filter="area")
            by_view.setdefault(key, []).append(slot)
    return _with_shared_picks(
        _with_columns(_group_slots(view, numbers, rendered, store), view, store)
        for view, numbers in by_view.items()
    )


def _with_columns(slots: CachedSlots, view: Cached, store: Store) -> CachedSlots:
    """Return slots with the columns and choices of columns sets that `view` asks for."""
    (shown,) = slots.group.view_sets
    joined = joined_columns(store, shown, [name for name in view.params or () if is_joined(name)])
    warn_of_moved_targets(joined, [then.policy for then in slots.then if then], shown.name)
    assert not isinstance(view.pick, Mapping), "Cached has made it a tuple"
    return replace(slots, joined=joined, choices=choices_of(store, shown, view.pick))


def _with_shared_picks(cached: Iterable[CachedSlots]) -> list[CachedSlots]:
    """Return slots whose choices name all slots that share them: of one view set, by one pick."""
    cached = list(cached)
    sharing: dict[str, list[int]] = {}
    for each in cached:
        if each.choices is not None:
            sharing.setdefault(_pick_of(each), []).extend(each.slots)
    found = []
    for each in cached:
        if each.choices is not None:
            numbers = tuple(sorted(sharing[_pick_of(each)]))
            check_size(each.choices, numbers)
            each = replace(each, choices=replace(each.choices, slots=numbers))
        found.append(each)
    return found


def _pick_of(cached: CachedSlots) -> str:
    assert cached.choices is not None
    return f"{cached.group.name} {cached.choices.identity}"


def _mixed_slots(
    slots: Sequence[tuple[int, AnyView]], rendered: Mapping[int, OnlineSlot], store: Store
) -> list[CachedSlots]:
    by_view: list[tuple[Mix, list[int]]] = []
    for slot, view in slots:
        if isinstance(view, Mix):
            # Equal mixes are one: their slots must not show the same view.
            key = replace(view, n=1, then=None, size=None, filter="area")
            numbers = next((numbers for other, numbers in by_view if other == key), None)
            if numbers is None:
                by_view.append((key, [slot]))
            else:
                numbers.append(slot)
    return [_group_slots(view, numbers, rendered, store) for view, numbers in by_view]


def _group_slots(
    view: Cached | Mix, numbers: Sequence[int], rendered: Mapping[int, OnlineSlot], store: Store
) -> CachedSlots:
    group = _group(view, store)
    for view_set in group.view_sets:
        check_count(view_set.name, len(numbers), view_set.num_views)
    then = tuple(rendered.get(number) for number in numbers)
    follow = view.follow if isinstance(view, Cached) else None
    params = view.params
    own = None if params is None else tuple(name for name in params if not is_joined(name))
    pick: Pick = "random" if view.pick == "random" else "schedule"
    return CachedSlots(group, tuple(numbers), pick, group.columns(own), then, follow)


def _group(view: Cached | Mix, store: Store) -> ViewSetGroup:
    """Return the newest complete round of the view sets that `view` names."""
    if isinstance(view, Cached):
        return ViewSetGroup((_shown(store, view.name),))
    names = sorted(view.weights)
    total = sum(view.weights.values())
    return ViewSetGroup(
        view_sets=tuple(_shown(store, name) for name in names),
        weights=tuple(float(view.weights[name] / total) for name in names),
        balanced=view.balanced,
        mixed=True,
    )


def _shown(store: Store, name: str) -> ViewSet:
    found = newest_round(store, name)
    if found.kind == "columns":
        raise ConfigError(
            f"{found.name} has no views to show, it describes those of {found.of}",
            fix=f"show {found.of}, with params=({name + '.COLUMN'!r},) to have columns of it",
        )
    return found


def _stored_size(view: Cached | Mix, store: Store) -> tuple[int, int]:
    group = _group(view, store)
    return group.height, group.width


def _base_size(slots: Sequence[tuple[int, AnyView]], store: Store) -> tuple[int, int]:
    """Return the size of online views that have none of their own: of global ones."""
    for _, view in slots:
        if not isinstance(view, Online):
            group = _group(view, store)
            if group.roles != ("local",):
                return group.height, group.width
    height, width = store.table.height, store.table.width
    small = max(height.max(), width.max()) <= SMALL_PIXELS
    if small and (height == height[0]).all() and (width == width[0]).all():
        return int(height[0]), int(width[0])
    return LARGE_VIEW, LARGE_VIEW
