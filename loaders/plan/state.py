"""The state of a loader as JSON, valid for any number of ranks, threads and workers."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.records import canonical
from viewstore.loaders.plan.numbers import PLACES, whole_number
from viewstore.sources.table import SourceTable

VERSION = 1
STORE_DIGITS = 32
DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class State:
    """The next step the consumer will see, and what decides the batches from there on.

    Attributes:
        store: Digest of the rows of the store, or of several: what else it holds is not in it.
        order: Version and name of the order.
        seed: Seed of order and draws.
        epoch, step: The next step; step == steps per epoch is never stored.
        G: Samples per step over all ranks.
        tail: What becomes of a short last step.
        rows: Digest of the row filter and of rates, or None.
        views: Digest of what the views are made of; another one only warns.
        v: Version of this form.
    """

    store: str
    order: str
    seed: int
    epoch: int
    step: int
    G: int
    tail: str
    rows: str | None
    views: str
    v: int = VERSION

    def at(self, epoch: int, step: int, *, steps: int) -> State:
        """Return this state at another step; after the last of `steps` the next epoch begins."""
        if step >= steps:
            epoch, step = epoch + 1, 0
        return replace(self, epoch=epoch, step=step)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, ready for json.dumps: less than 200 bytes."""
        return dict(vars(self))  # asdict would copy each value

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> State:
        """Return the state that `to_json` gave. Raises ConfigError: it is not a loader's state."""
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"loader state must be what state_dict() or batch.state gave, got {values!r}"
            )
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            odd = sorted(set(values) ^ names)
            raise ConfigError(f"loader state must have the keys {sorted(names)}; differing: {odd}")
        if values["v"] != VERSION:
            raise ConfigError(f"loader state must have version {VERSION}, got {values['v']!r}")
        try:
            numbers = {name: whole_number(name, values[name], least=0) for name in _NUMBERS}
        except ConfigError as error:
            raise ConfigError(
                f"seed, epoch, step and G of a loader state must be integers >= 0: {error}"
            ) from error
        if max(numbers.values()) >= PLACES:
            raise ConfigError("seed, epoch, step and G of a loader state must be below 2^53")
        return cls(**{**values, **numbers})

    def check_resumes(self, saved: State) -> None:
        """Raise ConfigError unless a loader in this state may go on from `saved`.

        The seed is taken from the saved state. Views that are made otherwise only warn: the
        samples of each step stay the same.
        """
        for name, what in _REFUSED.items():
            ours, theirs = getattr(self, name), getattr(saved, name)
            if ours != theirs:
                raise ConfigError(
                    f"loader state has another {what}: it was saved with {name} {theirs!r}, "
                    f"this loader has {ours!r}",
                    fix="resume with the settings and the store of the saved run",
                )
        if saved.views != self.views:
            warnings.warn(
                "loader state was saved with other views or another resize filter; the order of "
                "the samples goes on, their views differ",
                stacklevel=3,
            )


_NUMBERS = ("seed", "epoch", "step", "G")
_REFUSED = {
    "store": "store",
    "order": "order",
    "G": "batch_size",
    "tail": "tail",
    "rows": "row filter or rates",
}


def rows_id(table: SourceTable, shard_rows: int) -> str:
    """Return the digest of the rows of a store: bytes and labels of the images, and the shards.

    Not of where the images lie, nor of the view sets: building another one changes no state.
    """
    found = hashlib.sha256(canonical(shard_rows))
    for column, dtype in ((table.crc32, "<u4"), (table.size, "<u4"), (table.label, "<i4")):
        found.update(np.asarray(column, dtype).tobytes())
    return found.hexdigest()


def stores_digest(ids: Sequence[str]) -> str:
    """Return the digest of stores in states: 32 digits of the id, or of a hash of several ids."""
    if len(ids) == 1:
        return ids[0][:STORE_DIGITS]
    return hashlib.sha256(canonical(list(ids))).hexdigest()[:STORE_DIGITS]


def rows_digest(
    selected: Sequence[NDArray[np.int64] | None], rates: Sequence[float] | None = None
) -> str | None:
    """Return the digest of row filters in states: 16 digits of the sha256 of the row numbers.

    None if there is one store and no filter. For several stores it covers their rates too.
    """
    digests = [None if rows is None else _digest(rows.astype("<u8").tobytes()) for rows in selected]
    if rates is None:
        (digest,) = digests
        return digest
    return _digest(canonical([digests, list(rates)]))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]
