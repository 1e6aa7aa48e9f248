"""HVP among 4 + 16 crops of DINO: scores read off a table beside scores of each combination anew.

Both start from the same embeddings of all crops and must choose the same. Source: Pretraining with
Hard Views, appendix, with its combinations of 2 + 8 crops.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trials.record import Line, Record
from trials.world import THREADS, config_of, store_of
from viewstore.loaders.loader import ViewLoader
from viewstore.train.methods.base import Frame, Method
from viewstore.train.methods.embeddings import Emb
from viewstore.train.nets.network import seeded_network
from viewstore.train.plan import Pair, Plan, Row, total
from viewstore.train.strategies.combinations import Candidates, crop_combinations, listed
from viewstore.train.strategies.selection import (
    Entry,
    best_listed,
    best_of_all,
    entries_of,
    loss_table,
    wanted_entries,
)
from viewstore.train.views import At, Views, views_of

GLOBALS, LOCALS, TAKEN = 4, 16, 8
LIMIT = 128


class Embedded:
    """All crops of a batch, embedded once: a method that embeds no more, for both ways alike."""

    def __init__(self, method: Method, views: Views, candidates: Candidates) -> None:
        rows = tuple(Row(view) for view in candidates.views)
        targets = tuple(row for row in rows if views.role_of(row.view) == "global")
        self.plan = Plan(views, rows, targets, (), len(rows), len(targets))
        self.student, self.target = method.both(self.plan, "probe", "pooled")
        self.method = method

    def score(self, student: int, target: int, student_emb: Emb, target_emb: Emb) -> Tensor:
        """Return the loss of each sample of an ordered pair of views, [B]."""
        pair = Pair(student, target)
        return total(self.method.score(student_emb, target_emb, pair, self.plan))


def anew(crops: Embedded, entries: Sequence[Entry], combinations: Tensor) -> tuple[Tensor, int]:
    """Return the best of the combinations [P, m] of each sample, [B, m], and the scores taken."""
    best = torch.full((len(crops.plan.views),), -torch.inf)
    chosen = combinations[0].repeat(len(best), 1)
    taken = 0
    student, target = dict(crops.student), dict(crops.target)
    for combination in combinations:
        terms = []
        for s, t, weight in entries:
            assert t is not None
            terms.append(
                weight * crops.score(int(combination[s]), int(combination[t]), student, target)
            )
            taken += 1
        scores = torch.stack(terms).sum(0)
        better = scores > best
        best = torch.where(better, scores, best)
        chosen = torch.where(better[:, None], combination, chosen)
    return chosen, taken


def timed(call: Any, repeats: int) -> tuple[float, list[float], Any]:  # noqa: ANN401
    """Return the median of the CPU seconds of calls, all of them, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        began = time.process_time()
        result = call()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds), seconds, result


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Choose among crops of one batch in both ways."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        store = store_of(Path(folder) / "s", options["source"], options["samples"], views=1)
        names = ["dino"] * GLOBALS + ["dino-local"] * LOCALS
        config = config_of(
            *names, method="dino", backbone=options["backbone"], steps=1, batch_size=2
        )
        with ViewLoader(store, ",".join(names), batch_size=options["samples"]) as loader:
            views = views_of(
                next(iter(loader)),
                roles=tuple(loader.roles),
                device=torch.device("cpu"),
                at=At(0, 0, 1, 1, 0),
            )
        network = seeded_network(config.network, 0, size=32)
        method = config.method.make(network, Frame(prepare=config.prepare)).train()
        candidates = crop_combinations(range(GLOBALS), range(GLOBALS, GLOBALS + LOCALS), TAKEN)
        entries = entries_of(method, views, candidates.first)
        wanted = wanted_entries(entries, candidates)
        numbers = listed(candidates.count, LIMIT, views.at)
        combinations = candidates.at(numbers)
        crops = Embedded(method, views, candidates)

        embed, embeds, _ = timed(lambda: Embedded(method, views, candidates), options["repeats"])
        whole, wholes, table = timed(
            lambda: loss_table(method, views, candidates, wanted, "pooled"), options["repeats"]
        )
        read, reads, best = timed(
            lambda: best_listed(table, entries, candidates, numbers), options["repeats"]
        )
        exact, exacts, _ = timed(
            lambda: best_of_all(table, entries, candidates), options["repeats"]
        )
        slow, slows, (chosen, taken) = timed(
            lambda: anew(crops, entries, combinations), options["repeats"]
        )
    same = bool(chosen.equal(best.views))
    record.facts |= {
        "cpu_seconds": {
            "embedding": embeds,
            "embedding and table": wholes,
            f"best of {LIMIT} by table": reads,
            "best of all by table": exacts,
            f"best of {LIMIT} anew": slows,
        },
        "same_choice": same,
        "scores": {"table": len(wanted), "anew": taken},
        "combinations": candidates.count,
    }
    fill = max(whole - embed, 0.0)
    setting = f"{options['backbone']}, {options['samples']} samples, {len(entries)} pairs each"
    spread = f"{min(slows):.3f}-{max(slows):.3f} s anew, range of {options['repeats']}"
    record.lines += [
        Line(
            experiment=f"HVP among 4+16 crops of DINO: scores taken, {setting}",
            claim="a table makes a combination a sum",
            ours=f"{len(wanted)} by table, {taken:,} anew for {LIMIT} of "
            f"{candidates.count:,} combinations ({taken / len(wanted):.0f} x); "
            f"{'the same choice' if same else 'ANOTHER choice'}",
            n=f"{options['samples']} samples",
            interval="exact",
            verdict="yes" if same else "no",
        ),
        Line(
            experiment=f"HVP among 4+16 crops of DINO: CPU time of choosing, {setting}",
            claim="about 100 x cheaper, without the embedding",
            ours=f"{1000 * read:.1f} ms to sum and choose of {LIMIT} ({1000 * exact:.1f} ms of "
            f"all), {1000 * fill:.0f} ms to fill the table, {1000 * slow:.0f} ms anew: "
            f"{slow / read:.0f} x, with the table {slow / (read + fill):.1f} x; embedding "
            f"{1000 * embed:.0f} ms",
            n=f"{options['repeats']} repeats",
            interval=spread,
            verdict="yes" if slow > 10 * read else "no",
        ),
    ]
