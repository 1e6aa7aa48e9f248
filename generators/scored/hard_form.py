"""The form of a hard set: what is chosen of how many views, and the columns that hold it."""

from __future__ import annotations

from dataclasses import dataclass

from viewstore.format.columns import Column
from viewstore.generators.scored.described import Described


@dataclass(frozen=True, kw_only=True)
class HardForm(Described):
    """What settings of hard sets come to; the attributes are those of `Hard`."""

    groups: int
    choose: int
    choices: tuple[str, ...]
    bank: int
    keep_losses: bool
    locals: str
    train_locals: int
    globals: str
    slots: int
    device_class: str
    threads: int
    targets: int
    overlaps: bool
    contrasts: bool

    @property
    def candidates(self) -> int:
        """Views of a group, C."""
        return self.views // self.groups

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        kept = ("pair_loss", "pair_iou") if self.overlaps else ("pair_loss",)
        of_views = [
            Column(name=name, dtype="f4", shape=(self.views, self.targets))
            for name in (kept if self.keep_losses else ())
        ]
        of_groups = [
            Column(name=name, dtype="u1", shape=(self.groups, self.choose), per="choice")
            for name in self.choices
        ]
        others = [
            Column(name="margin", dtype="f4", shape=(self.groups,), per="sample"),
            Column(name="model_step", dtype="i8", shape=(), per="sample"),
            Column(name="status", dtype="u1", shape=(self.views,)),
        ]
        return tuple(sorted([*of_views, *of_groups, *others], key=lambda column: column.name))
