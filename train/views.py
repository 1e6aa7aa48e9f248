"""The views of a batch as methods and strategies read them: levels on the device, with roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.loaders.batches.batch import normalise


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

    @property
    def colourless(self) -> bool:
        """Whether pixels lack the colours that params record."""


class LoaderBatch(Protocol):
    """The samples of one step: a `loaders.Batch`."""

    @property
    def views(self) -> Sequence[SlotView]: ...

    @property
    def index(self) -> Any:  # noqa: ANN401
        """Row of each sample, int64 [B], array or tensor."""


@dataclass(frozen=True)
class At:
    """The clock of a run: all that schedules, scores and commits read of time.

    Attributes:
        epoch: Number of the epoch, from 0.
        step: Number of the step over all epochs, from 0.
        epoch_steps: Steps of an epoch.
        total_steps: Steps of the whole run.
        seed: Seed of all keyed draws.
    """

    epoch: int
    step: int
    epoch_steps: int
    total_steps: int
    seed: int


@dataclass(frozen=True)
class Views:
    """The V views of B samples.

    Attributes:
        pixels: [B, C, r, r] of each view, of any size: uint8, or float32 levels in [0, 255] where
            the view was made in this step.
        role: Role of each view: expert, heavy, generated, adversarial, cutmix, global or local.
        parent: The view that each was made from, -1 for the sample itself.
        params: What made each view, by column, [B, ...].
        sample: int64 [B]: row of each sample in the store.
        at: When this is.
        base: The views that a chooser takes rows from; stages of the strategy take the others.
        colourless: The views whose pixels still lack the colours that their params record.
    """

    pixels: tuple[Tensor, ...]
    role: tuple[str, ...]
    parent: tuple[int, ...]
    params: tuple[Mapping[str, Tensor], ...]
    sample: Tensor
    at: At
    base: tuple[int, ...] = ()
    colourless: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def num_views(self) -> int:
        return len(self.role)

    def of(self, *roles: str) -> list[int]:
        """Return the views of these roles, in order."""
        return [view for view, role in enumerate(self.role) if role in roles]

    def base_of(self, *roles: str) -> list[int]:
        """Return the views of `base` that have these roles, in order."""
        return [view for view in self.base if self.role[view] in roles]

    def child(self, role: str) -> Tensor:
        """Return the first view of `role` that was made from each view, int64 [V]; -1: none."""
        children = [-1] * self.num_views
        for view in reversed(self.of(role)):
            if self.parent[view] >= 0:
                children[self.parent[view]] = view
        return torch.tensor(children)

    def plus(
        self, pixels: Tensor, *, role: str, parent: int, params: Mapping[str, Tensor]
    ) -> tuple[Views, int]:
        """Return these views and one more, and its number."""
        added = replace(
            self,
            pixels=(*self.pixels, pixels),
            role=(*self.role, role),
            parent=(*self.parent, parent),
            params=(*self.params, params),
        )
        return added, self.num_views

    def image(self, view: int | Tensor) -> Tensor:
        """Return the pixels [B, C, r, r] of a view, or of one for each sample, int64 [B].

        Raises:
            ConfigError: The views differ in size.
        """
        if isinstance(view, int):
            return self.pixels[view]
        return self._picked(list(self.pixels), view, "size")

    def column(self, name: str, view: int | Tensor) -> Tensor:
        """Return a column of params, [B, ...], of a view or of one for each sample, int64 [B].

        It lies where `sample` does.

        Raises:
            ConfigError: A view lacks the column.
        """
        wanted = [view] if isinstance(view, int) else sorted(set(view.tolist()))
        for each in wanted:
            if name not in self.params[each]:
                raise missing_column(name, each, self.role[each], self.params[each])
        found = {
            each: torch.as_tensor(self.params[each][name]).to(self.sample.device) for each in wanted
        }
        if isinstance(view, int):
            return found[view]
        return self._picked(
            [found.get(each, found[wanted[0]]) for each in range(self.num_views)], view, name
        )

    def _picked(self, values: list[Tensor], view: Tensor, what: str) -> Tensor:
        """Return values[view[b]][b] of each sample; views that no sample shows are not read."""
        used = torch.tensor(sorted(set(view.tolist())), device=view.device)
        shapes = {tuple(values[each].shape[1:]) for each in used.tolist()}
        if len(shapes) != 1:
            raise ConfigError(
                f"views chosen for one row must have one {what}, got {sorted(shapes)}"
            )
        place = torch.searchsorted(used, view.contiguous())
        rows = torch.arange(len(view), device=view.device)
        return torch.stack([values[each] for each in used.tolist()])[place, rows]

    def role_of(self, view: int | Tensor) -> str:
        """Return the role of a view, or of views chosen for each sample, which have one role."""
        return self.role[view if isinstance(view, int) else int(view[0])]

    def parts(self, count: int) -> tuple[Views, ...]:
        """Return the batch in `count` micro-batches of equal size."""
        if count == 1:
            return (self,)
        size = len(self) // count
        return tuple(self._cut(slice(start, start + size)) for start in range(0, len(self), size))

    def _cut(self, samples: slice) -> Views:
        return replace(
            self,
            pixels=tuple(each[samples] for each in self.pixels),
            params=tuple(
                {name: torch.as_tensor(params[name])[samples] for name in params}
                for params in self.params
            ),
            sample=self.sample[samples],
        )


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The network's input from levels: the first `in_channels`, then (x / 255 - mean) / std."""

    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return float32 [..., in_channels, H, W] of levels [..., C, H, W], on their device.

        Differentiable in float32 levels.
        """
        return normalise(pixels, mean=self.mean, std=self.std)


def views_of(batch: LoaderBatch, *, roles: tuple[str, ...], device: torch.device, at: At) -> Views:
    """Return a loader's batch as Views; pixels are moved to `device` as uint8."""
    return Views(
        pixels=tuple(view.pixels.to(device, non_blocking=True) for view in batch.views),
        role=roles,
        parent=tuple(view.parent_slot for view in batch.views),
        params=tuple(view.params for view in batch.views),
        sample=torch.as_tensor(batch.index).to(device),
        at=at,
        base=tuple(range(len(roles))),
        colourless=tuple(number for number, view in enumerate(batch.views) if view.colourless),
    )


def missing_column(name: str, view: int, role: str, found: Mapping[str, Any]) -> ConfigError:
    """Return the error of a view that lacks a column which is read."""
    return ConfigError(
        f"the column {name} is read of every view, which view {view} ({role}) lacks",
        where="--views",
        why=f"that view has {', '.join(sorted(found)) or 'no columns'}",
        fix="name views in --views that all record it, or another --strategy",
    )
