"""A small training that chooses views: what a chooser would log of each step, by the step alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from viewstore.train.loop.selection_log import SelectionLog
from viewstore.train.overlap import all_pairs

VIEWS, BATCH, EPOCH_STEPS = 3, 4, 3
PAIRS = all_pairs(VIEWS)
SOURCE = "ab" * 32


def step_of(step: int, *, rows: int = 1000) -> dict[str, Any]:
    """Return the arguments of `SelectionLog.add` for a step; samples lie below `rows`."""
    generator = torch.Generator().manual_seed(step)
    losses = torch.randn(len(PAIRS), BATCH, generator=generator)
    start = torch.randint(0, 20, (VIEWS, BATCH, 2), generator=generator).float()
    size = torch.randint(4, 30, (VIEWS, BATCH, 2), generator=generator).float()
    boxes = torch.cat([start, size], dim=2)
    order = torch.randint(0, 256, (VIEWS, BATCH, 4), generator=generator, dtype=torch.uint8)
    solarize = torch.randint(0, 257, (VIEWS, BATCH), generator=generator, dtype=torch.int32)
    columns = {"crop_box": boxes, "jitter_order": order, "solarize": solarize, "distance": boxes}
    return {
        "epoch": step // EPOCH_STEPS,
        "step": step,
        "sample": torch.randperm(rows, generator=generator)[:BATCH],
        "pairs": PAIRS,
        "losses": losses,
        "chosen": losses.argmax(0),
        "params": [{name: value[view] for name, value in columns.items()} for view in range(VIEWS)],
    }


def log_steps(
    folder: Path,
    *,
    after: int,
    until: int,
    rows: int = 1000,
    source: str = SOURCE,
    checkpoints: tuple[int, ...] = (),
) -> None:
    """Go on after `after` steps up to `until`; without a checkpoint the last steps are lost."""
    log = SelectionLog(folder, source=source, step=after)
    for step in range(after, until):
        log.add(**step_of(step, rows=rows))
        if step + 1 in checkpoints:
            log.flush()
