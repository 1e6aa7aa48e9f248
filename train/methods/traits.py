"""What strategies may ask about a method, and the words for how views are embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["train", "probe", "attack"]
Net = Literal["student", "target"]
Statistics = Literal["pooled", "per_view", "running"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What strategies may ask about a method.

    Attributes:
        name: The method's name, for messages alone.
        samplewise: Whether its loss is a sum over samples; if not, scores are for choosing only.
        target: Where the target side comes from: "none" is the student's own forward with
            gradients both ways, "stopgrad" the same without them into targets, "ema" a slower
            copy of the network, "prototype" no view at all.
        negatives: Where negatives come from, "" if there are none.
        decomposable: Whether scores come in parts, with a distance: pull and push.
        scale: `Scores.scale` of its scores, 0 where they have no parts.
        inverse_tau: `Scores.inverse_tau` of its scores.
        forward: "per_size" embeds all views of one size together, with shared batch statistics;
            "per_view" embeds each view by itself.
        target_roles: Roles of the views that may be targets of its standard plan; () means all.
        reads: Columns of params that its `trunk` reads.
    """

    name: str
    samplewise: bool = True
    target: Literal["none", "stopgrad", "ema", "prototype"]
    negatives: Literal["batch", "queue", ""] = ""
    decomposable: bool
    scale: float = 0.0
    inverse_tau: float = 1.0
    forward: Literal["per_view", "per_size"]
    target_roles: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
