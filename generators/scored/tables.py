"""Losses and overlaps of the candidate views of samples, in batches of one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.format.columns import MADE
from viewstore.generators.contract import Context, Sample, SampleViews
from viewstore.generators.numerics import from_pixels, repeatable
from viewstore.generators.scored.bank import ROLE, fill_bank
from viewstore.generators.scored.batches import filled
from viewstore.generators.scored.candidates import LOCALS, VIEWS, Scorer, targets_of
from viewstore.generators.scored.choices import pair_overlaps
from viewstore.generators.scored.hard_form import HardForm
from viewstore.images.colours import Pixels

BOX = "crop_box"


class Tables(NamedTuple):
    """What is known of the candidates of N groups.

    Attributes:
        losses: Of each as student against each target, float32 [N, C, T]; NaN without one.
        crops: Of small crops against the candidates, [N, S, C]; None: there are none.
        iou: Of crops of students and targets, [N, C, T]; None: they have no boxes.
    """

    losses: NDArray[np.float32]
    crops: NDArray[np.float32] | None
    iou: NDArray[np.float32] | None

    def part(self, groups: slice) -> Tables:
        """Return the tables of some of the groups."""
        crops = None if self.crops is None else self.crops[groups]
        return Tables(self.losses[groups], crops, None if self.iou is None else self.iou[groups])


class Tabler:
    """Has a scorer look at the views of samples, a fixed number of them at a time."""

    def __init__(self, settings: HardForm, context: Context) -> None:
        self._settings, self._context = settings, context
        self._scorer: Scorer = context.models[ROLE].to(context.device)
        self._ready = False

    def __call__(self, batch: Sequence[Sample], views: Pixels) -> Tables:
        """Return what is known of the candidates of a batch, by groups."""
        role = VIEWS if self._settings.globals else None
        there = self._of_groups(batch, _made_of(None))
        targets = self._of_groups(batch, _made_of(role))
        losses, crops = self._losses(batch, views)
        if crops is not None:
            crops = _masked(crops, self._of_groups(batch, _made_of(LOCALS)), there)
        iou = None
        if self._settings.overlaps:
            boxes = [self._of_groups(batch, _boxes_of(each)) for each in (None, role)]
            iou = _masked(pair_overlaps(*boxes), there, targets)
            if role is None:  # of a view and itself there is no pair
                iou[:, range(iou.shape[1]), range(iou.shape[1])] = np.nan
        return Tables(_masked(losses, there, targets), crops, iou)

    def _losses(
        self, batch: Sequence[Sample], views: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return the losses of students and targets, and of small crops, whatever was made."""
        settings, device = self._settings, self._context.device
        index = [sample.index for sample in batch]
        index += index[:1] * (settings.slots - len(batch))
        with repeatable(device, settings.threads):
            if not self._ready:
                targets = targets_of(self._context)
                fill_bank(self._scorer, self._context, targets, settings.bank)
                self._ready = True
            rows = torch.tensor(index, device=device).repeat_interleave(settings.groups)
            seen, crops = self._images(views), None
            if settings.globals:
                losses = self._scorer.crop_losses(seen, self._input(batch, VIEWS), rows)
            else:
                losses = self._scorer.pair_losses(seen, rows)
                if settings.locals:
                    crops = self._scorer.crop_losses(self._input(batch, LOCALS), seen, rows)
        count = len(batch) * settings.groups
        return losses[:count].cpu().numpy(), None if crops is None else crops[:count].cpu().numpy()

    def _images(self, pixels: Pixels) -> Tensor:
        """Return the images of groups, [slots * G, V / G, 3, H, W], of pixels [slots, V, ..]."""
        images = from_pixels(pixels, self._context.device)
        groups = len(images) * self._settings.groups
        return images.reshape(groups, -1, *images.shape[2:])

    def _input(self, batch: Sequence[Sample], role: str) -> Tensor:
        """Return the images of another view set, by groups."""
        pixels = [pixels_of(role)(sample) for sample in batch]
        return self._images(filled(pixels, self._settings.slots))

    def _of_groups(
        self, batch: Sequence[Sample], of: Callable[[Sample], NDArray[Any]]
    ) -> NDArray[Any]:
        """Return what samples have of each view, [V, ..], by groups: [N, V / G, ..]."""
        found = np.stack([of(sample) for sample in batch])
        return found.reshape(len(batch) * self._settings.groups, -1, *found.shape[2:])


def probe(settings: HardForm, context: Context) -> None:
    """Score black images: what cannot be scored is refused before a view is read.

    Raises:
        ConfigError: The scorer does not take images of these sizes.
    """
    scorer: Scorer = context.models[ROLE].to("cpu")
    sizes = {role: (each.height, each.width) for role, each in context.inputs.items()}
    targets = targets_of(context)
    large = torch.zeros(1, 2, 3, targets.height, targets.width)
    rows = torch.zeros(1, dtype=torch.int64)
    with repeatable("cpu", settings.threads):
        if scorer.needs_bank:
            scorer.remember(large[:, 0], rows)
        scorer.pair_losses(large, rows)
        assert context.parent is not None, "resolve refuses to go without"
        if settings.globals:
            sizes[LOCALS] = context.parent.height, context.parent.width
        if LOCALS in sizes:
            scorer.crop_losses(torch.zeros(1, 1, 3, *sizes[LOCALS]), large, rows)


def _views_of(role: str | None, sample: Sample) -> SampleViews:
    """Return the views of a sample in the input of a role; None: the candidates."""
    found = sample.parent if role is None else sample.inputs[role]
    assert found is not None, "resolve refuses to go without"
    return found


def pixels_of(role: str | None) -> Callable[[Sample], Pixels]:
    return lambda sample: _views_of(role, sample).pixels()


def _made_of(role: str | None) -> Callable[[Sample], NDArray[Any]]:
    return lambda sample: np.isin(_views_of(role, sample).status, MADE)


def _boxes_of(role: str | None) -> Callable[[Sample], NDArray[Any]]:
    return lambda sample: _views_of(role, sample).params(BOX)


def _masked(
    values: NDArray[np.float32], students: NDArray[np.bool_], targets: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return values [N, S, T]: not numbers where a student [N, S] or a target [N, T] is missing."""
    there = students[:, :, None] & targets[:, None]
    return np.where(there, values, np.float32(np.nan))
