"""Views of a frozen spatial transformer: cut where it says, with DINO's colours.

Source: Pretraining with Hard Views, appendix G.1. The global and the local views are two sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.format.columns import Column, Status
from viewstore.generators.contract import Context, OfSource, Rendered, Sample, check_counts
from viewstore.generators.learned.frozen import (
    default_slots,
    levels_of,
    network_of,
    planes_of,
)
from viewstore.generators.numerics import device_class, repeatable
from viewstore.generators.scored.batches import fixed_batches
from viewstore.images.boxes import transformed_boxes
from viewstore.images.colours import Pixels, recolour
from viewstore.images.policies import dino_colours
from viewstore.images.resize import resize

ROLE = "stn"
Part = Literal["global", "local"]
STATIC = 1e-3  # spread of transforms over images below which they do not depend on the image
FLAT = 2.0  # standard deviation of levels below which a view shows a single colour
PROBED = 64  # images that the spread is measured on


class Shape(Protocol):
    """The settings of a frozen spatial transformer: sizes in pixels, and numbers of views."""

    @property
    def size(self) -> int: ...
    @property
    def local_size(self) -> int: ...
    @property
    def n_globals(self) -> int: ...
    @property
    def n_locals(self) -> int: ...
    @property
    def rotates(self) -> bool: ...


class Network(Protocol):
    """A frozen spatial transformer: ours is in train/nets/spatial_transformer.py."""

    @property
    def shape(self) -> Shape: ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return the transforms of all views, global ones first, [N, V, 2, 3], of [N, 3, S, S]."""

    def cut(self, x: Tensor, theta: Tensor, size: int) -> Tensor:
        """Return the views [N, 3, size, size] of images by transforms [N, 2, 3]."""

    def to(self, device: str) -> Self:
        """Return it on a torch device."""


@dataclass(frozen=True, kw_only=True)
class Transformed(OfSource):
    """What the spatial transformer in --stn cuts out of each image, all its views of one kind.

    They have the colours of DINO's crops of that kind, and no flip.

    Attributes:
        part: Which views: the "global" or the "local" ones.
        views: Number of views of each sample, which is that of the network.
        height, width: Size of the views in pixels, which is that of the network: images are
            resized by area to what it looks at, and cut there.
        slots: Samples at a time; automatic is what makes 64 views on CPU and 512 on CUDA. Part of
            the plan, like `device_class` and `threads`: another number rounds differently.
        device_class: Kind of device, "cpu" or "cuda"; recorded in the plan, never to be set.
        threads: Threads of torch in each process.
        boxes: Whether views have a crop box: those of a network that rotates have none. Recorded
            in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = (ROLE,)

    part: Part = "global"
    views: int | None = None
    height: int | None = None
    width: int | None = None
    slots: int | None = None
    device_class: str | None = None
    threads: int = 1
    boxes: bool | None = None

    def __post_init__(self) -> None:
        check_counts(ROLE, self, ("views", "slots", "threads"))
        if self.part not in ("global", "local"):
            raise ConfigError(f"{ROLE}.part must be global or local, got {self.part!r}")

    def resolve(self, context: Context) -> ResolvedTransformed:
        """Fill in number and size of the views, which are the network's.

        It warns where the network cuts all images alike.

        Raises:
            ConfigError: There is no network, it has no such views, or others are asked for.
        """
        network: Network = network_of(context, ROLE)
        shape = network.shape
        one = self.part == "global"
        count, size = (shape.n_globals, shape.size) if one else (shape.n_locals, shape.local_size)
        if not count:
            raise ConfigError(f"this network makes no {self.part} views", code="VS103")
        wanted = {"views": count, "height": size, "width": size, "boxes": not shape.rotates}
        for name, own in wanted.items():
            if getattr(self, name) not in (None, own):
                raise ConfigError(
                    f"{name} of this network's {self.part} views must be {own}, "
                    f"got {getattr(self, name)}",
                    code="VS103",
                    fix=f"leave {name} out",
                )
        self._warn_if_static(network, context)
        return ResolvedTransformed(
            part=self.part,
            views=count,
            height=size,
            width=size,
            slots=self.slots or default_slots(context.device, count),
            device_class=device_class(context.device),
            threads=self.threads,
            boxes=not shape.rotates,
        )

    @torch.no_grad()
    def _warn_if_static(self, network: Network, context: Context) -> None:
        rows = range(min(PROBED, context.num_samples))
        side = network.shape.size
        images = [resize(context.source_image(row), side, side) for row in rows]
        if len(images) < 2:
            return
        with repeatable("cpu", self.threads):
            theta = network.to("cpu")(planes_of(np.stack(images), "cpu"))
        spread = float(theta.std(0).mean())
        if spread < STATIC:
            context.warn(
                f"the views are static: where the network cuts does not depend on the image "
                f"(spread {spread:.2g} over {len(images)} images)"
            )


@dataclass(frozen=True, kw_only=True)
class ResolvedTransformed:
    """What `Transformed` resolves to; its attributes are those of `Transformed`."""

    part: Part
    views: int
    height: int
    width: int
    slots: int
    device_class: str
    threads: int
    boxes: bool

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view: "global" or "local"."""
        return (self.part,) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name.

        `x_theta` is the transform of each view; `x_contrast` the greatest standard deviation of a
        channel of its levels, before its colours.
        """
        forms: dict[str, tuple[str, tuple[int, ...]]] = {
            "blur": ("f4", ()),
            "gray": ("u1", ()),
            "jitter": ("f4", (4,)),
            "jitter_order": ("u1", (4,)),
            "solarize": ("u2", ()),
            "status": ("u1", ()),
            "x_contrast": ("f4", ()),
            "x_theta": ("f4", (2, 3)),
        }
        if self.boxes:
            forms["crop_box"] = ("f4", (4,))
        return tuple(
            Column(name=name, dtype=forms[name][0], shape=(self.views, *forms[name][1]))
            for name in sorted(forms)
        )

    def make(self, context: Context) -> TransformedGenerator:
        """Return the generator. Raises ConfigError: the network is absent."""
        return TransformedGenerator(self, context)


class TransformedGenerator:
    """Cuts views in batches of one shape; colours are keyed by (seed, sample, view)."""

    def __init__(self, settings: ResolvedTransformed, context: Context) -> None:
        """Prepare. Raises ConfigError: the network is absent."""
        self._settings = settings
        self._network: Network = network_of(context, ROLE).to(context.device)
        self._device, self._stream = context.device, context.stream
        shape = self._network.shape
        self._side = shape.size
        self._first = 0 if settings.part == "global" else shape.n_globals

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in the order of the samples."""
        for batch, images in fixed_batches(samples, self._settings.slots, self._image):
            theta, cut = self._cut(images[:, 0])
            for place, sample in enumerate(batch):
                yield self._rendered(sample, theta[place], cut[place])

    def _image(self, sample: Sample) -> Pixels:
        """Return what the network looks at, uint8 [1, S, S, 3]."""
        return resize(sample.image, self._side, self._side)[None]

    @torch.no_grad()
    def _cut(self, images: Pixels) -> tuple[NDArray[np.float32], Pixels]:
        """Return transforms [P, V, 2, 3] and the views without colours, uint8 [P, V, H, W, 3]."""
        settings, views = self._settings, range(self._settings.views)
        x = planes_of(images, self._device)
        with repeatable(self._device, settings.threads):
            theta = self._network(x)[:, self._first : self._first + settings.views]
            cut = [self._network.cut(x, theta[:, view], settings.height) for view in views]
        return theta.cpu().numpy(), np.stack([levels_of(each) for each in cut], axis=1)

    def _rendered(self, sample: Sample, theta: NDArray[np.float32], cut: Pixels) -> Rendered:
        settings = self._settings
        finite = np.isfinite(theta).all((1, 2))
        contrast = cut.astype(np.float64).std((1, 2)).max(-1)
        drawn = [
            dino_colours(
                settings.part, self._first + view, settings.height, self._stream, sample.index, view
            )
            for view in range(settings.views)
        ]
        params: dict[str, NDArray[Any]] = {
            name: np.stack([each[name] for each in drawn]) for name in drawn[0]
        }
        pixels = cut.copy()
        for view in np.flatnonzero(finite):
            recolour(
                pixels[view],
                jitter=params["jitter"][view],
                jitter_order=params["jitter_order"][view],
                gray=bool(params["gray"][view]),
                blur=float(params["blur"][view]),
                solarize=int(params["solarize"][view]),
            )
        pixels[~finite] = 0
        status = np.where(contrast < FLAT, Status.GOAL_NOT_MET, Status.OK)
        params["status"] = np.where(finite, status, Status.FAILED).astype(np.uint8)
        params["x_contrast"] = contrast.astype(np.float32)
        params["x_theta"] = theta
        if settings.boxes:
            params["crop_box"] = transformed_boxes(theta, *sample.size)
        return Rendered(sample.index, pixels, params)
