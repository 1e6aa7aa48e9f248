"""The builder of shards: renders the rows of a unit in order, and commits the files they make."""

from __future__ import annotations

import io
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, StoppedError, ViewStoreError, quoted
from viewstore.files import disk
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.columns import Status
from viewstore.format.manifest import Commit, ShardEntry
from viewstore.format.paths import ViewSetPaths
from viewstore.format.plan import Plan
from viewstore.format.tar import MEMBER_DTYPE, TarWriter
from viewstore.images.codec import Codec, codec_from_plan
from viewstore.shards.commit import Blob, publish
from viewstore.shards.place import Place
from viewstore.shards.unit import Outcome, OutcomeStatus, Rendered, Rows, Sample, Unit
from viewstore.shards.writer import ShardWriter, blob_of, check_views
from viewstore.store.committed import read_commit
from viewstore.store.lineage import lineage_now
from viewstore.store.sample_views import StoredViews
from viewstore.store.view_set import ViewSet

# Codes of errors that no image is left out for: of a source that is gone, of a damaged parent.
NEVER_SKIPPED = ("VS207", "VS203")

HUNG_SECONDS = 10.0  # from the deadline of a stop until a unit that does not answer is ended


class Watch(Protocol):
    """What a running builder tells its executor, and hears from it."""

    def rendered(self) -> None:
        """Count one sample."""

    def check(self) -> None:
        """Raise StoppedError if the unit at hand must not go on."""


class Unwatched:
    """A Watch for builders that nobody waits for."""

    def rendered(self) -> None:
        """Count nothing."""

    def check(self) -> None:
        """Let it go on."""


class RendersViews(Protocol):
    """What a generator looks like from here (the whole contract: generators/contract.py)."""

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in any order."""


@dataclass(kw_only=True)
class ShardBuilder:
    """Builds shards of one plan; one per worker, its generator's networks stay loaded.

    Attributes:
        watch: Told of each rendered sample, and asked before each one whether to go on.
        on_error: "fail" ends a shard at an unreadable source image; "skip" keeps the row with
            status 4 and black views.
        inputs: The finished view sets that samples are made from, by role.
        reads_source: Whether the generator looks at source images; if not, none is opened.
        warnings: What the user should know of this worker; every outcome carries it.
        upstream: Where its shards are published.
    """

    paths: ViewSetPaths
    plan: Plan
    rows: Rows
    generator: RendersViews
    on_error: Literal["fail", "skip"] = "fail"
    inputs: Mapping[str, ViewSet] = field(default_factory=dict)
    reads_source: bool = True
    watch: Watch = field(default_factory=Unwatched)
    warnings: tuple[str, ...] = ()
    upstream: Upstream = FOLDER
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.codec = codec_from_plan(self.plan.codec)

    def run(self, unit: Unit) -> Outcome:
        """Build and commit a shard, unless it is committed; errors are in the outcome."""
        return replace(self._run(unit), warnings=self.warnings)

    def _run(self, unit: Unit) -> Outcome:
        attempt = uuid.uuid4().hex
        started = time.monotonic()
        try:
            self.upstream.fetch(self.paths.commit(unit.shard))
            existing = read_commit(self.paths, unit.shard, self.plan)
            if existing is None:
                return self._build(unit, attempt, started)
            if not self._lacks(existing):
                return _outcome(unit, attempt, "already", started)
            again = self._build(unit, attempt, started)
            if self._lacks(existing):
                raise _other_bytes(existing, self.paths)
            return again
        except (ConfigError, StoppedError) as error:  # other units would end so too
            return _outcome(unit, attempt, "stopped", started, error=error)
        except ViewStoreError as error:
            return _outcome(unit, attempt, "failed", started, error=error)
        except OSError as error:
            refused = disk.explain(error, self.paths.root)
            status: OutcomeStatus = "stopped" if isinstance(refused, StoppedError) else "failed"
            retryable = status == "failed"
            return _outcome(unit, attempt, status, started, error=refused, retryable=retryable)
        except Exception as error:  # an executor gets a value, whatever happens
            bug = bug_of(error)
            return _outcome(unit, attempt, "failed", started, error=bug, retryable=True)
        finally:
            for path in self.paths.tmp.glob(f"{attempt}.*"):
                disk.unlink(path)

    def _lacks(self, commit: Commit) -> bool:
        return self.upstream.lacks(self.paths.root, commit.entry.files)

    def _build(self, unit: Unit, attempt: str, started: float) -> Outcome:
        lineage = lineage_now(self.plan, unit.shard, self.inputs)
        shard = ShardWriter(self.plan, self.codec, self.rows, unit)
        blobs, members = self._write_views(unit, attempt, shard)
        columns, others = shard.write_columns(self.paths.tmp, attempt, members)
        blobs += others
        commit = Commit(
            view_set=unit.view_set,
            plan_id=self.plan.id,
            entry=ShardEntry(
                shard=unit.shard,
                rows=unit.num_samples,
                files=tuple(blob.record for blob in blobs),
                columns=columns,
                lineage=lineage,
            ),
            attempt=attempt,
            seconds=round(time.monotonic() - started, 3),
            host=socket.gethostname(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        status = publish(self.paths, blobs, commit, self.upstream)
        if status == "lost_race":
            read_commit(self.paths, unit.shard, self.plan)  # which must be one of this plan
        size = sum(blob.record.bytes for blob in blobs)
        failed = np.flatnonzero((shard.columns["status"] >= Status.FAILED).any(axis=1))
        rows = tuple((unit.first + failed).tolist())
        return _outcome(unit, attempt, status, started, num_bytes=size, failed_rows=rows)

    def _write_views(
        self, unit: Unit, attempt: str, shard: ShardWriter
    ) -> tuple[list[Blob], NDArray[Any]]:
        """Render the rows of a unit; return the tar of their pixels, if any, and its members."""
        if self.plan.kind != "pixels":
            tar = TarWriter(io.BytesIO())  # stays empty
            for rendered in self._in_order(unit):
                shard.add(tar, rendered)
            return [], np.empty(0, MEMBER_DTYPE)
        views = self.paths.tmp / f"{attempt}.views"
        with disk.stream_temporary(views) as stream:
            tar = TarWriter(stream)
            for rendered in self._in_order(unit):
                shard.add(tar, rendered)
            members = tar.finish()
        check_views(views, self.plan, self.codec, unit, members)
        return [blob_of(unit.shard, "views", views, tar.bytes, tar.sha256.hexdigest())], members

    def _in_order(self, unit: Unit) -> Iterator[Rendered]:
        """Yield every row of the unit, ascending, whatever order the generator finishes in."""
        waiting: dict[int, Rendered] = {}
        unreadable: set[int] = set()
        following = unit.first
        samples = self._samples(unit, unreadable)
        for rendered in self.generator.render(samples):
            waiting[rendered.index] = rendered
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
            self.watch.check()
            try:
                yield self._sample(row)
            except FormatError as error:
                if error.code in NEVER_SKIPPED:
                    raise
                if self.on_error == "fail":
                    raise unreadable_image(error) from error
                unreadable.add(row)

    def _sample(self, row: int) -> Sample:
        """Return a sample, its source image decoded now if the generator looks at it.

        Raises:
            FormatError: That image cannot be read, or could not when its parent was made.
        """
        inputs = {role: StoredViews(each, row) for role, each in self.inputs.items()}
        parent = inputs.pop("parent", None)
        sample = Sample(
            index=row,
            size=self.rows.size(row),
            read=partial(self.rows.image, row),
            parent=parent,
            inputs=inputs,
            label=self.rows.label(row),
        )
        for each in (parent, *inputs.values()):
            if each is not None and each.view_set.kind == "recipe":
                each.pixels()  # rendered here, for the same reason
        if self.reads_source:
            sample.image  # noqa: B018  # decoded here, where an unreadable one can be left out
        elif self.plan.kind != "columns" and parent is not None:
            lost = (parent.status == Status.UNREADABLE).all()
            if lost:
                raise FormatError(
                    f"row {row} has no views in {parent.view_set.name}, where it could not be read",
                    code="VS205",
                    fix="mend the image, then: viewstore verify "
                    f"{quoted(self.paths.root.parents[1])} "
                    "--repair --failed",
                )
        return sample

    def _black(self, row: int) -> Rendered:
        plan = self.plan
        params = {column.name: column.empty(1)[0] for column in plan.columns}
        params["status"] = np.full(plan.views, Status.UNREADABLE, np.uint8)
        shape = (plan.views, plan.height, plan.width, plan.channels)
        return Rendered(row, np.zeros(shape, np.uint8), params)


def _other_bytes(commit: Commit, paths: ViewSetPaths) -> FormatError:
    """Return the error of a commit whose lost files no builder of this machine makes again."""
    return FormatError(
        f"files of shard {commit.entry.shard} are gone, and this machine makes other ones",
        code="VS203",
        where=str(paths.commit(commit.entry.shard)),
        why=f"host {commit.host} made them, and the bytes of its devices or libraries differ",
        fix="remove that record of the shard from the bucket, and run the same command again",
    )


def unreadable_image(error: FormatError) -> FormatError:
    """Return the error of an image that a build cannot read, with what a build can do about it."""
    fix = f"{error.fix}; or keep such samples as failed ones with --on-error skip"
    return FormatError(str(error), code=error.code, where=error.where, why=error.why, fix=fix)


def bug_of(error: Exception) -> ViewStoreError:
    """Return an unexpected exception as a ViewStoreError that names the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    lines = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in last]
    return ViewStoreError(f"{type(error).__name__}: {error}", where=", ".join(lines) or None)


def _outcome(
    unit: Unit,
    attempt: str,
    status: OutcomeStatus,
    started: float,
    *,
    num_bytes: int = 0,
    failed_rows: tuple[int, ...] = (),
    error: ViewStoreError | None = None,
    retryable: bool = False,
) -> Outcome:
    return Outcome(
        shard=unit.shard,
        attempt=attempt,
        status=status,
        seconds=time.monotonic() - started,
        num_bytes=num_bytes,
        failed_rows=failed_rows,
        # Without its traceback, whose frames would keep the arrays of the shard alive.
        error=None if error is None else error.with_traceback(None),
        retryable=retryable,
    )


# Makes the builder of one worker, in that worker; picklable; raises ViewStoreError.
BuilderFactory = Callable[[Watch, Place], ShardBuilder]


def made_builder(make: BuilderFactory, watch: Watch, place: Place) -> ShardBuilder | ViewStoreError:
    """Return the builder of a worker, or why it has none: the host stands in its `where`.

    A worker that cannot begin is not a lost one, and another host may be without its fault.
    """
    try:
        return make(watch, place)
    except ViewStoreError as error:
        return _on_this_host(error)
    except OSError as error:
        return _on_this_host(disk.explain(error))
    except Exception as error:
        return _on_this_host(bug_of(error))


def _on_this_host(error: ViewStoreError) -> ViewStoreError:
    host = socket.gethostname()
    where = f"host {host}" if error.where is None else f"host {host}: {error.where}"
    return type(error)(str(error), code=error.code, where=where, why=error.why, fix=error.fix)


def no_builder(unit: Unit, error: ViewStoreError) -> Outcome:
    """Return the outcome of a unit whose worker has no builder, and why."""
    return Outcome(shard=unit.shard, attempt="", status="failed", seconds=0.0, error=error)


def hung(unit: Unit) -> Outcome:
    """Return the outcome of a unit that did not answer a stop, and was ended with its worker."""
    error = StoppedError(
        f"shard {unit.shard} was stopped: it did not answer within {HUNG_SECONDS:.0f} s",
        why="its generator hangs, or one step of it takes longer; the worker was ended with it",
        fix="run the same command again",
    )
    return Outcome(shard=unit.shard, attempt="", status="stopped", seconds=0.0, error=error)
