"""The matrix of methods and strategies: each cell trains, changing no state by planning, or is
refused with its reason. A new one of either is a new row.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from tests.train.world import (
    make_method,
    make_views,
    same,
    slots_of,
    snapshot,
    train_step,
    with_made,
)
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.nets.domains import add_domain
from viewstore.train.plan import Row
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import STRATEGIES, strategy_of
from viewstore.train.views import Views


@dataclass(frozen=True)
class MethodRow:
    """A method with its switches, and the network that it is tried on."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    crops: bool = False  # whether it is fed global and local crops


@dataclass(frozen=True)
class StrategyRow:
    """A strategy with its switches; the roles of views, and of crops where a method takes those."""

    name: str
    settings: dict[str, Any]
    roles: tuple[str, ...]
    crops: tuple[str, ...]
    parent: tuple[int, ...] = ()
    crops_parent: tuple[int, ...] = ()


PLAIN_HEAD = {"projector_norm": "none", "activation": "gelu"}
PATCHES = {"backbone": "vit-ti", "patch": 8}
METHOD_ROWS = {
    "simclr": MethodRow("simclr"),
    "simclr, other negatives": MethodRow("simclr", {"negatives": "other", "temperature": 0.2}),
    "simclr, per view": MethodRow("simclr", {"forward": "per_view"}),
    "simsiam": MethodRow("simsiam"),
    "simsiam, squared distance": MethodRow("simsiam", {"scale": "mse"}),
    "byol": MethodRow("byol"),
    "byol, half": MethodRow("byol", {"scale": "half", "momentum_schedule": "constant"}),
    "moco-v2": MethodRow("moco-v2", {"queue_size": 32}),
    "moco-v2, symmetric": MethodRow("moco-v2", {"queue_size": 32, "symmetric": True}),
    "barlow-twins": MethodRow("barlow-twins"),
    "dino": MethodRow("dino", {"outputs": 32, "frozen_epochs": 0}, PLAIN_HEAD, crops=True),
    "dino, expert views": MethodRow("dino", {"outputs": 32}, PLAIN_HEAD),
    "ibot": MethodRow("ibot", {"outputs": 32}, PLAIN_HEAD | PATCHES, crops=True),
    "ibot, heads apart": MethodRow(
        "ibot", {"outputs": 32, "shared_head": False}, PLAIN_HEAD | PATCHES, crops=True
    ),
    "deepcluster-v2": MethodRow("deepcluster-v2", {"prototypes": (4, 4, 5)}, crops=True),
    "deepcluster-v2, expert views": MethodRow(
        "deepcluster-v2", {"prototypes": (4,), "crops_for_assign": (1,)}
    ),
}
EE, GG = ("expert",) * 2, ("global",) * 2
STRATEGY_ROWS = {
    "standard": StrategyRow("standard", {}, EE, (*GG, "local", "local")),
    "a2": StrategyRow("a2", {}, (*EE, "generated"), (*GG, "generated")),
    "a2, first anchor": StrategyRow(
        "a2", {"anchors": "first"}, (*EE, "generated", "generated"), (*GG, "generated")
    ),
}
FOUR, CROPS = ("expert",) * 4, ("global",) * 4 + ("local",) * 4
STRATEGY_ROWS |= {
    name: StrategyRow(name, {"log_every": 1}, FOUR, CROPS)
    for name in ("hvp", "cooperative", "random", "min_iou")
}
HH, LL = ("heavy",) * 2, ("local",) * 2
EEHH, GGLLHH = ((*EE, *HH), (*GG, *LL, *HH))
HEAVY = {"parent": (-1, -1, 0, 1), "crops_parent": (-1,) * 4 + (0, 1)}
STRATEGY_ROWS |= {
    "hvp, per view": StrategyRow("hvp", {"allow_per_view": True}, FOUR, CROPS),
    "a1": StrategyRow("a1", {}, ("expert", "generated"), ("global", "generated")),
    "dssl": StrategyRow("dssl", {}, EEHH, GGLLHH, **HEAVY),
    "dssl, all targets": StrategyRow(
        "dssl", {"targets": "all", "norm": "sum", "target_grad": True}, EEHH, GGLLHH, **HEAVY
    ),
    "dssl, fair": StrategyRow("dssl", {"beta": 1, "delta": 1}, EEHH, GGLLHH, **HEAVY),
    "dssl, one from sample": StrategyRow(
        "dssl", {"heavy_views": 1, "derive": "from_sample"}, EEHH[:3], (*GG, "heavy")
    ),
    "hvp + dssl": StrategyRow(
        "hvp,dssl",
        {"allow_per_view": True},
        (*FOUR, *HH, *HH),
        (*CROPS, *HH, *HH),
        (-1,) * 4 + (3, 1, 0, 2),
        (-1,) * 8 + (3, 1, 0, 2),
    ),
    "hexa": StrategyRow("hexa", {}, EE, (*GG, *LL)),
    "hexa, no part": StrategyRow("hexa", {"a1": 0}, EE, GG),
    "hexa, attacked before": StrategyRow(
        "hexa",
        {},
        (*EE, "adversarial", "adversarial"),
        (*GG, "adversarial", "adversarial"),
        (-1, -1, 1, 0),
        (-1, -1, 1, 0),
    ),
    "hexa, steps": StrategyRow(
        "hexa",
        {"steps": 2, "random_start": True, "attack_bn": "clean", "norm": "l2", "eps": 9},
        EE,
        (*GG, *LL),
    ),
    "hexa, mixed": StrategyRow("hexa", {"a1": 0, "a2": 1}, EE, (*GG, *LL)),
    "hexa, all": StrategyRow(
        "hexa", {"a2": 1, "cutmix_on": "both", "attack_sizes": "all"}, EE, (*GG, *LL)
    ),
    "hvp + hexa": StrategyRow("hvp,hexa", {"allow_per_view": True}, FOUR, CROPS),
    "dssl + hexa + a2": StrategyRow(
        "dssl,hexa,a2",
        {},
        (*EEHH, "generated"),
        (*GGLLHH, "generated"),
        (-1, -1, 0, 1, -1),
        (-1,) * 4 + (0, 1, -1),
    ),
    "graded": StrategyRow("graded", {"align_scale": "exact"}, EE, GG),
    "graded, paper": StrategyRow("graded", {"allow_scale_change": True, "measure": "iou"}, EE, GG),
    "hvp + graded": StrategyRow("hvp,graded", {"align_scale": "exact"}, FOUR, CROPS),
    "dssl + graded": StrategyRow("dssl,graded", {"align_scale": "exact"}, EEHH, GGLLHH, **HEAVY),
    "hexa + graded": StrategyRow("hexa,graded", {"align_scale": "exact"}, EE, GG),
    "a1 + graded": StrategyRow(
        "a1,graded", {"align_scale": "exact"}, ("expert", "generated"), ("global", "generated")
    ),
    "mixed before": StrategyRow(
        "hexa",
        {"a1": 0, "a2": 1},
        (*EE, "cutmix", "cutmix"),
        (*GG, "cutmix"),
        (-1, -1, 0, 1),
        (-1, -1, 0),
    ),
    "mixed, but not trained so": StrategyRow("standard", {}, (*EE, "cutmix"), (*GG, "cutmix")),
    "viewmaker": StrategyRow("viewmaker", {}, ("source",) * 2, ("source",) * 2),
    "viewmaker + a1": StrategyRow("viewmaker,a1", {}, ("expert", "source"), ("global", "source")),
    "viewmaker + a2": StrategyRow("viewmaker,a2", {}, (*EE, "source"), (*GG, "source")),
    "stn": StrategyRow("stn", {"n_locals": 2}, ("source",), ("source",)),
    "stn, affine": StrategyRow(
        "stn",
        {"n_locals": 0, "mode": "affine", "own": True, "separate": True, "penalty": "identity"},
        ("source",),
        ("source",),
    ),
}
# Cells that are refused, and what the reason must say.
WHOLE_LOSSES = ("barlow-twins", "dino", "ibot", "deepcluster-v2")
REFUSED: dict[tuple[str, str], str] = {
    **{
        ("barlow-twins", name): "samplewise"
        for name, row in STRATEGY_ROWS.items()
        if {"a2", "hexa"} & set(row.name.split(","))
    },
    **{
        (method, name): "decomposable"
        for method in WHOLE_LOSSES
        for name, row in STRATEGY_ROWS.items()
        if "graded" in row.name and not (method == "barlow-twins" and "hexa" in row.name)
    },
    **{
        (method, name): "decomposable"
        for method in ("dino", "ibot")
        for name in ("hexa, mixed", "hexa, all")
    },
    **{
        (method, name): "target_roles"
        for method in ("dino", "ibot")
        for name in ("a1", "viewmaker", "viewmaker + a1")
    },
    **{
        ("deepcluster-v2", name): "clusters"
        for name in STRATEGY_ROWS
        if name.startswith(("viewmaker", "stn"))
    },
    **{
        ("deepcluster-v2", name): "target"
        for name in ("a1", "a2, first anchor", "dssl, fair", "dssl, all targets")
    },
    **{("deepcluster-v2", name): "prototypes" for name in ("hvp", "cooperative")},
    **{
        (method, "a1 + graded"): "crops of a sample"
        for method in METHODS
        if method not in WHOLE_LOSSES
    },
    **{
        (method, "mixed before"): "not in the batch"
        for method in METHODS
        if method not in WHOLE_LOSSES
    },
    **{(method, "mixed before"): "decomposable" for method in ("dino", "ibot")},
    **{(method, "mixed, but not trained so"): "does not mix targets" for method in METHODS},
}
CELLS = [
    (method, strategy)
    for method, strategy in itertools.product(METHOD_ROWS, STRATEGY_ROWS)
    if (METHOD_ROWS[method].name, strategy) not in REFUSED
    and not ("," in method and "," in strategy)  # switches of both are tried apart
]
methods = pytest.mark.parametrize("method_row", list(METHOD_ROWS))
cells = pytest.mark.parametrize(("method_row", "strategy_row"), CELLS)


def method_named(row: str) -> Method:
    found = METHOD_ROWS[row]
    return make_method(method_of(found.name, found.settings), **found.network)


def strategy_named(row: str) -> Strategy:
    return strategy_of(STRATEGY_ROWS[row].name, STRATEGY_ROWS[row].settings)


def views_of(method_row: str, strategy_row: str, step: int = 0) -> Views:
    return with_made(
        strategy_named(strategy_row), make_views(*loaded(method_row, strategy_row), step=step)
    )


def loaded(method_row: str, strategy_row: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the roles and parents of the views that a loader delivers."""
    found = STRATEGY_ROWS[strategy_row]
    if METHOD_ROWS[method_row].crops:
        return found.crops, found.crops_parent
    return found.roles, found.parent


def begin(method: Method, views: Views) -> None:
    """Begin an epoch as the loop does, sweeping over one batch."""
    strategy = strategy_of("standard", {})
    base = Views(
        views.pixels[:2], views.role[:2], (-1, -1), views.params[:2], views.sample, views.at, (0, 1)
    )
    method.begin_epoch(views.at, lambda: iter([strategy.plan(method.annotate(base), method)]))


def test_every_method_and_strategy_has_a_row() -> None:
    assert {row.name for row in METHOD_ROWS.values()} == set(METHODS)
    parts = {part for row in STRATEGY_ROWS.values() for part in row.name.split(",")}
    assert parts == set(STRATEGIES)


@cells
def test_a_cell_trains_and_planning_changes_nothing(method_row: str, strategy_row: str) -> None:
    method, strategy = method_named(method_row), strategy_named(strategy_row)
    if strategy.adversarial:
        add_domain(method)
    views = views_of(method_row, strategy_row)
    strategy.check(method.traits, slots_of(*loaded(method_row, strategy_row)))
    begin(method, views)
    before = [each.clone() for each in method.parameters() if each.requires_grad]
    for step in range(3):
        views = method.annotate(views_of(method_row, strategy_row, step))
        levels = [pixels.clone() for pixels in views.pixels]
        state = snapshot(method)
        plan = strategy.plan(views, method)
        again = strategy.plan(views, method)
        assert same(state, snapshot(method))
        assert all(map(torch.equal, levels, views.pixels))
        assert all(map(torch.equal, plan.views.pixels, again.views.pixels))
        assert [pair.weight for pair in plan.pairs if isinstance(pair.weight, float)] == [
            pair.weight for pair in again.pairs if isinstance(pair.weight, float)
        ]
        embedded = train_step(method, strategy, views)
        assert math.isfinite(embedded.loss.item())
    after = [each for each in method.parameters() if each.requires_grad]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > len(after) / 2


@pytest.mark.parametrize(("method_row", "strategy_row"), list(REFUSED))
def test_a_cell_is_refused_with_its_reason(method_row: str, strategy_row: str) -> None:
    slots = slots_of(*loaded(method_row, strategy_row))
    traits = method_of(METHOD_ROWS[method_row].name, {}).traits
    with pytest.raises(ConfigError) as caught:
        strategy_named(strategy_row).check(traits, slots)
    assert REFUSED[method_row, strategy_row] in f"{caught.value} {caught.value.why}"
    assert "use --" in (caught.value.fix or "")


@methods
@pytest.mark.parametrize("mode", ["train", "probe", "attack"])
def test_only_training_forwards_move_running_statistics(method_row: str, mode: str) -> None:
    method = method_named(method_row)
    views = views_of(method_row, "standard")
    begin(method, views)
    plan = strategy_of("standard", {}).plan(method.annotate(views), method)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method(plan, mode)
    moved = {n for n, value in method.state_dict().items() if not torch.equal(value, before[n])}
    statistics = {n for n in before if "running_" in n or "num_batches" in n}
    assert moved == ({n for n in statistics if ".adv." not in n} if mode == "train" else set())


@methods
def test_scores_of_a_batch_do_not_depend_on_its_order(method_row: str) -> None:
    method = method_named(method_row)
    views = method.annotate(views_of(method_row, "standard"))
    begin(method, views)
    order = torch.randperm(len(views), generator=torch.Generator().manual_seed(1))
    moved = Views(
        tuple(pixels[order] for pixels in views.pixels),
        views.role,
        views.parent,
        tuple({name: value[order] for name, value in each.items()} for each in views.params),
        views.sample[order],
        views.at,
        views.base,
    )
    strategy = strategy_of("standard", {})
    first = method(strategy.plan(views, method), "probe").loss
    second = method(strategy.plan(moved, method), "probe").loss
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@methods
def test_a_step_is_committed_once(method_row: str) -> None:
    method = method_named(method_row)
    views = views_of(method_row, "standard")
    begin(method, views)
    embedded = train_step(method, strategy_of("standard", {}), views)
    with pytest.raises(RuntimeError, match="step 0 was committed already"):
        method.commit([embedded], views.at)


@methods
def test_views_chosen_per_sample_are_those_views(method_row: str) -> None:
    method = method_named(method_row)
    roles = GG if METHOD_ROWS[method_row].crops else EE
    views = method.annotate(make_views((*roles, roles[0])))
    chosen = torch.tensor([0, 1, 2, 0, 1, 2, 1, 1])
    options: dict[str, Any] = {"net": "student", "mode": "probe", "statistics": "running"}
    mixed = method.encode(views, [Row(chosen)], **options)
    plain = method.encode(views, [Row(0), Row(1), Row(2)], **options)
    for name in mixed:
        expected = plain[name][chosen, torch.arange(len(chosen))]
        torch.testing.assert_close(mixed[name][0], expected, rtol=1e-4, atol=1e-5)


@methods
def test_equal_weights_of_samples_are_a_weight_of_the_pair(method_row: str) -> None:
    method = method_named(method_row)
    views = method.annotate(views_of(method_row, "standard"))
    begin(method, views)
    plan = strategy_of("standard", {}).plan(views, method)
    ones = torch.ones(len(views))
    weighted = tuple(replace(pair, weight=pair.weight * ones) for pair in plan.pairs)
    first = method(plan, "probe").loss
    second = method(replace(plan, pairs=weighted), "probe").loss
    torch.testing.assert_close(first, second)
