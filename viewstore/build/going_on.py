"""The command that goes on with a view set that has a plan, and which view sets need it still."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from viewstore.build.roles import NAMED, weights_of
from viewstore.errors import counted
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.store.committed import committed_shards, read_plan, view_sets


def command_words(plan: Plan, place: str, files: Mapping[str, str]) -> list[str]:
    """Return the words that build what a plan has left, in the store at `place`.

    `files`: What its networks are named by, by role; packaged ones are not named.
    """
    words = ["viewstore", "build", "--generator", plan.generator["name"], "--out", place]
    words += ["--view-set", plan.view_set]
    for role, name in files.items():
        words += [f"--{role}", name]
    return words


@dataclass(frozen=True, kw_only=True)
class Unbuilt:
    """A view set that misses shards of its plan.

    Attributes:
        missing, shards: Shards that are not there, and in all.
        command: What builds them; a file of weights is named as the plan knows it.
    """

    missing: int
    shards: int
    command: str

    @property
    def words(self) -> str:
        """How much is missing, as the end of a sentence about the view set."""
        are = "is" if self.missing == 1 else "are"
        return f"{self.missing} of {counted(self.shards, 'shard')} {are} missing"


def unbuilt(root: Path, place: str) -> dict[str, Unbuilt]:
    """Return the view sets in a folder that miss shards, by name.

    `place` is what users call the store: the folder, or the URL whose working copy it is.
    """
    paths = StorePaths(root)
    found = {}
    for name in view_sets(paths):
        plan = read_plan(paths.view_set(name))
        committed = set(committed_shards(paths.view_set(name)))
        missing = plan.shards - len(committed & set(range(plan.shards)))
        if missing:
            words = command_words(plan, place, _unpackaged(plan))
            found[name] = Unbuilt(missing=missing, shards=plan.shards, command=shlex.join(words))
    return found


def _unpackaged(plan: Plan) -> dict[str, str]:
    """Return the names of the files of a plan that the package does not ship, by role."""
    return {
        each.role: each.name
        for each in plan.weights
        if each.role in NAMED
        and each.sha256 not in {ours.sha256 for ours in weights_of((each.role,), {})}
    }
