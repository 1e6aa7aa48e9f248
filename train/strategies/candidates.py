"""What HVP and its controls share: candidate views, of which each sample trains on some."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Traits
from viewstore.train.overlap import is_least, pairwise_iou
from viewstore.train.plan import Plan, Row
from viewstore.train.strategies.base import Chooser, Slot, wrong_views
from viewstore.train.strategies.combinations import (
    MOST_COMBINATIONS,
    MOST_LOCALS,
    Candidates,
    crop_combinations,
    expert_pairs,
)
from viewstore.train.strategies.selection import Choice
from viewstore.train.strategies.standard import CROPS, check_targets
from viewstore.train.strategies.unused import refuse_unused
from viewstore.train.views import Views

BOX = "crop_box"


@dataclass(frozen=True, kw_only=True)
class CandidateChooser(Chooser):
    """Trains each sample on a combination of its candidate views.

    The candidates are the base views: expert views, of which two train, or global and local crops,
    of which two global ones train, one of the even and one of the odd, and `train_locals` local
    ones. Where there is nothing to choose, the plan is the standard one.

    The plan's log has, every `log_every` steps: "pairs" int64 [P, 2], the pairs of views that
    were chosen among; "chosen" int64 [B], numbers of them; "selected" int64 [B, m], the views;
    and, where all candidates record their crop boxes, "iou" float32 [P, B] and "min_iou"
    bool [B], whether the chosen pair is the first one with the least IoU.

    Attributes:
        n_views: How many expert views, or global crops, there are.
        train_locals: How many local crops train; None: half of them.
        every: Choose at every so many steps; the others train on the first views, and the rest
            are not read.
        log_every: Log a choice every so many steps; 0: never.
    """

    n_views: int = 4
    train_locals: int | None = None
    every: int = 1
    log_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("n_views", 2), ("every", 1), ("log_every", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number from {least}, got {value!r}")
        if self.train_locals is not None and self.train_locals < 0:
            raise ConfigError(f"train_locals must be at least 0, got {self.train_locals}")

    @abstractmethod
    def choose(self, views: Views, method: Method, candidates: Candidates) -> Choice:
        """Return the combination of each sample. Changes no state."""

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: other views than the candidates, or too few of them."""
        roles = [slot.role for slot in slots]
        counted, kind = ("global", "global crops") if set(roles) <= CROPS else ("expert", "views")
        example = ",".join(["simclr"] * self.n_views)
        if set(roles) - CROPS - {"expert"} or ("expert" in roles and set(roles) & CROPS):
            raise wrong_views(
                f"strategy {self.NAME} chooses among views of role expert, or among global and "
                f"local crops, got {','.join(roles)}",
                slots,
                example,
            )
        found = roles.count(counted)
        if found != self.n_views:
            raise wrong_views(
                f"strategy {self.NAME} chooses among n_views = {self.n_views} {kind}, got {found}",
                slots,
                example,
                f"; or give --set strategy.n_views={found}" if found >= 2 else "",
            )
        if counted == "global":
            self._check_crops(slots, roles.count("local"))
        else:
            refuse_unused(self, ["train_locals"], "none of the views is a local crop")
        check_targets(traits, slots)

    def _check_crops(self, slots: Sequence[Slot], local_crops: int) -> None:
        if self.n_views % 2:
            raise ConfigError(
                f"n_views must be even for global crops, got {self.n_views}",
                why="a pair has one of the even and one of the odd ones, whose policies differ",
                fix="give --set strategy.n_views=4, and four global crops in --views",
            )
        if local_crops > MOST_LOCALS or self._taken(local_crops) > local_crops:
            raise wrong_views(
                f"train_locals must be at most the number of local crops, which is at most "
                f"{MOST_LOCALS}: got {self._taken(local_crops)} of {local_crops}",
                slots,
                "dino,dino,dino,dino" + ",dino-local" * 16,
            )
        count = self.candidates([slot.role for slot in slots], range(len(slots))).count
        if count > MOST_COMBINATIONS:
            raise ConfigError(
                f"strategy {self.NAME} numbers combinations of crops up to {MOST_COMBINATIONS}, "
                f"and these have {count}",
                where=f"--views, of {self.n_views} global and {local_crops} local crops",
                fix="give --set strategy.train_locals=8, or fewer local crops in --views",
            )

    def _taken(self, local_crops: int) -> int:
        return local_crops // 2 if self.train_locals is None else self.train_locals

    @property
    def logs(self) -> bool:
        """Whether some steps log their choice."""
        return self.log_every > 0

    @property
    def scheduled(self) -> bool:
        """Whether there are steps that do not choose."""
        return self.every > 1

    def wants(self, roles: Sequence[str], step: int) -> tuple[int, ...] | None:
        """Return all base views at steps that choose, else those that train."""
        if step % self.every == 0:
            return None
        return self.candidates(roles, range(len(roles))).first

    def count(self, roles: Sequence[str]) -> int:
        """Return how many views a combination has."""
        return len(self.candidates(roles, range(len(roles))).first)

    def candidates(
        self, roles: Sequence[str], base: Sequence[int], *, directed: bool = False
    ) -> Candidates:
        """Return what is chosen among, of the views `base` with `roles` of all views.

        `directed`: whether the order of a pair matters.
        """
        experts = [view for view in base if roles[view] == "expert"]
        if experts:
            return expert_pairs(experts, directed=directed)
        crops = [view for view in base if roles[view] == "local"]
        pairs = [view for view in base if roles[view] == "global"]
        return crop_combinations(pairs, crops, self._taken(len(crops)))

    def directed(self, views: Views, method: Method) -> bool:
        """Whether a pair in one order differs for this chooser from the other order."""
        return False

    def rows(self, views: Views, method: Method) -> tuple[Row, ...]:
        """Return the rows of the chosen views, in the order of a combination."""
        return self._chosen(views, method)[0]

    def plan(self, views: Views, method: Method) -> Plan:
        """Return the method's standard plan of the chosen views, with the log of the choice."""
        rows, log = self._chosen(views, method)
        return replace(method.standard(views, rows), log=log)

    def _chosen(self, views: Views, method: Method) -> tuple[tuple[Row, ...], Mapping[str, Tensor]]:
        candidates = self.candidates(views.role, views.base)
        if views.at.step % self.every or candidates.count == 1:
            return tuple(Row(view) for view in candidates.first), {}
        if self.directed(views, method):
            candidates = self.candidates(views.role, views.base, directed=True)
        choice = self.choose(views, method, candidates)
        rows = tuple(Row(view) for view in choice.views.T.contiguous())
        return rows, self.log_of(views, method, candidates, choice) if self.logs_at(
            views.at.step
        ) else {}

    def logs_at(self, step: int) -> bool:
        """Whether the choice of a step is logged."""
        return self.log_every > 0 and step % self.log_every == 0

    def log_of(
        self, views: Views, method: Method, candidates: Candidates, choice: Choice
    ) -> dict[str, Tensor]:
        """Return what the log says of a choice. Changes no state."""
        log = {
            "pairs": torch.tensor(candidates.pairs, device=views.sample.device),
            "chosen": choice.pair,
            "selected": choice.views,
        }
        if choice.losses is not None:
            log["losses"] = choice.losses
        if all(BOX in views.params[view] for pair in candidates.pairs for view in pair):
            iou = candidate_iou(views, candidates)
            log |= {"iou": iou, "min_iou": is_least(iou.T, choice.pair)}
        return log


def candidate_iou(views: Views, candidates: Candidates) -> Tensor:
    """Return the intersection over union of the crops of each pair, float32 [P, B].

    Raises:
        ConfigError: A view has no crop box.
    """
    shown = sorted({view for pair in candidates.pairs for view in pair})
    boxes = torch.stack([views.column(BOX, view) for view in shown], dim=1)
    places = torch.searchsorted(torch.tensor(shown), torch.tensor(candidates.pairs))
    return pairwise_iou(boxes, places).T
