"""One suite over all methods and strategies; a new one of either is a new row."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method, MethodSettings, StepInfo, Traits
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.nets.network import NetworkSettings, seeded_network
from viewstore.train.objective import objective
from viewstore.train.strategies.a2 import A2
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import METHODS, STRATEGIES, method_settings, strategy_of
from viewstore.train.views import ViewBatch

# Each method and strategy with each of its switches, and the roles it is fed with.
METHOD_ROWS: dict[str, MethodSettings] = {
    "simclr": SimCLRSettings(),
    "simclr, other negatives": SimCLRSettings(negatives="other", temperature=0.2),
}
EEG = ("expert", "expert", "generated")
STRATEGY_ROWS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "standard": ("standard", {}, ("expert", "expert")),
    "standard on generated views": ("standard", {}, ("generated", "expert")),
    "a2": ("a2", {}, EEG),
    "a2, first anchor, two generated": ("a2", {"anchors": "first"}, (*EEG, "generated")),
    "a2, three experts": ("a2", {}, ("expert",) * 3),
    "a2, full": ("a2", {"loss": "full"}, EEG),
}
# What a strategy must refuse (methods.md 4.8), by traits of methods that are not here yet.
SIMCLR = SimCLRSettings.TRAITS
BARLOW = replace(
    SIMCLR, name="barlow-twins", samplewise=False, negatives="none", decomposable=False
)
DINO = replace(SIMCLR, name="dino", target="ema", negatives="none", decomposable=False)
MOCO = replace(SIMCLR, name="moco-v2", target="ema", negatives="queue", forward="per_view")
REFUSED: list[tuple[str, dict[str, Any], Traits, str]] = [
    ("a2", {}, BARLOW, "decomposable"),
    ("a2", {}, DINO, "decomposable"),
    ("a2", {"loss": "full"}, MOCO, "denominator runs over all views"),
]


def make_method(settings: MethodSettings, *, in_channels: int = 3) -> Method:
    network = NetworkSettings(backbone="conv3", in_channels=in_channels, projector=(32, 16))
    return settings.make(seeded_network(network, 0), amp=False).train()


def make_batch(roles: tuple[str, ...], *, samples: int = 6, seed: int = 0) -> ViewBatch:
    x = torch.randn(len(roles), samples, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return ViewBatch(
        x={16: x},
        slot=torch.tensor([(16, view) for view in range(len(roles))]),
        role=roles,
        parent=torch.full((len(roles),), -1),
        params={},
        index=torch.arange(samples) + 100,
        epoch=2,
        step=7,
        seed=3,
    )


methods = pytest.mark.parametrize("method_row", list(METHOD_ROWS))
strategies = pytest.mark.parametrize("strategy_row", list(STRATEGY_ROWS))


def cell(method_row: str, strategy_row: str) -> tuple[Method, Strategy, ViewBatch]:
    name, given, roles = STRATEGY_ROWS[strategy_row]
    return make_method(METHOD_ROWS[method_row]), strategy_of(name, given), make_batch(roles)


def snapshot(method: Method) -> list[torch.Tensor]:
    state = [value.clone() for value in method.state_dict().values()]
    state += [p.grad.clone() for p in method.parameters() if p.grad is not None]
    return [*state, torch.get_rng_state()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def train_step(method: Method, strategy: Strategy, vb: ViewBatch) -> float:
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    loss, student, target = objective(method, strategy.plan(vb, method))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    method.commit(student, target, StepInfo(vb.epoch, vb.step, 100))
    return loss.item()


def test_every_method_and_strategy_has_a_row() -> None:
    assert {settings.TRAITS.name for settings in METHOD_ROWS.values()} == set(METHODS)
    assert {name for name, _, _ in STRATEGY_ROWS.values()} == set(STRATEGIES)


@methods
@strategies
def test_planning_and_scoring_change_nothing(method_row: str, strategy_row: str) -> None:
    method, strategy, vb = cell(method_row, strategy_row)
    train_step(method, strategy, vb)
    pixels = vb.x[16].clone()
    before = snapshot(method)
    plan = strategy.plan(vb, method)
    student = method.encode(plan.batch, plan.views, grad=False)
    method.score(student, student, plan.pairs, pool=plan.pool)
    assert same(before, snapshot(method))
    assert torch.equal(vb.x[16], pixels)
    assert not student["z"].requires_grad


@methods
def test_a_training_forward_moves_running_statistics_only(method_row: str) -> None:
    method = make_method(METHOD_ROWS[method_row])
    vb = make_batch(("expert", "expert"))
    before = method.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    method.encode(vb, torch.tensor([0, 1]))
    moved = {n for n, value in method.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {n for n in before if "running_" in n or "num_batches" in n}


@methods
@strategies
def test_a_plan_is_the_same_twice(method_row: str, strategy_row: str) -> None:
    method, strategy, vb = cell(method_row, strategy_row)
    first, second = strategy.plan(vb, method), strategy.plan(vb, method)
    assert torch.equal(first.pairs, second.pairs)
    assert torch.equal(first.weight, second.weight)
    assert all(torch.equal(first.batch.x[size], second.batch.x[size]) for size in first.batch.x)


@methods
@strategies
def test_two_steps_run_and_change_every_weight(method_row: str, strategy_row: str) -> None:
    method, strategy, vb = cell(method_row, strategy_row)
    strategy.check(method.traits)
    strategy.request(method.traits, vb.step).check(vb.role, strategy=strategy.NAME)
    before = [parameter.clone() for parameter in method.parameters()]
    losses = [train_step(method, strategy, replace(vb, step=step)) for step in (0, 1)]
    assert losses[1] < losses[0]
    after = list(method.parameters())
    assert not any(map(torch.equal, before, after))


@methods
@strategies
def test_scores_of_a_sample_depend_on_its_own_order_only(
    method_row: str, strategy_row: str
) -> None:
    method, strategy, vb = cell(method_row, strategy_row)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = replace(vb, x={16: vb.x[16][:, order]}, index=vb.index[order])
    first = objective(method, strategy.plan(vb, method)).loss
    second = objective(method, strategy.plan(moved, method)).loss
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@methods
def test_a_step_is_committed_once(method_row: str) -> None:
    method = make_method(METHOD_ROWS[method_row])
    method.commit({}, {}, StepInfo(0, 4, 10))
    with pytest.raises(RuntimeError, match="step 4 was committed already"):
        method.commit({}, {}, StepInfo(0, 4, 10))


@methods
def test_views_chosen_per_sample_are_those_views(method_row: str) -> None:
    method = make_method(METHOD_ROWS[method_row]).eval()
    vb = make_batch(("expert",) * 3)
    chosen = torch.tensor([[0, 1, 2, 0, 1, 2], [1, 1, 1, 1, 1, 1]])
    mixed = method.encode(vb, chosen)["z"]
    plain = method.encode(vb, torch.tensor([0, 1, 2]))["z"]
    torch.testing.assert_close(mixed[0], plain[chosen[0], torch.arange(6)])
    torch.testing.assert_close(mixed[1], plain[1])


@methods
def test_another_domain_of_batch_norm_is_refused(method_row: str) -> None:
    method = make_method(METHOD_ROWS[method_row])
    with pytest.raises(ConfigError, match="batch norm domain must be 'clean', got 'adv'"):
        method.encode(make_batch(("expert",)), torch.tensor([0]), bn="adv")


@pytest.mark.parametrize(("name", "given", "traits", "trait"), REFUSED)
def test_what_cannot_work_is_refused_naming_strategy_trait_and_fix(
    name: str, given: dict[str, Any], traits: Traits, trait: str
) -> None:
    with pytest.raises(ConfigError, match=f"strategy {name}.* method {traits.name}") as caught:
        strategy_of(name, given).check(traits)
    assert trait in (caught.value.why or "")
    assert "use --" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("name", "roles", "message"),
    [
        ("standard", ("expert",), "trains on 2 views, got 1"),
        ("standard", ("expert",) * 3, "trains on 2 views, got 3"),
        ("a2", ("expert", "expert"), "trains on at least 3 views, got 2"),
        ("a2", ("expert", "generated", "generated"), "needs 2 views of role expert, got 1"),
    ],
)
def test_other_views_than_a_strategy_wants_are_refused(
    name: str, roles: tuple[str, ...], message: str
) -> None:
    spec = strategy_of(name, {}).request(SIMCLR, 0)
    with pytest.raises(ConfigError, match=f"strategy {name} {message}") as caught:
        spec.check(roles, strategy=name)
    assert "--views " in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: strategy_of("a3", {}), "there is no strategy 'a3'; there are a2, standard"),
        (lambda: strategy_of("a1", {}), "a1 is no strategy: it is the standard one"),
        (lambda: method_settings("simclr2", {}), "did you mean 'simclr'"),
        (lambda: strategy_of("a2", {"alfa": 1}), "has no setting 'alfa'; did you mean 'alpha'"),
        (lambda: A2(alpha=-1), "alpha must be at least 0"),
        (lambda: A2(anchors="last"), "anchors must be both or first"),  # type: ignore[arg-type]
        (lambda: A2(loss="half"), "a2 loss must be align or full"),  # type: ignore[arg-type]
        (lambda: SimCLRSettings(temperature=0), "temperature must be above 0"),
        (lambda: SimCLRSettings(negatives="none"), "negatives must be"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@methods
def test_embeddings_of_a_bfloat16_forward_are_float32_and_close(method_row: str) -> None:
    plain = make_method(METHOD_ROWS[method_row]).eval()
    mixed = METHOD_ROWS[method_row].make(plain.network, amp=True).eval()
    vb, rows = make_batch(("expert", "expert")), torch.tensor([0, 1])
    exact, rounded = plain.encode(vb, rows)["z"], mixed.encode(vb, rows)["z"]
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=2).min() > 0.99
