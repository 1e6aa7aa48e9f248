"""HVP: each sample trains on those of its candidate views that have the greatest loss.

Source: Pretraining with Hard Views, equation 2 and algorithm 1; multi-crop: its appendix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Statistics, Traits
from viewstore.train.plan import Plan, Row
from viewstore.train.strategies.base import Slot, refuse, wrong_views
from viewstore.train.strategies.candidates import CandidateChooser
from viewstore.train.strategies.colours import Filter, coloured, halved
from viewstore.train.strategies.combinations import (
    MOST_DRAWN,
    MOST_LISTED,
    Candidates,
    listed,
)
from viewstore.train.strategies.selection import (
    Choice,
    Entry,
    best_listed,
    best_of_all,
    entries_of,
    feature_table,
    is_directed,
    loss_table,
    wanted_entries,
)
from viewstore.train.strategies.standard import Standard
from viewstore.train.strategies.unused import refuse_unused
from viewstore.train.views import Views

Search = Literal["sampled", "exact"]
BatchNorm = Literal["batch_pooled", "batch_per_view", "eval"]
Colours = Literal["own", "one", "none"]
Source = Literal["model", "cached"]
STATISTICS: dict[BatchNorm, Statistics] = {
    "batch_pooled": "pooled",
    "batch_per_view": "per_view",
    "eval": "running",
}
COMPARING = (
    "n_views",
    "train_locals",
    "search",
    "limit",
    "select_bn",
    "select_size",
    "select_at",
)
STAGE = re.compile(r"stage:(\d+)")
WORDS = {
    "search": Search,
    "select_bn": BatchNorm,
    "select_filter": Filter,
    "select_colors": Colours,
    "source": Source,
}


@dataclass(frozen=True, kw_only=True)
class HVP(CandidateChooser):
    """Chooses the combination that the method's standard loss is greatest for, sample by sample.

    Its log has "losses" too, float32 [P, B]: the score of each pair, or the best score of the
    combinations with it; and "agreement" where another choice is compared.

    Attributes:
        search: Among crops, "sampled" looks at `limit` combinations, the same for all samples of
            a step; "exact" finds the best of all.
        limit: Number of combinations that "sampled" looks at; 0: all.
        select_bn: Statistics of batch norms while choosing: of all candidates of the batch
            ("batch_pooled", as the paper's code), of each view alone, or the running ones
            ("eval"). The running ones do not move.
        select_size: 0.5 chooses among candidates of half the side; None: of the whole one.
        select_filter: How they are halved: "nearest" (the paper's code) or the "area" mean.
        select_colors: While choosing, each candidate has its "own" colours, that of the first
            "one", or "none". Training always shows their own.
        select_at: "head" scores by the method's loss; "pool" by the negative cosine of the
            backbone's pooled features, "stage:K" of its stage K, flattened. "agreement" is then
            the share of samples for which "head" chooses the same views.
        source: "cached" trains on the two views, or crops, that a columns set picked. Where
            `n_views` expert views stand behind the two, they are read at steps that log, and
            "agreement" is the share of samples whose pick is what the model chooses of them.
        allow_per_view: Choose for methods whose targets are prototypes, by the loss of each view.
    """

    NAME: ClassVar[str] = "hvp"
    USE: ClassVar[str] = "trains on the pair of its views that has the greatest loss"
    SIGN: ClassVar[int] = 1

    search: Search = "sampled"
    limit: int = 128
    select_bn: BatchNorm = "batch_pooled"
    select_size: float | None = None
    select_filter: Filter = "nearest"
    select_colors: Colours = "own"
    select_at: str = "head"
    source: Source = "model"
    allow_per_view: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in WORDS.items():
            if getattr(self, name) not in get_args(kind):
                words = ", ".join(get_args(kind))
                raise ConfigError(f"{name} must be one of {words}, got {getattr(self, name)!r}")
        if not isinstance(self.limit, int) or self.limit < 0:
            raise ConfigError(f"limit must be a whole number from 0, got {self.limit!r}")
        if self.select_size not in (None, 0.5):
            raise ConfigError(f"select_size must be 0.5, or not given, got {self.select_size!r}")
        if self.select_at not in ("head", "pool") and not STAGE.fullmatch(self.select_at):
            raise ConfigError(
                f"select_at must be head, pool or stage:K, got {self.select_at!r}",
                fix="give --set strategy.select_at=stage:1, for example",
            )
        if self.select_size is None:
            refuse_unused(self, ["select_filter"], "select_size is not given")
        if self.source == "cached":
            refuse_unused(self, ["every"], "source cached trains on what was chosen before")
        if self.source == "cached" and self.select_colors != "own":
            raise ConfigError(
                f"select_colors {self.select_colors} is for choices of the model, and source is "
                "cached",
                why="a cached choice was made before",
                fix="leave out one of the two",
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that colours are made of, where they are made here."""
        return COLOUR_COLUMNS if self.recolours else ()

    @property
    def recolours(self) -> bool:
        """Whether candidates have other colours while choosing than in training."""
        return self.select_colors != "own"

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: other candidates, or a method that gives them no such scores."""
        if self.source == "cached":
            picked, others = self._split(slots)
            Standard().check(traits, picked)
            self._check_compared(traits, others)
        else:
            super().check(traits, slots)
            self._check_search(traits, slots)
        if traits.target == "prototype":
            self._check_prototypes(traits)
        if len({slot.size for slot in slots}) > 1 and STAGE.fullmatch(self.select_at):
            raise ConfigError(
                f"select_at {self.select_at} compares views of one size, got "
                f"{sorted({slot.size for slot in slots})}",
                why="flattened outputs of a stage have a length for each size",
                fix="give --set strategy.select_at=pool",
            )
        if self.select_size is not None and traits.reads:
            raise refuse(
                f"{self.NAME} with select_size",
                traits,
                why=f"it reads {', '.join(traits.reads)} of views of their whole size",
                fix="leave out --set strategy.select_size=..",
            )
        if self.recolours:
            self._check_colours(slots)

    def _check_prototypes(self, traits: Traits) -> None:
        if not self.allow_per_view:
            raise refuse(
                self.NAME,
                traits,
                why="its targets are prototypes: each view has a loss of its own, so that the two "
                "hardest views would be chosen, and not a pair that is hard together",
                fix="use --set strategy.allow_per_view=true to choose those, or --strategy random",
            )
        if self.select_at != "head":
            raise refuse(
                f"{self.NAME} with select_at {self.select_at}",
                traits,
                why="features are compared in pairs, and its plan has none",
                fix="leave out --set strategy.select_at=..",
            )

    def _check_compared(self, traits: Traits, others: Sequence[Slot]) -> None:
        if not others:
            refuse_unused(self, COMPARING, "source cached compares no candidates behind the picks")
            return
        super().check(traits, others)
        self._check_search(traits, others)
        if not self.logs:
            raise ConfigError(
                f"with log_every 0 the {len(others)} candidates behind the picked views are "
                "never read",
                where="--set strategy.log_every=0",
                why="source cached compares them with the picks at steps that log",
                fix="leave out --set strategy.log_every=0, or these views in --views",
            )

    def _check_search(self, traits: Traits, slots: Sequence[Slot]) -> None:
        candidates = self.candidates([slot.role for slot in slots], range(len(slots)))
        if not candidates.taken:
            refuse_unused(
                self, ["search", "limit"], "no local crops are taken, and all pairs are looked at"
            )
            return
        adds = traits.target_roles or traits.target == "prototype" or candidates.taken == 1
        if self.search == "sampled":
            self._check_limit(candidates.count, exact=bool(adds))
            return
        refuse_unused(self, ["limit"], "search exact looks at all combinations")
        if not adds:
            raise refuse(
                f"{self.NAME} with search exact",
                traits,
                why="it pairs local crops with each other: none can be taken without the others",
                fix="give --set strategy.search=sampled",
            )

    def _check_limit(self, count: int, *, exact: bool) -> None:
        whole = self.limit == 0 or self.limit >= count
        looked, most = (count, MOST_LISTED) if whole else (self.limit, MOST_DRAWN)
        if looked > most:
            kind = "a list of all" if whole else "a list of some"
            raise ConfigError(
                f"limit {self.limit} would look at {looked} of {count} combinations of crops for "
                f"each sample: {kind} has at most {most}",
                where=f"--set strategy.limit={self.limit}",
                fix=f"give --set strategy.limit={MOST_DRAWN}, or less"
                + (", or --set strategy.search=exact in its place" if exact else ""),
            )

    def _check_colours(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            lacking = [name for name in COLOUR_COLUMNS if name not in slot.columns]
            if lacking or not slot.colourless:
                raise ConfigError(
                    f"select_colors {self.select_colors} gives views other colours than their own, "
                    f"and those of {slot.name or slot.role} cannot have others",
                    where="--views",
                    why=f"they record no {lacking[0]}"
                    if lacking
                    else "their pixels are stored, or made, with their colours",
                    fix="name online views, or view sets that are built with --codec params",
                )

    def _split(self, slots: Sequence[Slot]) -> tuple[Sequence[Slot], Sequence[Slot]]:
        """Return the slots that a columns set picks, and the candidates of a comparison."""
        count = len(slots) if any(slot.role != "expert" for slot in slots) else 2
        if len(slots) not in (count, count + self.n_views):
            raise wrong_views(
                f"strategy {self.NAME} with source cached trains on two picked views, and compares "
                f"them with n_views = {self.n_views} others or with none, got {len(slots)} views",
                slots,
                "simclr@hard,simclr@hard",
            )
        return slots[:count], slots[count:]

    @property
    def scheduled(self) -> bool:
        """Whether there are steps that do not choose, or do not compare."""
        return super().scheduled or self.source == "cached"

    def wants(self, roles: Sequence[str], step: int) -> tuple[int, ...] | None:
        """Return the views that train; at steps that choose or compare, all."""
        if self.source == "model":
            return super().wants(roles, step)
        if "expert" not in roles or self.logs_at(step):
            return None
        return (0, 1)

    def count(self, roles: Sequence[str]) -> int:
        """Return how many views a combination has, or were picked."""
        if self.source == "model":
            return super().count(roles)
        return 2 if "expert" in roles else len(roles)

    def directed(self, views: Views, method: Method) -> bool:
        """Whether the method learns from one view of a pair alone; cosines have no direction."""
        pair = self.candidates(views.role, views.base).pairs[0]
        return self.select_at == "head" and is_directed(method, views, pair)

    def plan(self, views: Views, method: Method) -> Plan:
        """Return the standard plan of the chosen views, with the log of the choice."""
        if self.source == "cached":
            return self._plan_of_picked(views, method)
        plan = super().plan(views, method)
        return replace(plan, views=coloured(views)) if self.recolours else plan

    def choose(self, views: Views, method: Method, candidates: Candidates) -> Choice:
        """Return the combination with the greatest loss; the first of those with the same."""
        entries = entries_of(method, views, candidates.first)
        table = self.SIGN * self.table(views, method, candidates, entries)
        if self.search == "exact" and candidates.taken:
            choice = best_of_all(table, entries, candidates)
        else:
            limit = self.limit if candidates.taken else 0
            numbers = listed(candidates.count, limit, views.at)
            choice = best_listed(table, entries, candidates, numbers)
        assert choice.losses is not None
        return choice._replace(losses=self.SIGN * choice.losses)

    def table(
        self, views: Views, method: Method, candidates: Candidates, entries: Sequence[Entry]
    ) -> Tensor:
        """Return the losses of ordered pairs of views, float32 [V, V, B] by student and target.

        Entries that no combination has are 0.
        """
        seen = views
        if self.select_colors == "one":
            seen = coloured(seen, candidates.views, like=candidates.views[0])
        if self.select_size is not None:
            seen = halved(seen, candidates.views, self.select_filter)
        wanted = wanted_entries(entries, candidates)
        statistics = STATISTICS[self.select_bn]
        if self.select_at == "head":
            return loss_table(method, seen, candidates, wanted, statistics)
        found = STAGE.fullmatch(self.select_at)
        stage = None if found is None else int(found[1])
        return feature_table(method, seen, candidates, wanted, statistics, stage)

    def log_of(
        self, views: Views, method: Method, candidates: Candidates, choice: Choice
    ) -> dict[str, Tensor]:
        """Return the log of a choice, with what "head" would choose where that is not it."""
        log = super().log_of(views, method, candidates, choice)
        if self.select_at != "head":
            rows = replace(self, select_at="head", log_every=0).rows(views, method)
            head = torch.stack([torch.as_tensor(row.view) for row in rows], dim=1)
            same = head.sort(dim=1).values == choice.views.sort(dim=1).values
            log["agreement"] = same.all(1).float().mean()
        return log

    def _plan_of_picked(self, views: Views, method: Method) -> Plan:
        """Return the standard plan of the picked views, compared with the model's choice."""
        experts = views.base_of("expert")
        if not experts:
            return Standard().plan(views, method)
        plan = method.standard(views, [Row(view) for view in experts[:2]])
        others = replace(views, base=tuple(experts[2:]))
        if not others.base or not self.logs_at(views.at.step):
            return plan
        model = replace(self, source="model", every=1)
        log = model.plan(others, method).log
        if not log:  # there is one pair alone
            return plan
        picked = torch.tensor(experts[:2], device=views.sample.device).expand(len(views), 2)
        same = _same_images(views, log["selected"], picked)
        if not model.directed(others, method):
            same |= _same_images(views, log["selected"], picked.flip(1))
        found = {**log, "selected": picked}
        held = _shown(views, experts[:2], others.base)
        if bool(held.any()):
            found["agreement"] = same[held].float().mean()
        return replace(plan, log=found)


def _shown(views: Views, picked: Sequence[int], others: Sequence[int]) -> Tensor:
    """Return of which samples both picked views are among others, bool [B].

    The model can choose no pair that it is not shown.
    """
    shown = [
        torch.stack(
            [(views.image(view) == views.image(other)).flatten(1).all(1) for other in others]
        ).any(0)
        for view in picked
    ]
    return torch.stack(shown).all(0)


def _same_images(views: Views, first: Tensor, second: Tensor) -> Tensor:
    """Return of which samples the views [B, m] show the same images, bool [B]."""
    both = zip(first.T.contiguous(), second.T.contiguous(), strict=True)
    same = [views.image(a) == views.image(b) for a, b in both]
    return torch.stack(same).flatten(2).all(2).all(0)
