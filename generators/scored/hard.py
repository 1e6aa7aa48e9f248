"""Hard: which of the candidate views of a sample a trained method finds hardest together.

Source: Pretraining with Hard Views, section 3, with the method as it was when a checkpoint of it
was written. The bank that stands for the negatives of a batch is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from viewstore.errors import ConfigError
from viewstore.format.plan import SOURCE
from viewstore.generators.contract import Context, Input, Reach, check_counts
from viewstore.generators.numerics import device_class
from viewstore.generators.scored.bank import scorer_of
from viewstore.generators.scored.candidates import (
    GLOBALS,
    LOCALS,
    PAIR,
    VIEWS,
    Wanted,
    check_candidates,
    taken_locals,
    targets_of,
)
from viewstore.generators.scored.choices import CHOICES
from viewstore.generators.scored.described import Describes, roles_of
from viewstore.generators.scored.hardest import ResolvedHard
from viewstore.generators.scored.tables import BOX, probe

LEAST_BANK = 2  # rows, as a sample's own is left out
VIEWS_CPU, VIEWS_CUDA = 64, 512  # that a network sees at a time, about


@dataclass(frozen=True, kw_only=True)
class Hard(Describes):
    """Which views of each group of candidates are hardest for the method in --scorer.

    The score of a pair is the method's standard loss of the two, with running statistics and in
    float32; methods that contrast with a batch contrast with a bank of fixed rows.

    Attributes:
        of: The view set of the candidates.
        groups: Groups of candidates, of each of which there is a choice; loaders go round them.
        choose: Views that are chosen of a group: 2, but of small crops any number.
        choices: Some of "selected" (the greatest score), "easiest" (the least), "random" and
            "min_iou" (the crops that overlap least); automatic is all that there can be.
        bank: Rows that contrastive methods score against.
        keep_losses: Whether losses and overlaps of all pairs are kept.
        locals: View set of small crops: large ones are chosen together with those.
        train_locals: Small crops that are chosen beside two large ones; automatic is half.
        globals: Set of choices of large crops: the views of `of` are small crops for those.
        slots: Samples at a time; automatic is what makes 64 views on CPU and 512 on CUDA. Part of
            the plan, like `device_class` and `threads`: another number rounds differently.
        device_class: Kind of device, "cpu" or "cuda"; recorded in the plan, never to be set.
        threads: Threads of torch in each process.
        described: Roles of the views; recorded in the plan, never to be set.
        targets: Views of a group that are learnt from; recorded in the plan, never to be set.
        overlaps: Whether all views have crop boxes; recorded in the plan, never to be set.
        contrasts: Whether there is a bank; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ("scorer",)

    groups: int = 1
    choose: int = PAIR
    choices: tuple[str, ...] | None = None
    bank: int = 512
    keep_losses: bool = True
    locals: str = ""
    train_locals: int | None = None
    globals: str = ""
    slots: int | None = None
    device_class: str | None = None
    threads: int = 1
    targets: int | None = None
    overlaps: bool | None = None
    contrasts: bool | None = None

    def __post_init__(self) -> None:
        check_counts("hard", self, ("groups", "bank", "slots", "threads"))
        if self.bank < LEAST_BANK:
            raise ConfigError(
                f"hard.bank must be a whole number from {LEAST_BANK}, got {self.bank!r}"
            )
        if not isinstance(self.keep_losses, bool):
            raise ConfigError(f"hard.keep_losses must be true or false, got {self.keep_losses!r}")
        if self.choices is not None:
            self._check_choices()
        if self.locals and self.globals:
            raise ConfigError(
                "hard.locals and hard.globals are both given",
                why="large crops are chosen beside small ones, and then small ones for those",
                fix="build two sets: --of LARGE --set locals=SMALL, and --of SMALL --set globals="
                "the first",
            )
        if self.train_locals and not self.locals:
            raise ConfigError("hard.train_locals goes with hard.locals, which is not given")
        if self.locals and self.train_locals is not None and self.train_locals < 1:
            raise ConfigError(
                f"hard.train_locals must be a whole number from 1, got {self.train_locals!r}"
            )
        if not isinstance(self.choose, int) or self.choose < 1:
            raise ConfigError(f"hard.choose must be a whole number from 1, got {self.choose!r}")
        if self.choose != PAIR and not self.globals:
            raise ConfigError(
                f"hard.choose must be {PAIR}, got {self.choose}",
                why="a score is of a pair of views; more are chosen of small crops alone",
                fix="leave it out, or name the choice of large crops with --set globals=..",
            )

    def _check_choices(self) -> None:
        choices = tuple(self.choices) if isinstance(self.choices, list | tuple) else ()
        if len(set(choices)) < len(choices) or not set(choices) <= set(CHOICES) or not choices:
            raise ConfigError(f"hard.choices must be some of {CHOICES}, got {self.choices!r}")

    def inputs(self) -> Mapping[str, Input]:
        """Return the candidates, and the crops that they are chosen with or for."""
        found = dict(super().inputs())
        if self.locals:
            found[LOCALS] = Input(self.locals)
        if self.globals:
            found[GLOBALS] = Input(self.globals, parent_as=VIEWS)
        return found

    def reach(self) -> Reach:
        """Return "set" where there is a bank, whose rows may be any."""
        return "sample" if self.contrasts is False else "set"

    def reads_source(self) -> bool:
        """Return that no source image is opened."""
        return False

    def resolve(self, context: Context) -> ResolvedHard:
        """Take on the form of the candidates, and ask the scorer what it gives.

        Raises:
            ConfigError: There is no scorer or view set, or one does not fit the other.
        """
        parent = context.parent
        if parent is None or self.of == SOURCE:
            raise ConfigError(
                "hard chooses among the views of a view set",
                where="--of",
                fix="name it: --of simclr",
            )
        described = roles_of(context)
        scorer: Any = scorer_of(context, targets_of(context))
        wanted = Wanted(
            self.groups, self.choose, self.locals, self.train_locals or None, self.globals
        )
        check_candidates(context, scorer, wanted)
        overlaps = all(BOX in each.params for each in (parent, targets_of(context)))
        at_once = VIEWS_CUDA if device_class(context.device) == "cuda" else VIEWS_CPU
        seen = [parent, *(each for role, each in context.inputs.items() if role != GLOBALS)]
        found = ResolvedHard(
            of=self.of,
            described=described,
            groups=self.groups,
            choose=self.choose,
            choices=self._choices(context, overlaps=overlaps),
            bank=self.bank,
            keep_losses=self.keep_losses,
            locals=self.locals,
            train_locals=taken_locals(context, wanted),
            globals=self.globals,
            slots=self.slots or max(1, at_once // sum(len(each.roles) for each in seen)),
            device_class=device_class(context.device),
            threads=self.threads,
            targets=len(targets_of(context).roles) // self.groups,
            overlaps=overlaps,
            contrasts=scorer.needs_bank,
        )
        probe(found, context)
        return found

    def _choices(self, context: Context, *, overlaps: bool) -> tuple[str, ...]:
        """Return the choices that are made. Raises ConfigError: one cannot be."""
        possible = [name for name in CHOICES if overlaps or name != "min_iou"]
        if self.globals:
            of_pairs = context.inputs[GLOBALS].params
            possible = [name for name in CHOICES if name in of_pairs]
        for name in self.choices or ():
            if name not in possible:
                why = f"{self.globals} has no such choice" if self.globals else None
                raise ConfigError(
                    f"hard cannot choose {name} of {self.of}",
                    code="VS103",
                    why=why or "its views have no crop_box",
                    fix=f"give some of {', '.join(possible)}",
                )
        return tuple(name for name in possible if name in (self.choices or possible))
