"""The contract of a strategy: a chooser takes rows of views, stages rewrite the method's plan.

A strategy knows methods by their traits alone. A new one is one module, with a frozen dataclass
that is a chooser or a stage, and one row of `table`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

from viewstore.errors import ConfigError
from viewstore.loaders.plan.asked import Cached, Online
from viewstore.train.methods.base import Method, Traits
from viewstore.train.plan import Plan, Row
from viewstore.train.views import Views

ROLES = (
    "the role of a view says what made it: expert an augmentation, generated a GAN, heavy "
    "operators on another view, global and local the crops of DINO"
)
RolesOf = Callable[[str], Sequence[str]]  # of the view set of a name
Phase = Literal["derive", "add", "weigh"]
PHASES: tuple[Phase, ...] = ("derive", "add", "weigh")


class Slot(NamedTuple):
    """What a loader delivers as one view of each sample.

    Attributes:
        role: Role of its views.
        size: Side of its views in pixels.
        columns: Names of their params.
        parent_slot: Slot that its views are made from, -1 if none.
        name: What the user called it, for messages.
        colourless: Whether its pixels come without the colours that its params record.
    """

    role: str
    size: int
    columns: frozenset[str]
    parent_slot: int = -1
    name: str = ""
    colourless: bool = False


class Chooser(ABC):
    """Takes the rows that the method's standard plan is made for.

    Class attributes:
        NAME: Its name on the command line.
        USE: What it makes of the views, as the end of a sentence: "hvp, which ...".
    """

    NAME: ClassVar[str]
    USE: ClassVar[str]

    def asked(self, views: Sequence[Cached | Online], roles_of: RolesOf) -> list[Cached | Online]:
        """Return what a loader is asked for, of the views that the user named."""
        return list(views)

    @abstractmethod
    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError unless it can choose among `slots` for a method of these traits.

        `slots` are those that no stage takes. No data was read yet.
        """

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of params that it reads of every base view."""
        return ()

    @property
    def logs(self) -> bool:
        """Whether its plans log the losses that it chose by."""
        return False

    @property
    def scheduled(self) -> bool:
        """Whether `wants` differs between steps."""
        return False

    @property
    def recolours(self) -> bool:
        """Whether views are to come without colours, where they can: it gives them theirs."""
        return False

    def wants(self, roles: Sequence[str], step: int) -> tuple[int, ...] | None:
        """Return which of the base views, of these roles, it reads at `step`; None: all.

        `step` counts over all epochs; nothing else decides.
        """
        return None

    def count(self, roles: Sequence[str]) -> int:
        """Return how many rows the standard plan has, of base views of these roles."""
        return len(roles)

    @abstractmethod
    def rows(self, views: Views, method: Method) -> tuple[Row, ...]:
        """Return the chosen rows, of `views.base`. Changes no state."""

    def plan(self, views: Views, method: Method) -> Plan:
        """Return the method's standard plan of the chosen rows. Changes no state."""
        return method.standard(views, self.rows(views, method))


class Stage(ABC):
    """Rewrites a plan: appends rows and pairs, or changes pairs.

    Class attributes:
        NAME: Its name on the command line.
        USE: What it makes of the views, as the end of a sentence: "a2, which ...".
        PHASE: When it is applied: stages that "derive" views come before those that "add" other
            ones, and those before stages that "weigh" pairs.
    """

    NAME: ClassVar[str]
    USE: ClassVar[str]
    PHASE: ClassVar[Phase]

    @property
    def adversarial(self) -> bool:
        """Whether it has rows of the batch norm domain "adv"."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether it has rows whose views show two samples."""
        return False

    @property
    def drops_base(self) -> bool:
        """Whether it takes the pairs of the method's own plan out."""
        return False

    @property
    def repeats_base(self) -> bool:
        """Whether its rows learn by the pairs of the method's own plan."""
        return False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of params that it reads of every base view."""
        return ()

    @abstractmethod
    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError unless it can rewrite plans of such a method on all of `slots`."""

    def takes(self, roles: Sequence[str]) -> tuple[int, ...]:
        """Return the views that it uses itself: no chooser takes them."""
        return ()

    @abstractmethod
    def __call__(self, plan: Plan, method: Method) -> Plan:
        """Return the rewritten plan. Changes no state; draws from keyed streams only."""


@dataclass(frozen=True)
class Strategy:
    """A chooser, and stages in the order of their phases."""

    chooser: Chooser
    stages: tuple[Stage, ...] = ()

    @property
    def name(self) -> str:
        """Names of its parts, joined by commas, as `--strategy` takes them."""
        parts = [self.chooser.NAME, *(stage.NAME for stage in self.stages)]
        return ",".join(name for name in parts if name != "standard") or "standard"

    @property
    def adversarial(self) -> bool:
        """Whether networks need the batch norm domain "adv"."""
        return any(stage.adversarial for stage in self.stages)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of params that its parts read of every base view."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.columns))

    @property
    def recolours(self) -> bool:
        """Whether views are to come without colours, where they can: the chooser gives them."""
        return self.chooser.recolours

    @property
    def parts(self) -> tuple[Chooser | Stage, ...]:
        """The chooser and the stages."""
        return (self.chooser, *self.stages)

    @property
    def scheduled(self) -> bool:
        """Whether steps read other views than each other."""
        return self.chooser.scheduled

    def wants(self, roles: Sequence[str], step: int) -> tuple[int, ...] | None:
        """Return the views that are read at `step`, over all epochs; None: all.

        Views made from one that is not read are not read either: see `Views.parent`.
        """
        base = self.base(roles)
        chosen = self.chooser.wants([roles[view] for view in base], step)
        if chosen is None:
            return None
        left_out = set(base) - {base[place] for place in chosen}
        return tuple(view for view in range(len(roles)) if view not in left_out)

    def count(self, roles: Sequence[str]) -> int:
        """Return how many rows the standard plan has, of views of these roles."""
        return self.chooser.count([roles[view] for view in self.base(roles)])

    def base(self, roles: Sequence[str]) -> tuple[int, ...]:
        """Return the views that no stage takes."""
        taken = {view for stage in self.stages for view in stage.takes(roles)}
        return tuple(view for view in range(len(roles)) if view not in taken)

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError unless it can train a method of these traits on `slots`.

        No data was read yet.
        """
        base = [slots[view] for view in self.base([slot.role for slot in slots])]
        for slot in base:
            if slot.role == "cutmix":
                raise wrong_views(
                    f"{slot.name or 'a view'} has role cutmix: strategy {self.name} does not mix "
                    "targets as its views are mixed",
                    slots,
                    "simclr,simclr",
                    "; and use --strategy hexa --set strategy.a2=1 to mix them while training",
                )
        for stage in self.stages:
            stage.check(traits, slots)
        self.chooser.check(traits, base)
        for slot in base:
            if lacking := sorted(set(self.columns) - slot.columns):
                raise ConfigError(
                    f"strategy {self.name} reads the column {lacking[0]}, which {slot.name} lacks",
                    where=f"--views, of which {slot.name} is one",
                    why=f"its columns are {', '.join(sorted(slot.columns)) or 'none'}",
                    fix="name views that record it, or another --strategy",
                )

    def plan(self, views: Views, method: Method) -> Plan:
        """Return the pairs to train on. Changes no state."""
        views = replace(views, base=self.base(views.role))
        plan = self.chooser.plan(views, method)
        return functools.reduce(lambda planned, stage: stage(planned, method), self.stages, plan)


def refuse(strategy: str, traits: Traits, *, why: str, fix: str) -> ConfigError:
    """Return the ConfigError for a strategy that a trait of a method rules out."""
    return ConfigError(
        f"strategy {strategy} does not work with method {traits.name}",
        where=f"--strategy {strategy} --method {traits.name}",
        why=why,
        fix=fix,
    )


def wrong_views(message: str, slots: Sequence[Slot], example: str, advice: str = "") -> ConfigError:
    """Return the ConfigError for views that a strategy cannot train on."""
    return ConfigError(
        message,
        where=f"--views, of roles {','.join(slot.role for slot in slots)}",
        why=ROLES,
        fix=f"name other views, for example --views {example}{advice}",
    )
