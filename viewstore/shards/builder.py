"""Building one shard: render its rows in order, and commit the files they make."""

from __future__ import annotations

import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from viewstore.errors import ConfigError, FormatError, StoppedError, ViewStoreError
from viewstore.files import disk
from viewstore.format.columns import Status
from viewstore.format.manifest import Commit
from viewstore.format.paths import ViewSetPaths
from viewstore.format.plan import Plan
from viewstore.format.tar import TarWriter
from viewstore.images.codec import Codec, codec_from_plan
from viewstore.shards.commit import publish
from viewstore.shards.unit import Outcome, OutcomeStatus, Rendered, Rows, Sample, Unit, Watch
from viewstore.shards.writer import ShardWriter, blob_of, check_views
from viewstore.store.committed import read_commit


class RendersViews(Protocol):
    """What a generator looks like from here (the whole contract: generators/base.py)."""

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in any order."""


@dataclass(kw_only=True)
class ShardBuilder:
    """Builds shards of one plan; one per worker, its generator's networks stay loaded.

    Attributes:
        on_error: "fail" ends a shard at an unreadable source image; "skip" keeps the row with
            status 4 and black views.
    """

    paths: ViewSetPaths
    plan: Plan
    rows: Rows
    generator: RendersViews
    on_error: Literal["fail", "skip"] = "fail"
    watch: Watch | None = None
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.codec = codec_from_plan(self.plan.codec)

    def run(self, unit: Unit) -> Outcome:
        """Build and commit a shard, unless that is done; never raises an Exception."""
        attempt = uuid.uuid4().hex
        started = time.monotonic()
        try:
            existing = read_commit(self.paths, unit.shard)
            if existing is not None:
                check_same_plan(existing, self.plan)
                return _outcome(unit, attempt, "already", started)
            return self._build(unit, attempt, started)
        except StoppedError as error:
            return _outcome(unit, attempt, "stopped", started, error=error)
        except ViewStoreError as error:
            return _outcome(unit, attempt, "failed", started, error=error)
        except OSError as error:
            refused = disk.explain(error, self.paths.root)
            status: OutcomeStatus = "stopped" if isinstance(refused, StoppedError) else "failed"
            again = status == "failed"
            return _outcome(unit, attempt, status, started, error=refused, again=again)
        except Exception as error:  # an engine must hear of it as a value, whatever it is
            bug = bug_of(error)
            return _outcome(unit, attempt, "failed", started, error=bug, again=True)
        finally:
            for path in self.paths.tmp.glob(f"{attempt}.*"):
                disk.unlink(path)

    def _build(self, unit: Unit, attempt: str, started: float) -> Outcome:
        shard = ShardWriter(self.plan, self.codec, self.rows, unit)
        views = self.paths.tmp / f"{attempt}.views"
        with disk.stream_temporary(views) as stream:
            tar = TarWriter(stream)
            for rendered in self._in_order(unit):
                shard.add(tar, rendered)
            members = tar.finish()
        check_views(views, self.plan, self.codec, unit, members)
        blobs = [blob_of(unit.shard, "views", views, tar.bytes, tar.sha256.hexdigest())]
        columns, others = shard.write_columns(self.paths.tmp, attempt, members)
        blobs += others
        commit = Commit(
            view_set=unit.view_set,
            shard=unit.shard,
            plan_id=self.plan.id,
            attempt=attempt,
            rows=unit.num_samples,
            files=tuple(blob.record for blob in blobs),
            columns=columns,
            seconds=round(time.monotonic() - started, 3),
            host=socket.gethostname(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        status = publish(self.paths, blobs, commit)
        size = sum(blob.record.bytes for blob in blobs)
        failures = int((shard.columns["status"] >= 3).any(axis=1).sum())
        return _outcome(unit, attempt, status, started, num_bytes=size, failures=failures)

    def _in_order(self, unit: Unit) -> Iterator[Rendered]:
        """Yield every row of the unit, ascending, whatever order the generator finishes in."""
        waiting: dict[int, Rendered] = {}
        unreadable: set[int] = set()
        following = unit.first
        samples = self._samples(unit, unreadable)
        for rendered in self.generator.render(samples):
            waiting[rendered.index] = rendered
            if self.watch is not None:
                self.watch.rendered()
            while following in waiting or following in unreadable:
                yield waiting.pop(following) if following in waiting else self._black(following)
                following += 1
        for row in range(following, unit.first + unit.num_samples):
            if row not in waiting and row not in unreadable:
                raise ViewStoreError(f"generator gave no views for row {row}")
            yield waiting.pop(row) if row in waiting else self._black(row)

    def _samples(self, unit: Unit, unreadable: set[int]) -> Iterator[Sample]:
        for row in range(unit.first, unit.first + unit.num_samples):
            if self.watch is not None:
                self.watch.check()
            try:
                image = self.rows.image(row)
            except FormatError:
                if self.on_error == "fail":
                    raise
                unreadable.add(row)
            else:
                yield Sample(row, image)

    def _black(self, row: int) -> Rendered:
        plan = self.plan
        params = {column.name: column.empty(1)[0] for column in plan.columns}
        params["status"] = np.full(plan.views, Status.UNREADABLE, np.uint8)
        shape = (plan.views, plan.height, plan.width, plan.channels)
        return Rendered(row, np.zeros(shape, np.uint8), params)


def check_same_plan(commit: Commit, plan: Plan) -> None:
    """Raise ConfigError if a shard was committed under another plan."""
    if commit.plan_id != plan.id:
        raise ConfigError(
            f"shard {commit.shard} of {plan.view_set} was committed under another plan",
            code="VS103",
            fix="build into another --view-set",
        )


def bug_of(error: Exception) -> ViewStoreError:
    """Return the error for people of an exception that nobody expected, and where it arose."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in last]
    return ViewStoreError(f"{type(error).__name__}: {error}", where=", ".join(place) or None)


def error_facts(error: ViewStoreError) -> dict[str, str | None]:
    """Return what is needed to raise the same kind of error in another process."""
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "code": error.code,
        "where": error.where,
        "why": error.why,
        "fix": error.fix,
    }


def _outcome(
    unit: Unit,
    attempt: str,
    status: OutcomeStatus,
    started: float,
    *,
    num_bytes: int = 0,
    failures: int = 0,
    error: ViewStoreError | None = None,
    again: bool = False,
) -> Outcome:
    return Outcome(
        shard=unit.shard,
        attempt=attempt,
        status=status,
        seconds=time.monotonic() - started,
        num_bytes=num_bytes,
        failures=failures,
        error=None if error is None else error_facts(error),
        again=again,
    )


BuilderFactory = Callable[[Watch], ShardBuilder]
