"""Candidate views and the scorer of a choice among them: what they must be for one another."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.generators.contract import Context
from viewstore.generators.scored.choices import Term
from viewstore.store.view_set import ViewSet

LOCALS, GLOBALS, VIEWS = "locals", "globals", "views"  # roles of inputs
PAIR = 2


class Scorer(Protocol):
    """A frozen network and the losses of its views (train/scoring/scorer.py)."""

    name: str
    step: int
    entries: tuple[Term, ...]
    directed: bool
    needs_bank: bool
    crops: bool
    input_size: tuple[int, int] | None
    num_rows: int | None

    def entries_beside(self, crops: int) -> tuple[Term, ...]:
        """Return the standard loss of two large and so many small crops."""

    def remember(self, bank: Tensor, rows: Tensor) -> None:
        """Take the bank: images [N, 3, H, W] of the samples in rows, int64 [N]."""

    def pair_losses(self, views: Tensor, rows: Tensor) -> Tensor:
        """Return the losses of ordered pairs, [P, C, C], of views [P, C, 3, H, W] in [0, 1]."""

    def crop_losses(self, crops: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Return the losses of small crops [P, S, 3, h, w] against targets, [P, S, C]."""

    def to(self, device: str) -> Scorer:
        """Return it on a torch device."""


class Wanted(NamedTuple):
    """What is to be chosen of the parent of a context: `Hard` has the words for it."""

    groups: int
    choose: int
    locals: str
    train_locals: int | None
    globals: str


def targets_of(context: Context) -> ViewSet:
    """Return the view set that views learn from: the large crops, or the candidates themselves."""
    assert context.parent is not None, "resolve refuses to go without"
    return context.inputs.get(VIEWS, context.parent)


def taken_locals(context: Context, wanted: Wanted) -> int:
    """Return how many small crops are chosen beside a pair; 0 where they have no part in it."""
    if not wanted.locals:
        return 0
    of_group = len(context.inputs[LOCALS].roles) // wanted.groups
    return of_group // 2 if wanted.train_locals is None else wanted.train_locals


def check_candidates(context: Context, scorer: Scorer, wanted: Wanted) -> None:
    """Raise ConfigError unless there is something to choose, and the scorer can."""
    parent = context.parent
    assert parent is not None, "resolve refuses to go without"
    roles = set(parent.roles)
    if wanted.globals:
        _check_locals(parent, scorer, wanted.groups, wanted.choose)
        _check_globals(context, wanted)
        return
    if "local" in roles:
        raise ConfigError(
            f"the views of {parent.name} are small crops, which are chosen for large ones",
            code="VS103",
            fix="build the choice of the large ones first, and give --set globals=ITS-NAME",
        )
    size = _of_group(parent, wanted.groups)
    if size < PAIR:
        raise ConfigError(
            f"a pair is chosen of the views of a group, and {parent.name} has {size} a group",
            code="VS103",
            fix="build it with more --views, or choose of fewer groups",
        )
    if "global" in roles and size % 2:
        raise ConfigError(
            f"{parent.name} has {size} large crops a group, which must be an even number",
            code="VS103",
            why="a pair has one of the even and one of the odd ones, whose policies differ",
            fix="build it with --views 4",
        )
    if wanted.locals:
        if roles != {"global"}:
            raise ConfigError(
                f"small crops are chosen beside large ones, those of {parent.name} are "
                f"{', '.join(sorted(roles))}",
                code="VS103",
                fix="leave out --set locals=..",
            )
        taken = taken_locals(context, wanted)
        _check_locals(context.inputs[LOCALS], scorer, wanted.groups, taken)


def _of_group(view_set: ViewSet, groups: int) -> int:
    """Return the views of a group. Raises ConfigError: they are no whole number."""
    views = len(view_set.roles)
    if views % groups:
        raise ConfigError(
            f"hard.groups must divide the {views} views of {view_set.name}, got {groups}"
        )
    return views // groups


def _check_locals(crops: ViewSet, scorer: Scorer, groups: int, taken: int) -> None:
    if not scorer.crops:
        raise ConfigError(
            f"{scorer.name} does not score small crops against large ones",
            code="VS103",
            where="--scorer",
            fix="give the checkpoint of a dino or ibot run",
        )
    if set(crops.roles) != {"local"}:
        raise ConfigError(
            f"small crops have the role local, those of {crops.name} are "
            f"{', '.join(sorted(set(crops.roles)))}",
            code="VS103",
        )
    size = _of_group(crops, groups)
    if not 1 <= taken <= size:
        raise ConfigError(
            f"small crops must be chosen in [1, {size}], so many has {crops.name} a group: "
            f"got {taken}"
        )


def _check_globals(context: Context, wanted: Wanted) -> None:
    """Raise ConfigError unless the large crops were chosen beside these very small ones."""
    assert context.parent is not None, "resolve refuses to go without"
    chosen, crops = context.inputs[GLOBALS], context.parent.name
    forms = {each.shape for each in chosen.plan.columns if each.per == "choice"}
    args = chosen.plan.generator["args"]
    found = {
        f"pairs of {wanted.groups} groups": forms == {(wanted.groups, PAIR)},
        f"choices beside crops of {crops}": args.get("locals") == crops,
        f"choices beside {wanted.choose} small crops": args.get("train_locals") == wanted.choose,
    }
    for what, there in found.items():
        if not there:
            raise ConfigError(
                f"{chosen.name} does not hold {what}",
                code="VS103",
                where=f"--set globals={wanted.globals}",
                why="small crops are chosen for the large ones that were chosen beside them",
                fix=f"build it with --set locals={crops} --set train_locals={wanted.choose} "
                f"--set groups={wanted.groups}",
            )
