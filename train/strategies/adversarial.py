"""Adversarial levels: a step or more up the loss, within a ball around the clean levels.

Source: HEXA, equations 5 to 7 and appendix A: one step of the gradient's sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.images.budget import Budget
from viewstore.randomness import MADE, Op, Stream
from viewstore.train.distributed import any_rank
from viewstore.train.methods.base import Method
from viewstore.train.plan import Domain, Plan, Row
from viewstore.train.strategies.rows import made_row
from viewstore.train.views import Views

Sizes = Literal["largest", "all"]
FLOAT16_SCALE = 2.0**16


@dataclass(frozen=True, kw_only=True)
class Attack(Budget):
    """How views are attacked; beside what is said there of its budget:

    Attributes:
        attack_bn: Domain of batch norms that gradients are taken in: that which trains on the
            attacked views ("adv"), or the "clean" one (algorithm 1).
        attack_sizes: Attack views of the "largest" size alone, or of "all" sizes.
    """

    attack_bn: Domain = "adv"
    attack_sizes: Sizes = "largest"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("attack_bn", Domain), ("attack_sizes", Sizes)):
            if getattr(self, name) not in get_args(kind):
                words = " or ".join(get_args(kind))
                raise ConfigError(f"{name} must be {words}, got {getattr(self, name)!r}")

    def attacked(self, plan: Plan, method: Method, places: Sequence[int]) -> list[Tensor]:
        """Return the attacked levels of base rows at `places`, float32 [B, C, r, r] each.

        The loss that they raise is that of the plan's base pairs; its targets are the clean ones.
        Changes no state.
        """
        clean = [plan.views.image(plan.students[place].view).float() for place in places]
        unit = [self.unit(method.prepare.std, levels) for levels in clean]
        found = [
            self._start(plan.views, levels, place, each) if self.random_start else levels
            for levels, place, each in zip(clean, places, unit, strict=True)
        ]
        for _ in range(self.steps):
            gradients = self._gradients(plan, method, places, found)
            found = [
                self.moved(levels, gradient, at, each)
                for levels, gradient, at, each in zip(found, gradients, clean, unit, strict=True)
            ]
        return found

    def _gradients(
        self, plan: Plan, method: Method, places: Sequence[int], levels: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the gradients of the loss of the base pairs by the levels of rows at `places`.

        In float16 they are those of a multiple of the loss; nothing but their sign is used.
        """
        levels = [each.detach().requires_grad_() for each in levels]
        # The clean rows are in-batch negatives, or what an attacked row is known by; else none
        # needs to be embedded once more.
        clean = method.traits.negatives == "batch" or any(map(plan.is_within, plan.pairs))
        students = list(plan.students[: plan.base_students]) if clean else []
        views, place_of = plan.views, {}
        for place, each in zip(places, levels, strict=True):
            place_of[place] = len(students)
            views, row = made_row(
                views,
                plan.students[place],
                each,
                "adversarial",
                made_from=place if clean else None,
                bn=self.attack_bn,
            )
            students.append(row)
        pairs = [
            replace(pair, student=place_of[pair.student])
            for pair in plan.pairs
            if plan.is_base(pair) and pair.student in place_of
        ]
        attack = replace(
            plan,
            views=views,
            students=tuple(students),
            targets=plan.targets[: plan.base_targets],
            pairs=tuple(pairs),
        )
        return _finite_gradients(method, method(attack, "attack").loss, levels)

    def _start(self, views: Views, clean: Tensor, place: int, unit: Tensor) -> Tensor:
        """Return uniform changes of each value by at most eps, brought into the ball."""
        count = clean[0].numel()
        uniform = Stream(views.at.seed, views.at.epoch).uniform(
            Op.ATTACK, views.sample.cpu().numpy(), MADE + place, blocks=-(-count // 4)
        )
        drawn = torch.from_numpy(uniform[:, :count]).to(clean).view_as(clean)
        return self.start(clean, drawn, unit)


def _finite_gradients(method: Method, loss: Tensor, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return gradients of the loss by levels; in float16, of a multiple of it.

    Gradients of the loss itself underflow to 0 in float16. The multiple is the greatest power of
    two up to FLOAT16_SCALE by which they stay finite on all ranks, and 1 if none does.
    """
    scale = FLOAT16_SCALE if method.amp is torch.float16 else 1.0
    while scale > 1:
        gradients = torch.autograd.grad(
            scale * loss, levels, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        if not any_rank(not all(bool(each.isfinite().all()) for each in gradients)):
            return gradients
        scale /= 2
    return torch.autograd.grad(loss, levels, allow_unused=True, materialize_grads=True)


def attackable(views: Views, rows: Sequence[Row], sizes: Sizes) -> list[int]:
    """Return the places of rows whose views are attacked: of the largest size, or all."""
    sides = [views.image(row.view).shape[-1] for row in rows]
    return [n for n, side in enumerate(sides) if sizes == "all" or side == max(sides)]
