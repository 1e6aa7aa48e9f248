"""CutMix rows: views with a part of another sample's view, which learn from both samples.

Source: HEXA, equations 8 and 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.images.cutmix import boxes_of, kept_shares
from viewstore.train.plan import Pair, Plan, Row
from viewstore.train.strategies.mixing import (
    LamScope,
    drawn_centres,
    drawn_partners,
    drawn_shares,
    pasted,
)
from viewstore.train.strategies.rows import made_row

CutMixOn = Literal["clean", "adv", "both"]


@dataclass(frozen=True, kw_only=True)
class CutMix:
    """How views of two samples are mixed.

    Attributes:
        cutmix_on: What is mixed: the "clean" views, the adversarial ones ("adv"), or "both", as
            terms of their own.
        lam_scope: Draw the share that is kept, and the box, for each "sample" or for a "batch".
    """

    cutmix_on: CutMixOn = "clean"
    lam_scope: LamScope = "sample"

    def __post_init__(self) -> None:
        for name, kind in (("cutmix_on", CutMixOn), ("lam_scope", LamScope)):
            if getattr(self, name) not in get_args(kind):
                words = " or ".join(get_args(kind))
                raise ConfigError(f"{name} must be {words}, got {getattr(self, name)!r}")

    def mixed(self, plan: Plan, rows: Sequence[tuple[int, Row]], weight: float) -> Plan:
        """Return the plan with a mixed view of each row, beside the base row it is made from.

        Each base pair becomes two: with the target of the sample, weighed by the share that is
        kept, and with that of its partner, weighed by the rest. Partners and drawn shares are
        the same for all rows of a step, boxes and exact shares for all rows of one size.

        Args:
            plan: The plan, whose base pairs are taken.
            rows: Places in `plan.students` of base rows, and what is mixed: these rows, or
                adversarial ones made from them.
            weight: Weight of the mixed pairs beside the base pairs.
        """
        partner = torch.from_numpy(drawn_partners(len(plan.views), plan.views.at))
        partner = partner.to(plan.views.sample.device)
        for place, row in rows:
            plan, number, kept = self._with_row(plan, place, row, partner)
            pairs = [pair for pair in plan.pairs if pair.student == place and plan.is_base(pair)]
            both = _both(pairs, number, weight, kept, partner=partner)
            plan = replace(plan, pairs=(*plan.pairs, *both))
        return plan

    def stored(self, plan: Plan, places: Sequence[tuple[int, int | Tensor]], weight: float) -> Plan:
        """Return the plan with mixed views of the loader's, and the same two pairs of each.

        The targets of partners are those of their rows of the store: the method's own.

        Args:
            plan: The plan, whose base pairs are taken.
            places: Places in `plan.students` of base rows, and the mixed view of each.
            weight: Weight of the mixed pairs beside the base pairs.
        """
        for place, view in places:
            kept = plan.views.column("mix_lambda", view)
            partner = plan.views.column("mix_partner", view)
            row = Row(view, bn=plan.students[place].bn, made_from=place)
            pairs = [pair for pair in plan.pairs if pair.student == place and plan.is_base(pair)]
            rows = {"partner_row": torch.where(partner < 0, plan.views.sample, partner)}
            plan = replace(
                plan,
                students=(*plan.students, row),
                pairs=(*plan.pairs, *_both(pairs, len(plan.students), weight, kept, **rows)),
            )
        return plan

    def _with_row(
        self, plan: Plan, place: int, row: Row, partner: Tensor
    ) -> tuple[Plan, int, Tensor]:
        """Return the plan with the mixed row, its place, and the shares kept, float32 [B]."""
        views, at = plan.views, plan.views.at
        pixels = views.image(row.view)
        side = pixels.shape[-1]
        keys = views.sample.cpu().numpy()
        if self.lam_scope == "batch":
            keys = np.full(len(keys), at.step)
        drawn = drawn_shares(keys, at)
        boxes = boxes_of(drawn, drawn_centres(keys, at, side), side, side)
        box, share, kept = (
            torch.from_numpy(values).to(pixels.device)
            for values in (boxes.astype(np.int32), drawn, kept_shares(boxes, side, side))
        )
        params = {
            "mix_partner": views.sample[partner],
            "mix_lambda": kept.float(),
            "mix_lambda0": share.float(),
            "mix_box": box,
        }
        levels = pasted(pixels, pixels[partner], box)
        views, made = made_row(views, row, levels, "cutmix", made_from=place, params=params)
        made = replace(made, mixed_with=partner)
        grown = replace(plan, views=views, students=(*plan.students, made))
        return grown, len(plan.students), kept.float()


def _both(
    pairs: Sequence[Pair], student: int, weight: float, kept: Tensor, **partner: Tensor
) -> list[Pair]:
    """Return pairs of a mixed row with the target of each sample, and with that of its partner.

    `partner`: the field of `Pair` that says who the partner is.
    """
    own = [replace(p, student=student, weight=weight * p.weight * kept) for p in pairs]
    other = [
        replace(p, student=student, weight=weight * p.weight * (1 - kept), **partner)  # type: ignore[arg-type]
        for p in pairs
    ]
    return own + other
