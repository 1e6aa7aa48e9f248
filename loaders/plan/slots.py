"""The slots of a loader: what its views are, resolved against a store.

`resolve.py` makes them of the views that were asked for, grouped by what they read; `Slot` is what
users see of each as `loader.slots`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from viewstore.format.records import canonical
from viewstore.images.policies import ViewPolicy
from viewstore.images.policy_values import name_of
from viewstore.images.resize import Filter
from viewstore.loaders.plan.choices import Choices
from viewstore.loaders.plan.joined import JoinedColumn
from viewstore.loaders.plan.mixed import ViewSetGroup
from viewstore.loaders.plan.schedule import Pick
from viewstore.store.view_set import ViewSet

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
        parent_slot: Number of the slot that its views were made from: the one that it follows or
            is rendered on; -1 if there is none.
        colourless: Whether its pixels are delivered without their colours, as
            photometric="caller" asks for; views that are stored with colours are not.
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
    parent_slot: int = -1
    colourless: bool = False

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
class LinkedSlot(OnlineSlot):
    """One slot that is rendered on the pixels of another slot.

    Attributes:
        on: Number of that slot, which is below its own.
        within: Height and width of the views of that slot, in pixels.
        roles: The distinct roles of its views, sorted: those of that slot, unless the policy
            makes views of a role of their own.
    """

    on: int
    within: tuple[int, int]
    roles: tuple[str, ...]

    @property
    def public(self) -> Slot:
        """What users see of it."""
        columns = tuple(dict.fromkeys(rendered_columns(self)))
        return replace(super().public, roles=self.roles, columns=columns, parent_slot=self.on)


@dataclass(frozen=True)
class RecordedSlot(OnlineSlot):
    """One slot that shows a recipe set: its views are rendered by the params that were recorded.

    Attributes:
        group: Index of its view set among the cached ones of a store.
        column: Index of the slot among those that show the view set.
        on: Number of the slot that shows what its views start from, as it is stored; None: they
            start from source images.
    """

    group: int = 0
    column: int = 0
    on: int | None = None

    @classmethod
    def of(
        cls, slot: int, view_set: ViewSet, group: int = 0, column: int = 0, on: int | None = None
    ) -> RecordedSlot:
        """Return slot number `slot`, which shows a recipe set.

        Raises:
            FormatError: The recipe is not known here.
        """
        found = view_set.rendering.renderer
        policy = cast("ViewPolicy", found.renders)  # of which nothing is drawn
        return cls(slot, policy, found.size, found.filter, group, column, on)


@dataclass(frozen=True)
class CachedSlots:
    """The slots that show one view set, or several that are mixed.

    Attributes:
        group: The view sets.
        slots: Numbers of the slots.
        pick: How views are chosen over epochs.
        params: Columns of the view sets to deliver.
        then: For each slot what is rendered on its cached view, or None.
        follow: Slot whose view is the parent of each view that they show, or None.
        joined: Columns of columns sets to deliver beside `params`.
        choices: What chooses the views instead of `pick`, or None.
    """

    group: ViewSetGroup
    slots: tuple[int, ...]
    pick: Pick
    params: tuple[str, ...]
    then: tuple[OnlineSlot | None, ...]
    follow: int | None = None
    joined: tuple[JoinedColumn, ...] = ()
    choices: Choices | None = None

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
                    name_of(each.plan.generator["args"].get("policy", ""))
                    for each in group.view_sets
                ),
                then=None if then is None else then.policy.name,
                roles=(then.policy.role,) if then and then.policy.role != "expert" else group.roles,
                height=height,
                width=width,
                channels=group.channels,
                columns=tuple(
                    dict.fromkeys(
                        (*self.params, *rendered_columns(then), *(j.name for j in self.joined))
                    )
                ),
                parent_slot=-1 if self.follow is None else self.follow,
            )
            found.append(slot)
        return tuple(found)


def recorded_slots(cached: Sequence[CachedSlots]) -> list[RecordedSlot]:
    """Return the slots whose views are rendered into place by recorded params, ascending.

    Those are slots of one recipe set, without `then`: of views of source images, and of views
    whose slot follows one that shows what they start from as it is stored. Others have a reader.
    """
    plain = {
        slot: len(each.group.view_sets) == 1
        for each in cached
        for slot, then in zip(each.slots, each.then, strict=True)
        if then is None
    }
    found = []
    for group, each in enumerate(cached):
        view_set, follow = each.group.view_sets[0], each.follow
        on = follow if view_set.of is not None else None
        beside = view_set.of is None or (follow is not None and plain.get(follow, False))
        for column, slot in enumerate(each.slots):
            if view_set.kind == "recipe" and beside and plain.get(slot, False):
                found.append(RecordedSlot.of(slot, view_set, group, column, on))
    return sorted(found, key=lambda slot: slot.slot)


def rendered_columns(then: OnlineSlot | None) -> tuple[str, ...]:
    """Return the columns that rendering on views delivers, in place of theirs."""
    if then is None:
        return ()
    return (*(column.name for column in then.policy.columns), "crop_box", "crop_local")


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


def views_digest(
    by_store: Sequence[tuple[Sequence[CachedSlots], Sequence[OnlineSlot]]], *, scaled: bool
) -> str:
    """Return the digest of the views of one or several stores in loader states."""
    found: list[Any] = [scaled]
    for cached, online in by_store:
        parts = [_identity(each) for each in cached]
        then = [asdict(slot) for each in cached for slot in each.then if slot is not None]
        found.append([parts, then, [asdict(each) for each in online]])
    return hashlib.sha256(canonical(found)).hexdigest()[:DIGEST_DIGITS]


def _identity(cached: CachedSlots) -> list[Any]:
    group = cached.group
    shown: list[Any] = [[each.plan.id, each.index.root] for each in group.view_sets]
    if group.mixed:
        shown = [shown, list(group.weights), group.balanced]
    others: list[Any] = [] if cached.follow is None else [cached.follow]
    if cached.joined:
        joined = [[j.name, j.view_set.plan.id, j.view_set.index.root] for j in cached.joined]
        others.append({"joined": joined})
    if cached.choices is not None:
        others.append({"picked": [cached.choices.identity, list(cached.choices.slots)]})
    return [shown, list(cached.slots), cached.pick, *others]
