"""Whether recorded draws of augmentations are those of their policy: statistics of arrays. Pure.

Params are drawn anew as the plan says, rates are held against the probabilities of the policy,
and distributions against draws of the generator itself: boxes that do not fit into their image are
drawn again, so that what the policy says of its areas is not how those of a store are distributed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.format.stats import COMPONENTS, evenly_spread
from viewstore.images.boxes import overlap
from viewstore.images.colours import NOT_APPLIED, SOLARIZE_OFF
from viewstore.inspect.distributions import ks_distance, paired_bars
from viewstore.inspect.figures import Panel, paired_panel
from viewstore.inspect.intervals import wilson
from viewstore.store.over_views import over_views

LEVEL = 0.01  # of all tests of a page together
REPLAYED = 256  # rows that are drawn again
FRESH = 10_000  # draws of the generator that distributions are held against
MOST_ROWS = 1 << 17  # of a store, of which distributions are taken
BLOCK_ROWS = 1 << 14
NAMED_ROWS = 20  # that a finding names
BOX_SLACK, IOU_SLACK = 0.01, 1e-4  # pixels, and shares, by which rounding may be off
Columns = Mapping[str, NDArray[Any]]


class Replays(Protocol):
    """What draws the params of a view set anew; a command hands it to the pages."""

    @property
    def policies(self) -> tuple[Mapping[str, Any], ...]:
        """The policy of each view as values, the fields of `Policy`; empty where it is none."""

    def again(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the params of rows [B] as the plan draws them, by column, [B, ...]."""

    def fresh(self, rows: NDArray[np.int64], turn: int) -> dict[str, NDArray[Any]]:
        """Return params that other seeds draw for these rows; those of two turns are independent.

        `turn` is a number from 0.
        """


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """The overlaps of crop boxes that a columns set stored.

    Attributes:
        stored: Of each view with the targets of its group, [N, V, T]; not finite where unknown.
        targets: The boxes of these, [N, W, 4]: the views themselves, or those of another set.
        groups: How many groups of as many neighbours views and targets are in.
    """

    stored: NDArray[Any]
    targets: NDArray[Any]
    groups: int

    def again(self, boxes: NDArray[Any], rows: slice) -> NDArray[np.float64]:
        """Return the overlaps of some rows of `boxes` [N, V, 4], computed anew."""
        views, targets = self.stored.shape[1:]
        group = np.arange(views) // (views // self.groups)
        of_view = group[:, None] * (self.targets.shape[1] // self.groups) + np.arange(targets)
        with np.errstate(divide="ignore", invalid="ignore"):  # boxes that were never written
            return overlap(boxes[rows][:, :, None], self.targets[rows][:, of_view])


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a view set recorded.

    Attributes:
        params: Its columns, those with a value for each view [N, V, ...].
        made: Which views were made, bool [N, V].
        height, width: Of the source images, [N].
        overlaps: By columns set, those that it stored of the boxes.
    """

    params: Columns
    made: NDArray[np.bool_]
    height: NDArray[Any]
    width: NDArray[Any]
    overlaps: Mapping[str, Overlaps] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One test of recorded draws.

    Attributes:
        name: What was tested.
        off: How far it is off, as a multiple of what may be by chance: above 1 it disagrees.
        said: What was found, in words.
        rows: Some of the rows with what is wrong, where they are known.
        panel: Both distributions, where it is about one.
    """

    name: str
    off: float
    said: str
    rows: tuple[int, ...] = ()
    panel: Panel | None = None

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong, or no more than by chance."""
        return self.off <= 1


@dataclass(frozen=True)
class _Group:
    """The views of one policy."""

    views: list[int]
    policy: Mapping[str, Any]
    name: str


def checks_of(recorded: Recorded, replays: Replays) -> list[Check]:
    """Return all tests of recorded draws, the worst first."""
    rows = np.flatnonzero(over_views(np.logical_or, recorded.made))
    if not len(rows):
        return []
    groups = _groups(replays.policies)
    drawn = _fresh(replays, evenly_spread(rows, FRESH), min(len(each.views) for each in groups))
    rates = [(group, *rate) for group in groups for rate in _rates(recorded, group)]
    samples = [
        (group, *sample)
        for group in groups
        for sample in _distributions(recorded, drawn, group, evenly_spread(rows, MOST_ROWS))
    ]
    exact = [_replay(recorded, replays, evenly_spread(rows, REPLAYED))]
    exact += [_inside(recorded)] if "crop_box" in recorded.params else []
    exact += [_overlaps(recorded, name) for name in recorded.overlaps]
    level = LEVEL / (len(rates) + len(samples) + len(exact))
    found = [
        *exact,
        *(_rate_check(*rate, level=level) for rate in rates),
        *(_distribution_check(*sample, level=level) for sample in samples),
    ]
    return sorted(found, key=lambda check: -check.off)


def headline(checks: Sequence[Check]) -> str:
    """Return in a sentence how many checks agree."""
    wrong = sum(not check.agrees for check in checks)
    if not checks:
        return "no view was made, there is nothing to check"
    if not wrong:
        return f"all {len(checks)} checks agree"
    return f"{wrong} of {len(checks)} checks {'disagrees' if wrong == 1 else 'disagree'}"


def _groups(policies: Sequence[Mapping[str, Any]]) -> list[_Group]:
    """Return the views of equal policies together."""
    found: list[tuple[Mapping[str, Any], list[int]]] = []
    for view, policy in enumerate(policies):
        same = next((views for known, views in found if known == policy), None)
        if same is None:
            found.append((policy, [view]))
        else:
            same.append(view)
    if len(found) == 1:
        return [_Group(found[0][1], found[0][0], "")]
    return [
        _Group(views, policy, f" of views {', '.join(map(str, views))}") for policy, views in found
    ]


def _fresh(replays: Replays, rows: NDArray[np.int64], views: int) -> tuple[Columns, Any]:
    """Return FRESH draws or more for a group of so many views, and their rows."""
    wanted = math.ceil(FRESH / views)
    some = evenly_spread(rows, wanted)
    turns = math.ceil(wanted / len(some))
    drawn = [replays.fresh(some, turn) for turn in range(turns)]
    columns = {name: np.concatenate([each[name] for each in drawn]) for name in drawn[0]}
    return columns, np.tile(some, turns)


def _replay(recorded: Recorded, replays: Replays, rows: NDArray[np.int64]) -> Check:
    """Return whether params are those that the plan draws, on some rows."""
    wrong, names = np.zeros(len(rows), np.bool_), []
    for name, values in replays.again(rows).items():
        if name not in recorded.params:
            continue
        stored = np.asarray(recorded.params[name])[rows]
        differs = (stored != values) & ~((stored != stored) & (values != values))
        of_views = differs.reshape(*recorded.made[rows].shape, -1).any(-1) & recorded.made[rows]
        if of_views.any():
            names.append(name)
            wrong |= of_views.any(axis=1)
    count = int(wrong.sum())
    said = (
        f"{', '.join(names)} of {count} of {len(rows)} rows {'is' if len(names) == 1 else 'are'} "
        "not what the plan draws"
        if count
        else f"all params of {len(rows)} rows are drawn again as they are recorded"
    )
    return _exact("params drawn again", said, rows[wrong])


def _inside(recorded: Recorded) -> Check:
    """Return whether every crop box lies inside its image."""
    wrong = np.zeros(len(recorded.made), np.bool_)
    for begin in range(0, len(wrong), BLOCK_ROWS):
        part = slice(begin, begin + BLOCK_ROWS)
        box = np.asarray(recorded.params["crop_box"][part], np.float64)
        sides = np.stack([recorded.height[part], recorded.width[part]], axis=-1)[:, None, :]
        fits = (box[..., :2] >= -BOX_SLACK) & (box[..., 2:] > 0)
        fits &= box[..., :2] + box[..., 2:] <= sides + BOX_SLACK
        wrong[part] = (~fits.all(-1) & recorded.made[part]).any(axis=1)
    count, whole = int(wrong.sum()), int(over_views(np.logical_or, recorded.made).sum())
    said = f"crop boxes of {count:,} of {whole:,} rows do not lie inside their image"
    if not count:
        said = f"all crop boxes of {whole:,} rows lie inside their image"
    return _exact("boxes inside their image", said, np.flatnonzero(wrong))


def _overlaps(recorded: Recorded, name: str) -> Check:
    """Return whether the overlaps that a columns set stored are those of the boxes."""
    overlaps, boxes = recorded.overlaps[name], recorded.params["crop_box"]
    stored = overlaps.stored
    wrong = np.zeros(len(stored), np.bool_)
    for begin in range(0, len(stored), BLOCK_ROWS):
        part = slice(begin, begin + BLOCK_ROWS)
        near = np.abs(overlaps.again(boxes, part) - stored[part]) <= IOU_SLACK
        wrong[part] = (np.isfinite(stored[part]) & ~near).any(axis=(1, 2))
    count = int(wrong.sum())
    said = f"the overlaps in {name} of {count:,} of {len(stored):,} rows are not those of the boxes"
    if not count:
        said = f"the overlaps in {name} of {len(stored):,} rows are those of the boxes"
    return _exact(f"overlaps in {name}", said, np.flatnonzero(wrong))


def _exact(name: str, said: str, rows: NDArray[np.int64]) -> Check:
    """Return a check that allows for no chance."""
    off = math.inf if len(rows) else 0.0
    return Check(name=name, off=off, said=said, rows=tuple(rows[:NAMED_ROWS].tolist()))


def _switches(params: Columns) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Return where each operation that may be off was applied, [N, V], and its probability."""
    found = {name: (name, params[name] == 1) for name in ("flip", "gray") if name in params}
    if "jitter" in params:
        on = params["jitter_order"][..., 0] != NOT_APPLIED
        found["jitter"] = ("jitter_probability", on)
    if "blur" in params:
        found["blur"] = ("blur", params["blur"] > 0)
    if "solarize" in params:
        found["solarize"] = ("solarize", params["solarize"] != SOLARIZE_OFF)
    return found


def _rates(recorded: Recorded, group: _Group) -> list[tuple[str, int, int, float]]:
    """Return name, how often it was applied, of how many views, and the probability of each."""
    if not group.policy:
        return []
    made = recorded.made[:, group.views]
    found = []
    for name, (key, on) in _switches(recorded.params).items():
        never = name == "solarize" and group.policy["threshold"] == SOLARIZE_OFF
        probability = 0.0 if never else float(group.policy[key])
        count = int((on[:, group.views] & made).sum())
        found.append((name, count, int(made.sum()), probability))
    return found


def _rate_check(
    group: _Group, name: str, count: int, whole: int, probability: float, *, level: float
) -> Check:
    """Return whether a rate is that of the policy."""
    low, high = wilson(count, whole, level)
    off = abs(probability - (low + high) / 2) / ((high - low) / 2)
    if probability in (0, 1):  # without chance
        off = 0.0 if count == whole * probability else math.inf
    said = (
        f"{count:,} of {whole:,} views have it, {100 * count / whole:.2f}%; the policy says "
        f"{100 * probability:g}%, and {100 * low:.2f} to {100 * high:.2f}% are likely"
    )
    return Check(name=f"rate of {name}{group.name}", off=off, said=said)


def _distributions(
    recorded: Recorded, drawn: tuple[Columns, NDArray[Any]], group: _Group, rows: NDArray[np.int64]
) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Return name, recorded and fresh values of what varies, [n] and [m] each."""
    fresh, fresh_rows = drawn
    views = group.views
    mine = {
        name: recorded.params[name][rows][:, views]
        for name in fresh
        if name in recorded.params and recorded.params[name].shape[1:2] == (len(recorded.made[0]),)
    }
    theirs = {name: fresh[name][:, views] for name in mine}
    sizes = [(recorded.height[each], recorded.width[each]) for each in (rows, fresh_rows)]
    made = recorded.made[rows][:, views]
    stored, again = _measured(mine, *sizes[0], made), _measured(theirs, *sizes[1])
    return [
        (name, values, again[name])
        for name, values in stored.items()
        if len(values) and len(again[name]) and np.ptp(again[name]) > 0
    ]


def _measured(
    params: Columns,
    height: NDArray[Any],
    width: NDArray[Any],
    made: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return what is drawn from a continuous distribution, by name, without what was off."""
    known = np.ones(next(iter(params.values())).shape[:2], np.bool_) if made is None else made
    found: dict[str, NDArray[np.float64]] = {}
    if "crop_box" in params:
        found |= _of_boxes(params["crop_box"][known], *_sides(height, width, known))
    if "jitter" in params:
        on = known & (params["jitter_order"][..., 0] != NOT_APPLIED)
        for place, part in enumerate(COMPONENTS["jitter"]):
            found[f"{part} factor" if part != "hue" else "hue shift"] = params["jitter"][on][
                :, place
            ].astype(np.float64)
    if "blur" in params:
        found["blur sigma"] = params["blur"][known & (params["blur"] > 0)].astype(np.float64)
    for name, values in params.items():
        if name.startswith("x_") and values.dtype.kind == "f" and values.ndim == 2:
            found[name] = values[known].astype(np.float64)
    return found


def _sides(
    height: NDArray[Any], width: NDArray[Any], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sides of the image of each of the `known` views."""
    sides = (np.broadcast_to(each[:, None], known.shape)[known] for each in (height, width))
    first, second = (each.astype(np.float64) for each in sides)
    return first, second


def _of_boxes(
    box: NDArray[Any], height: NDArray[np.float64], width: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return area, aspect and centre of boxes [n, 4] in their images."""
    top, left, tall, wide = box.astype(np.float64).T
    return {
        "crop area": tall * wide / (height * width),
        "crop aspect": wide / tall,
        "crop centre, across": (left + wide / 2) / width,
        "crop centre, down": (top + tall / 2) / height,
    }


def _distribution_check(
    group: _Group,
    name: str,
    stored: NDArray[np.float64],
    fresh: NDArray[np.float64],
    *,
    level: float,
) -> Check:
    """Return whether values are distributed as those that the generator draws."""
    from scipy.special import kolmogi

    distance = ks_distance(stored, fresh)
    likely = kolmogi(level) * math.sqrt((len(stored) + len(fresh)) / (len(stored) * len(fresh)))
    title = f"{name}{group.name}"
    said = (
        f"{len(stored):,} values lie up to {distance:.4f} (Kolmogorov-Smirnov) from "
        f"{len(fresh):,} draws of the generator, and up to {likely:.4f} is likely"
    )
    panel = paired_panel(title, ("recorded", "drawn anew"), paired_bars(stored, fresh))
    return Check(name=title, off=distance / likely, said=said, panel=panel)
