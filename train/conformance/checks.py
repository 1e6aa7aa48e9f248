"""What every method and every strategy is held to: planning and scoring leave all as it was.

Each function here looks at one method, which `make` makes anew, on views of noisy images, and
returns what is wrong, None where nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.plugins import Check, quick_settings
from viewstore.train.conformance.world import (
    make_method,
    make_views,
    same,
    slots_of,
    snapshot,
    train_step,
    with_made,
)
from viewstore.train.methods.base import Method, MethodSettings
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.methods.traits import Mode, Traits
from viewstore.train.nets.domains import add_domain
from viewstore.train.plan import Row
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import STRATEGIES, strategy_of
from viewstore.train.views import Views

STEPS = 3
EE, GG = ("expert",) * 2, ("global",) * 2


@dataclass(frozen=True)
class Trial:
    """A method on a small network, and the views that it is tried on.

    Attributes:
        settings: Of the method.
        network: Settings of its network that differ from a small one's.
        roles, parent: Of the views, as `make_views` takes them.
    """

    settings: MethodSettings
    network: Mapping[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = EE
    parent: tuple[int, ...] = ()

    def make(self) -> Method:
        """Return the method, drawn anew and alike each time."""
        return make_method(self.settings, **self.network)

    def views(self, step: int = 0) -> Views:
        """Return the views of a step."""
        return make_views(self.roles, self.parent, step=step)

    def begun(self) -> tuple[Method, Views]:
        """Return the method at the beginning of an epoch, and its views of the first step."""
        method, views = self.make(), self.views()
        begin(method, views)
        return method, method.annotate(views)


def begin(method: Method, views: Views) -> None:
    """Begin an epoch as the loop does, sweeping over one batch."""
    base = Views(
        views.pixels[:2], views.role[:2], (-1, -1), views.params[:2], views.sample, views.at, (0, 1)
    )
    strategy = strategy_of("standard", {})
    method.begin_epoch(views.at, lambda: iter([strategy.plan(method.annotate(base), method)]))


def planning_changes(trial: Trial, strategy: Strategy) -> str | None:
    """Return what planning twice changes; or how a few steps do not train."""
    method = trial.make()
    if strategy.adversarial:
        add_domain(method)
    strategy.check(method.traits, slots_of(trial.roles, trial.parent))
    begin(method, with_made(strategy, trial.views()))
    before = [each.clone() for each in method.parameters() if each.requires_grad]
    for step in range(STEPS):
        views = method.annotate(with_made(strategy, trial.views(step)))
        if wrong := _changed_by_planning(method, strategy, views):
            return f"step {step}: {wrong}"
        loss = train_step(method, strategy, views).loss.item()
        if not math.isfinite(loss):
            return f"step {step}: the loss is {loss}"
    after = [each for each in method.parameters() if each.requires_grad]
    moved = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if moved <= len(after) / 2:
        return f"{STEPS} steps changed {moved} of {len(after)} parameters"
    return None


def _changed_by_planning(method: Method, strategy: Strategy, views: Views) -> str | None:
    levels = [pixels.clone() for pixels in views.pixels]
    state = snapshot(method)
    plan, again = strategy.plan(views, method), strategy.plan(views, method)
    if not same(state, snapshot(method)):
        return "planning changed parameters, gradients, buffers or torch's random numbers"
    if not all(map(torch.equal, levels, views.pixels)):
        return "planning changed the pixels of the views"
    if not all(map(torch.equal, plan.views.pixels, again.views.pixels)):
        return "planning again made other views"
    weights = [
        [pair.weight for pair in each.pairs if isinstance(pair.weight, float)]
        for each in (plan, again)
    ]
    return None if weights[0] == weights[1] else "planning again gave pairs other weights"


def moved_statistics(trial: Trial, mode: Mode) -> str | None:
    """Return which buffers a forward in a mode moves that it must not, or leaves."""
    method, views = trial.begun()
    plan = strategy_of("standard", {}).plan(views, method)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method(plan, mode)
    moved = {n for n, value in method.state_dict().items() if not torch.equal(value, before[n])}
    statistics = {n for n in before if "running_" in n or "num_batches" in n}
    wanted = {n for n in statistics if ".adv." not in n} if mode == "train" else set()
    wrong = sorted(moved ^ wanted)
    return (
        f"{wrong[0]} {'moves' if wrong[0] in moved else 'stays'} in mode {mode}" if wrong else None
    )


def order_matters(trial: Trial) -> str | None:
    """Return the losses of a batch and of the same samples in another order, if they differ."""
    method, views = trial.begun()
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
    return _unlike("the loss", first, second, rtol=1e-4, atol=1e-5)


def committed_twice(trial: Trial) -> str | None:
    """Return that a step can be committed twice, if it can."""
    method, views = trial.begun()
    embedded = train_step(method, strategy_of("standard", {}), views)
    try:
        method.commit([embedded], views.at)
    except RuntimeError:
        return None
    return "a step can be committed twice"


def other_rows(trial: Trial) -> str | None:
    """Return which embedding of rows that differ by sample is not that of their views."""
    method = trial.make()
    roles = trial.roles[:2]
    views = method.annotate(make_views((*roles, roles[0])))
    chosen = torch.tensor([0, 1, 2, 0, 1, 2, 1, 1])
    options: dict[str, Any] = {"net": "student", "mode": "probe", "statistics": "running"}
    mixed = method.encode(views, [Row(chosen)], **options)
    plain = method.encode(views, [Row(0), Row(1), Row(2)], **options)
    for name in mixed:
        expected = plain[name][chosen, torch.arange(len(chosen))]
        if wrong := _unlike(name, mixed[name][0], expected, rtol=1e-4, atol=1e-5):
            return wrong
    return None


def other_weights(trial: Trial) -> str | None:
    """Return the losses of pairs of equal weights by pair and by sample, if they differ."""
    method, views = trial.begun()
    plan = strategy_of("standard", {}).plan(views, method)
    ones = torch.ones(len(views))
    weighted = tuple(replace(pair, weight=pair.weight * ones) for pair in plan.pairs)
    first = method(plan, "probe").loss
    second = method(replace(plan, pairs=weighted), "probe").loss
    return _unlike("the loss", first, second, rtol=1.3e-6, atol=1e-5)


def _unlike(name: str, one: Tensor, other: Tensor, *, rtol: float, atol: float) -> str | None:
    if torch.allclose(one, other, rtol=rtol, atol=atol):
        return None
    place = int((one - other).abs().argmax())
    return f"{name} is {one.reshape(-1)[place].item()}, and {other.reshape(-1)[place].item()}"


def method_checks(name: str) -> list[Check]:
    """Return what the method `name` is held to, with its own settings."""
    settings = method_of(name, quick_settings(METHODS[name]))
    trial = Trial(settings, _small_network(settings), *_roles(settings.traits))
    modes: tuple[Mode, ...] = ("train", "probe", "attack")
    return [
        Check("planning changes nothing, and steps train", "a run could not be repeated",
              lambda: planning_changes(trial, strategy_of("standard", {}))),
        *(
            Check(f"{mode} moves the statistics that it may", "scores would change the network",
                  lambda mode=mode: moved_statistics(trial, mode))  # type: ignore[misc]
            for mode in modes
        ),
        Check("the order of a batch does not matter", "ranks and shuffles would change the loss",
              lambda: order_matters(trial)),
        Check("a step is committed once", "queues and averages would move twice",
              lambda: committed_twice(trial)),
        Check("views chosen by sample are those views", "hard views would be others",
              lambda: other_rows(trial)),
        Check("weights of samples are weights of pairs", "strategies would weigh wrongly",
              lambda: other_weights(trial)),
    ]  # fmt: skip


def strategy_checks(
    name: str, methods: Sequence[str] = ("simclr", "simsiam", "byol")
) -> list[Check]:
    """Return what the strategy `name` is held to, with each of some methods."""
    return [
        Check(f"with {method}, planning changes nothing, and steps train",
              "a run could not be repeated", _planned_with(name, method))
        for method in methods
    ]  # fmt: skip


def _planned_with(name: str, method: str) -> Callable[[], str | None]:
    def run() -> str | None:
        strategy = strategy_of(name, quick_settings(STRATEGIES[name]))
        settings = method_of(method, {})
        refused: ConfigError | None = None
        for roles, parent in VIEWS:
            try:
                strategy.check(settings.traits, slots_of(roles, parent))
            except ConfigError as error:
                refused = refused or error
                continue
            trial = Trial(settings, _small_network(settings), roles, parent)
            return planning_changes(trial, strategy)
        assert refused is not None, "there are views that were refused"
        return None if refused.why and refused.fix else f"refused without why and fix: {refused}"

    return run


# Views that a strategy may ask for: roles, and which view each was made from.
VIEWS: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = (
    (EE, ()),
    (EE * 2, ()),
    ((*EE, "generated"), ()),
    (("expert", "generated"), ()),
    ((*EE, "heavy", "heavy"), (-1, -1, 0, 1)),
)


def _small_network(settings: MethodSettings) -> dict[str, Any]:
    """Return the settings of a small network with the head that a method asks for."""
    head = dict(settings.HEAD)
    layers = len(head.get("projector", (0, 0)))
    small = {**head, "projector": (32,) * (layers - 1) + (16,)}
    try:
        make_method(settings, **small)
    except ConfigError:  # it wants patches
        return {**small, "backbone": "vit-ti", "patch": 8}
    return small


def _roles(traits: Traits) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return ((*GG, "local", "local") if "global" in traits.target_roles else EE), ()
