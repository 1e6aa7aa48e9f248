"""Slots that depend on the step: which of them each step shows, and what is left out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from viewstore.errors import ConfigError
from viewstore.loaders.plan.cut import Cut

# The numbers of the slots that a step over all epochs shows; None: all of them.
Wants = Callable[[int], Sequence[int] | None]
NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class WantedSlots:
    """Which slots the steps of a loader show.

    Attributes:
        wants: Says it of each step, counted over all epochs; None: every step shows all.
        slots: How many slots there are.
        cut: The cut of an epoch into steps.
        below: Slots on whose pixels others are rendered, by those.
    """

    wants: Wants | None
    slots: int
    cut: Cut
    below: Mapping[int, int] = field(default_factory=dict)

    def absent(self, epoch: int, step: int) -> frozenset[int]:
        """Return the slots that a step does not show.

        Raises:
            ConfigError: What is wanted are no slots, or there are none.
        """
        if self.wants is None:
            return NONE
        number = epoch * self.cut.steps + step
        wanted = self.wants(number)
        if wanted is None:
            return NONE
        found = set(wanted)
        if not found or not found <= set(range(self.slots)):
            raise ConfigError(
                f"wants must give some of the slots 0 to {self.slots - 1}, or None for all; "
                f"got {wanted!r} for step {number}",
                fix="count slots from 0 in the order of the views, n of each",
            )
        return frozenset(range(self.slots)) - found

    def skipped(self, absent: frozenset[int]) -> frozenset[int]:
        """Return which of `absent` are not made either: no slot that is shown lies on them."""
        if not absent:
            return NONE
        made = set(range(self.slots)) - absent
        for slot in range(self.slots - 1, -1, -1):  # what lies below a slot comes before it
            if slot in made and slot in self.below:
                made.add(self.below[slot])
        return absent - made
