"""What HVP chose in a run, by its selection log: how often the pair that overlaps least, by epochs.

Source of the claim: Pretraining with Hard Views, section 5: more than 40 % of the selected pairs
are those of least IoU, where chance is 1 of 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trials.record import Line, Record, verdict
from trials.world import THREADS
from viewstore.errors import ConfigError
from viewstore.inspect.intervals import wilson
from viewstore.train.loop.selection_log import selection_files
from viewstore.train.overlap import is_least
from viewstore.train.selection_file import Selections, load_selections


def epoch_of(rows: Selections) -> dict[str, Any]:
    """Return what the choices of one epoch come to. Raises ConfigError: they log no boxes."""
    if rows.iou is None:
        raise ConfigError("the views of this run record no crop boxes, so that none overlaps")
    chosen = rows.iou.gather(1, rows.chosen[:, None])[:, 0]
    first = is_least(rows.iou, rows.chosen)
    ties = is_least(rows.iou, rows.chosen, ties=True)
    return {
        "epoch": rows.epoch,
        "steps": int(rows.step.max()) + 1,
        "n": len(rows),
        "pairs": len(rows.pairs),
        "share": _share(first),
        "wilson": wilson(int(first.sum()), len(rows)),
        "share_with_ties": _share(ties),
        "iou": _mean(chosen),
        "iou_first_pair": _mean(rows.iou[:, 0]),
        "difference": _mean(chosen - rows.iou[:, 0]),
    }


def _share(found: Tensor) -> float:
    return float(found.double().mean())


def _mean(values: Tensor) -> dict[str, float]:
    """Return the mean, its standard error, and the standard deviation."""
    values = values.double()
    sd = float(values.std()) if len(values) > 1 else math.nan
    return {"mean": float(values.mean()), "se": sd / math.sqrt(len(values)), "sd": sd}


def epochs_of(run: Path) -> list[dict[str, Any]]:
    """Return the epochs of a run's selection log. Raises ConfigError: it has none."""
    files = selection_files(run)
    if not files:
        raise ConfigError(
            "this run has no log of choices",
            where=str(run),
            fix="train it with --strategy hvp, whose log_every is above 0",
        )
    return [epoch_of(load_selections(path)) for path in files]


def printed(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of epochs for a terminal."""
    lines = ["epoch      n   least IoU (95 %)         with ties   IoU (SE)        pair 0,1"]
    for each in epochs:
        low, high = each["wilson"]
        lines.append(
            f"{each['epoch']:5d} {each['n']:6d}   {each['share']:.3f} ({low:.3f}-{high:.3f})"
            f"      {each['share_with_ties']:.3f}       {each['iou']['mean']:.3f} "
            f"({each['iou']['se']:.4f})  {each['iou_first_pair']['mean']:.3f}"
        )
    return "\n".join(lines)


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Print the epochs of each run, and say what its last one is like."""
    torch.set_num_threads(THREADS)
    found = {run.name: epochs_of(run) for run in options["runs"]}
    record.facts |= {"runs": found}
    for name, epochs in found.items():
        print(f"{name}\n{printed(epochs)}")
        record.lines += _lines(name, epochs)


def _lines(name: str, epochs: Sequence[Mapping[str, Any]]) -> list[Line]:
    first, last = epochs[0], epochs[-1]
    low, high = last["wilson"]
    chance = 1 / last["pairs"]
    apart = last["difference"]
    slack = 1.96 * apart["se"]
    return [
        Line(
            experiment=f"HVP-1: the selected pair overlaps least, run {name}, "
            f"epoch {last['epoch'] + 1}",
            claim=f"> 40 % (ImageNet); above chance, {chance:.1%}, here",
            ours=f"{last['share']:.1%} ({first['share']:.1%} in epoch {first['epoch'] + 1})",
            n=f"{last['n']:,} choices",
            interval=f"{low:.1%}-{high:.1%}, Wilson",
            steps=last["steps"],
            verdict=verdict((low, high), chance),
        ),
        Line(
            experiment=f"HVP-1: IoU of the selected pair less that of pair (0,1), run {name}, "
            f"epoch {last['epoch'] + 1}",
            claim="below 0",
            ours=f"{apart['mean']:+.3f} ({last['iou']['mean']:.3f} against "
            f"{last['iou_first_pair']['mean']:.3f})",
            n=f"{last['n']:,} choices",
            interval=f"{apart['se']:.4f}, SE",
            steps=last["steps"],
            verdict=verdict((apart["mean"] - slack, apart["mean"] + slack), -math.inf, 0.0),
        ),
    ]
