"""What examples print, as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

STEP = re.compile(r"^epoch (\d+) step (\d+) (?:loss|nce) (\S+)", re.MULTILINE)
Step = tuple[int, int, float]


def steps_of(printed: str) -> list[Step]:
    """Return (epoch, step, loss) of each line."""
    return [(int(epoch), int(step), float(loss)) for epoch, step, loss in STEP.findall(printed)]


def check_learns(steps: Sequence[Step], *, by: float) -> None:
    """Assert four whole epochs of finite losses, whose mean falls from first to last `by` nats."""
    assert [step[:2] for step in steps] == [(e, s) for e in range(4) for s in range(8)]
    losses = [loss for *_, loss in steps]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-8:]) / 8 < sum(losses[:8]) / 8 - by
