"""What a loader is asked to show: cached and online views, named or in short form."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from typing import Any

from viewstore.augment import Filter, check_filter
from viewstore.errors import ConfigError
from viewstore.loaders.choose import Pick, check_count
from viewstore.loaders.mix import MixedViews, check_weights
from viewstore.plan import nearest
from viewstore.policies import POLICIES, ViewPolicy, as_policies, output_size
from viewstore.records import canonical
from viewstore.store import Store
from viewstore.view_set import ViewSet

SMALL_PIXELS = 64  # up to this side, online views are as large as their source
LARGE_VIEW = 224
DIGEST_DIGITS = 16


@dataclass(frozen=True)
class Cached:
    """Views read from a view set, each in a slot of its own.

    Attributes:
        name: The view set; its newest complete round is read.
        n: Slots. The views of a sample in them differ.
        pick: "schedule" shows every cached view equally often over the epochs; "random" draws
            them anew each epoch.
        params: Columns to deliver; None: all that lie in the shards' packs, which leaves out
            latents.
        then: Online policy, by name or with numbers of your own, that is drawn anew in every
            epoch and rendered on the cached view.
        size: Side in pixels of what `then` renders. None: that of the view set; local views
            96/224 of it.
        filter: Resize filter of `then`: "area", "linear" (OpenCV), "pil" (Pillow, antialiased) or
            "antialias" (torch, antialiased).
    """

    name: str
    _: KW_ONLY
    n: int = 1
    pick: Pick = "schedule"
    params: tuple[str, ...] | None = None
    then: str | ViewPolicy | None = None
    size: int | None = None
    filter: Filter = "area"

    def __post_init__(self) -> None:
        _check_cached(self)


@dataclass(frozen=True)
class Online:
    """Views rendered from the source image as they are asked for.

    Attributes:
        policy: The augmentation policy, by name or with numbers of your own.
        n: Slots.
        size: Side of the views in pixels. None: that of the first cached view set, else of the
            source where its images are alike and small, else 224; local views 96/224 of it.
        filter: Resize filter: "area", "linear" (OpenCV), "pil" (Pillow, antialiased) or
            "antialias" (torch, antialiased).
    """

    policy: str | ViewPolicy
    _: KW_ONLY
    n: int = 1
    size: int | None = None
    filter: Filter = "area"

    def __post_init__(self) -> None:
        as_policies(self.policy)
        check_filter(self.filter)
        if self.n < 1:
            raise ConfigError(f"Online n must be at least 1, got {self.n}")
        if self.size is not None and self.size < 1:
            raise ConfigError(f"Online size must be at least 1, got {self.size}")


@dataclass(frozen=True)
class Mix:
    """Views read from several view sets; the set is drawn for each sample and slot.

    Attributes:
        weights: How often each view set is shown beside the others, by name.
        n: Slots.
        balanced: Let every sample go through its sets evenly over the epochs: after E epochs a
            set of share w was shown within a few of w * E times. Else they are drawn anew.
        pick: Which view of the set, as in `Cached`.
        params: Columns to deliver, and "x_set", the number of the set in the order of their
            names. None: that and all packed columns which the sets store in one form; what a set
            has not reads as never written.
        then, size, filter: As in `Cached`.
    """

    weights: Mapping[str, float]
    _: KW_ONLY
    n: int = 1
    balanced: bool = False
    pick: Pick = "schedule"
    params: tuple[str, ...] | None = None
    then: str | ViewPolicy | None = None
    size: int | None = None
    filter: Filter = "area"

    def __post_init__(self) -> None:
        check_weights(self.weights)
        _check_cached(self)

    def view_sets(self, store: Store) -> MixedViews:
        """Return the view sets in `store`, the newest round of each."""
        names = sorted(self.weights)
        return MixedViews(
            tuple(newest_round(store, name) for name in names),
            tuple(self.weights[name] / sum(self.weights.values()) for name in names),
            self.balanced,
        )


AnyView = Cached | Online | Mix
Views = Sequence[AnyView]


@dataclass(frozen=True)
class OnlineSlot:
    """One slot that is rendered. Its number keys the draws."""

    slot: int
    policy: ViewPolicy
    size: tuple[int, int]
    filter: Filter


def _check_cached(view: Cached | Mix) -> None:
    kind = type(view).__name__
    if view.then is not None:
        as_policies(view.then)
    elif view.size is not None:
        raise ConfigError(
            f"{kind} size is that of the views that `then` renders, got no `then`; "
            "views without it are as large as they were stored"
        )
    check_filter(view.filter)
    if view.size is not None and view.size < 1:
        raise ConfigError(f"{kind} size must be at least 1, got {view.size}")
    if view.n < 1:
        raise ConfigError(f"{kind} n must be at least 1, got {view.n}")
    if view.pick not in ("schedule", "random"):
        raise ConfigError(f"{kind} pick must be schedule or random, got {view.pick!r}")


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


def parse_views(text: str, view_sets: Sequence[str]) -> list[Cached | Online]:
    """Return the views of a short form such as "simclr,simclr,w-search+flip".

    A name is a view set if the store has it, else an online policy; "+flip" renders a policy on
    the cached view.

    Raises:
        ConfigError: It is both, or neither (the nearest is named). "cached:NAME" and
            "online:NAME" choose.
    """
    return [_parse_view(name.strip(), view_sets) for name in text.split(",")]


def _parse_view(text: str, view_sets: Sequence[str]) -> Cached | Online:
    kind, colon, name = text.partition(":")
    if colon and kind == "cached":
        return _cached(name)
    if colon and kind == "online":
        return Online(name)
    base = text.partition("+")[0]
    if base in view_sets and text in POLICIES:
        raise ConfigError(
            f"{text!r} is a view set of this store and an online policy; "
            f"write cached:{text} or online:{text}"
        )
    if base in view_sets:
        return _cached(text)
    if text in POLICIES:
        return Online(text)
    hint = nearest(base, sorted({*view_sets, *POLICIES}))
    raise ConfigError(
        f"there is no view set and no online policy {base!r}; {hint}",
        code="VS102",
        why=f"view sets here: {', '.join(view_sets) or 'none'}; policies: {', '.join(POLICIES)}",
    )


def _cached(text: str) -> Cached:
    name, plus, then = text.partition("+")
    return Cached(name, then=then if plus else None)


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


def newest_round(store: Store, name: str) -> ViewSet:
    """Return view set `name`, or its newest complete round `name`-r2, `name`-r3, ...

    Raises:
        ConfigError: There is no such view set; the nearest one is named.
    """
    rounds: Mapping[int, str] = {
        int(match[1]): other
        for other in store.view_sets
        if (match := re.fullmatch(re.escape(name) + r"-r(\d+)", other))
    }
    for number in sorted(rounds, reverse=True):
        if store.view_sets[rounds[number]].complete:
            return store.view_sets[rounds[number]]
    return store.view_set(name)


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
