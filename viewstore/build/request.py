"""What a user wants built, which shards that is, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viewstore.build.compose import OnError
from viewstore.build.roles import WeightFiles
from viewstore.build.slices import Slice, shards_of
from viewstore.errors import ConfigError
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.manifest import Manifest
from viewstore.format.plan import Plan, checked_seed
from viewstore.shards.engine import Executor
from viewstore.shards.local import run_local
from viewstore.shards.unit import Outcome


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What a user wants built.

    Attributes:
        generator: Name in the table of generators.
        out: Folder of the store, or the URL of a bucket.
        settings: Settings of the generator that the user gave; the others are automatic.
        source: Source images; None means those of the store, or the digits for a new one.
        view_set: Name of the view set; None means the generator's.
        limit: Take the first rows of the source only.
        seed: Of every draw; None means that of the view set, 0 for a new one.
        codec: Name in the table of codecs; None means that of the view set; for a new one raw up
            to 64 px and for views of networks, else jpg.
        proof: Of a set stored as params: whether each view is rendered once, and the CRC-32 of
            its pixels kept; None means as the view set was begun, yes for a new one.
        after: The newest round of the view set, if a new one is the next of it: what is not given
            is as there, but for what was taken from its networks.
        inputs: Names of the view sets that it is made from by role, where they are others than
            the settings name: rounds of those.
        shard_rows: Rows per shard of a new store; None chooses.
        files: Files of networks by role; those of other roles are packaged.
        executor: Where the shards are built: the `run` of a row of `shards.executors`.
        workers: That the executor uses; 0 lets it choose.
        device: Torch devices of the networks: one, several with commas between them, or "auto".
        slice_of: (i, n): build slice i of n (`build.slices`), and do not finalise.
        only: Build these shards only.
        on_error: "fail" stops at the first shard that fails and at an image that cannot be read;
            "skip" builds on: what cannot be read at first is no sample, what fails later is kept
            with status 4 and black pixels.
        grace_seconds: How long running shards may go on after a stop signal.
        single_writer: Of a bucket that cannot keep writers apart: nothing else writes there.
        upstream: Where the files of `out` are published; `placed` sets it for a bucket.
    """

    generator: str
    out: Path | str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    view_set: str | None = None
    limit: int | None = None
    seed: int | None = None
    codec: str | None = None
    proof: bool | None = None
    after: Plan | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    shard_rows: int | None = None
    files: WeightFiles = field(default_factory=dict)
    executor: Executor = run_local
    workers: int = 0
    device: str = "cpu"
    slice_of: Slice | None = None
    only: tuple[int, ...] | None = None
    on_error: OnError = "fail"
    grace_seconds: float = 25.0
    single_writer: bool = False
    upstream: Upstream = FOLDER

    def __post_init__(self) -> None:
        if self.seed is not None:
            object.__setattr__(self, "seed", checked_seed(self.seed))
        if not 0 <= self.grace_seconds < math.inf:
            raise ConfigError(f"grace must be 0 seconds or more, got {self.grace_seconds}")
        if "proof" in self.settings:  # no setting of a generator, though it is set like one
            others = {key: each for key, each in self.settings.items() if key != "proof"}
            object.__setattr__(self, "proof", _boolean("proof", self.settings["proof"]))
            object.__setattr__(self, "settings", others)
        if self.workers < 0:  # a pool of none would wait for ever
            raise ConfigError(f"workers must be at least 0, got {self.workers}")

    @property
    def root(self) -> Path:
        """The folder in which this machine builds, of a request that is `placed`."""
        return Path(self.out)

    @property
    def name(self) -> str:
        """Name of the view set."""
        return self.generator if self.view_set is None else self.view_set


@dataclass(frozen=True, kw_only=True)
class Built:
    """The result of a build.

    Attributes:
        outcomes: Of the shards that this run built.
        manifest: The newest one, or None if shards are still missing or this was a slice.
        left: Number of shards that are not committed yet.
        skipped: Key and reason of each source image that was left out.
        before: The builds of the view sets that the generator reads and that were missing.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    manifest: Manifest | None
    seconds: float
    left: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    before: tuple[Built, ...] = ()

    @property
    def samples(self) -> int:
        """Samples that this run rendered and committed."""
        committed = [o for o in self.outcomes if o.status == "committed"]
        return sum(len(self.plan.shard_range(outcome.shard)) for outcome in committed)

    @property
    def failed_rows(self) -> list[int]:
        """Rows of the samples that this run built and that have no views of their own."""
        return sorted(row for outcome in self.outcomes for row in outcome.failed_rows)

    @property
    def failures(self) -> int:
        return len(self.failed_rows)


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}")
    return value


def check_shards(only: Sequence[int], shards: int) -> None:
    """Raise ConfigError unless all of `only` are numbers of shards."""
    bad = [str(shard) for shard in only if not 0 <= shard < shards]
    if bad:
        more = ", ..." if len(bad) > 3 else ""
        raise ConfigError(f"--only must name shards below {shards}, got {', '.join(bad[:3])}{more}")


def wanted_shards(request: BuildRequest, plan: Plan) -> list[int]:
    """Return the shards that a request asks for."""
    if request.only is not None:
        if request.slice_of is not None:
            raise ConfigError("give --shard or --only, not both: each says which shards are built")
        check_shards(request.only, plan.shards)
        return sorted(set(request.only))
    return list(shards_of(request.slice_of or (0, 1), plan.shards))
