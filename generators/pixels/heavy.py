"""Heavy views: augmentation operators on the views of another view set, or on the source images.

Source: DSSL (arXiv:2110.13555), whose heavy views are made of standard ones, and its public code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, nearest
from viewstore.format.columns import MADE, Column, Status
from viewstore.format.plan import MAX_VIEWS
from viewstore.generators.contract import (
    PARENT,
    Context,
    Input,
    OfSource,
    Rendered,
    Sample,
)
from viewstore.generators.pixels.expert import LARGE_VIEW, SAMPLES_AT_ONCE, SMALL_PIXELS
from viewstore.images.boxes import compose_boxes
from viewstore.images.colours import Pixels
from viewstore.images.operated import HEAVY, Operated
from viewstore.images.policies import Drawn, Policy
from viewstore.images.recipes import RecipeSpec, heavy_recipe
from viewstore.images.resize import STORED_FILTERS, Filter, check_filter
from viewstore.randomness import Op
from viewstore.store.view_set import ViewSet

ROLE = "heavy"
STANDARD = "simclr"  # the view set to start from where none is named
FROM = ("from_view", "from_sample")
_WORDS_A_BLOCK = 4


@dataclass(frozen=True, kw_only=True)
class Heavy(OfSource):
    """The user's settings of heavy views; what is None is automatic.

    Attributes:
        chain: What makes them: "ra16" (DSSL's RandAugment), "randaugment" (the standard one),
            "ua" (UniformAugment), "jigsaw", "paper" (ra16, then jigsaw), "paper3" (ra16, ua,
            jigsaw), "either" (jigsaw in a tenth of the views, else ra16), or "byol" (ra16, then
            a second crop and colours; in a tenth of the views jigsaw in place of both).
        n, m: Operators of each view, and their magnitude of 0 to 30. Automatic is 2 and 5, of
            randaugment 2 and 9, of byol 8 and 16; "ua" and "jigsaw" have none.
        grid: Tiles a side of the jigsaw; automatic is 4, or none where the chain has no jigsaw.
        derive: What the views start from: "from_view" is the views of another view set, which are
            taken equally often, "from_sample" the source image. None is from_view where `of` is
            given.
        of: That view set; automatic is "simclr".
        views: Number of heavy views of each sample, of all views of the other set together.
        height, width: Size in pixels. Automatic is that of the other view set; of source images
            that of the source where all its images are alike and at most 64 pixels a side, else
            224.
        filter: How images of another size are resized: "area" or "linear" (OpenCV), or "pil".
    """

    VERSION: ClassVar[int] = 1

    chain: str = "ra16"
    n: int | None = None
    m: float | None = None
    grid: int | None = None
    derive: Literal["from_view", "from_sample"] | None = "from_view"
    of: str | None = None
    views: int = 2
    height: int | None = None
    width: int | None = None
    filter: str = "area"

    def __post_init__(self) -> None:
        policy = self.policy
        check_filter(self.filter, STORED_FILTERS)
        if self.derive not in (None, *FROM):
            raise ConfigError(f"heavy.derive must be one of {', '.join(FROM)}, got {self.derive!r}")
        if policy.crops and self.derive == "from_sample":
            raise ConfigError(f"chain {self.chain} crops standard views, got derive=from_sample")
        if self.of and self.derive == "from_sample":
            raise ConfigError(
                f"views start from the source image with derive=from_sample, got of={self.of}",
                fix="leave --of out, or give derive=from_view",
            )
        if not 1 <= self.views <= MAX_VIEWS:
            raise ConfigError(f"heavy.views must be in [1, {MAX_VIEWS}], got {self.views}")
        for side in (self.height, self.width):
            if side is not None and side < 1:
                raise ConfigError(f"heavy.height and heavy.width must be >= 1, got {side}")

    @property
    def policy(self) -> Operated:
        """What draws and renders the views. Raises ConfigError: there is no such chain."""
        return policy_of(self.chain, self.n, self.m, self.grid)

    @property
    def of_views(self) -> bool:
        """Whether the views start from those of another set."""
        return self.derive == "from_view" or (self.derive is None and bool(self.of))

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set that the views start from, if they do."""
        return {PARENT: Input(self.of or STANDARD)} if self.of_views else {}

    def reads_source(self) -> bool:
        """Return whether the views start from source images."""
        return not self.of_views

    def recipe(self) -> RecipeSpec:
        """Return the recipe "ops"."""
        return heavy_recipe(self.chain, self.filter)

    def resolve(self, context: Context) -> ResolvedHeavy:
        """Fill in the numbers of the chain and the size of the views.

        Raises:
            ConfigError: The views of the other set are crops of crops, which "byol" cannot crop.
        """
        parent = context.parent
        if parent is not None and self.policy.crops and parent.plan.parent is not None:
            raise ConfigError(
                f"chain {self.chain} crops views of source images, "
                f"{parent.name} is made from {parent.plan.parent['view_set']}",
                fix="start from another view set with --of SET",
            )
        height, width = _size(context) if parent is None else (parent.height, parent.width)
        chain = self.policy.chain
        n, m = next(
            ((each.count, each.magnitude) for each in chain.spaces if each.magnitude is not None),
            (0, 0),
        )
        return ResolvedHeavy(
            chain=self.chain,
            n=n,
            m=m,
            grid=chain.grid,
            derive="from_view" if self.of_views else "from_sample",
            of=(self.of or STANDARD) if self.of_views else "",
            views=self.views,
            height=self.height or height,
            width=self.width or width,
            filter=check_filter(self.filter, STORED_FILTERS),
        )


def policy_of(chain: str, n: int | None, m: float | None, grid: int | None) -> Operated:
    """Return the policy of a chain by name, with other numbers where they are not None.

    Raises:
        ConfigError: There is no such chain, or it has no such numbers.
    """
    if chain not in HEAVY:
        raise ConfigError(
            f"there is no chain {chain!r} of operators; {nearest(chain, list(HEAVY))}", code="VS102"
        )
    policy = HEAVY[chain]
    return replace(policy, chain=policy.chain.with_numbers(n=n, m=m, grid=grid))


def _size(context: Context) -> tuple[int, int]:
    height, width = context.source_height, context.source_width
    if height is None or width is None or max(height, width) > SMALL_PIXELS:
        return LARGE_VIEW, LARGE_VIEW
    return height, width


@dataclass(frozen=True, kw_only=True)
class ResolvedHeavy:
    """What `Heavy` resolves to; its attributes are those of `Heavy`.

    Attributes:
        n, m, grid: 0 where the chain has none.
        of: "" if the views start from the source image.
    """

    chain: str
    n: int
    m: float
    grid: int
    derive: Literal["from_view", "from_sample"]
    of: str
    views: int
    height: int
    width: int
    filter: Filter

    @property
    def policy(self) -> Operated:
        """What draws and renders the views, fitted to their size."""
        return policy_of(self.chain, self.n, self.m, self.grid).for_size(self.height, self.width)

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view: "heavy"."""
        return (ROLE,) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name.

        `crop_box` is in source pixels, composed through the other view set; `crop_local`, the box
        within the view that was cropped a second time, and colours are there if the chain crops.
        """
        policy = self.policy
        of_view = {column.name: column for column in policy.columns}
        of_view["parent"] = Column(name="parent", dtype="i4", shape=())
        of_view["status"] = Column(name="status", dtype="u1", shape=())
        if policy.crops:
            of_view["crop_local"] = Column(name="crop_local", dtype="i4", shape=(4,))
        else:
            del of_view["flip"]
        return tuple(
            replace(of_view[name], shape=(self.views, *of_view[name].shape))
            for name in sorted(of_view)
        )

    def make(self, context: Context) -> HeavyGenerator:
        """Return the generator. Raises ConfigError: the view set to start from is absent."""
        return HeavyGenerator(self, context)


def _without_flips(policy: Operated, parent: ViewSet | None) -> Operated:
    """Return a policy that flips no view of a set that does not flip: digits are never flipped."""
    if isinstance(policy.base, Policy) and parent is not None and "flip" not in parent.params:
        return replace(policy, base=replace(policy.base, flip=0))
    return policy


class _Start(NamedTuple):
    """What the views of one sample start from.

    Attributes:
        parent: Number of the view of the other set that each starts from, int32 [K]; -1 is the
            source image.
        status: Of each, uint8 [K].
        box: Where that lies in the source image, float32 [K, 4].
        mirrored: Whether it shows its box from right to left, bool [K].
        size: Height and width of it.
    """

    parent: NDArray[np.int32]
    status: NDArray[np.uint8]
    box: NDArray[np.float32]
    mirrored: NDArray[np.bool_]
    size: tuple[int, int]


class HeavyGenerator:
    """Draws params keyed by (seed, sample, view) and renders them, if their pixels are wanted."""

    def __init__(self, settings: ResolvedHeavy, context: Context) -> None:
        """Prepare to render.

        Raises:
            ConfigError: The view set to start from is absent.
        """
        self._parent = context.parent if settings.derive == "from_view" else None
        if self._parent is None and settings.derive == "from_view":
            raise ConfigError(f"heavy views start from the view set {settings.of!r}, got none")
        self._policy = _without_flips(settings.policy, self._parent)
        self._size = settings.height, settings.width
        columns = tuple(column.name for column in settings.columns())
        self._renderer = heavy_recipe(settings.chain, settings.filter).renderer(columns, self._size)
        self._views = np.arange(settings.views)
        self._stream = context.stream
        self._wants_pixels = context.wants_pixels

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in the order of the samples."""
        pulled = iter(samples)
        while batch := list(itertools.islice(pulled, SAMPLES_AT_ONCE)):
            starts = [self._start(sample) for sample in batch]
            drawn = self._draw(batch, starts)
            for number, (sample, start) in enumerate(zip(batch, starts, strict=True)):
                params = {name: column[number] for name, column in drawn.items()}
                made = np.isin(start.status, MADE)
                pixels = self._pixels(sample, params, made) if self._wants_pixels else None
                yield Rendered(sample.index, pixels, {**params, "status": start.status})

    def _start(self, sample: Sample) -> _Start:
        count = len(self._views)
        whole = np.array([[0, 0, *sample.size]], np.float32)
        if self._parent is None:
            return _Start(
                parent=np.full(count, -1, np.int32),
                status=np.full(count, Status.OK, np.uint8),
                box=whole.repeat(count, axis=0),
                mirrored=np.zeros(count, np.bool_),
                size=sample.size,
            )
        if sample.parent is None:
            raise ConfigError(f"row {sample.index} has no views of {self._parent.name}")
        names = self._parent.params
        usable = np.isin(sample.parent.status, MADE)
        parent = self._order(sample.index, usable)[self._views % max(usable.sum(), 1)]
        boxes = whole.repeat(len(usable), axis=0)
        if "crop_box" in names:
            boxes = sample.parent.params("crop_box")
        flips = sample.parent.params("flip") == 1 if "flip" in names else np.zeros_like(usable)
        return _Start(
            parent=parent.astype(np.int32),
            status=np.where(usable[parent], Status.OK, Status.FAILED).astype(np.uint8),
            box=boxes[parent],
            mirrored=flips[parent],
            size=(self._parent.height, self._parent.width),
        )

    def _order(self, row: int, usable: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the numbers of the views to start from in a random order, usable ones first."""
        blocks = -(-len(usable) // _WORDS_A_BLOCK)
        words = self._stream.words(Op.SCHEDULE, row, 0, blocks=blocks)[: len(usable)]
        return np.lexsort((words, ~usable))

    def _draw(self, batch: list[Sample], starts: list[_Start]) -> Drawn:
        """Return the params of all views but their status, [B, K, ...]."""
        index = np.array([[sample.index] for sample in batch], np.int64)
        height, width = np.array([start.size for start in starts]).T[..., None]
        drawn = self._policy.draw(self._stream, index, self._views, height, width)
        local = drawn.pop("crop_box")
        box = np.stack([start.box for start in starts])
        if self._policy.crops:
            mirrored = np.stack([start.mirrored for start in starts]).reshape(-1)
            size = starts[0].size
            flat = box.reshape(-1, 4), mirrored, size, local.reshape(-1, 4)
            drawn["crop_box"] = compose_boxes(*flat).reshape(box.shape)
            drawn["crop_local"] = local.astype(np.int32)
        else:
            drawn["crop_box"] = box
            del drawn["flip"]
        return {**drawn, "parent": np.stack([start.parent for start in starts])}

    def _pixels(self, sample: Sample, params: Drawn, made: NDArray[np.bool_]) -> Pixels:
        """Return the views of these params, uint8 [K, H, W, 3]; those not `made` are black."""
        pixels = np.zeros((len(self._views), *self._size, 3), np.uint8)
        of_parent = None if sample.parent is None else sample.parent.pixels()
        for view in np.flatnonzero(made).tolist():
            out = pixels[view]
            one = {name: column[view] for name, column in params.items()}
            image = sample.image if of_parent is None else of_parent[one["parent"]]
            self._renderer.render(image, one, out)
        return pixels
