"""Checks that a shard agrees with itself: tar, pack, columns, views; for verify and writers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError, ViewStoreError
from viewstore.format.chunks import unpack_chunk, unpack_params
from viewstore.format.columns import MADE, Status
from viewstore.format.manifest import BlobRecord, ShardEntry
from viewstore.format.plan import Plan
from viewstore.format.tar import member_names, pack_npy_header, parse
from viewstore.images.codec import Codec
from viewstore.images.colours import Pixels
from viewstore.store.column_content import meaning_faults, pixel_crcs

FaultFacts = tuple[str, str]  # kind and description
# Columns of views that are there: what a status says, and steps that a file of weights does not.
MAY_BE_MISSING = ("status", "model_step")


def content_faults(
    plan: Plan,
    codec: Codec,
    shard: ShardEntry,
    read: Callable[[BlobRecord], memoryview],
    *,
    decode: bool,
    render: Callable[[int], Pixels] | None = None,
) -> Iterator[FaultFacts]:
    """Yield kind and description of each fault within a shard.

    Args:
        plan: The plan of its view set.
        codec: That of the plan.
        shard: Its entry in commit or index.
        read: Returns the bytes of a file, whose sha256 was compared.
        decode: Decode every view too, and look whether columns mean what they say.
        render: Of a recipe set: returns the views of a row, to be compared with their proof.
    """
    try:
        rows = plan.shard_range(shard.shard)
        packed = [column.name for column in plan.columns if column.pack]
        recorded, chunks = unpack_params(read(shard.file("params")), packed)
        if plan.kind == "pixels":
            data = read(shard.file("views"))
            yield from _member_faults(plan, codec, rows, recorded, data, decode=decode)
        elif len(recorded):
            yield "member", "its pack lists members, of which it has none"
        values = {}
        for column in plan.columns:
            raw = chunks.get(column.name)
            if raw is None:
                raw = read(shard.file(f"column:{column.name}"))
            elif hashlib.sha256(raw).hexdigest() != shard.columns[column.name][2]:
                yield "params", f"column {column.name} differs from its sha256"
            values[column.name] = unpack_chunk(column, raw, plan.shard_rows)[: len(rows)]
        yield from _unwritten(plan, values)
        if decode:
            yield from meaning_faults(plan, values)
            if render is not None and "pixel_crc" in values:
                yield from _proof_faults(rows, values["pixel_crc"], render)
    except FormatError as error:
        yield "member", str(error)


def chunk_facts(shard: ShardEntry, column: str) -> tuple[int, str]:
    """Return size and sha256 of the chunk of a column, the same in pack and zarr array."""
    if column in shard.columns:
        _, size, sha256 = shard.columns[column]
        return size, sha256
    blob = shard.file(f"column:{column}")
    return blob.bytes, blob.sha256


def _member_faults(
    plan: Plan,
    codec: Codec,
    rows: range,
    recorded: NDArray[np.void],
    data: memoryview,
    *,
    decode: bool,
) -> Iterator[FaultFacts]:
    """Compare the members of a shard with those `recorded` in its pack; `decode` them too."""
    members = parse(data, member_names(plan, rows))
    if not np.array_equal(members, recorded):
        yield "member", "members differ from pack"
    if decode:
        for row_members in members.reshape(len(rows), len(plan.members)):
            for member, extension in zip(row_members, plan.members, strict=True):
                begin = int(member["offset"])
                payload = data[begin : begin + int(member["size"])].tobytes()
                check_member(plan, codec, extension, payload)


def _unwritten(plan: Plan, values: Mapping[str, np.ndarray]) -> Iterator[FaultFacts]:
    """A row with status 1 or 2 has every column; fill there means it was lost."""
    status = values["status"]
    if (status == Status.NEVER_WRITTEN).any():
        yield "params", "rows were never written"
    good = np.isin(status, MADE).all(axis=1)
    for column in plan.columns:
        if column.name.startswith("x_") or column.name in MAY_BE_MISSING:
            continue
        array = values[column.name]
        if column.views:
            array = array[:, list(column.views)]
        made = array[good]
        missing = column.missing(made).all(axis=tuple(range(1, made.ndim)))
        if made.size and missing.any():
            yield "params", f"column {column.name} has rows that were never written"


def _proof_faults(
    rows: range, crcs: NDArray[np.uint32], render: Callable[[int], Pixels]
) -> Iterator[FaultFacts]:
    """Render the views of each row, and compare them with the CRCs that were taken of them."""
    for row, expected in zip(rows, crcs, strict=True):
        try:
            found = pixel_crcs(render(row), expected != np.iinfo(np.uint32).max)
        except ViewStoreError as error:
            yield "unproven", str(error)
            return
        for view in np.flatnonzero(found != expected).tolist():
            yield (
                "proof",
                f"view {view} of row {row} renders to other pixels than when it was built",
            )


def check_member(plan: Plan, codec: Codec, extension: str, payload: bytes) -> None:
    """Decode one member. Raises FormatError: it is not what the plan says."""
    if extension == "views.npy":
        shape = (plan.views, plan.height, plan.width, plan.channels)
        header = pack_npy_header(repr("|u1"), shape)
        if payload[: len(header)] != header:
            raise FormatError(f"views.npy must hold uint8 {shape}")
    elif extension != "json":
        pixels = codec.decode(payload)
        if pixels.shape != (plan.height, plan.width, plan.channels):
            raise FormatError(f"{extension} decodes to {pixels.shape}, another size than planned")
