"""What an encoder says of views: their features, and the classes it finds likeliest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.format.columns import Column, Status
from viewstore.generators.contract import Context, Rendered, Sample, check_counts, settings_but
from viewstore.generators.numerics import device_class, repeatable
from viewstore.generators.scored.batches import fixed_batches
from viewstore.generators.scored.described import (
    Described,
    Describes,
    columns_per_view,
    made_views,
    roles_of,
    seen_views,
    status_of,
    unwritten,
)
from viewstore.images.colours import Pixels
from viewstore.images.resize import resize

OUTPUTS = ("feature", "topk")
VIEWS_CPU, VIEWS_CUDA = 64, 512  # that a network sees at a time, about


class Network(Protocol):
    """An encoder: ours (train/encoder_file.py), or a module of torch.export."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of what it sees; None: any."""

    @property
    def input_views(self) -> int | None:
        """How many images it sees at a time; None: any number."""

    def outputs(self, x: Tensor) -> Mapping[str, Tensor]:
        """Return "feature" [P, D], and "logits" [P, C] if it has any, of [P, 3, H, W] in [0, 1]."""

    def to(self, device: str) -> Network:
        """Return it on a torch device."""


@dataclass(frozen=True, kw_only=True)
class Embed(Describes):
    """What the encoder in --encoder says of each view, as a reader sees it.

    A view is neither cropped nor mirrored. One of another size than the encoder's input is
    resized to it by area, as are the images of the source.

    Attributes:
        of: The view set whose views are seen, or "source" for the images.
        outputs: What is kept: "feature", "topk" (the likeliest classes, of an encoder that has
            logits), or both.
        normalise: Whether features are scaled to unit length.
        k: Number of classes of topk.
        slots: Samples at a time; automatic is what makes 64 views on CPU and 512 on CUDA, or
            what the encoder takes. Part of the plan, like `device_class` and `threads`: another
            number rounds differently.
        device_class: Kind of device, "cpu" or "cuda"; recorded in the plan, never to be set.
        threads: Threads of torch in each process.
        described: Roles of the views; recorded in the plan, never to be set.
        feature_size: Numbers of a feature; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ("encoder",)

    outputs: tuple[str, ...] = ("feature",)
    normalise: bool = True
    k: int = 5
    slots: int | None = None
    device_class: str | None = None
    threads: int = 1
    feature_size: int | None = None

    def __post_init__(self) -> None:
        outputs = tuple(self.outputs) if isinstance(self.outputs, list | tuple) else ()
        if not outputs or len(set(outputs)) < len(outputs) or not set(outputs) <= set(OUTPUTS):
            raise ConfigError(f"embed.outputs must be some of {OUTPUTS}, got {self.outputs!r}")
        check_counts("embed", self, ("k", "slots", "threads"))

    def refreshed(self) -> Mapping[str, Any]:
        """Return the settings but for the size of features, and of batches, which one may fix."""
        return settings_but(self, "feature_size", "slots")

    def resolve(self, context: Context) -> ResolvedEmbed:
        """Ask the encoder what it gives.

        Raises:
            ConfigError: It has no logits, or fewer classes than are asked for; or its input has
                no size, and neither has the source; or the batches that it takes hold no whole
                samples.
        """
        network: Network = context.models["encoder"]
        described = roles_of(context)
        slots = self.slots or _default_slots(context.device, network, len(described))
        _check_batch(network, slots, len(described))
        found = _probed(network, slots * len(described), _input_size(context), self.threads)
        self._check_classes(found, context)
        return ResolvedEmbed(
            of=self.of,
            described=described,
            outputs=tuple(sorted(self.outputs)),
            normalise=self.normalise,
            k=self.k,
            slots=slots,
            device_class=device_class(context.device),
            threads=self.threads,
            feature_size=found["feature"].shape[1],
        )

    def _check_classes(self, found: Mapping[str, Tensor], context: Context) -> None:
        """Raise ConfigError if topk is asked of an encoder that has no classes, or too few."""
        if "topk" not in self.outputs:
            return
        if "logits" not in found:
            raise ConfigError(
                "embed.outputs asks for topk, and the encoder has no logits",
                code="VS103",
                why="no --encoder was given, so the one for the digits that the package ships "
                "was taken"
                if "encoder" in context.packaged
                else None,
                fix="give a module of torch.export whose forward returns a dict of feature and "
                "logits, or leave topk out",
            )
        classes = found["logits"].shape[1]
        if self.k > classes:
            raise ConfigError(f"embed.k must be in [1, {classes}], got {self.k}", code="VS103")


@dataclass(frozen=True, kw_only=True)
class ResolvedEmbed(Described):
    """What `Embed` resolves to; its attributes are those of `Embed`."""

    outputs: tuple[str, ...]
    normalise: bool
    k: int
    slots: int
    device_class: str
    threads: int
    feature_size: int

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        columns = []
        if "feature" in self.outputs:
            shape = (self.feature_size,)
            columns.append(Column(name="feature", dtype="f2", shape=shape, pack=False))
        if "topk" in self.outputs:
            columns.append(Column(name="topk_class", dtype="i4", shape=(self.k,)))
            columns.append(Column(name="topk_logit", dtype="f2", shape=(self.k,)))
        return columns_per_view(tuple(columns), self.views)

    def make(self, context: Context) -> EmbedGenerator:
        """Return the generator. Raises ConfigError: the source has images of several sizes."""
        return EmbedGenerator(self, context)


class EmbedGenerator:
    """Sees samples in batches of one shape."""

    def __init__(self, settings: ResolvedEmbed, context: Context) -> None:
        self._settings = settings
        self._device = context.device
        self._network: Network = context.models["encoder"].to(context.device)
        self._size = _input_size(context)

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the columns of each sample, in the order of the samples."""
        settings = self._settings
        for batch, pixels in fixed_batches(samples, settings.slots, self._pixels):
            said = self._said(pixels.reshape(-1, *pixels.shape[2:]))
            of_sample = {
                name: each.reshape(settings.slots, settings.views, -1)
                for name, each in said.items()
            }
            for place, sample in enumerate(batch):
                mine = {name: each[place] for name, each in of_sample.items()}
                yield self._rendered(sample, mine)

    def _pixels(self, sample: Sample) -> Pixels:
        """Return the views of a sample, uint8 [V, H, W, 3], at the size of the network's input."""
        return np.stack([resize(view, *self._size) for view in seen_views(sample)])

    @torch.no_grad()
    def _said(self, pixels: Pixels) -> dict[str, NDArray[np.float64]]:
        """Return features [P, D] and logits [P, C] of pixels [P, H, W, 3]."""
        planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))
        with repeatable(self._device, self._settings.threads):
            found = self._network.outputs(planes.to(self._device).float().div_(255))
        return {name: each.cpu().double().numpy() for name, each in found.items()}

    def _rendered(self, sample: Sample, said: Mapping[str, NDArray[np.float64]]) -> Rendered:
        settings, made = self._settings, made_views(sample)
        params = unwritten(settings.columns())
        found: dict[str, NDArray[Any]] = {}
        if "feature" in settings.outputs:
            found["feature"] = as_stored(said["feature"], normalise=settings.normalise)
        if "topk" in settings.outputs:
            found["topk_class"], found["topk_logit"] = likeliest(said["logits"], settings.k)
        status = status_of(made)
        for name in set(found) - {"topk_class"}:
            status[made & ~np.isfinite(found[name]).all(-1)] = Status.FAILED
        good = status == Status.OK
        for name, values in found.items():
            params[name][good] = values[good]
        return Rendered(sample.index, None, {**params, "status": status})


def as_stored(features: NDArray[np.float64], *, normalise: bool) -> NDArray[np.float16]:
    """Return features [P, D] in half precision; what cannot be scaled or held is not finite."""
    with np.errstate(all="ignore"):
        if normalise:
            features = features / np.linalg.norm(features, axis=-1, keepdims=True)
        return features.astype(np.float16)


def likeliest(logits: NDArray[np.float64], k: int) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Return the k classes of the largest logits [P, C], and those logits, the largest first.

    Of equal ones the lower class comes first.
    """
    classes = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    with np.errstate(over="ignore"):
        largest = np.take_along_axis(logits, classes, axis=-1).astype(np.float16)
    return classes.astype(np.int32), largest


def _default_slots(device: str, network: Network, views: int) -> int:
    at_once = VIEWS_CUDA if device_class(device) == "cuda" else VIEWS_CPU
    return max(1, (network.input_views or at_once) // views)


def _check_batch(network: Network, slots: int, views: int) -> None:
    if network.input_views not in (None, slots * views):
        raise ConfigError(
            f"the encoder takes {network.input_views} images at a time, {slots} samples have "
            f"{slots * views} views",
            code="VS103",
            fix="export it with a dynamic first dimension, or for another number of images",
        )


def _input_size(context: Context) -> tuple[int, int]:
    """Return height and width of what the network is shown: its own, or those of all views."""
    found: tuple[int, int] | None = context.models["encoder"].input_size
    if found is not None:
        return found
    if context.parent is not None:
        return context.parent.height, context.parent.width
    if context.source_height is None or context.source_width is None:
        raise ConfigError(
            "the encoder takes images of any size, and those of the source have several",
            code="VS103",
            fix="export it for one size",
        )
    return context.source_height, context.source_width


@torch.no_grad()
def _probed(network: Network, views: int, size: tuple[int, int], threads: int) -> dict[str, Tensor]:
    """Return what a network says of black images."""
    with repeatable("cpu", threads):
        return dict(network.to("cpu").outputs(torch.zeros(views, 3, *size)))
