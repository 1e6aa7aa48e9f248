"""The generator of hard sets: losses of a batch of samples, and what is chosen by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import FormatError
from viewstore.format.columns import MADE, Column, Status
from viewstore.generators.contract import Context, Rendered, Sample, SampleViews
from viewstore.generators.numerics import repeatable
from viewstore.generators.scored.bank import ROLE, as_images, fill_bank
from viewstore.generators.scored.batches import filled, fixed_batches
from viewstore.generators.scored.candidates import GLOBALS, LOCALS, VIEWS, Scorer, targets_of
from viewstore.generators.scored.choices import (
    Choices,
    Places,
    Term,
    candidate_pairs,
    chosen_crops,
    chosen_pairs,
    pair_overlaps,
)
from viewstore.generators.scored.described import Described, made_views, status_of, unwritten
from viewstore.images.colours import Pixels
from viewstore.randomness import Op
from viewstore.store.column_content import NO_CHOICE

BOX = "crop_box"


@dataclass(frozen=True, kw_only=True)
class ResolvedHard(Described):
    """What `Hard` resolves to; its attributes are those of `Hard`."""

    groups: int
    choose: int
    choices: tuple[str, ...]
    bank: int
    keep_losses: bool
    locals: str
    train_locals: int
    globals: str
    slots: int
    device_class: str
    threads: int
    targets: int
    overlaps: bool
    contrasts: bool

    @property
    def candidates(self) -> int:
        """Views of a group, C."""
        return self.views // self.groups

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        kept = ("pair_loss", "pair_iou") if self.overlaps else ("pair_loss",)
        of_views = [
            Column(name=name, dtype="f4", shape=(self.views, self.targets))
            for name in (kept if self.keep_losses else ())
        ]
        of_groups = [
            Column(name=name, dtype="u1", shape=(self.groups, self.choose), per="choice")
            for name in self.choices
        ]
        others = [
            Column(name="margin", dtype="f4", shape=(self.groups,), per="sample"),
            Column(name="model_step", dtype="i8", shape=(), per="sample"),
            Column(name="status", dtype="u1", shape=(self.views,)),
        ]
        return tuple(sorted([*of_views, *of_groups, *others], key=lambda column: column.name))

    def make(self, context: Context) -> HardGenerator:
        """Return the generator."""
        return HardGenerator(self, context)


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


class HardGenerator:
    """Scores the candidates of samples, a fixed number of them at a time, and chooses."""

    def __init__(self, settings: ResolvedHard, context: Context) -> None:
        self._settings, self._context = settings, context
        self._scorer: Scorer = context.models[ROLE].to(context.device)
        self._terms: Sequence[Term] = self._scorer.entries_beside(
            settings.choose if settings.globals else settings.train_locals
        )
        self._pairs = candidate_pairs(
            settings.candidates,
            directed=self._scorer.directed,
            crops="global" in settings.described,
        )
        self._ready = False

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the columns of each sample, in the order of the samples."""
        settings = self._settings
        for batch, views in fixed_batches(samples, settings.slots, _pixels_of(None)):
            tables = self._tables(batch, views)
            choices, margin = self._chosen(batch, tables)
            for number, sample in enumerate(batch):
                mine = slice(number * settings.groups, (number + 1) * settings.groups)
                of_groups = {name: places[mine] for name, places in choices.items()}
                yield self._rendered(
                    sample,
                    Tables(*(None if each is None else each[mine] for each in tables)),  # type: ignore[arg-type]
                    of_groups,
                    margin[mine],
                )

    def _tables(self, batch: Sequence[Sample], views: Pixels) -> Tables:
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
        images = as_images(pixels, self._context.device)
        groups = len(images) * self._settings.groups
        return images.reshape(groups, -1, *images.shape[2:])

    def _input(self, batch: Sequence[Sample], role: str) -> Tensor:
        """Return the images of another view set, by groups."""
        pixels = [_pixels_of(role)(sample) for sample in batch]
        return self._images(filled(pixels, self._settings.slots))

    def _of_groups(
        self, batch: Sequence[Sample], of: Callable[[Sample], NDArray[Any]]
    ) -> NDArray[Any]:
        """Return what samples have of each view, [V, ..], by groups: [N, V / G, ..]."""
        found = np.stack([of(sample) for sample in batch])
        return found.reshape(len(batch) * self._settings.groups, -1, *found.shape[2:])

    def _chosen(
        self, batch: Sequence[Sample], tables: Tables
    ) -> tuple[Choices, NDArray[np.float64]]:
        """Return the places that are chosen of each group, and the margin, [N]."""
        settings = self._settings
        if settings.globals:
            large = {name: self._large(batch, name) for name in settings.choices}
            return chosen_crops(tables.losses, self._terms, large, settings.choose)
        rows = np.array([sample.index for sample in batch])[:, None]
        uniform = self._context.stream.uniform(Op.SET_CHOICE, rows, np.arange(settings.groups))
        choices, margin = chosen_pairs(
            tables.losses,
            self._terms,
            self._pairs,
            uniform[..., 0].reshape(-1),
            tables.iou,
            None if tables.crops is None else (tables.crops, settings.train_locals),
        )
        return {name: choices[name] for name in settings.choices}, margin

    def _large(self, batch: Sequence[Sample], name: str) -> Places:
        """Return the places of the large crops that were chosen, [N, 2]; -1 where none were.

        Raises:
            FormatError: A choice is no view of its group.
        """
        settings = self._settings
        stored = np.stack([sample.inputs[GLOBALS].params(name) for sample in batch])
        none = stored == NO_CHOICE
        first = np.arange(settings.groups)[:, None] * settings.targets
        places = stored.astype(np.int64) - first
        wrong = (((places < 0) | (places >= settings.targets)) & ~none).any((1, 2))
        if wrong.any():
            sample = batch[int(wrong.argmax())]
            raise FormatError(
                f"{name} of row {sample.index} of {settings.globals} is no view of its group",
                code="VS203",
                fix=f"viewstore verify STORE --content --repair --view-set {settings.globals}",
            )
        return np.where(none, -1, places).reshape(-1, 2)

    def _rendered(
        self, sample: Sample, tables: Tables, choices: Choices, margin: NDArray[np.float64]
    ) -> Rendered:
        """Return the columns of a sample by what is known and chosen of its groups."""
        settings = self._settings
        params = unwritten(settings.columns())
        first = np.arange(settings.groups)[:, None] * settings.candidates
        for name, places in choices.items():
            params[name][:] = np.where(places < 0, NO_CHOICE, places + first)
        chosen = (params[settings.choices[0]] != NO_CHOICE).all(-1).repeat(settings.candidates)
        scored = np.isfinite(tables.losses).any(-1).reshape(-1)
        made = made_views(sample)
        status = status_of(made)
        status[made & ~(scored & chosen)] = Status.FAILED
        good = status == Status.OK
        kept = {"pair_loss": tables.losses, "pair_iou": tables.iou}
        for name, values in kept.items():
            if name in params and values is not None:
                params[name][good] = values.reshape(settings.views, -1)[good]
        params["margin"][:] = margin
        if good.any():
            params["model_step"] = np.array(self._scorer.step, np.int64)
        return Rendered(sample.index, None, {**params, "status": status})


def probe(settings: ResolvedHard, context: Context) -> None:
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


def _pixels_of(role: str | None) -> Callable[[Sample], Pixels]:
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
