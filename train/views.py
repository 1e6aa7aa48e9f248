"""The views of a batch as methods and strategies read them: on the device, normalised, by role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.loaders.batches.batch import normalise

ROLES = (
    "the role of a view says what made it: expert an augmentation, generated a GAN, global and "
    "local the crops of DINO"
)


class SlotView(Protocol):
    """One view of each sample: a view of `loaders.Batch`."""

    @property
    def pixels(self) -> Tensor:
        """uint8 [B, C, H, W]."""

    @property
    def params(self) -> Mapping[str, Any]:
        """Recorded draws by name, [B, ...]."""

    @property
    def parent_slot(self) -> int:
        """Number of the view that this one was made from, -1 if none of the batch."""


class LoaderBatch(Protocol):
    """The samples of one step: a `loaders.Batch`."""

    @property
    def views(self) -> Sequence[SlotView]: ...

    @property
    def index(self) -> Any:  # noqa: ANN401
        """Row of each sample, int64 [B], array or tensor."""


@dataclass(frozen=True)
class ViewBatch:
    """The V views of B samples.

    Attributes:
        x: By side r of the views in pixels: float32 [V_r, B, C, r, r], normalised.
        slot: int64 [V, 2]: view v is x[slot[v, 0]][slot[v, 1]].
        role: Role of each view.
        parent: int64 [V]: the view of the batch that each was made from, -1 if none was.
        params: The columns of params that the strategy wants, by name, [V, B, ...].
        index: int64 [B], row of each sample in the store.
        epoch: Number of the epoch, from 0.
        step: Number of the step over all epochs, from 0.
        seed: Seed of all keyed draws.
    """

    x: dict[int, Tensor]
    slot: Tensor
    role: tuple[str, ...]
    parent: Tensor
    params: dict[str, Tensor]
    index: Tensor
    epoch: int
    step: int
    seed: int

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_views(self) -> int:
        return len(self.role)

    def rows(self, *roles: str) -> list[int]:
        """Return the views of these roles, in order."""
        return [view for view, role in enumerate(self.role) if role in roles]

    def select(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (side r, images [B, C, r, r]) of each of the views `rows`.

        `rows`: int64 [V'], or [V', B] where the views are chosen per sample.

        Raises:
            ConfigError: Views of one row differ in size.
        """
        for row in rows:
            if row.ndim == 0:
                size, number = self.slot[row].tolist()
                yield size, self.x[size][number]
                continue
            sizes = sorted(set(self.slot[row, 0].tolist()))
            if len(sizes) != 1:
                raise ConfigError(f"views chosen for one row must have one size, got {sizes}")
            samples = torch.arange(len(self), device=self.index.device)
            numbers = self.slot[row, 1].to(samples.device)
            yield sizes[0], self.x[sizes[0]][numbers, samples]


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """The views that a strategy wants.

    Attributes:
        least, most: Bounds of the number of views, of any role; `most` None means no bound.
        roles: Least number of views of each role.
        params: Names of the columns of params that the strategy reads; "teacher.feature" is a
            column of a columns set that describes the cached views.
    """

    least: int
    most: int | None = None
    roles: Mapping[str, int] = field(default_factory=dict)
    params: tuple[str, ...] = ()

    def check(self, roles: tuple[str, ...], *, strategy: str) -> None:
        """Raise ConfigError unless views of these roles are what the strategy wants."""
        count = str(self.least) if self.most == self.least else f"at least {self.least}"
        if len(roles) < self.least or (self.most is not None and len(roles) > self.most):
            self._refuse(f"strategy {strategy} trains on {count} views, got {len(roles)}", roles)
        for role, least in self.roles.items():
            if roles.count(role) < least:
                self._refuse(
                    f"strategy {strategy} needs {least} views of role {role}, "
                    f"got {roles.count(role)}",
                    roles,
                )

    def _refuse(self, message: str, roles: tuple[str, ...]) -> None:
        names = {"expert": "simclr", "generated": "w-search"}
        example = [names.get(role, role) for role, n in self.roles.items() for _ in range(n)]
        example += ["w-search" if example else "simclr"] * (self.least - len(example))
        raise ConfigError(
            message,
            where=f"--views, of roles {','.join(roles)}",
            why=ROLES,
            fix=f"name other views, for example --views {','.join(example)}",
        )


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The network's input from pixels: the first `in_channels`, then (x / 255 - mean) / std."""

    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return float32 [..., in_channels, H, W] of uint8 [..., C, H, W], on its device."""
        return normalise(pixels, mean=self.mean, std=self.std)


def view_batch(
    batch: LoaderBatch,
    *,
    roles: tuple[str, ...],
    prepare: Preprocessing,
    device: torch.device,
    epoch: int,
    step: int,
    seed: int,
    params: tuple[str, ...] = (),
) -> ViewBatch:
    """Return a loader's batch as a ViewBatch on `device`; pixels are moved there as uint8.

    Raises:
        ConfigError: A view has no column of `params`, or they differ in its shape.
    """
    by_size: dict[int, list[Tensor]] = {}
    slot = []
    for view in batch.views:
        size = view.pixels.shape[-1]
        images = by_size.setdefault(size, [])
        slot.append((size, len(images)))
        images.append(view.pixels)
    return ViewBatch(
        x={
            size: prepare(torch.stack([image.to(device, non_blocking=True) for image in images]))
            for size, images in by_size.items()
        },
        slot=torch.tensor(slot),
        role=roles,
        parent=torch.tensor([view.parent_slot for view in batch.views]),
        params={name: _stacked(name, roles, batch.views) for name in params},
        index=torch.as_tensor(batch.index).to(device),
        epoch=epoch,
        step=step,
        seed=seed,
    )


def _stacked(name: str, roles: tuple[str, ...], views: Sequence[SlotView]) -> Tensor:
    """Return a column of all views, [V, B, ...]. Raises ConfigError: a view lacks it."""
    for number, (role, view) in enumerate(zip(roles, views, strict=True)):
        if name not in view.params:
            raise ConfigError(
                f"the strategy reads the column {name}, which view {number} ({role}) lacks",
                where="--views",
                why=f"that view has {', '.join(sorted(view.params)) or 'no columns'}",
                fix="name views in --views that all record it, or another --strategy",
            )
    columns = [torch.as_tensor(view.params[name]) for view in views]
    shapes = {tuple(column.shape[1:]) for column in columns}
    if len(shapes) > 1:
        raise ConfigError(
            f"the strategy reads the column {name}, whose shape differs between views: "
            f"{', '.join(map(str, sorted(shapes)))}",
            where="--views",
            fix="name views in --views that record it alike",
        )
    return torch.stack(columns)
