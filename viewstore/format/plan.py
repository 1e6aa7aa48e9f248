"""The plan of a view set, plan.json: everything that decides the bytes of its shards."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from viewstore.errors import ConfigError, FormatError
from viewstore.format.columns import Column
from viewstore.format.records import (
    MAX_INTEGER,
    SHA256,
    check_between,
    check_form,
    check_match,
    seal,
    unseal,
)

KIND = "viewstore-plan"
VIEW_SET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
ROUND = re.compile(r"(.+)-r(\d{1,9})")  # names of rounds: BASE-r2, BASE-r3, ...
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # of generators, codecs, recipes and roles
FILE_NAME = re.compile(r"[^/\x00-\x1f\x7f]{1,1000}")  # or "module:function"
MEMBER = re.compile(r"[a-z0-9_]{1,31}(\.[a-z0-9_]{1,31})?")
MAX_JSON_BYTES = 16 << 20
MAX_VERSION = 10**6
MAX_VIEWS = 100
MAX_SIDE = 16_384
SEEDS = 1 << 53
MAX_SHARD_ROWS = 8192
MAX_SHARDS = 10**6
MAX_DEPTH = 4  # of view sets that are made one from the other
SOURCE = "source"  # as the parent of a columns set: the images themselves
STATUS = ("status", "u1", "view")
Kind = Literal["pixels", "recipe", "columns"]
KINDS: tuple[Kind, ...] = ("pixels", "recipe", "columns")


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
        kind: "pixels": its views are stored. "recipe": its views are rendered when they are read,
            by recorded params. "columns": it says something about the views of its parent.
        views: Views per sample, V; of a columns set, those of its parent, 1 for the images.
        roles: Role of each view.
        height, width, channels: Of the views, in pixels; channels is 3. Of a columns set 0.
        codec: {"name", "args", "encoder"}; None unless pixels are stored.
        members: Extensions of the members of each sample, in byte order.
        json_bytes: Size of each json member, a multiple of 512.
        recipe: {"name", "version", "args", "filter", "libraries"} of what renders the views of a
            recipe set; else None.
        parent: {"view_set", "plan_id"} of the view set that it starts from or describes, or None.
            A columns set that describes the images has "source" and the sources_id.
        inputs: The same of the other view sets that it was made from, by role.
        reach: "sample": shard k was made from shard k of parent and inputs; "set": from any of
            their shards.
        generator: {"name", "version", "args"}.
        weights: Files of weights by role.
        resample: {"filter", "antialias", "library"}.
        seed: Seed of every draw.
        round: 1, or n for the same against newer weights, whose name is that of round 1 and "-rN".
        columns: Params columns by name.
        libraries: Versions of the libraries that decide bytes.
        made_as: The name under which it was begun, without its round, if it was renamed since: it
            salts the draws, and stands in the json of every sample.
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
    codec: Mapping[str, Any] | None
    members: tuple[str, ...]
    json_bytes: int
    parent: Mapping[str, str] | None
    generator: Mapping[str, Any]
    weights: tuple[Weights, ...]
    resample: Mapping[str, Any]
    seed: int
    round: int
    columns: tuple[Column, ...]
    libraries: Mapping[str, str]
    kind: Kind = "pixels"
    recipe: Mapping[str, Any] | None = None
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    reach: Literal["sample", "set"] = "sample"
    made_as: str | None = None
    _stored_id: str | None = field(init=False, default=None, compare=False)

    def __post_init__(self) -> None:
        check_view_set_name(self.view_set)
        if self.made_as is not None:
            check_view_set_name(self.made_as)
        if self.round < 1 or self.view_set != round_name(self.base, self.round):
            raise FormatError(f"round {self.round} of a view set cannot be named {self.view_set!r}")
        if not 1 <= self.views <= MAX_VIEWS:
            raise ConfigError(f"views must be in [1, {MAX_VIEWS}], got {self.views}")
        check_rows(self.rows, self.shard_rows)
        self._check_kind()
        if len(self.roles) != self.views:
            raise FormatError(f"plan has {self.views} views but {len(self.roles)} roles")
        names = [column.name for column in self.columns]
        if names != sorted(set(names)):
            raise FormatError(f"plan columns must be sorted and distinct, got {names}")
        for column in self.columns:
            column.check_views(self.views)
        if not any((each.name, each.dtype, each.per) == STATUS for each in self.columns):
            raise FormatError("plan must have the column status: u1, an entry for each view")
        self._check_values()

    def _check_values(self) -> None:
        """Check numbers and names that enter paths, draws and headers."""
        check_match(self.sources_id, SHA256, "plan sources_id")
        check_between(self.seed, 0, SEEDS - 1, "plan seed")
        check_between(self.json_bytes, 0, MAX_JSON_BYTES, "plan json_bytes")
        if self.json_bytes % 512:
            raise FormatError(f"plan json_bytes must be a multiple of 512, got {self.json_bytes}")
        for member in self.members:
            check_match(member, MEMBER, "plan members")
        for role in (*self.roles, *self.inputs):
            check_match(role, NAME, "plan roles")
        for what, made in (("generator", self.generator), ("recipe", self.recipe)):
            if made is not None:
                check_match(made["name"], NAME, f"plan {what}.name")
                check_between(made["version"], 0, MAX_VERSION, f"plan {what}.version")
        if self.codec is not None:
            check_match(self.codec["name"], NAME, "plan codec.name")
        for weights in self.weights:
            check_match(weights.role, NAME, "plan weights role")
            check_match(weights.name, FILE_NAME, f"plan weights name of {weights.role}")
            check_match(weights.sha256, SHA256, f"plan weights sha256 of {weights.role}")
            check_between(weights.bytes, 0, MAX_INTEGER, f"plan weights bytes of {weights.role}")
        for role, link in (("parent", self.parent), *self.inputs.items()):
            if link is not None:
                check_match(link["view_set"], VIEW_SET_NAME, f"plan {role} view_set")
                check_match(link["plan_id"], SHA256, f"plan {role} plan_id")

    def _check_kind(self) -> None:
        """Check what goes with one kind of view set only."""
        if self.kind not in KINDS:
            raise FormatError(f"plan must be of a kind of {KINDS}, got {self.kind!r}")
        if self.reach not in ("sample", "set"):
            raise FormatError(f"plan must reach a sample or a set, got {self.reach!r}")
        size = (self.height, self.width, self.channels)
        if self.kind == "columns":
            if any(size) or self.parent is None:
                raise FormatError("plan of columns must have a parent, and no size")
        elif not all(1 <= side <= MAX_SIDE for side in size[:2]):
            raise ConfigError(
                f"views must be 1 to {MAX_SIDE} px a side, got {self.height}x{self.width}"
            )
        elif self.channels != 3:
            raise ConfigError(f"views must have 3 channels, got {self.channels}")
        if (self.kind == "recipe") != (self.recipe is not None):
            raise FormatError("plan must have a recipe just where its kind is recipe")
        stored = (self.codec is not None, bool(self.members), self.json_bytes > 0)
        if set(stored) != {self.kind == "pixels"}:
            raise FormatError("plan must have codec, members and json just where it has pixels")
        if self.kind != "columns" and any(column.per == "choice" for column in self.columns):
            raise FormatError("plan of views must not have a column of choices")
        if self.parent is not None and self.parent["view_set"] == SOURCE and self.kind != "columns":
            raise FormatError(f"plan of views must not name {SOURCE} as its parent")

    @property
    def form(self) -> str:
        """How its views are stored, as --codec says it: a codec or "params"; else "columns"."""
        if self.codec is not None:
            return str(self.codec["name"])
        return "columns" if self.kind == "columns" else "params"

    @property
    def links(self) -> dict[str, Mapping[str, str]]:
        """The view sets that it was made from: role -> {"view_set", "plan_id"}, by role."""
        parent = self.parent
        own = {} if parent is None or parent["view_set"] == SOURCE else {"parent": parent}
        return dict(sorted({**self.inputs, **own}.items()))

    @property
    def base(self) -> str:
        """The name of round 1."""
        found = None if self.round == 1 else ROUND.fullmatch(self.view_set)
        return self.view_set if found is None else found[1]

    @property
    def first_name(self) -> str:
        """The name under which it was begun, of round 1 whatever its own round is."""
        return self.made_as or self.base

    def renamed(self, base: str) -> Plan:
        """Return the plan of the same views, of the same round of a set of another name."""
        first = self.first_name
        made_as = None if first == base else first
        return replace(self, view_set=round_name(base, self.round), made_as=made_as)

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
        return self.column(name).per == "view"

    @cached_property
    def id(self) -> str:
        """Digest of plan.json, as it was stored."""
        if self._stored_id is not None:
            return self._stored_id
        return str(unseal(self.pack(), kind=KIND, form=FORM)["digest"])

    def to_json(self) -> dict[str, Any]:
        """Return the fields of plan.json, where "kind" is that of the record."""
        fields = asdict(self)
        del fields["_stored_id"]
        fields["set_kind"] = fields.pop("kind")
        made_as = fields.pop("made_as")
        return fields if made_as is None else {**fields, "x_made_as": made_as}

    def pack(self) -> bytes:
        """Return the bytes of plan.json."""
        return seal(KIND, self.to_json())

    @classmethod
    def unpack(cls, raw: bytes) -> Plan:
        """Return the plan in plan.json. Raises FormatError."""
        record = unseal(raw, kind=KIND, form=FORM, defaults=DEFAULTS, dropped=("ops",))
        values = {name: record[name] for name in FORM}
        values["kind"] = values.pop("set_kind")
        if "x_made_as" in record:
            check_form(record["x_made_as"], str, f"{KIND}.x_made_as")
            values["made_as"] = record["x_made_as"]
        if values["codec"] is not None:
            check_form(values["codec"], CODEC_FORM, f"{KIND}.codec")
        if values["recipe"] is not None:
            check_form(values["recipe"], RECIPE_FORM, f"{KIND}.recipe")
        if values["parent"] is not None:
            check_form(values["parent"], LINK_FORM, f"{KIND}.parent")
        values["columns"] = tuple(_column(each, values["views"]) for each in values["columns"])
        values["weights"] = tuple(Weights(**weights) for weights in values["weights"])
        for name in ("roles", "members"):
            values[name] = tuple(values[name])
        try:
            plan = cls(**values)
        except ConfigError as error:  # no user gave these settings
            raise FormatError(str(error)) from error
        object.__setattr__(plan, "_stored_id", record["digest"])
        return plan


def _column(value: dict[str, Any], views: int) -> Column:
    """Return the column of a plan; plans of before said by its shape what it is per."""
    check_form(value, COLUMN_FORM if "per" in value else COLUMN_FORM_BEFORE, f"{KIND}.columns")
    shape, about = tuple(value["shape"]), value["views"]
    if about is not None:
        check_form(about, [int], f"{KIND}.columns.views")
        about = tuple(about)
    per = value.get("per")
    if per is None:
        of_sample = about == () or value["name"] in PER_SAMPLE
        per = "view" if shape[:1] == (views,) and not of_sample else "sample"
        about = about if per == "view" else None
    return Column(**{**value, "shape": shape, "views": about, "per": per})


CODEC_FORM: Mapping[str, Any] = {"name": str, "args": dict, "encoder": str | None}
RECIPE_FORM: Mapping[str, Any] = {
    "name": str,
    "version": int,
    "args": dict,
    "filter": str,
    "libraries": {...: str},
}
LINK_FORM = {"view_set": str, "plan_id": str}
COLUMN_FORM_BEFORE: Mapping[str, Any] = {
    "name": str,
    "dtype": str,
    "shape": [int],
    "pack": bool,
    "views": list | None,
}
COLUMN_FORM: Mapping[str, Any] = {**COLUMN_FORM_BEFORE, "per": str}
PER_SAMPLE = frozenset({"latent0"})  # columns of samples whose plans of before do not say so
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
    "set_kind": str,
    "codec": dict | None,
    "members": [str],
    "json_bytes": int,
    "recipe": dict | None,
    "parent": dict | None,
    "inputs": {...: LINK_FORM},
    "reach": str,
    "generator": {"name": str, "version": int, "args": dict},
    "weights": [{"role": str, "name": str, "bytes": int, "sha256": str}],
    "resample": dict,
    "seed": int,
    "round": int,
    "columns": [dict],
    "libraries": {...: str},
}
DEFAULTS: Mapping[str, Any] = {
    "set_kind": "pixels",
    "recipe": None,
    "inputs": {},
    "reach": "sample",
}


def round_name(base: str, round: int) -> str:
    """Return the name of a round of the view set `base`, whose round 1 has that name itself."""
    return base if round == 1 else f"{base}-r{round}"


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


def check_no_round(name: str, refresh: str) -> None:
    """Raise ConfigError if `name` is one that rounds have; `refresh` is what makes them."""
    match = ROUND.fullmatch(name)
    if match is not None:
        raise ConfigError(
            f"view set {name!r} would be named as a round of {match[1]!r} is",
            why="a name that ends in -r and a number is that of the same views by newer networks",
            fix=f"give a name with another end; {refresh} makes the rounds of a view set",
        )


def check_view_set_name(name: str) -> None:
    """Raise ConfigError if `name` cannot name a view set."""
    if not VIEW_SET_NAME.fullmatch(name) or name == "source":
        raise ConfigError(
            f"view set name must match {VIEW_SET_NAME.pattern} and not be 'source', got {name!r}"
        )
