"""What is wrong with a store: the faults that verifying yields and repairing takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One deviation from what was written.

    Attributes:
        shard: The shard to rebuild; None for a file that finalise makes again.
        fix: What to do; None where `verify --repair` mends it, in a copy of a store at a URL.
        kind: "missing", "size", "hash", "tar", "member", "params", "commit", "plan", "derived",
            "listing" (that of an import, which a repair reads), "record", "located" (the record of
            where a moved source lies), "source" (the plan names other rows than the store has),
            "orphan", "parent", "stale" (a shard was made from
            other bytes of a view set than are there now), "proof" (a recipe renders to other
            pixels than it did), "unproven" (it cannot be rendered here), "unpublished"
            (committed, but no manifest names it), or "gone" (the manifest names it, its folder has
            no plan).
    """

    view_set: str
    shard: int | None
    kind: str
    path: str
    what: str
    fix: str | None = None

    def __str__(self) -> str:
        where = self.view_set if self.shard is None else f"{self.view_set} shard {self.shard}"
        return f"{where}: {self.kind}: {self.what} ({self.path})"


def fault_of(
    view_set: str, shard: int | None, kind: str, path: Path, what: str, fix: str | None = None
) -> Fault:
    """Return a fault of a file."""
    return Fault(view_set=view_set, shard=shard, kind=kind, path=str(path), what=what, fix=fix)
