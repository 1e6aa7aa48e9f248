"""Choices of hard views by checkpoints of one run: right, of little overlap, and how they age.

A run of HVP keeps checkpoints, each of which chooses among the same cached views. The claims are
those of the project's plan for stale choices; the share of least overlap is that of Pretraining
with Hard Views, section 5.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trials.record import Line, Record, verdict
from trials.world import THREADS, config_of, train, with_views
from viewstore.inspect import svg
from viewstore.inspect.intervals import wilson
from viewstore.randomness import Stream
from viewstore.store.store import Store
from viewstore.train.loop.checkpoint import NAME, kept_path
from viewstore.train.loop.feed import open_feed
from viewstore.train.methods.base import Method
from viewstore.train.scoring.load import load_scorer
from viewstore.train.scoring.scorer import MethodScorer
from viewstore.train.strategies.hvp import HVP
from viewstore.train.views import At, views_of

AGES = (0, 1, 5, 20)
CANDIDATES = 4
BATCH = 128  # in which the model in training is asked
BANK = 512
CHANCE = 1 / 6
ONLINE = ("online:cifar",) * CANDIDATES
OFFLINE, TRAINING = "by a build", "in training"
COLOURS = {OFFLINE: "#0072B2", TRAINING: "#A32800"}


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Train, choose at checkpoints, and say how the choices compare."""
    torch.set_num_threads(THREADS)
    epochs = options["epochs"]
    presents = [epoch for epoch in (epochs - 4, epochs) if epoch > max(AGES)]
    wanted = sorted({present - age for present in presents for age in AGES})
    with tempfile.TemporaryDirectory() as folder:
        root, run = Path(folder) / "store", Path(folder) / "run"
        images = {"source": options["source"], "limit": options["rows"]}
        store = with_views(root, "simclr", "cands", policy="cifar", views=CANDIDATES, **images)
        config = config_of(
            *ONLINE,
            strategy="hvp",
            given={"log_every": 0},
            backbone=options["backbone"],
            batch_size=options["batch_size"],
            epochs=epochs,
        )
        steps = train(store, config, run, keep_every=1).steps
        kept = {epoch: kept_path(run / NAME, epoch) for epoch in wanted}
        for epoch, path in kept.items():
            weights, given = {"scorer": path}, {"of": "cands", "bank": BANK}
            store = with_views(root, "hard", set_of(epoch), codec=None, weights=weights, **given)
        brute = compared(store, epochs, kept[epochs])
        record.facts |= {
            "settings": dict(options, source=Path(options["source"]).name),
            "brute_force": brute,
            "least_overlap": {epoch: least_overlap(store, epoch) for epoch in wanted},
            "ages": [
                {"present": present, "age": age, **agreement(store, kept[present], present, age)}
                for present in presents
                for age in AGES
            ],
        }
    record.lines += [_brute_line(brute), *_overlap_lines(record.facts["least_overlap"], steps)]
    record.lines += _age_lines(record.facts["ages"], steps)


def set_of(epoch: int) -> str:
    """Return the name of the choices of the checkpoint behind an epoch."""
    return f"hard-e{epoch}"


def method_of(path: Path) -> Method:
    """Return the method in a checkpoint."""
    scorer = load_scorer(path)
    assert isinstance(scorer, MethodScorer)
    return scorer.method


def compared(store: Store, epoch: int, path: Path) -> dict[str, Any]:
    """Compare the choices of a set with those of a loop over samples and pairs in float64."""
    views, name = store.view_sets["cands"], set_of(epoch)
    method: Any = method_of(path).double().eval()
    mean, std = (torch.tensor(each).double().view(-1, 1, 1) for each in _normalisation(method))

    @torch.no_grad()
    def unit(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        images = (torch.tensor(pixels).permute(0, 3, 1, 2).double() / 255 - mean) / std
        z = method.student.projector(method.student.backbone(images)).numpy()
        return np.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))

    rows = np.arange(len(views))
    words = Stream.of_view_set(0, name).seed_word(rows, 0)
    bank = sorted(rows[np.argsort(words, kind="stable")][:BANK].tolist())
    others = np.concatenate([unit(views[row][:1]) for row in bank])
    tau, stored = method.settings.temperature, store.view_sets[name].params
    same, apart = 0, 0.0
    for row in rows.tolist():
        found, scores = unit(views[row]), {}
        rest = others[[place for place, other in enumerate(bank) if other != row]]
        for k, m in itertools.combinations(range(CANDIDATES), 2):
            scores[k, m] = (
                _loss(found[k], found[m], rest, tau) + _loss(found[m], found[k], rest, tau)
            ) / 2
        best = max(scores, key=lambda pair: scores[pair])  # the first of equals
        chosen = tuple(stored["selected"][row, 0].tolist())
        same += chosen == best
        apart = max(apart, scores[best] - scores[chosen])
    return {"n": len(rows), "same": same, "largest_difference": apart}


def _loss(
    student: NDArray[np.float64],
    target: NDArray[np.float64],
    others: NDArray[np.float64],
    tau: float,
) -> float:
    own, rest = student @ target / tau, others @ student / tau
    return float(np.log(np.exp(own) + np.exp(rest).sum()) - own)


def _normalisation(method: Method) -> tuple[Sequence[float], Sequence[float]]:
    return method.prepare.mean, method.prepare.std


def least_overlap(store: Store, epoch: int) -> dict[str, Any]:
    """Return how often the hardest pair is the one that overlaps least."""
    params = store.view_sets[set_of(epoch)].params
    least = (params["selected"] == params["min_iou"]).all((1, 2))
    return {"n": len(least), "share": float(least.mean()), "wilson": _wilson(least)}


def _wilson(found: NDArray[np.bool_]) -> tuple[float, float]:
    return wilson(int(found.sum()), len(found))


def agreement(store: Store, path: Path, present: int, age: int) -> dict[str, Any]:
    """Compare choices of an age with the present ones, of a build and of the model in training."""
    names = set_of(present - age), set_of(present)
    old, new = (store.view_sets[name].params["selected"][:, 0] for name in names)
    found = {OFFLINE: (old == new).all(1), TRAINING: in_training(store, path, old)}
    return {
        name: {"n": len(same), "same": int(same.sum()), "wilson": _wilson(same)}
        for name, same in found.items()
    }


def in_training(store: Store, path: Path, chosen: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return of which samples HVP chooses so in a batch of an epoch, as `agreement` is logged."""
    method, hvp = method_of(path).train(), HVP(log_every=0)
    config = config_of(*("cached:cands",) * CANDIDATES, batch_size=BATCH, steps=1)
    same = []
    with open_feed(store, config, num_threads=THREADS) as feed:
        for batch in feed.loader:
            at = At(0, 0, feed.epoch_steps, feed.epoch_steps, 0)
            views = views_of(batch, roles=feed.roles, device=torch.device("cpu"), at=at)
            slots = torch.stack([torch.as_tensor(row.view) for row in hvp.rows(views, method)], 1)
            shown = torch.stack([torch.as_tensor(view.view) for view in batch.views], 1)
            picked = shown.gather(1, slots).sort(1).values.numpy()
            same.append((picked == chosen[np.asarray(batch.index)]).all(1))
    return np.concatenate(same)


def _brute_line(found: Mapping[str, Any]) -> Line:
    share = found["same"] / found["n"]
    return Line(
        experiment="hard: choices equal those of a loop over samples and pairs in float64",
        claim="all but ties (goal)",
        ours=f"{share:.2%}, others within {found['largest_difference']:.1e} of the best score",
        n=f"{found['n']:,} choices",
        interval="exact",
        verdict="yes" if found["largest_difference"] < 1e-5 else "no",
    )


def _overlap_lines(found: Mapping[int, Any], steps: int) -> list[Line]:
    first, last = min(found), max(found)
    low, high = found[last]["wilson"]
    return [
        Line(
            experiment=f"hard: the selected cached pair overlaps least, behind epoch {last} of HVP",
            claim=f"> 40 % (ImageNet); above chance, {CHANCE:.1%}, here",
            ours=f"{found[last]['share']:.1%} ({found[first]['share']:.1%} behind epoch {first})",
            n=f"{found[last]['n']:,} choices",
            interval=f"{low:.1%}-{high:.1%}, Wilson",
            steps=steps,
            verdict=verdict((low, high), CHANCE),
        )
    ]


def _age_lines(found: Sequence[Mapping[str, Any]], steps: int) -> list[Line]:
    lines = []
    for age, kind in itertools.product(AGES, (OFFLINE, TRAINING)):
        same, count, (low, high) = pooled(found, age, kind)
        presents = sorted({each["present"] for each in found})
        goal = (0.4, 0.6) if (age, kind) == (max(AGES), OFFLINE) else None
        lines.append(
            Line(
                experiment=f"HVP-5: choices {age} epochs old are the present ones {kind}, "
                f"behind epochs {' and '.join(map(str, presents))}",
                claim="reported" if goal is None else "40-60 %",
                ours=f"{same / count:.1%}",
                n=f"{count:,} choices",
                interval=f"{low:.1%}-{high:.1%}, Wilson",
                steps=steps,
                verdict="-" if goal is None else verdict((low, high), *goal),
            )
        )
    return lines


def pooled(
    found: Sequence[Mapping[str, Any]], age: int, kind: str
) -> tuple[int, int, tuple[float, float]]:
    """Return how many choices of an age are the present ones, of how many, and the interval."""
    of_age = [each[kind] for each in found if each["age"] == age]
    same, count = (sum(each[key] for each in of_age) for key in ("same", "n"))
    return same, count, wilson(same, count)


def plot(found: Sequence[Mapping[str, Any]]) -> str:
    """Return agreement by age as SVG: a line for each kind, with intervals, and chance."""
    width, height, left, bottom = 460, 240, 46, 200
    x_of = {age: left + (width - left - 130) * age / max(AGES) for age in AGES}

    def y_of(share: float) -> float:
        return bottom - share * (bottom - 16)

    right = x_of[max(AGES)]
    parts = [
        svg.line(left, bottom, right, bottom, "#9A9A9A"),
        *(svg.text(left - 6, y_of(s) + 4, f"{s:.0%}", "end") for s in (0, 0.25, 0.5, 0.75, 1)),
        *(svg.line(left, y_of(s), right, y_of(s), "#E4E4E4") for s in (0.25, 0.5, 0.75, 1)),
        *(svg.text(x, bottom + 14, str(age), "middle") for age, x in x_of.items()),
        svg.text((left + right) / 2, bottom + 30, "age of the choice, epochs", "middle"),
        svg.line(left, y_of(CHANCE), right, y_of(CHANCE), "#9A9A9A", dashed=True),
        svg.text(right + 8, y_of(CHANCE) + 4, "chance, 1 of 6", "start"),
    ]
    ends = {}
    for kind, colour in COLOURS.items():
        points = []
        for age, x in x_of.items():
            same, count, (low, high) = pooled(found, age, kind)
            points.append((x, y_of(same / count)))
            parts.append(svg.line(x, y_of(low), x, y_of(high), colour, 3))
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            parts.append(svg.line(x0, y0, x1, y1, colour, 1.5))
        ends[kind] = points[-1][1]
    apart = ends[OFFLINE] - ends[TRAINING]
    apart = math.copysign(max(12, abs(apart)), apart)  # so that no label lies on another
    middle = sum(ends.values()) / 2
    for kind, y in ((OFFLINE, middle + apart / 2), (TRAINING, middle - apart / 2)):
        parts.append(svg.text(right + 8, y + 4, f"present, {kind}", "start", COLOURS[kind]))
    title = "Share of cached choices that are the present choice, by their age in epochs"
    return svg.document(width, height, title, parts)
