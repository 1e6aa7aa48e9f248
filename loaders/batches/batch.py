"""A batch as users hold it: views with their params, rows, labels, and the loader's state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError, UnavailableError, nearest
from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.loaders.render.colours import recolour

# Of colour values in [0, 1], as in timm and torchvision.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LEVELS = 255


class ViewParams(Mapping[str, Tensor]):
    """Params by column name, each gathered when it is first read. Pickles with all of them."""

    def __init__(self, names: Collection[str], gather: Callable[[str], Tensor]) -> None:
        """Gather `names` by `gather`(name)."""
        self._columns = names
        self._gather = gather
        self._found: dict[str, Tensor] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Tensor:
        """Return a column, [B, ...]. Raises KeyError: the view has none of this name."""
        if name not in self._found:
            if name not in self._columns:
                hint = nearest(name, list(self._columns))
                raise KeyError(f"there is no params column {name!r}; {hint}")
            self._found[name] = self._gather(name)
        return self._found[name]

    def __repr__(self) -> str:
        return f"ViewParams({list(self._columns)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # As arrays: torch cannot unpickle uint16 where it has no storage of that type.
        return (_restored, ({name: column.numpy() for name, column in self.items()},))


def _restored(columns: dict[str, NDArray[Any]]) -> ViewParams:
    return ViewParams(tuple(columns), lambda name: torch.from_numpy(columns[name]))


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of each sample of a batch.

    Attributes:
        pixels: uint8 [B, C, H, W], channels last in memory, owned by the caller; [0, C, H, W] of
            a view that is absent.
        params: What made the views, by column name, [B, ...]; on the CPU.
        status: uint8 [B]: 1 ok, 2 goal not met, 3 failed, 4 source unreadable, 0 never written.
        role: "expert", "generated", "global", ...; "mixed" where it varies by view.
        parent: int64 [B]: the view it was derived from, -1 for the source image. Where there is
            a `parent_slot`, what `view` of that slot is.
        view: int64 [B]: number of the cached view, or of the slot that was rendered.
        source: "cached:NAME" or "online:NAME".
        parent_slot: Slot whose views these were made from: the one that it follows or is rendered
            on; -1 if there is none.
        colourless: Whether the pixels still lack the colours that params record, as with
            photometric="caller"; `coloured` and `Batch.to` make them.
        absent: Whether the step does not show this slot (`wants`): it has no sample and no params.
    """

    pixels: Tensor
    params: Mapping[str, Tensor]
    status: Tensor
    role: str
    parent: Tensor
    view: Tensor
    source: str
    parent_slot: int = -1
    colourless: bool = False
    absent: bool = False

    def coloured(self, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the pixels with their colours, uint8 [B, 3, H, W], on the device they lie on.

        They are those that photometric="cpu" delivers; views that were never made stay black.

        Args:
            params: Other colours than its own: jitter, jitter_order, gray, blur and solarize,
                [B, ...], such as the params of another view of the batch.

        Raises:
            ConfigError: Other colours are wanted of pixels that have theirs already, or `params`
                lack some.
        """
        if not self.colourless:
            if params is None:
                return self.pixels
            raise ConfigError(
                f"views of {self.source} are as they were made, and can have no other colours",
                why="the view set stores them with colours, the policy draws none, operators work "
                "on coloured pixels, or the loader made them",
                fix="load online views or a view set built with --codec params, with "
                "photometric='caller'",
            )
        colours = self._colours(self.params if params is None else params)
        return recolour([self.pixels], [colours], self.pixels.device)[0]

    def _colours(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the columns of colours, on the CPU. Their fill values change nothing."""
        lacking = [name for name in COLOUR_COLUMNS if name not in params]
        if lacking:
            raise ConfigError(
                f"colours of {self.source} need the params {', '.join(COLOUR_COLUMNS)}; "
                f"{', '.join(lacking)} is not given",
                fix="give those of a view whose policy has colours",
            )
        return {name: params[name].cpu() for name in COLOUR_COLUMNS}

    def __repr__(self) -> str:
        return f"View({self.source!r}, {list(self.pixels.shape)}, params {list(self.params)})"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """This rank's samples of one step.

    Attributes:
        views: A view for each slot, in the order of `loader.slots`; those that the step does not
            show are absent.
        index: int64 [B], row of each sample in the store.
        label: int64 [B], -1 where a sample has none.
        valid: bool [B], false where a sample only pads the last step.
        weight: This rank's weight in the mean of the ranks' gradients.
        epoch, step: Which step of which epoch this is.
        state: Resumes after this batch.
    """

    views: tuple[View, ...]
    index: Tensor
    label: Tensor
    valid: Tensor
    weight: float
    epoch: int
    step: int
    state: dict[str, Any]

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Batch(epoch {self.epoch}, step {self.step}, {len(self)} samples, {self.views})"

    def to(self, device: str | torch.device, *, colours: bool = True) -> Batch:
        """Return the batch with pixels, index, label and valid on `device`.

        Views that are still colourless get their colours there, unless `colours` is False.
        """
        device = torch.device(device)
        colourless = [view for view in self.views if view.colourless and colours]
        pixels = [view.pixels for view in colourless]
        params = [view._colours(view.params) for view in colourless]
        coloured = iter(recolour(pixels, params, device))
        views = (
            replace(view, pixels=next(coloured), colourless=False)
            if view.colourless and colours
            else replace(view, pixels=view.pixels.to(device, non_blocking=True))
            for view in self.views
        )
        return replace(
            self,
            views=tuple(views),
            index=self.index.to(device, non_blocking=True),
            label=self.label.to(device, non_blocking=True),
            valid=self.valid.to(device, non_blocking=True),
        )

    def normalised(
        self,
        dtype: torch.dtype = torch.float32,
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> list[Tensor]:
        """Return each view as a network takes it, [B, C, H, W], on the batch's device.

        The layout in memory stays channels last; `normalise` says what is computed. Pixels move
        to the device as uint8 if `to` or the loader's `device` comes first.

        Raises:
            ConfigError: `mean` and `std` differ in length, or views have fewer channels.
        """
        return [normalise(view.pixels, mean=mean, std=std, dtype=dtype) for view in self.views]


def normalise(
    pixels: Tensor,
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return (pixels / 255 - mean) / std of the first channels, as many as `mean` has.

    Computed in float32 and rounded to `dtype` once, in one pass over uint8 [..., C, H, W]. Levels
    in float32 are taken too, and differentiated.

    Raises:
        ConfigError: `mean` and `std` differ in length, or there are fewer channels.
    """
    count = len(mean)
    if not 0 < count == len(std) <= pixels.shape[-3]:
        raise ConfigError(
            f"mean and std must have a value for each of at most {pixels.shape[-3]} channels, "
            f"got {mean} and {std}"
        )
    deviation = torch.tensor(std, dtype=torch.float64)
    scale = (1 / (LEVELS * deviation)).float().view(count, 1, 1)
    shift = (-torch.tensor(mean, dtype=torch.float64) / deviation).float().view(count, 1, 1)
    wanted = pixels[..., :count, :, :]
    shift, scale = torch.stack([shift, scale]).to(pixels.device, non_blocking=True)
    if wanted.requires_grad:
        return torch.addcmul(shift, wanted, scale).to(dtype)
    return torch.addcmul(shift, wanted, scale, out=torch.empty_like(wanted, dtype=dtype))


def check_device(name: str | torch.device, *, pin: bool) -> torch.device:
    """Return the device `name`.

    Raises:
        ConfigError: Torch does not know it.
        UnavailableError: It, or pinned memory, needs a CUDA device, and there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be one that torch knows, got {name!r}") from error
    if (pin or device.type == "cuda") and not torch.cuda.is_available():
        wanted = "pin=True" if pin else f"device {name}"
        raise UnavailableError(
            f"{wanted} needs a CUDA device, torch finds none", fix="pass device='cpu', pin=False"
        )
    return device
