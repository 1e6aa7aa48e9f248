"""The slots of a loader: what its views are, resolved against a store.

`resolve` turns the views that were asked for into slots grouped by what they read; `Slot` is what
users see of each as `loader.slots`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from viewstore.errors import ConfigError
from viewstore.format.records import canonical
from viewstore.images.policies import ViewPolicy, as_policies, output_size
from viewstore.images.resize import Filter
from viewstore.loaders.plan.asked import AnyView, Cached, Mix, Online, Views
from viewstore.loaders.plan.mixed import ViewSetGroup
from viewstore.loaders.plan.schedule import Pick, check_count
from viewstore.store.store import Store, newest_round

SMALL_PIXELS = 64  # up to this side, online views are as large as their source
LARGE_VIEW = 224
DIGEST_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What `batch.views[number]` of a loader is.

    Attributes:
        number: Number of the slot.
        kind: "cached", "online", or "mix" where the view set, or the kind, varies by sample.
        name: The view set or the online policy; names of several are joined by "|".
        policy: Name of the policy that the views are drawn with: the online one, or that in the
            settings of the view set's generator; "" where it has none, joined as `name`.
        then: Name of the policy that is rendered on cached views, or None.
        roles: The distinct roles of its views, sorted.
        height, width, channels: Size of its views, in pixels.
        columns: Names of its params.
    """

    number: int
    kind: Literal["cached", "online", "mix"]
    name: str
    policy: str
    then: str | None
    roles: tuple[str, ...]
    height: int
    width: int
    channels: int
    columns: tuple[str, ...]

    @property
    def role(self) -> str:
        """Role of its views, "mixed" where they have several."""
        return self.roles[0] if len(self.roles) == 1 else "mixed"


@dataclass(frozen=True)
class OnlineSlot:
    """One slot that is rendered. Its number keys the draws."""

    slot: int
    policy: ViewPolicy
    size: tuple[int, int]
    filter: Filter

    @property
    def public(self) -> Slot:
        """What users see of it."""
        return Slot(
            number=self.slot,
            kind="online",
            name=self.policy.name,
            policy=self.policy.name,
            then=None,
            roles=(self.policy.role,),
            height=self.size[0],
            width=self.size[1],
            channels=3,
            columns=tuple(column.name for column in self.policy.columns),
        )


@dataclass(frozen=True)
class CachedSlots:
    """The slots that show one view set, or several that are mixed.

    Attributes:
        group: The view sets.
        slots: Numbers of the slots.
        pick: How views are chosen over epochs.
        params: Columns of the view sets to deliver.
        then: For each slot what is rendered on its cached view, or None.
    """

    group: ViewSetGroup
    slots: tuple[int, ...]
    pick: Pick
    params: tuple[str, ...]
    then: tuple[OnlineSlot | None, ...]

    @property
    def public(self) -> tuple[Slot, ...]:
        """What users see of each slot.

        The role of a policy that makes global or local crops replaces that of the stored views.
        """
        group = self.group
        found = []
        for number, then in zip(self.slots, self.then, strict=True):
            height, width = (group.height, group.width) if then is None else then.size
            slot = Slot(
                number=number,
                kind="mix" if group.mixed else "cached",
                name=group.name,
                policy=_joined(
                    each.plan.generator["args"].get("policy", "") for each in group.view_sets
                ),
                then=None if then is None else then.policy.name,
                roles=(then.policy.role,) if then and then.policy.role != "expert" else group.roles,
                height=height,
                width=width,
                channels=group.channels,
                columns=tuple(dict.fromkeys((*self.params, *rendered_columns(then)))),
            )
            found.append(slot)
        return tuple(found)


def rendered_columns(then: OnlineSlot | None) -> tuple[str, ...]:
    """Return the columns that rendering on cached views delivers, in place of stored ones."""
    if then is None:
        return ()
    return (*(column.name for column in then.policy.columns), "crop_box", "crop_local")


def resolve(views: Views, store: Store) -> tuple[list[CachedSlots], list[OnlineSlot]]:
    """Return the slots of `views` against a store, cached ones by view set.

    Raises:
        ConfigError: No views, an unknown view set, or more slots than a view set has views.
    """
    if not views:
        raise ConfigError("views must name at least one view")
    slots = list(_numbered(views))
    rendered: dict[int, OnlineSlot] = {}
    base = _base_size(slots, store)
    uses: dict[str | ViewPolicy, int] = {}
    for slot, view in slots:
        policy = view.policy if isinstance(view, Online) else view.then
        if policy is not None:
            use = uses.get(policy, 0)
            uses[policy] = use + 1
            within = base if isinstance(view, Online) else _stored_size(view, store)
            rendered[slot] = _rendered(slot, policy, use, view, within)
    cached = _cached_slots(slots, rendered, store) + _mixed_slots(slots, rendered, store)
    online = [rendered[slot] for slot, view in slots if isinstance(view, Online)]
    return cached, online


def public_slots(cached: Sequence[CachedSlots], online: Sequence[OnlineSlot]) -> tuple[Slot, ...]:
    """Return every slot of a store by number, as users see it."""
    slots = [slot for each in cached for slot in each.public] + [each.public for each in online]
    return tuple(sorted(slots, key=lambda slot: slot.number))


def merged_slots(by_store: Sequence[tuple[Slot, ...]]) -> tuple[Slot, ...]:
    """Return the slots of a loader over some stores: what differs between them is joined."""
    if len(by_store) == 1:
        return by_store[0]
    return tuple(_merged(slots) for slots in zip(*by_store, strict=True))


def _merged(slots: Sequence[Slot]) -> Slot:
    return replace(
        slots[0],
        kind=slots[0].kind if len({slot.kind for slot in slots}) == 1 else "mix",
        name=_joined(slot.name for slot in slots),
        policy=_joined(slot.policy for slot in slots),
        roles=tuple(sorted({role for slot in slots for role in slot.roles})),
        columns=tuple(sorted({name for slot in slots for name in slot.columns})),
    )


def _joined(names: Iterable[str]) -> str:
    return "|".join(sorted({name for name in names if name}))


def _rendered(
    slot: int,
    policy: str | ViewPolicy,
    use: int,
    view: AnyView,
    within: tuple[int, int],
) -> OnlineSlot:
    """Return a slot that renders `policy`, whose `use`-th slot it is, at most in size `within`."""
    size = (view.size, view.size) if view.size else output_size(policy, *within)
    pair = as_policies(policy)
    return OnlineSlot(slot, pair[use % len(pair)].for_size(*size), size, view.filter)


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
            key = Cached(view.name, pick=view.pick, params=view.params)
            by_view.setdefault(key, []).append(slot)
    return [_group_slots(view, numbers, rendered, store) for view, numbers in by_view.items()]


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
    return CachedSlots(group, tuple(numbers), view.pick, group.columns(view.params), then)


def _group(view: Cached | Mix, store: Store) -> ViewSetGroup:
    """Return the newest complete round of the view sets that `view` names."""
    if isinstance(view, Cached):
        return ViewSetGroup((newest_round(store, view.name),))
    names = sorted(view.weights)
    total = sum(view.weights.values())
    return ViewSetGroup(
        view_sets=tuple(newest_round(store, name) for name in names),
        weights=tuple(float(view.weights[name] / total) for name in names),
        balanced=view.balanced,
        mixed=True,
    )


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


def views_digest(
    by_store: Sequence[tuple[Sequence[CachedSlots], Sequence[OnlineSlot]]], *, scaled: bool
) -> str:
    """Return the digest of the views of one or several stores in loader states."""
    found: list[Any] = [scaled]
    for cached, online in by_store:
        parts = [[_identity(each.group), list(each.slots), each.pick] for each in cached]
        then = [asdict(slot) for each in cached for slot in each.then if slot is not None]
        found.append([parts, then, [asdict(each) for each in online]])
    return hashlib.sha256(canonical(found)).hexdigest()[:DIGEST_DIGITS]


def _identity(group: ViewSetGroup) -> list[Any]:
    shown = [[each.plan.id, each.index.root] for each in group.view_sets]
    return [shown, list(group.weights), group.balanced] if group.mixed else shown
