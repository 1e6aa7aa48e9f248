"""The contract of a strategy: a chooser takes rows of views, stages rewrite the method's plan.

Before both, a maker may add views that a network of its own makes. A strategy knows methods by
their traits alone. A new one is one module, with a frozen dataclass that is a chooser, a stage or
a maker, and one row of `table`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.loaders.plan.asked import Cached, Online
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Traits
from viewstore.train.plan import Plan, Row
from viewstore.train.views import Views

ROLES = (
    "the role of a view says what made it: expert an augmentation, generated a GAN, heavy "
    "operators on another view, global and local the crops of DINO, source nothing: it is the image"
)
SOURCE = "source"  # role, and policy, of what makers start from
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


class Made(NamedTuple):
    """What a maker made in a step.

    Attributes:
        views: Those that it was given, and its own behind them; gradients lead from the pixels of
            these to the weights of its network.
        penalty: What the network pays besides the negative loss, a scalar.
        facts: Scalars for the log of the run.
    """

    views: Views
    penalty: Tensor
    facts: Mapping[str, Tensor] = {}


class Maker(ABC):
    """Makes views of source images with a network that is trained to raise the method's loss.

    The loop trains the network beside the method: for each step of the method, which lowers the
    loss of the views that were made, it takes one that raises it.

    Class attributes:
        NAME: Its name on the command line, and that of the file of its network.
        USE: What it makes of the views, as the end of a sentence: "viewmaker, which ...".
        EXAMPLE: Views that it works with, for messages.
    """

    NAME: ClassVar[str]
    USE: ClassVar[str]
    EXAMPLE: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of params that it reads of every base view: none."""
        return ()

    @property
    def optim(self) -> Mapping[str, Any] | None:
        """Settings of the network's own optimizer, as `OptimSettings`; None: those of the run."""
        return None

    @property
    def clip(self) -> float | None:
        """Greatest norm of all gradients of the network together; None does not clip."""
        return None

    def takes(self, roles: Sequence[str]) -> tuple[int, ...]:
        """Return the views that it starts from, those of role source: no chooser takes them."""
        return tuple(view for view, role in enumerate(roles) if role == SOURCE)

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: no source image among the slots of the loader, or no loss to raise."""
        if not self.takes([slot.role for slot in slots]):
            raise wrong_views(
                f"strategy {self.NAME} makes views of source images, and none of the views is one",
                slots,
                self.EXAMPLE,
            )
        if traits.target == "prototype":
            raise refuse(
                self.NAME,
                traits,
                why="its targets are clusters of views that are looked at before an epoch "
                "(target), when the network has not made any",
                fix="use --method simclr, or views that the frozen network made: build --generator "
                f"{self.NAME}",
            )

    @abstractmethod
    def made(self, slots: Sequence[Slot]) -> tuple[Slot, ...]:
        """Return the slots of the views that it adds to those of a loader."""

    @abstractmethod
    def network(self, slots: Sequence[Slot], channels: int) -> nn.Module:
        """Return its network for the slots of a loader, drawn by torch's generator.

        `channels`: how many of the first ones the method's network sees.
        """

    @abstractmethod
    def make(self, views: Views, network: nn.Module) -> Made:
        """Return the views with those that it makes, in the order of `made`.

        Draws come from keyed streams alone; nothing changes but running statistics of `network`.
        """

    def warnings(self, facts: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Return what is wrong with the network's views, by the facts of its last step, if any."""
        return ()


@dataclass(frozen=True)
class Strategy:
    """A chooser, and stages in the order of their phases; perhaps a maker, which comes first."""

    chooser: Chooser
    stages: tuple[Stage, ...] = ()
    maker: Maker | None = None

    @property
    def name(self) -> str:
        """Names of its parts, joined by commas, as `--strategy` takes them."""
        return ",".join(p.NAME for p in self.parts if p.NAME != "standard") or "standard"

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
    def parts(self) -> tuple[Maker | Chooser | Stage, ...]:
        """The maker if there is one, the chooser and the stages."""
        first = () if self.maker is None else (self.maker,)
        return (*first, self.chooser, *self.stages)

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

    def slots(self, slots: Sequence[Slot]) -> tuple[Slot, ...]:
        """Return the slots of a loader, and behind them those of the views that are made."""
        return (*slots, *(() if self.maker is None else self.maker.made(slots)))

    def base(self, roles: Sequence[str]) -> tuple[int, ...]:
        """Return the views that no stage takes, and no maker."""
        taken = {view for stage in self.stages for view in stage.takes(roles)}
        if self.maker is not None:
            taken |= set(self.maker.takes(roles))
        return tuple(view for view in range(len(roles)) if view not in taken)

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError unless it can train a method of these traits on the slots of a loader.

        No data was read yet.
        """
        if self.maker is not None:
            self.maker.check(traits, slots)
        slots = self.slots(slots)
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
