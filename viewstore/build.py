"""Building one shard: render its rows, write its files, read them back, commit it."""

from __future__ import annotations

import math
import mmap
import random
import shutil
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore import disk
from viewstore.commit import Blob, publish, read_commit
from viewstore.errors import (
    ConfigError,
    FormatError,
    StoppedError,
    UnavailableError,
    ViewStoreError,
)
from viewstore.image import Codec
from viewstore.layout import ViewSetPaths
from viewstore.manifest import BlobRecord, Commit, blob_name
from viewstore.params import pack_chunk, pack_params, unpack_params
from viewstore.plan import Plan
from viewstore.records import canonical
from viewstore.tar import (
    BLOCK,
    MEMBER_BYTES,
    NPY_BYTES,
    SHARD_BYTES,
    TarWriter,
    member_name,
    pack_npy_header,
    padded,
    parse,
    strided_layout,
)

SOURCE_UNREADABLE = 4  # value of the column "status"
Status = Literal["committed", "already", "lost_race", "failed", "stopped"]


@dataclass(frozen=True)
class Sample:
    """One source image: its row, and its pixels as uint8 [H, W, 3]."""

    index: int
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Rendered:
    """The views of one sample.

    Attributes:
        index: The sample's row.
        pixels: uint8 [V, H, W, C].
        params: One row of each column of the plan, in its dtype.
    """

    index: int
    pixels: NDArray[np.uint8]
    params: Mapping[str, NDArray[Any]]


class RendersViews(Protocol):
    """What a generator looks like from here (the whole contract: generators/base.py)."""

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in any order."""


class Rows(Protocol):
    """The samples of a store."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the source image of a row, uint8 [H, W, 3]. Raises FormatError."""

    def key(self, row: int) -> str:
        """Return the key of a row."""

    def label(self, row: int) -> int:
        """Return the label of a row, -1 if it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows [first, first + num_samples) of one view set, which are one shard."""

    view_set: str
    shard: int
    first: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt came to; built-in types only, because it crosses processes.

    Attributes:
        failures: Rows that were kept with status 3 or 4.
        error: Keyword facts of a ViewStoreError, if the status is "failed" or "stopped".
        again: Whether another attempt may help.
    """

    shard: int
    attempt: str
    status: Status
    seconds: float
    num_bytes: int = 0
    failures: int = 0
    error: dict[str, str | None] | None = None
    again: bool = False


class Watch(Protocol):
    """What a running builder tells its engine, and hears from it."""

    def rendered(self) -> None:
        """Count one sample."""

    def check(self) -> None:
        """Raise StoppedError if the unit must not go on."""


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
        self.codec = Codec.from_plan(self.plan.codec)

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
            status: Status = "stopped" if isinstance(refused, StoppedError) else "failed"
            again = status == "failed"
            return _outcome(unit, attempt, status, started, error=refused, again=again)
        except Exception as error:  # an engine must hear of it as a value, whatever it is
            bug = bug_of(error)
            return _outcome(unit, attempt, "failed", started, error=bug, again=True)
        finally:
            for path in self.paths.tmp.glob(f"{attempt}.*"):
                disk.unlink(path)

    def _build(self, unit: Unit, attempt: str, started: float) -> Outcome:
        shard = _ShardWriter(self.plan, self.codec, self.rows, unit)
        views = self.paths.tmp / f"{attempt}.views"
        with disk.stream_temporary(views) as stream:
            tar = TarWriter(stream)
            for rendered in self._in_order(unit):
                shard.add(tar, rendered)
            members = tar.finish()
        check_views(views, self.plan, self.codec, unit, members)
        blobs = [_blob(unit.shard, "views", views, tar.bytes, tar.sha256.hexdigest())]
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
        params["status"] = np.full(plan.views, SOURCE_UNREADABLE, np.uint8)
        shape = (plan.views, plan.height, plan.width, plan.channels)
        return Rendered(row, np.zeros(shape, np.uint8), params)


class _ShardWriter:
    """Collects the params of a shard while its rows go into the tar."""

    def __init__(self, plan: Plan, codec: Codec, rows: Rows, unit: Unit) -> None:
        self.plan, self.codec, self.rows, self.unit = plan, codec, rows, unit
        self.columns = {column.name: column.empty(unit.num_samples) for column in plan.columns}
        shape = (plan.views, plan.height, plan.width, plan.channels)
        self.shape = shape
        self.npy_header = pack_npy_header(repr("|u1"), shape)

    def add(self, tar: TarWriter, rendered: Rendered) -> None:
        """Append the members of a row and keep its params."""
        if rendered.pixels.shape != self.shape or rendered.pixels.dtype != np.uint8:
            raise ViewStoreError(
                f"views of row {rendered.index} must be uint8 {self.shape}, "
                f"got {rendered.pixels.dtype} {rendered.pixels.shape}"
            )
        for extension in self.plan.members:
            tar.add(member_name(rendered.index, extension), self._payload(extension, rendered))
        for name, column in self.columns.items():
            column[rendered.index - self.unit.first] = rendered.params[name]

    def _payload(self, extension: str, rendered: Rendered) -> bytes:
        if extension == "json":
            text = sample_json(self.plan.view_set, rendered.index, self.rows)
            return text.ljust(self.plan.json_bytes - 1) + b"\n"
        if extension == "views.npy":
            return self.npy_header + np.ascontiguousarray(rendered.pixels).tobytes()
        view = int(extension.removeprefix("v").partition(".")[0])
        return self.codec.encode(rendered.pixels[view])

    def write_columns(
        self, tmp: Path, attempt: str, members: NDArray[Any]
    ) -> tuple[dict[str, tuple[int, int, str]], list[Blob]]:
        """Write the params pack and the columns that have a file of their own."""
        chunks = {
            column.name: pack_chunk(column, self.columns[column.name], self.plan.shard_rows)
            for column in self.plan.columns
        }
        packed = {c.name: chunks[c.name] for c in self.plan.columns if c.pack}
        pack = pack_params(members, packed)
        unpack_params(pack.data, list(packed))
        payloads = {"params": pack.data} | {
            f"column:{c.name}": chunks[c.name] for c in self.plan.columns if not c.pack
        }
        blobs = []
        for number, (role, data) in enumerate(payloads.items()):
            path = tmp / f"{attempt}.{number}"
            disk.write_temporary(path, data, mode=0o444)
            blobs.append(_blob(self.unit.shard, role, path, len(data), disk.sha256_of(path)))
        return pack.columns, blobs


def sample_json(view_set: str, row: int, rows: Rows) -> bytes:
    """Return the canonical json of a row, without its padding."""
    return canonical(
        {"index": row, "key": rows.key(row), "label": rows.label(row), "view_set": view_set}
    )


def json_bytes(view_set: str, num_rows: int, rows: Rows) -> int:
    """Return the size that every json member of a view set has."""
    longest = max((len(sample_json(view_set, row, rows)) for row in range(num_rows)), default=0)
    return padded(longest + 1)


def check_views(path: Path, plan: Plan, codec: Codec, unit: Unit, members: NDArray[Any]) -> None:
    """Read a written shard back: strict tar, every CRC, and three rows decoded.

    Raises:
        FormatError: The file does not hold what was meant to be written.
    """
    names = member_names(plan, range(unit.first, unit.first + unit.num_samples))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = parse(memoryview(data).toreadonly(), names)
        if not np.array_equal(found, members):
            raise FormatError("shard does not read back as it was written", where=str(path))
        grid = found.reshape(unit.num_samples, len(plan.members))
        last = unit.num_samples - 1
        for row in {0, last, random.Random(unit.shard).randint(0, last)}:
            for place, extension in zip(grid[row], plan.members, strict=True):
                begin = int(place["offset"])
                check_member(plan, codec, extension, data[begin : begin + int(place["size"])])


def check_member(plan: Plan, codec: Codec, extension: str, payload: bytes) -> None:
    """Decode one member. Raises FormatError: it is not what the plan says."""
    if extension == "views.npy":
        shape = (plan.views, plan.height, plan.width, plan.channels)
        header = pack_npy_header(repr("|u1"), shape)
        if payload[: len(header)] != header:
            raise FormatError(f"views.npy must hold uint8 {shape}")
    elif extension not in ("json", "cls"):
        pixels = codec.decode(payload)
        if pixels.shape != (plan.height, plan.width, plan.channels):
            raise FormatError(f"{extension} decodes to {pixels.shape}, another size than planned")


def member_names(plan: Plan, rows: Iterable[int]) -> list[str]:
    """Return the member names of `rows` in file order."""
    return [member_name(row, extension) for row in rows for extension in plan.members]


def check_same_plan(commit: Commit, plan: Plan) -> None:
    """Raise ConfigError if a shard was committed under another plan."""
    if commit.plan_id != plan.id:
        raise ConfigError(
            f"shard {commit.shard} of {plan.view_set} was committed under another plan",
            code="VS103",
            fix="build into another --view-set",
        )


def members_of(codec: Codec, views: int) -> tuple[str, ...]:
    """Return the extensions of each sample's members, in byte order."""
    if codec.name == "raw":
        return ("json", "views.npy")
    digits = 2 if views > 10 else 1
    return ("json", *(f"v{view:0{digits}d}.{codec.suffix}" for view in range(views)))


def units(plan: Plan, shards: Sequence[int]) -> list[Unit]:
    """Return the units of work for `shards` of a plan."""
    ranges = {shard: plan.shard_range(shard) for shard in shards}
    return [
        Unit(view_set=plan.view_set, shard=shard, first=rows.start, num_samples=len(rows))
        for shard, rows in ranges.items()
    ]


def shard_bytes(plan: Plan) -> int:
    """Return an upper bound of a shard's size on disk: raw pixels and uncompressed params."""
    pixels = plan.views * plan.height * plan.width * plan.channels
    overhead = (len(plan.members) * 2 + 1) * BLOCK + plan.json_bytes
    params = sum(column.row_bytes for column in plan.columns)
    return len(plan.shard_range(0)) * (pixels + overhead) + plan.shard_rows * params


def check_room(path: Path, plan: Plan) -> None:
    """Raise UnavailableError unless the disk has room for two more shards."""
    needed = 2 * shard_bytes(plan)
    free = shutil.disk_usage(path).free
    if free < needed:
        raise UnavailableError(
            f"the disk has {free >> 20} MiB free, two shards need {needed >> 20} MiB",
            code="VS302",
            where=str(path),
            why="every committed shard is kept",
            fix="free some space and run the same command again",
        )


def check_size(plan: Plan) -> None:
    """Raise ConfigError if raw views would be larger than a member or a shard may be."""
    shape = (plan.views, plan.height, plan.width, plan.channels)
    layout = strided_layout(plan.members, plan.json_bytes, shape)
    if layout is None:
        return  # how large a jpg or png is shows only once it is made
    sample, shard = NPY_BYTES + math.prod(shape), len(plan.shard_range(0)) * layout.stride
    if sample > MEMBER_BYTES:
        raise ConfigError(
            f"raw views of a sample must be at most {MEMBER_BYTES >> 20} MiB, got {sample >> 20}",
            where=plan.view_set,
            fix="give --codec jpg or png, or fewer or smaller views",
        )
    if shard > SHARD_BYTES:
        raise ConfigError(
            f"a shard must be at most {SHARD_BYTES >> 20} MiB, {plan.shard_rows} rows of raw "
            f"views are {shard >> 20}",
            where=plan.view_set,
            why="all view sets of a store have the same --shard-rows",
            fix="give --codec jpg, or build into another --out with smaller --shard-rows",
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


def _blob(shard: int, role: str, temporary: Path, size: int, sha256: str) -> Blob:
    name = blob_name(shard, sha256, role)
    return Blob(
        record=BlobRecord(role=role, name=name, bytes=size, sha256=sha256), temporary=temporary
    )


def _outcome(
    unit: Unit,
    attempt: str,
    status: Status,
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
