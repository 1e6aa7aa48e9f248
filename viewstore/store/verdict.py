"""What a view set and those that it was made from came to, in words that say what to do."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.files.remedy import on_a_disk
from viewstore.format.columns import Status
from viewstore.store.constraints import DEFAULT_TOLERANCE
from viewstore.store.over_views import over_views
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

MAX_MISSED = 0.5  # share of samples off their goal up to which views are worth using

LEARN = (
    "the networks do not know these images well enough: give others with --gan, --encoder and "
    "--inverter, or train them longer (viewstore gan train --help, viewstore train --help), and "
    "build into another --out"
)
SEARCH = "build with a larger --set max_steps or --set tol, into another --view-set"
DIVERGED = "build with a smaller --set lr, into another --view-set or --out"
MEND = "mend the images that cannot be read, then run {}; or do without them"


@dataclass(frozen=True, eq=False)
class SetVerdict:
    """What the samples of one view set came to.

    Attributes:
        view_set: Its name.
        status: The worst status of the views of each sample that was built, [M].
        rows: Their rows, [M].
        goal: What a view had to be, in words; empty if any view will do.
        remedy: What to do where samples missed it.
        kind: What samples have of it: "views", or "columns".
    """

    view_set: str
    status: NDArray[np.uint8]
    rows: NDArray[np.int64]
    goal: str
    remedy: str
    kind: str = "views"

    @property
    def samples(self) -> int:
        """Samples that were built."""
        return len(self.rows)

    @cached_property
    def missed(self) -> int:
        """Samples with a view that missed its goal."""
        return int((self.status == Status.GOAL_NOT_MET).sum())

    @cached_property
    def failed_rows(self) -> list[int]:
        """Rows of samples with a view that was not made."""
        rows: list[int] = self.rows[self.status >= Status.FAILED].tolist()
        return rows

    @property
    def good(self) -> int:
        """Samples whose views are all as they should be."""
        return self.samples - len(self.failed_rows) - self.missed

    @property
    def missed_share(self) -> float:
        """Share of the samples that have views, of which one missed its goal."""
        return self.missed / max(self.samples - len(self.failed_rows), 1)

    def line(self) -> str:
        """Return what became of the samples, as a sentence."""
        made = self.samples - len(self.failed_rows)
        if not self.goal:
            said = f"{made} of {self.samples} samples have their {self.kind}"
        else:
            said = f"{self.good} of {made} samples meet their goal ({self.goal})"
        failed = len(self.failed_rows)
        return f"{said}; {failed} failed" if failed else said


@dataclass(frozen=True, eq=False)
class Verdict:
    """What view sets and those that they were made from came to, the first ancestor first.

    Attributes:
        view_sets: Each of them once.
        repair: What builds failed samples anew once their images are mended: a command.
        max_missed: Share of samples off their goal above which a view set is not fit for use.
    """

    view_sets: tuple[SetVerdict, ...]
    repair: str
    max_missed: float = MAX_MISSED

    @property
    def unfit(self) -> list[SetVerdict]:
        """The view sets in which too many samples missed their goal, or none has views."""
        return [
            each
            for each in self.view_sets
            if each.missed_share > self.max_missed or 0 < each.samples == len(each.failed_rows)
        ]

    @property
    def word(self) -> str:
        """Return "good", "usable" where a few samples missed or failed, or "not fit for use"."""
        if self.unfit:
            return "not fit for use"
        flawed = any(each.missed or each.failed_rows for each in self.view_sets)
        return "usable" if flawed else "good"

    def lines(self) -> list[str]:
        """Return the verdict as lines of text: the word, each view set, and what to do."""
        lines = [f"verdict: {self.word}"]
        lines += [f"  {each.view_set}: {each.line()}" for each in self.view_sets]
        return lines + [f"  to do: {remedy}" for remedy in self.remedies()]

    def headline(self) -> str:
        """Return the verdict as one short line, for the top of pictures."""
        counts = [f"{each.view_set} {each.good} of {each.samples}" for each in self.view_sets]
        return f"verdict: {self.word} (as wanted: {', '.join(counts)} samples)"

    def remedies(self) -> list[str]:
        """Return what to do, each thing once; nothing while too few samples missed to matter."""
        found = [each.remedy for each in self.unfit if each.missed]
        mend = MEND.format(self.repair)
        for status, remedy in ((Status.FAILED, DIVERGED), (Status.UNREADABLE, mend)):
            if any((each.status == status).any() for each in self.view_sets):
                found.append(remedy)
        return list(dict.fromkeys(found))

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "word": self.word,
            "text": self.lines(),
            "max_missed": self.max_missed,
            "view_sets": {
                each.view_set: {
                    "samples": each.samples,
                    "missed": each.missed,
                    "missed_share": each.missed_share,
                    "failed": len(each.failed_rows),
                    "fit": each not in self.unfit,
                }
                for each in self.view_sets
            },
        }


def verdict_of(
    store: Store, view_sets: Iterable[ViewSet], *, max_missed: float = MAX_MISSED
) -> Verdict:
    """Judge view sets of a store with all that they were made from.

    A parent that the store no longer has is left out.

    Raises:
        FormatError: The params are damaged.
    """
    chain: dict[str, ViewSet] = {}
    for view_set in view_sets:
        for each in _ancestry(store, view_set):
            chain.setdefault(each.name, each)
    judged = [_judge(each) for each in chain.values()]
    return Verdict(tuple(judged), _repair(store), max_missed)


def _repair(store: Store) -> str:
    """Return the command that builds failed samples anew; it takes a folder, not a URL."""
    if store.remote:
        return on_a_disk("viewstore verify STORE --repair --failed")
    return f"viewstore verify {shlex.quote(store.location)} --repair --failed"


def goal_text(view_set: ViewSet) -> str:
    """Return what every view of a view set had to be; "" if any view will do."""
    return _goal(view_set.plan.generator["args"])[0]


def _ancestry(store: Store, view_set: ViewSet) -> Sequence[ViewSet]:
    """Return the view sets that one was made from, the first ancestor first, and itself."""
    line = [view_set]
    while (parent := line[0].plan.parent) is not None:
        found = store.view_sets.get(parent["view_set"])
        if found is None or found in line:
            break
        line.insert(0, found)
    return line


def _judge(view_set: ViewSet) -> SetVerdict:
    worst = worst_status(view_set)
    rows = np.flatnonzero(worst != Status.NEVER_WRITTEN)
    goal, remedy = _goal(view_set.plan.generator["args"])
    kind = "columns" if view_set.kind == "columns" else "views"
    return SetVerdict(view_set.name, worst[rows], rows, goal, remedy, kind)


def worst_status(view_set: ViewSet) -> NDArray[np.uint8]:
    """Return the worst status of each sample, [N]; columns are read only where it is not OK."""
    found = view_set.stats["status"]
    if found.fill == 0 and found.min == found.max == Status.OK:
        return np.full(len(view_set), Status.OK, np.uint8)
    status: NDArray[np.uint8] = view_set.params["status"].reshape(len(view_set), -1)
    return over_views(np.maximum, status)


def _goal(args: Mapping[str, Any]) -> tuple[str, str]:
    """Return what views had to be, by the settings of their generator, and what to do else."""
    if args.get("eps1") is not None:
        sign = "or more, -" if args.get("delta") == "hinge" else "+- "
        tolerance = args.get("tol", DEFAULT_TOLERANCE)
        goal = f"every view {args['eps1']:.3f} {sign}{tolerance:g} from its anchor"
        if args.get("lam") and args.get("eps2") and args.get("stop") != "loss":
            goal += (
                f", and as far apart from each other as eps2 {args['eps2']:.3f} asks and geometry "
                "allows (in the mean over the views of a sample, not each of them)"
            )
        return goal, SEARCH
    if args.get("shift_stop") is not None:
        return f"an anchor within {args['shift_stop']:.3f} of its source image's features", LEARN
    if args.get("mse_stop") is not None:
        return f"an anchor with a pixel error of at most {args['mse_stop']:g}", LEARN
    return "", ""
