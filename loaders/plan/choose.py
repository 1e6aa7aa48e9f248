"""Every way to choose which of its cached views a sample shows in which slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError, counted
from viewstore.format.columns import MADE
from viewstore.loaders.plan.choices import Choices
from viewstore.loaders.plan.mixed import GroupSchedule
from viewstore.loaders.plan.rows import Rows
from viewstore.loaders.plan.schedule import (
    NOT_MADE_FIX,
    Missing,
    Schedule,
    preference,
    replace_missing,
)
from viewstore.loaders.plan.slots import CachedSlots
from viewstore.loaders.plan.usable import all_made
from viewstore.store.column_content import NO_CHOICE
from viewstore.store.view_set import ViewSet

# Chooses for an epoch and rows [B] the views [B, n] of n slots, by the numbers that their group
# gives them. It is told what the slots before them show: {slot: view numbers [B]}.
Chooser = Callable[[int, Rows, Mapping[int, Rows]], Rows]


def choosers(cached: Sequence[CachedSlots], *, seed: int, missing: Missing) -> list[Chooser]:
    """Return what chooses the views of each of `cached`."""
    return [_chooser(slots, seed=seed, missing=missing) for slots in cached]


def _chooser(slots: CachedSlots, *, seed: int, missing: Missing) -> Chooser:
    if slots.follow is not None:
        return Following(slots, slots.follow, seed=seed, missing=missing)
    if slots.choices is not None:
        return Picked(slots, slots.choices, seed=seed, missing=missing)
    if all(all_made(view_set) for view_set in slots.group.view_sets):
        return Scheduled(slots, seed=seed)
    return Replacing(slots, seed=seed, missing=missing)


class Scheduled:
    """Shows views in turn, or drawn anew in each epoch; every view was made."""

    def __init__(self, slots: CachedSlots, *, seed: int) -> None:
        """Choose the views of `slots` as their `pick` says."""
        self._schedule = GroupSchedule(slots.group, seed=seed, slots=slots.slots, pick=slots.pick)

    def __call__(self, epoch: int, rows: Rows, shown: Mapping[int, Rows]) -> Rows:
        """Return the views to show, [B, n]."""
        del shown
        return self._schedule.views(epoch, rows)


class Replacing:
    """Shows the views that `Scheduled` would; where some were not made, what `missing` says."""

    def __init__(self, slots: CachedSlots, *, seed: int, missing: Missing) -> None:
        """Choose the views of `slots`."""
        self._slots, self._seed, self._missing = slots, seed, missing

    def __call__(self, epoch: int, rows: Rows, shown: Mapping[int, Rows]) -> Rows:
        """Return the views to show, [B, n].

        Raises:
            FormatError: A view that would be shown was not made, and `missing` is "raise", or no
                view of its sample was.
        """
        del shown
        group = self._slots.group
        if len(group.view_sets) == 1:
            return self._within(group.view_sets[0], epoch, rows, None)
        chosen = group.chosen(self._seed, epoch, rows, self._slots.slots)
        views = np.empty(chosen.shape, np.int64)
        starts = group.starts.tolist()
        for number, (view_set, start) in enumerate(zip(group.view_sets, starts, strict=True)):
            needed = chosen == number
            views[needed] = start + self._within(view_set, epoch, rows, needed)[needed]
        return views

    def _within(
        self, view_set: ViewSet, epoch: int, rows: Rows, needed: NDArray[np.bool_] | None
    ) -> Rows:
        wanted = len(self._slots.slots)
        order = preference(
            self._seed,
            epoch,
            rows,
            cached=view_set.num_views,
            wanted=wanted,
            pick=self._slots.pick,
        )
        return replace_missing(
            order[:, :wanted],
            order,
            view_set.params.take("status", rows),
            rows,
            name=view_set.name,
            missing=self._missing,
            needed=needed,
        )


class Picked:
    """Shows the views that columns sets chose: those of one group of candidates in an epoch.

    The groups of a sample take turns: each is shown once in as many epochs as there are.
    """

    def __init__(
        self, slots: CachedSlots, choices: Choices, *, seed: int, missing: Missing
    ) -> None:
        """Choose the views of `slots` as `choices` say."""
        (self._view_set,) = slots.group.view_sets
        self._choices, self._seed, self._missing = choices, seed, missing
        self._places = [choices.slots.index(slot) for slot in slots.slots]
        self._group = Schedule(
            seed, len(self._view_set), cached=choices.groups, wanted=1, pick="schedule"
        )
        self._all_made = all_made(self._view_set)

    def __call__(self, epoch: int, rows: Rows, shown: Mapping[int, Rows]) -> Rows:
        """Return the views to show, [B, n].

        A sample of which nothing was chosen, or a view that was not made, shows in all slots of
        the pick what the schedule has for it, unless `missing` is "raise".

        Raises:
            FormatError: A choice is no view, or stands twice; or there is nothing to show.
        """
        del shown
        (groups,) = self._group.views(epoch, rows).T
        taken, made_by = self._choices.taken(self._seed, epoch, rows)
        views = picked(taken, groups, len(self._choices.slots))
        none = (views == NO_CHOICE).any(axis=1)
        self._check(views, none, rows, made_by)
        lacking = none.copy()
        if not self._all_made:
            status = self._view_set.params.take("status", rows)
            usable = np.isin(status[np.arange(len(rows))[:, None], views * ~none[:, None]], MADE)
            lacking |= ~usable.all(axis=1)
        if lacking.any():
            if self._missing == "raise":
                first = int(np.flatnonzero(lacking)[0])
                raise self._nothing(int(rows[first]), int(groups[first]), bool(none[first]))
            views[lacking] = self._scheduled(epoch, rows[lacking])
        return views[:, self._places]

    def _check(self, views: Rows, none: NDArray[np.bool_], rows: Rows, made_by: Rows) -> None:
        """Raise FormatError unless choices [B, n] are distinct views, but where there are none."""
        count = self._view_set.num_views
        beyond = (views >= count) & (views != NO_CHOICE)
        ordered = np.sort(views, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1) & ~none
        wrong = beyond.any(axis=1) | twice
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            view_set, row = self._choices.view_sets[int(made_by[first])], int(rows[first])
            numbers = views[first]
            if beyond[first].any():
                what = f"choice {numbers[beyond[first]][0]} of row {row} of {view_set.name}"
                what += f", there are {count} views"
            else:
                what = (
                    f"choices {numbers.tolist()} of row {row} of {view_set.name} are not distinct"
                )
            raise view_set.damaged(row, what, why="choices are distinct views of their sample")

    def _nothing(self, row: int, group: int, none: bool) -> FormatError:
        name = self._choices.name
        return FormatError(
            f"{name} chose no views of row {row} in group {group}"
            if none
            else f"{name} chose a view of row {row} in group {group} that was not made",
            why="its views could not be scored" if none else "0, 3 and 4 are no views to show",
            fix=NOT_MADE_FIX,
        )

    def _scheduled(self, epoch: int, rows: Rows) -> Rows:
        """Return the views that the schedule shows in all slots of the pick, [B, n]."""
        wanted = len(self._choices.slots)
        order = preference(
            self._seed,
            epoch,
            rows,
            cached=self._view_set.num_views,
            wanted=wanted,
            pick="schedule",
        )
        return replace_missing(
            order[:, :wanted],
            order,
            self._view_set.params.take("status", rows),
            rows,
            name=self._view_set.name,
            missing=self._missing,
        )


def picked(choice: NDArray[np.uint8], group: Rows, n: int) -> Rows:
    """Return the first `n` views that were chosen in group `group` [B] of choices [B, G, m]."""
    return choice[np.arange(len(choice)), group, :n].astype(np.int64)


class Following:
    """Shows views whose parent is the view in an earlier slot: some of its children, by chance."""

    def __init__(self, slots: CachedSlots, follow: int, *, seed: int, missing: Missing) -> None:
        """Choose the views of `slots`, whose parents slot `follow` shows."""
        (self._view_set,) = slots.group.view_sets
        self._slots, self._follow = slots.slots, follow
        self._seed, self._missing = seed, missing

    def __call__(self, epoch: int, rows: Rows, shown: Mapping[int, Rows]) -> Rows:
        """Return the views to show, [B, n]: distinct children of the view that each row shows.

        Every child that was made is as likely as another one, whatever the parent.

        Raises:
            FormatError: A view has fewer children than there are slots for them.
        """
        parents = self._view_set.params.take("parent", rows)
        usable = np.isin(self._view_set.params.take("status", rows), MADE)
        order = preference(
            self._seed,
            epoch,
            rows,
            cached=self._view_set.num_views,
            wanted=len(self._slots),
            pick="random",
            slot=self._slots[0],
        )
        if self._missing == "fallback":  # those that were not made come after all that were
            last = np.argsort(~np.take_along_axis(usable, order, axis=1), axis=1, kind="stable")
            order, usable = np.take_along_axis(order, last, axis=1), np.ones_like(usable)
        views, fewer = followed(order, parents, usable, shown[self._follow], len(self._slots))
        if fewer.any():
            first = int(np.flatnonzero(fewer)[0])
            children = (parents[first] == shown[self._follow][first]) & usable[first]
            raise self._too_few(int(rows[first]), int(shown[self._follow][first]), children)
        return views

    def _too_few(self, row: int, view: int, children: NDArray[np.bool_]) -> FormatError:
        any_child = self._missing == "fallback"
        count = counted(int(children.sum()), "view" if any_child else "usable view")
        fix = "have fewer slots follow it, or build the view set with more views"
        if not any_child:
            fix += "; missing='fallback' shows children that were not made"
        return FormatError(
            f"view {view} of row {row}, which slot {self._follow} shows, has {count} of "
            f"{self._view_set.name} for {counted(len(self._slots), 'slot')}",
            why="a slot that follows another one never shows a child of another view",
            fix=fix,
        )


def followed(
    order: Rows,
    parents: NDArray[np.int32],
    usable: NDArray[np.bool_],
    shown: Rows,
    n: int,
) -> tuple[Rows, NDArray[np.bool_]]:
    """Return `n` children of the view that each sample shows, and which samples have fewer.

    Args:
        order: All view numbers of each sample by preference, [B, K].
        parents: Parent of each view, [B, K].
        usable: Which views may be shown, [B, K].
        shown: The view whose children are wanted, [B].
        n: How many of them, at most K.

    Returns:
        The first `n` usable children by preference, [B, n]; and [B], where true the row has fewer
        and other views fill it up.
    """
    child = np.take_along_axis((parents == shown[:, None]) & usable, order, axis=1)
    first = np.argsort(~child, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(order, first, axis=1), child.sum(axis=1) < n
