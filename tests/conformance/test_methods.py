"""The matrix of methods and strategies: each cell trains, changing no state by planning, or is
refused with its reason. A new one of either is a new row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from viewstore.errors import ConfigError
from viewstore.train.conformance.checks import (
    Trial,
    committed_twice,
    moved_statistics,
    order_matters,
    other_rows,
    other_weights,
    planning_changes,
)
from viewstore.train.conformance.world import slots_of
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.methods.traits import Mode
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import STRATEGIES, strategy_of


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


def is_slow(method: str, strategy: str) -> bool:
    """Whether a cell takes seconds, a transformer's, and tries a switch that others try too."""
    ours = METHOD_ROWS[method].name == "ibot"
    return ours and ("," in strategy or ("," in method and strategy != "standard"))


cells = pytest.mark.parametrize(
    ("method_row", "strategy_row"),
    [pytest.param(*cell, marks=pytest.mark.slow if is_slow(*cell) else ()) for cell in CELLS],
)


def trial_of(method_row: str, strategy_row: str = "standard") -> Trial:
    method, strategy = METHOD_ROWS[method_row], STRATEGY_ROWS[strategy_row]
    roles, parent = strategy.roles, strategy.parent
    if method.crops:
        roles, parent = strategy.crops, strategy.crops_parent
    return Trial(method_of(method.name, method.settings), method.network, roles, parent)


def strategy_named(row: str) -> Strategy:
    return strategy_of(STRATEGY_ROWS[row].name, STRATEGY_ROWS[row].settings)


def test_every_method_and_strategy_has_a_row() -> None:
    assert {row.name for row in METHOD_ROWS.values()} == set(METHODS)
    parts = {part for row in STRATEGY_ROWS.values() for part in row.name.split(",")}
    assert parts == set(STRATEGIES)


@cells
def test_a_cell_trains_and_planning_changes_nothing(method_row: str, strategy_row: str) -> None:
    trial = trial_of(method_row, strategy_row)
    assert planning_changes(trial, strategy_named(strategy_row)) is None


@pytest.mark.parametrize(("method_row", "strategy_row"), list(REFUSED))
def test_a_cell_is_refused_with_its_reason(method_row: str, strategy_row: str) -> None:
    trial = trial_of(method_row, strategy_row)
    slots = slots_of(trial.roles, trial.parent)
    traits = method_of(METHOD_ROWS[method_row].name, {}).traits
    with pytest.raises(ConfigError) as caught:
        strategy_named(strategy_row).check(traits, slots)
    assert REFUSED[method_row, strategy_row] in f"{caught.value} {caught.value.why}"
    assert "use --" in (caught.value.fix or "")


@methods
@pytest.mark.parametrize("mode", ["train", "probe", "attack"])
def test_only_training_forwards_move_running_statistics(method_row: str, mode: Mode) -> None:
    assert moved_statistics(trial_of(method_row), mode) is None


@methods
@pytest.mark.parametrize("wrong", [order_matters, committed_twice, other_rows, other_weights])
def test_a_method_keeps_the_contract(method_row: str, wrong: Callable[[Trial], str | None]) -> None:
    assert wrong(trial_of(method_row)) is None
