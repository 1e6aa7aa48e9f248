"""What is wrong with the rows of a store, by its columns alone: kinds of issues, each with rows.

A pass over blocks of columns; no shard is opened and no picture is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, nearest
from viewstore.format.columns import MADE, Column, Status
from viewstore.format.plan import SOURCE
from viewstore.images.policy import Policy
from viewstore.images.policy_values import policies_of
from viewstore.inspect.alike import GROUP, coarse_words, groups_words
from viewstore.store.constraints import NEAR_DUPLICATE
from viewstore.store.over_views import over_views
from viewstore.store.rounds import numbered_rounds
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

BLOCK_ROWS = 1 << 16
NO_TWIN = 254  # in the column "twin": there is none
LATENT_BYTES = 2 << 30  # of latents that are read; more of them take too long for a page
ALIKE = "near-duplicate samples"  # a kind whose rows are best looked at group by group
KEYED = 4  # numbers of a latent that are compared first

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class IssueSettings:
    """From where on something is an issue.

    Attributes:
        near_duplicate: Views nearer to another one of their sample than this, by encoder.
        centre: Latents whose numbers all are so close to those of the centre.
        outside: Boxes that reach farther over their image's edge, in source pixels.
        dark: Pictures whose mean luma is below it, of 255.
        flat: Pictures whose luma has a standard deviation below it, of 255.
    """

    near_duplicate: float = NEAR_DUPLICATE
    centre: float = 1e-3
    outside: float = 0.01
    dark: float = 16.0
    flat: float = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Issue:
    """One kind of issue of one view set.

    Attributes:
        view_set: Its name.
        kind: "off goal", or "not a number: blur".
        meaning: What it means, as a sentence.
        rows: The rows with a view that has it, ascending.
        views: How many views have it; samples where it is about samples.
        where: A filter that finds just these rows; None: filters have no words for them.
    """

    view_set: str
    kind: str
    meaning: str
    rows: Rows
    views: int
    where: str | None = None

    @property
    def name(self) -> str:
        """Name of its rows in addresses: "simclr/box small"."""
        return f"{self.view_set}/{self.kind}"


def issues_of(
    store: Store, view_sets: Sequence[ViewSet], settings: IssueSettings | None = None
) -> list[Issue]:
    """Return the issues of some view sets that there are, set by set.

    Raises:
        FormatError: The params are damaged.
    """
    wanted = settings or IssueSettings()
    return [
        issue
        for each in view_sets
        for find in FINDERS
        for issue in find(store, each, wanted)
        if len(issue.rows)
    ]


def issue_named(issues: Sequence[Issue], name: str) -> Issue:
    """Return an issue by its name. Raises ConfigError: there is none."""
    found = next((each for each in issues if each.name == name), None)
    if found is None:
        names = [each.name for each in issues]
        hint = nearest(name, names) if names else "there are none"
        raise ConfigError(f"there is no issue {name[:200]!r} here; {hint}", code="VS102")
    return found


def name_in_filters(store: Store, view_set: ViewSet) -> str:
    """Return the name that means just this round of a view set in a filter."""
    rounds = numbered_rounds(store.view_sets, view_set.plan.base)
    first = view_set.round == 1 and len(rounds) > 1
    return f"{view_set.name}-r1" if first else view_set.name


def _by_status(store: Store, view_set: ViewSet, settings: IssueSettings) -> Iterator[Issue]:
    del settings
    found = view_set.stats["status"]
    if found.fill == 0 and found.min == found.max == Status.OK:
        return
    status = f"{name_in_filters(store, view_set)}.status"
    columns, images = view_set.kind == "columns", view_set.roles == (SOURCE,)
    kinds = (
        (Status.NEVER_WRITTEN, "not built", f"{status} is missing", "No build wrote them yet."),
        (
            Status.GOAL_NOT_MET,
            "off goal",
            f"{status} = {Status.GOAL_NOT_MET:d}",
            "What made them stopped before its goal; they are used like others.",
        ),
        (
            Status.FAILED,
            "failed",
            f"{status} = {Status.FAILED:d}",
            "What was computed of them is not finite."
            if columns
            else "What made them failed; their pixels mean nothing.",
        ),
        (
            Status.UNREADABLE,
            "unreadable" if images else "without a view" if columns else "black",
            f"{status} = {Status.UNREADABLE:d}",
            "Their source image cannot be read."
            if images
            else "The views that they describe were never made."
            if columns
            else "Their source image cannot be read; the views are black.",
        ),
    )
    for value, kind, where, meaning in kinds:
        rows, views = _found(view_set, ("status",), lambda _, s, value=value: s == value)
        yield Issue(
            view_set=view_set.name, kind=kind, meaning=meaning, rows=rows, views=views, where=where
        )


def _boxes(store: Store, view_set: ViewSet, settings: IssueSettings) -> Iterator[Issue]:
    if "crop_box" not in view_set.params:
        return
    sides = np.stack([store.table.height, store.table.width], axis=1).astype(np.float64)

    def outside(rows: Rows, boxes: NDArray[np.float32]) -> Mask:
        slack = settings.outside
        wrong = np.zeros(boxes.shape[:2], np.bool_)
        for axis in (0, 1):  # a reduction over so short an axis takes much longer
            low, size = boxes[..., axis].astype(np.float64), boxes[..., 2 + axis]
            wrong |= (low < -slack) | (low + size > sides[rows, None, axis] + slack) | (size <= 0)
        return wrong

    rows, views = _found(view_set, ("crop_box",), outside)
    meaning = "A crop box reaches over the edge of its image, or is empty."
    yield Issue(view_set=view_set.name, kind="box outside", meaning=meaning, rows=rows, views=views)
    least = _least_areas(view_set)
    if least is None:
        return

    def small(rows: Rows, boxes: NDArray[np.float32]) -> Mask:
        tall, wide = boxes[..., 2].astype(np.float64), boxes[..., 3].astype(np.float64)
        height, width = sides[rows, None, 0], sides[rows, None, 1]
        grown = (tall + 0.5) * (wide + 0.5)  # boxes are drawn in whole pixels
        spans = (tall >= height - 0.5) | (wide >= width - 0.5)  # the centred crop, where none fits
        return np.asarray((grown < least * (height * width)) & ~spans)

    rows, views = _found(view_set, ("crop_box",), small)
    bound = " or ".join(f"{each:g}" for each in sorted(set(least.tolist())))
    meaning = f"A crop box is smaller than its policy draws them: {bound} of the image's area."
    yield Issue(view_set=view_set.name, kind="box small", meaning=meaning, rows=rows, views=views)


def _least_areas(view_set: ViewSet) -> NDArray[np.float64] | None:
    """Return the least area of each view's box by its policy, [V]; None: the plan says none."""
    setting = view_set.plan.generator["args"].get("policy")
    if setting is None or "crop_local" in view_set.params:
        return None
    try:
        policies = policies_of(setting)
    except ConfigError:  # of a package that is not installed here
        return None
    if not all(type(each) is Policy and each.crop for each in policies):
        return None
    scales = [each.scale[0] for each in policies if isinstance(each, Policy)]
    return np.array([scales[view % len(scales)] for view in range(view_set.num_views)])


def _not_numbers(store: Store, view_set: ViewSet, settings: IssueSettings) -> Iterator[Issue]:
    """NaN says of these columns that nothing was written, where the status says that it was."""
    del settings
    for column in view_set.plan.columns:
        stats = view_set.stats.get(column.name)  # of files of their own verify --content tells
        if column.per != "view" or stats is None or not math.isnan(column.fill):
            continue
        if stats.fill == 0 or stats.count == 0:  # one that nothing has was not measured
            continue
        rows, views = _found(view_set, ("status", column.name), _nan_of(column))
        name = name_in_filters(store, view_set)
        made = f"{name}.status in [{Status.OK:d}, {Status.GOAL_NOT_MET:d}]"
        single = len(column.shape) == 1 and column.views is None
        yield Issue(
            view_set=view_set.name,
            kind=f"not a number: {column.name}",
            meaning=f"Views that were made have no number in {column.name}.",
            rows=rows,
            views=views,
            where=f"any({name}.{column.name} is missing and {made})" if single else None,
        )


def _nan_of(column: Column) -> Callable[..., Mask]:
    said = np.zeros(column.shape[0], np.bool_)
    said[list(range(len(said)) if column.views is None else column.views)] = True

    def found(_: Rows, status: NDArray[np.uint8], values: NDArray[np.floating]) -> Mask:
        missing = np.isnan(values).reshape(*status.shape, -1).any(-1)
        return np.asarray(missing & np.isin(status, MADE) & said)

    return found


def _at_centre(store: Store, view_set: ViewSet, settings: IssueSettings) -> Iterator[Issue]:
    """Latents that are where a search begins, the average of the generator's latents.

    That average lies in the generator's file, which is never opened here. A failed inversion
    stores it as its latent; where none failed, it is the latent that several samples share.
    """
    del store
    column = next((each for each in view_set.plan.columns if each.name == "latent"), None)
    if column is None or column.per != "view":
        return
    if column.row_bytes * len(view_set) > LATENT_BYTES:
        return
    centre = _centre(view_set)
    if centre is None:
        return

    def near(_: Rows, status: NDArray[np.uint8], latents: NDArray[np.float16]) -> Mask:
        off = np.abs(latents.reshape(*status.shape, -1).astype(np.float32) - centre).max(-1)
        return np.asarray((off <= settings.centre) & np.isin(status, MADE))

    rows, views = _found(view_set, ("status", "latent"), near)
    meaning = "Their latent is the centre from which searches start: the image was not found."
    yield Issue(
        view_set=view_set.name, kind="latent at the centre", meaning=meaning, rows=rows, views=views
    )


def _centre(view_set: ViewSet) -> NDArray[np.float32] | None:
    """Return the centre of latents, [numbers of a latent]; None where none can be told."""
    status, params = view_set.params["status"], view_set.params
    failed = np.argwhere(status == Status.FAILED)
    if len(failed):
        row, view = failed[0].tolist()
        found = params.rows("latent", np.array([row]))[0, view].reshape(-1).astype(np.float32)
        if np.isfinite(found).all():
            return np.asarray(found)
    begins = [
        np.ascontiguousarray(latents.reshape(len(rows), view_set.num_views, -1)[:, 0, :KEYED])
        for rows, latents in _blocks(view_set, "latent")
    ]
    _, first, counts = np.unique(
        np.concatenate(begins), axis=0, return_index=True, return_counts=True
    )
    order = first[counts > 1][np.argsort(-counts[counts > 1], kind="stable")]
    made = order[np.isin(status[order, 0], MADE)]
    if not len(made):
        return None
    return np.asarray(params.rows("latent", made[:1])[0, 0].reshape(-1).astype(np.float32))


def _blocks(view_set: ViewSet, name: str) -> Iterator[tuple[Rows, NDArray[np.float16]]]:
    for begin in range(0, len(view_set), BLOCK_ROWS):
        rows = np.arange(begin, min(len(view_set), begin + BLOCK_ROWS))
        yield rows, view_set.params.take(name, rows)


@dataclass(frozen=True)
class _Measured:
    """A kind that follows from one column of single numbers: those below, or from, a limit on.

    `limit` is the name of a setting, or a number.
    """

    column: str
    kind: str
    sign: Literal["<", ">="]
    limit: str | int
    meaning: str

    def threshold(self, settings: IssueSettings) -> float:
        """Return the limit."""
        return float(getattr(settings, self.limit) if isinstance(self.limit, str) else self.limit)


_MEASURED = (
    _Measured(
        "min_pair_distance",
        "near-duplicate views",
        "<",
        "near_duplicate",
        "Another view of the sample is nearer than {:g}, by the encoder.",
    ),
    _Measured(
        GROUP,
        ALIKE,
        ">=",
        0,
        "Another image looks alike, by the hashes of both.",
    ),
    _Measured(
        "twin",
        "equal views",
        "<",
        NO_TWIN,
        "Another view of the sample looks the same, by the hashes of both.",
    ),
    _Measured("luma_std", "flat", "<", "flat", "Brightness varies by less than {:g} of 255."),
    _Measured("luma_mean", "dark", "<", "dark", "The mean brightness is below {:g} of 255."),
)


def _measured(store: Store, view_set: ViewSet, settings: IssueSettings) -> Iterator[Issue]:
    for each in (each for each in _MEASURED if each.column in view_set.params):
        limit = each.threshold(settings)
        below = each.sign == "<"
        rows, views = _found(
            view_set,
            (each.column,),
            lambda _, values, limit=limit, below=below: (
                values < limit if below else values >= limit
            ),
        )
        yield Issue(
            view_set=view_set.name,
            kind=each.kind,
            meaning=" ".join(
                [each.meaning.format(limit), *_hashed_words(store, view_set, each, rows)]
            ),
            rows=rows,
            views=views,
            where=f"{name_in_filters(store, view_set)}.{each.column} {each.sign} {limit:g}",
        )


def _hashed_words(
    store: Store, view_set: ViewSet, measured: _Measured, rows: Rows
) -> Iterator[str]:
    """Yield sentences on what was told from hashes: how many groups, and how far to trust it."""
    if not len(rows) or measured.column not in (GROUP, "twin"):
        return
    if measured.column == GROUP:
        yield groups_words(view_set)
    if coarse := coarse_words(store, view_set):
        yield coarse


Finder = Callable[[Store, ViewSet, IssueSettings], Iterator[Issue]]
FINDERS: tuple[Finder, ...] = (_by_status, _boxes, _not_numbers, _at_centre, _measured)


def _found(
    view_set: ViewSet, names: Sequence[str], mask_of: Callable[..., Mask]
) -> tuple[Rows, int]:
    """Return the rows that a mask [B] or [B, V] has, and how many entries of it are true.

    `mask_of` gets row numbers [B] and the columns `names` of them.
    """
    found, views = [np.empty(0, np.int64)], 0
    for begin in range(0, len(view_set), BLOCK_ROWS):
        rows = np.arange(begin, min(len(view_set), begin + BLOCK_ROWS))
        with np.errstate(invalid="ignore"):
            mask = mask_of(rows, *(view_set.params.take(name, rows) for name in names))
        views += int(mask.sum())
        found.append(rows[over_views(np.logical_or, mask.reshape(len(rows), -1))])
    return np.concatenate(found), views
