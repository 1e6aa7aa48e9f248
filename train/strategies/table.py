"""The table of strategies, and their composition: "hvp,graded" is a chooser and a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from viewstore.errors import ConfigError
from viewstore.plugins import Plugin, Table
from viewstore.train.settings import settings_of
from viewstore.train.strategies.a1 import A1
from viewstore.train.strategies.a2 import A2
from viewstore.train.strategies.base import PHASES, Chooser, Maker, Stage, Strategy
from viewstore.train.strategies.controls import Cooperative, MinIoU, Random
from viewstore.train.strategies.dssl import DSSL
from viewstore.train.strategies.graded import Graded
from viewstore.train.strategies.hexa import Hexa
from viewstore.train.strategies.hvp import HVP
from viewstore.train.strategies.standard import Standard
from viewstore.train.strategies.stn import TransformedViews
from viewstore.train.strategies.viewmaker import ViewMakerViews


def _of_plugin(plugin: Plugin) -> type[Maker] | type[Chooser] | type[Stage]:
    kind: type[Maker] | type[Chooser] | type[Stage] = plugin.load_settings(
        called=lambda settings: getattr(settings, "NAME", None)
    )
    if not issubclass(kind, Maker | Chooser | Stage):
        raise plugin.refused(f"{plugin.target} is none of Maker, Chooser and Stage")
    return kind


_OWN: Mapping[str, type[Maker] | type[Chooser] | type[Stage]] = {
    "standard": Standard,
    "hvp": HVP,
    "cooperative": Cooperative,
    "random": Random,
    "min_iou": MinIoU,
    "a1": A1,
    "dssl": DSSL,
    "hexa": Hexa,
    "a2": A2,
    "graded": Graded,
    "viewmaker": ViewMakerViews,
    "stn": TransformedViews,
}
STRATEGIES: Table[type[Maker] | type[Chooser] | type[Stage]] = Table("strategy", _OWN, _of_plugin)


def strategy_of(names: str, given: Mapping[str, Any]) -> Strategy:
    """Return the strategy of names joined by commas, and settings of its parts.

    A setting belongs to the one part that has it; "hvp.n_views" names the part too.

    Raises:
        ConfigError: A name or setting is unknown, or parts exclude each other.
    """
    words = [name.strip() for name in names.split(",")]
    parts = settings_of("strategy", STRATEGIES, words, given)
    choosers = [part for part in parts if isinstance(part, Chooser)]
    stages = [part for part in parts if isinstance(part, Stage)]
    makers = [part for part in parts if isinstance(part, Maker)]
    if len(choosers) > 1:
        raise ConfigError(
            f"a strategy has one chooser, got {choosers[0].NAME} and {choosers[1].NAME}",
            where=f"--strategy {names}",
            why="each takes the views that the method's plan is made of",
            fix=f"give --strategy {choosers[0].NAME}, or the other one",
        )
    if len(makers) > 1:
        raise ConfigError(
            f"one network makes views, got {makers[0].NAME} and {makers[1].NAME}",
            where=f"--strategy {names}",
            fix=f"give --strategy {makers[0].NAME}, or the other one",
        )
    _check_together(stages)
    order = list(STRATEGIES)
    stages.sort(key=lambda stage: (PHASES.index(stage.PHASE), order.index(stage.NAME)))
    chooser = choosers[0] if choosers else Standard()
    if makers and (chooser.scheduled or chooser.recolours):
        raise ConfigError(
            f"strategy {chooser.NAME} cannot look at views of {makers[0].NAME} in this way",
            where=f"--strategy {names}",
            why="it would leave some out of a step, or give them other colours, and each of them "
            "is made in every step, with its colours",
            fix="leave out every and select_colors",
        )
    return Strategy(chooser, tuple(stages), makers[0] if makers else None)


def _check_together(stages: Sequence[Stage]) -> None:
    """Raise ConfigError where a stage takes from another what it needs."""
    mixing = [stage.NAME for stage in stages if stage.mixes]
    weighing = [stage.NAME for stage in stages if stage.PHASE == "weigh"]
    if mixing and weighing:
        raise ConfigError(
            f"strategy {weighing[0]} cannot weigh the mixed views of {mixing[0]}",
            where=f"--strategy {mixing[0]},{weighing[0]}",
            why="a mixed view has two crop boxes, one of each sample that it shows",
            fix=f"use --strategy {mixing[0]} alone, or, without mixed views, --set strategy.a2=0",
        )
    dropping = [stage.NAME for stage in stages if stage.drops_base]
    repeating = [stage.NAME for stage in stages if stage.repeats_base]
    if dropping and repeating:
        raise ConfigError(
            f"strategy {repeating[0]} has no pair to learn by where {dropping[0]} has alpha 0",
            where=f"--strategy {dropping[0]},{repeating[0]} --set strategy.{dropping[0]}.alpha=0",
            why="hard examples learn by the pairs of the method's own plan, which have no weight",
            fix=f"give alpha above 0, or use --strategy {dropping[0]} without {repeating[0]}",
        )
