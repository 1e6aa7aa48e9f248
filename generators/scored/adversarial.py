"""Adversarial views: each view of another set, moved within a budget to where its loss is greater.

Source: HEXA (Pre-training with Hard Examples), section 3.1 and appendix A. Its attacks are made in
the loop; views that are built before are a transfer attack, ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.format.columns import MADE, Column, Status
from viewstore.generators.contract import (
    PARENT,
    Context,
    Input,
    OfSource,
    Reach,
    Rendered,
    Sample,
    check_counts,
    check_form_of,
)
from viewstore.generators.numerics import device_class, from_pixels, repeatable
from viewstore.generators.scored.bank import ROLE, fill_bank, scorer_of
from viewstore.generators.scored.batches import fixed_batches
from viewstore.images.budget import Budget
from viewstore.images.colours import Pixels
from viewstore.randomness import Op
from viewstore.store.view_set import ViewSet

STANDARD = "simclr"  # the view set that is attacked where none is named
LOSSLESS = ("raw", "png")
VIEWS_CPU, VIEWS_CUDA = 32, 256  # that are attacked at a time, about
NO_TARGET = -1


class Attackable(Protocol):
    """A scorer (`train/scoring/scorer.py`) as far as attacks go."""

    step: int
    std: tuple[float, ...]
    entries: tuple[Any, ...]

    def losses(self, student: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each student's view, [P], differentiable in it, [P, 3, H, W]."""

    def to(self, device: str) -> Attackable:
        """Return it on a torch device."""


@dataclass(frozen=True, kw_only=True)
class Adversarial(Budget, OfSource):
    """Views of another set, attacked against the method in --scorer; stored as raw or png.

    View v is view v of the other set. Its loss is that against the next view of the sample, of
    which the last one's next is the first; with prototypes it is the view's own. A view whose
    loss did not rise, as it is stored, has status 2.

    Attributes:
        of: The view set that is attacked.
        norm: What is bounded: the change of each value ("linf"), or the root of the sum of
            squares over the view ("l2").
        units: Of eps and step: levels of 0 to 255 ("pixel255"), values of 0 to 1 ("unit"), or
            values of the network's input ("normalized").
        eps: Radius of the budget.
        step: Change of each value in a step.
        steps: Number of steps.
        random_start: Start at a point of the budget drawn by seed, sample and view.
        bank: Images that contrastive methods score against.
        slots: Samples at a time; automatic is what makes 32 views on CPU and 256 on CUDA. Part of
            the plan, like `device_class` and `threads`: another number rounds differently.
        device_class: Kind of device, "cpu" or "cuda"; recorded in the plan, never to be set.
        threads: Threads of torch in each process.
        views: Views of each sample; recorded in the plan, never to be set.
        height, width: Of the views; recorded in the plan, never to be set.
        contrasts: Whether the method scores against a bank; recorded, never to be set.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = (ROLE,)

    of: str = STANDARD
    bank: int = 512
    slots: int | None = None
    device_class: str | None = None
    threads: int = 1
    views: int | None = None
    height: int | None = None
    width: int | None = None
    contrasts: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("adversarial", self, ("bank", "slots", "threads"))

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set that is attacked."""
        return {PARENT: Input(self.of)}

    def reach(self) -> Reach:
        """Return "set" where there is a bank, of which any row may be."""
        return "sample" if self.contrasts is False else "set"

    def reads_source(self) -> bool:
        """Return that no source image is opened."""
        return False

    def resolve(self, context: Context) -> ResolvedAdversarial:
        """Take on the form of the other set and of the method.

        Raises:
            ConfigError: There is no scorer, or of another size; or the codec would change the
                levels; or the budget is smaller than a level.
        """
        parent = context.parent
        if parent is None:
            raise ConfigError(f"adversarial attacks the views of {self.of!r}, got none")
        scorer: Any = scorer_of(context, parent)
        _check_codec(context)
        _check_budget(self, scorer.std)
        check_form_of("adversarial", self, parent)
        if parent.num_views < 2 and any(entry.target is not None for entry in scorer.entries):
            raise ConfigError(
                f"a view is attacked against another view of its sample, {parent.name} has 1",
                fix="attack a view set with --views 2 or more",
            )
        at_once = VIEWS_CUDA if device_class(context.device) == "cuda" else VIEWS_CPU
        return ResolvedAdversarial(
            norm=self.norm,
            units=self.units,
            eps=float(self.eps),
            step=float(self.step),
            steps=self.steps,
            random_start=self.random_start,
            views=parent.num_views,
            height=parent.height,
            width=parent.width,
            of=self.of,
            bank=self.bank,
            slots=self.slots or max(1, at_once // parent.num_views),
            device_class=device_class(context.device),
            threads=self.threads,
            contrasts=scorer.needs_bank,
        )


def _check_codec(context: Context) -> None:
    """Raise ConfigError unless the codec keeps levels as they are."""
    name = context.codec.name
    if name not in LOSSLESS:
        raise ConfigError(
            f"adversarial views cannot be stored as {name}, which changes levels",
            code="VS103",
            where=f"--codec {name}",
            why="a change of a level or two does not survive it",
            fix="give --codec raw or --codec png",
        )


def _check_budget(budget: Budget, std: tuple[float, ...]) -> None:
    """Raise ConfigError where no stored level could change."""
    unit = budget.unit(std, torch.zeros(len(std), 1, 1))
    if budget.norm == "linf" and float(unit.max()) * budget.eps < 1:
        raise ConfigError(
            f"eps {budget.eps:g} in units {budget.units} is less than a level of 255",
            why="stored views would be the clean ones",
            fix="give a larger --set eps"
            + ("" if budget.units == "pixel255" else ", or --set units=pixel255"),
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedAdversarial(Budget):
    """What `Adversarial` resolves to; its attributes are those of `Adversarial`."""

    of: str
    bank: int
    slots: int
    device_class: str
    threads: int
    views: int
    height: int
    width: int
    contrasts: bool

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view: "adversarial"."""
        return ("adversarial",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        forms = {
            "clipped": "f4",
            "delta_norm": "f4",
            "loss": "f4",
            "loss0": "f4",
            "parent": "i4",
            "status": "u1",
            "target": "i4",
        }
        of_view = [
            Column(name=name, dtype=dtype, shape=(self.views,)) for name, dtype in forms.items()
        ]
        step = Column(name="model_step", dtype="i8", shape=(), per="sample")
        return tuple(sorted([*of_view, step], key=lambda column: column.name))

    def make(self, context: Context) -> AdversarialGenerator:
        """Return the generator."""
        return AdversarialGenerator(self, context)

    @property
    def targets(self) -> NDArray[np.int32]:
        """The view that the loss of each is taken against, int32 [V]."""
        return np.roll(np.arange(self.views, dtype=np.int32), -1)


class AdversarialGenerator:
    """Attacks samples, a fixed number of them at a time."""

    def __init__(self, settings: ResolvedAdversarial, context: Context) -> None:
        assert context.parent is not None, "resolve refuses to go without"
        self._settings, self._context = settings, context
        self._parent: ViewSet = context.parent
        self._scorer: Attackable = context.models[ROLE].to(context.device)
        self._alone = all(entry.target is None for entry in self._scorer.entries)
        self._ready = False

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in the order of the samples."""
        settings = self._settings
        for batch, pixels in fixed_batches(samples, settings.slots, _pixels):
            with repeatable(self._context.device, settings.threads):
                found = self._attacked(batch, pixels)
            for number, sample in enumerate(batch):
                yield self._rendered(sample, pixels[number], found, number)

    def _attacked(self, batch: list[Sample], pixels: Pixels) -> dict[str, NDArray[Any]]:
        """Return levels and losses of all views, [slots, V, ..], of views [slots, V, H, W, 3]."""
        settings, device = self._settings, self._context.device
        if not self._ready:
            scorer: Any = self._scorer
            fill_bank(scorer, self._context, self._parent, settings.bank)
            self._ready = True
        index = [sample.index for sample in batch]
        index += index[:1] * (settings.slots - len(batch))
        clean = 255 * from_pixels(pixels, device)
        target = clean[:, torch.from_numpy(settings.targets.astype(np.int64))].flatten(0, 1)
        clean = clean.flatten(0, 1)
        rows = torch.tensor(index, device=device).repeat_interleave(settings.views)
        unit = settings.unit(self._scorer.std, clean)
        levels = self._start(index, clean, unit) if settings.random_start else clean
        for _ in range(settings.steps):
            gradient = self._gradient(levels, target, rows)
            levels = settings.moved(levels, gradient, clean, unit)
        levels, delta_norm = stored(settings, levels, clean, unit)
        with torch.no_grad():
            losses = {
                name: self._scorer.losses(each / 255, target / 255, rows)
                for name, each in (("loss0", clean), ("loss", levels))
            }
        edge = ((levels == 0) | (levels == 255)) & (levels != clean)
        found = {
            **losses,
            "delta_norm": delta_norm,
            "clipped": edge.float().mean((1, 2, 3)),
            "pixels": levels.to(torch.uint8).permute(0, 2, 3, 1),
        }
        shape = (settings.slots, settings.views)
        return {
            name: each.reshape(*shape, *each.shape[1:]).cpu().numpy()
            for name, each in found.items()
        }

    def _gradient(self, levels: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient of each loss by the levels of its own view, [P, 3, H, W]."""
        with torch.enable_grad():
            levels = levels.detach().requires_grad_()
            loss = self._scorer.losses(levels / 255, target / 255, rows).nan_to_num().sum()
            (gradient,) = torch.autograd.grad(loss, levels)
        return gradient

    def _start(self, index: list[int], clean: Tensor, unit: Tensor) -> Tensor:
        """Return points of the budget drawn by seed, sample and view, [P, 3, H, W]."""
        count = clean[0].numel()
        views = np.arange(self._settings.views)
        drawn = self._context.stream.uniform(
            Op.ATTACK, np.array(index)[:, None], views, blocks=-(-count // 4)
        )
        uniform = torch.from_numpy(drawn[..., :count]).to(clean).view_as(clean)
        return self._settings.start(clean, uniform, unit)

    def _rendered(
        self, sample: Sample, clean: Pixels, found: Mapping[str, NDArray[Any]], number: int
    ) -> Rendered:
        settings = self._settings
        assert sample.parent is not None, "resolve refuses to go without"
        there = np.isin(sample.parent.status, MADE)
        params = {name: found[name][number] for name in ("loss0", "loss", "delta_norm", "clipped")}
        targets = np.full_like(settings.targets, NO_TARGET) if self._alone else settings.targets
        usable = there if self._alone else there & there[targets]
        finite = np.isfinite(params["loss0"]) & np.isfinite(params["loss"])
        made = usable & finite
        rose = params["loss"] > params["loss0"]
        status = np.where(rose, Status.OK, Status.GOAL_NOT_MET)
        pixels = np.where(made[:, None, None, None], found["pixels"][number], np.uint8(0))
        return Rendered(
            sample.index,
            pixels,
            {
                **{
                    name: np.where(made, each, np.nan).astype("f4") for name, each in params.items()
                },
                "model_step": np.array(self._scorer.step, np.int64),
                "parent": np.arange(settings.views, dtype=np.int32),
                "status": np.where(made, status, Status.FAILED).astype(np.uint8),
                "target": targets,
            },
        )


def _pixels(sample: Sample) -> Pixels:
    assert sample.parent is not None, "resolve refuses to go without"
    return sample.parent.pixels()


def stored(budget: Budget, levels: Tensor, clean: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole levels within the budget, [P, C, H, W], and how far they are, [P].

    Levels are rounded to the nearest; where that leaves the budget, towards the clean ones. How
    far: in the norm and units of the budget. Where 255 levels have the unit of a channel, that is
    the case of no change.
    """
    delta = (levels - clean).round()
    if budget.norm == "linf":
        most = (budget.eps * unit + 1e-4).floor()
        delta = torch.clamp(delta, -most, most)
        far = (delta / unit).abs().amax((1, 2, 3))
    else:
        far = torch.linalg.vector_norm(delta / unit, dim=(1, 2, 3))
        over = (far > budget.eps)[:, None, None, None]
        delta = torch.where(over, (levels - clean).trunc(), delta)
        far = torch.linalg.vector_norm(delta / unit, dim=(1, 2, 3))
    return clean + delta, far
