"""Views of a frozen ViewMaker: small changes of images, by keyed noise.

Source: Viewmaker Networks, arXiv:2010.07432; frozen and rendered ahead: Constructive Assimilation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE, Column, Status
from viewstore.format.plan import MAX_VIEWS
from viewstore.generators.contract import (
    PARENT,
    Context,
    Input,
    OfSource,
    Rendered,
    Sample,
    check_counts,
)
from viewstore.generators.learned.frozen import (
    default_slots,
    levels_of,
    network_of,
    planes_of,
)
from viewstore.generators.numerics import device_class, repeatable
from viewstore.generators.scored.batches import fixed_batches
from viewstore.images.colours import Pixels
from viewstore.images.resize import resize
from viewstore.randomness import Op

ROLE = "viewmaker"


class Shape(Protocol):
    """The settings of a frozen ViewMaker: the side of its images in pixels, and their channels."""

    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...


class Network(Protocol):
    """A frozen ViewMaker: ours is in train/nets/view_maker.py."""

    @property
    def shape(self) -> Shape: ...

    @property
    def noise_numbers(self) -> int:
        """Numbers of noise that it takes for each image."""

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return views [N, C, S, S] of images in [0, 1] and noise [N, noise_numbers]."""

    def to(self, device: str) -> Network:
        """Return it on a torch device."""


@dataclass(frozen=True, kw_only=True)
class ViewMaker(OfSource):
    """What the ViewMaker in --viewmaker makes of each image: it adds a change, by noise.

    Attributes:
        of: The view set whose views it changes, in turn; automatic is the source images.
        views: Number of views of each sample.
        height, width: Size of the views in pixels, which is that of the network's images: others
            are resized to it by area.
        slots: Samples at a time; automatic is what makes 64 views on CPU and 512 on CUDA. Part of
            the plan, like `device_class` and `threads`: another number rounds differently.
        device_class: Kind of device, "cpu" or "cuda"; recorded in the plan, never to be set.
        threads: Threads of torch in each process.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = (ROLE,)

    of: str | None = None
    views: int = 2
    height: int | None = None
    width: int | None = None
    slots: int | None = None
    device_class: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        check_counts(ROLE, self, ("views", "slots", "threads"))
        if self.views > MAX_VIEWS:
            raise ConfigError(f"{ROLE}.views must be in [1, {MAX_VIEWS}], got {self.views}")

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set whose views it changes, if there is one."""
        return {PARENT: Input(self.of)} if self.of else {}

    def reads_source(self) -> bool:
        """Return whether it changes source images."""
        return not self.of

    def resolve(self, context: Context) -> ResolvedViewMaker:
        """Fill in the size, which is the network's.

        Raises:
            ConfigError: There is no network, or another size is asked for.
        """
        network: Network = network_of(context, ROLE)
        size = network.shape.size
        for side in (self.height, self.width):
            if side not in (None, size):
                raise ConfigError(
                    f"the ViewMaker makes views of {size} px a side, got {side}",
                    code="VS103",
                    fix="leave --size out",
                )
        return ResolvedViewMaker(
            of=self.of or "",
            views=self.views,
            height=size,
            width=size,
            slots=self.slots or default_slots(context.device, self.views),
            device_class=device_class(context.device),
            threads=self.threads,
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedViewMaker:
    """What `ViewMaker` resolves to; its attributes are those of `ViewMaker`.

    Attributes:
        of: "" if source images are changed.
    """

    of: str
    views: int
    height: int
    width: int
    slots: int
    device_class: str
    threads: int

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view: "generated"."""
        return ("generated",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name.

        `parent` is the view that was changed, -1 the source image; `x_change` the mean absolute
        change of a value in [0, 1], of the pixels before the codec.
        """
        dtypes = {"parent": "i4", "status": "u1", "x_change": "f4"}
        return tuple(
            Column(name=name, dtype=dtype, shape=(self.views,)) for name, dtype in dtypes.items()
        )

    def make(self, context: Context) -> ViewMakerGenerator:
        """Return the generator. Raises ConfigError: the network or the other view set is absent."""
        return ViewMakerGenerator(self, context)


class _Start(NamedTuple):
    """What the views of a sample start from: numbers of views, int32 [V], and which are usable."""

    parent: NDArray[np.int32]
    usable: NDArray[np.bool_]


class ViewMakerGenerator:
    """Changes images in batches of one shape, by noise keyed by (seed, sample, view)."""

    def __init__(self, settings: ResolvedViewMaker, context: Context) -> None:
        """Prepare. Raises ConfigError: the network or the view set to start from is absent."""
        if settings.of and context.parent is None:
            raise ConfigError(f"{ROLE} starts from the view set {settings.of!r}, got none")
        self._settings = settings
        self._network: Network = network_of(context, ROLE).to(context.device)
        self._device, self._stream = context.device, context.stream

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in the order of the samples."""
        settings = self._settings
        for batch, images in fixed_batches(samples, settings.slots, self._images):
            rows = np.zeros(settings.slots, np.int64)
            rows[: len(batch)] = [sample.index for sample in batch]
            made, finite = self._made(images, rows)
            for place, sample in enumerate(batch):
                yield self._rendered(sample, images[place], made[place], finite[place])

    def _images(self, sample: Sample) -> Pixels:
        """Return what each view is made of, uint8 [V, S, S, 3]."""
        size = (self._settings.height, self._settings.width)
        if sample.parent is None:
            return np.repeat(resize(sample.image, *size)[None], self._settings.views, axis=0)
        stored = sample.parent.pixels()
        return np.stack([resize(stored[view], *size) for view in self._start(sample).parent])

    def _start(self, sample: Sample) -> _Start:
        views = np.arange(self._settings.views)
        if sample.parent is None:
            return _Start(np.full(len(views), -1, np.int32), np.ones(len(views), np.bool_))
        usable = np.isin(sample.parent.status, MADE)
        order = np.flatnonzero(usable) if usable.any() else np.arange(len(usable))
        parent = order[views % len(order)].astype(np.int32)
        return _Start(parent, usable[parent])

    @torch.no_grad()
    def _made(self, images: Pixels, rows: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.bool_]]:
        """Return views uint8 [P, V, S, S, 3] of images of this shape, and which are finite."""
        network, views = self._network, self._settings.views
        noise = self._stream.floats(
            Op.NOISE, rows[:, None], np.arange(views), network.noise_numbers
        )
        x = planes_of(images.reshape(-1, *images.shape[2:]), self._device)
        with repeatable(self._device, self._settings.threads):
            made = network(
                x[:, : network.shape.channels],
                torch.from_numpy(noise.reshape(len(x), -1)).to(self._device),
            )
        finite = made.isfinite().flatten(1).all(1).cpu().numpy()
        return levels_of(made).reshape(images.shape), finite.reshape(len(rows), views)

    def _rendered(
        self, sample: Sample, images: Pixels, made: Pixels, finite: NDArray[np.bool_]
    ) -> Rendered:
        start = self._start(sample)
        good = start.usable & finite
        pixels = np.where(good[:, None, None, None], made, 0).astype(np.uint8)
        change = np.abs(made.astype(np.float64) - images).mean((1, 2, 3)) / 255
        params: dict[str, NDArray[Any]] = {
            "parent": start.parent,
            "status": np.where(good, Status.OK, Status.FAILED).astype(np.uint8),
            "x_change": np.where(good, change, np.nan).astype(np.float32),
        }
        return Rendered(sample.index, pixels, params)
