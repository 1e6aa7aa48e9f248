"""The plan of a view set, plan.json: everything that decides the bytes of its shards."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from viewstore.errors import ConfigError, FormatError
from viewstore.format.columns import Column
from viewstore.format.records import check_form, seal, unseal

KIND = "viewstore-plan"
VIEW_SET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MAX_VIEWS = 100
MAX_SIDE = 16_384
SEEDS = 1 << 53
MAX_SHARD_ROWS = 8192
MAX_SHARDS = 10**6


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file of weights that made the views; the content decides them, `name` is for messages."""

    role: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be built. Two plans with the same `id` give the same shards.

    Attributes:
        view_set: Name of the view set.
        sources_id: Digest of sources.json.
        rows, shard_rows: Samples of the store; rows of each shard but the last.
        views: Views per sample, V.
        roles: Role of each view.
        height, width, channels: Of the stored views, in pixels; channels is 3.
        codec: {"name", "args", "encoder"}.
        members: Extensions of the members of each sample, in byte order.
        json_bytes: Size of each json member, a multiple of 512.
        parent: {"view_set", "plan_id"} of the view set it starts from, or None.
        generator: {"name", "version", "args"}.
        weights: Files of weights by role.
        resample: {"filter", "antialias", "library"}.
        seed: Seed of every draw.
        round: 1, or higher for a view set built against a newer checkpoint.
        columns: Params columns by name.
        ops: Names of the numbers in the column "ops".
        libraries: Versions of the libraries that decide bytes.
        made_as: The name under which it was begun, if it was renamed since: it salts the draws,
            and stands in the json of every sample.
    """

    view_set: str
    sources_id: str
    rows: int
    shard_rows: int
    views: int
    roles: tuple[str, ...]
    height: int
    width: int
    channels: int
    codec: Mapping[str, Any]
    members: tuple[str, ...]
    json_bytes: int
    parent: Mapping[str, str] | None
    generator: Mapping[str, Any]
    weights: tuple[Weights, ...]
    resample: Mapping[str, Any]
    seed: int
    round: int
    columns: tuple[Column, ...]
    ops: tuple[str, ...]
    libraries: Mapping[str, str]
    made_as: str | None = None

    def __post_init__(self) -> None:
        check_view_set_name(self.view_set)
        if self.made_as is not None:
            check_view_set_name(self.made_as)
        if not 1 <= self.views <= MAX_VIEWS:
            raise ConfigError(f"views must be in [1, {MAX_VIEWS}], got {self.views}")
        check_rows(self.rows, self.shard_rows)
        if not all(1 <= side <= MAX_SIDE for side in (self.height, self.width)):
            raise ConfigError(
                f"views must be 1 to {MAX_SIDE} px a side, got {self.height}x{self.width}"
            )
        if self.channels != 3:
            raise ConfigError(f"views must have 3 channels, got {self.channels}")
        if len(self.roles) != self.views:
            raise FormatError(f"plan has {self.views} views but {len(self.roles)} roles")
        names = [column.name for column in self.columns]
        if names != sorted(set(names)):
            raise FormatError(f"plan columns must be sorted and distinct, got {names}")

    @property
    def first_name(self) -> str:
        """The name under which it was begun."""
        return self.made_as or self.view_set

    def renamed(self, name: str) -> Plan:
        """Return the plan of the same views under another name."""
        first = self.first_name
        return replace(self, view_set=name, made_as=None if first == name else first)

    @property
    def shards(self) -> int:
        """Number of shards, K."""
        return math.ceil(self.rows / self.shard_rows)

    def shard_range(self, shard: int) -> range:
        """Return the rows of `shard`."""
        first = shard * self.shard_rows
        return range(first, min(self.rows, first + self.shard_rows))

    def column(self, name: str) -> Column:
        """Return the column `name`. Raises KeyError."""
        return next(column for column in self.columns if column.name == name)

    def per_view(self, name: str) -> bool:
        """Whether column `name` has an entry for each view, or one for the sample."""
        return self.column(name).per_view(self.views)

    @cached_property
    def id(self) -> str:
        """Digest of plan.json."""
        return str(unseal(self.pack(), kind=KIND, form=FORM)["digest"])

    def to_json(self) -> dict[str, Any]:
        """Return the fields of plan.json."""
        fields = asdict(self)
        made_as = fields.pop("made_as")
        return fields if made_as is None else {**fields, "x_made_as": made_as}

    def pack(self) -> bytes:
        """Return the bytes of plan.json."""
        return seal(KIND, self.to_json())

    @classmethod
    def unpack(cls, raw: bytes) -> Plan:
        """Return the plan in plan.json. Raises FormatError."""
        record = unseal(raw, kind=KIND, form=FORM)
        values = {name: record[name] for name in FORM}
        if "x_made_as" in record:
            check_form(record["x_made_as"], str, f"{KIND}.x_made_as")
            values["made_as"] = record["x_made_as"]
        for column in values["columns"]:
            if column["views"] is not None:
                check_form(column["views"], [int], f"{KIND}.columns.views")
        values["columns"] = tuple(
            Column(
                **{
                    **column,
                    "shape": tuple(column["shape"]),
                    "views": None if column["views"] is None else tuple(column["views"]),
                }
            )
            for column in values["columns"]
        )
        values["weights"] = tuple(Weights(**weights) for weights in values["weights"])
        for name in ("roles", "members", "ops"):
            values[name] = tuple(values[name])
        if values["parent"] is not None:
            check_form(values["parent"], {"view_set": str, "plan_id": str}, f"{KIND}.parent")
        try:
            return cls(**values)
        except ConfigError as error:  # no user gave these settings
            raise FormatError(str(error)) from error


FORM: Mapping[str, Any] = {
    "view_set": str,
    "sources_id": str,
    "rows": int,
    "shard_rows": int,
    "views": int,
    "roles": [str],
    "height": int,
    "width": int,
    "channels": int,
    "codec": {"name": str, "args": dict, "encoder": str | None},
    "members": [str],
    "json_bytes": int,
    "parent": dict | None,
    "generator": {"name": str, "version": int, "args": dict},
    "weights": [{"role": str, "name": str, "bytes": int, "sha256": str}],
    "resample": dict,
    "seed": int,
    "round": int,
    "columns": [
        {"name": str, "dtype": str, "shape": [int], "pack": bool, "views": list | None},
    ],
    "ops": [str],
    "libraries": {...: str},
}


def checked_seed(seed: object) -> int:
    """Return a seed as an int. Raises ConfigError unless it is a whole number in [0, 2^53)."""
    try:
        number = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"seed must be a whole number, got {seed!r}") from None
    if not 0 <= number < SEEDS:
        raise ConfigError(f"seed must be in [0, 2^53), got {number}")
    return number


def check_rows(rows: int, shard_rows: int) -> None:
    """Raise ConfigError unless a store can have so many rows in shards of so many."""
    if rows < 1:
        raise ConfigError(f"a store must have a row, got {rows}")
    if not 1 <= shard_rows <= MAX_SHARD_ROWS:
        raise ConfigError(f"shard_rows must be in [1, {MAX_SHARD_ROWS}], got {shard_rows}")
    if rows > MAX_SHARDS * shard_rows:  # their numbers have six digits
        raise ConfigError(f"a store has at most {MAX_SHARDS} shards, not {rows} / {shard_rows}")


def check_view_set_name(name: str) -> None:
    """Raise ConfigError if `name` cannot name a view set."""
    if not VIEW_SET_NAME.fullmatch(name) or name == "source":
        raise ConfigError(
            f"view set name must match {VIEW_SET_NAME.pattern} and not be 'source', got {name!r}"
        )
