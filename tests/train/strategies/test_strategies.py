"""What each strategy promises, beyond what all of them promise in conformance/."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.loops import loop_loss
from viewstore.errors import ConfigError
from viewstore.train.losses import Negatives
from viewstore.train.methods.base import Method, PairTerms
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.nets.network import NetworkSettings, seeded_network
from viewstore.train.objective import Plan, objective, reduce_terms
from viewstore.train.strategies.a2 import A2
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.standard import Standard
from viewstore.train.views import ViewBatch

TEMPERATURE = 0.5


def make_method(**settings: object) -> Method:
    network = seeded_network(NetworkSettings(backbone="conv3", projector=(32, 16)), 0)
    # In evaluation mode views do not meet in batch statistics, so that they can be compared.
    return SimCLRSettings(**settings).make(network, amp=False).eval()  # type: ignore[arg-type]


def make_batch(x: Tensor, *roles: str) -> ViewBatch:
    return ViewBatch(
        x={16: x},
        slot=torch.tensor([(16, view) for view in range(len(x))]),
        role=roles,
        parent=torch.full((len(x),), -1),
        params={},
        index=torch.arange(x.shape[1]),
        epoch=0,
        step=0,
        seed=5,
    )


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def loss_of(strategy: Strategy, method: Method, vb: ViewBatch) -> Tensor:
    return objective(method, strategy.plan(vb, method)).loss


def embeddings(method: Method, vb: ViewBatch) -> Tensor:
    return F.normalize(method.encode(vb, torch.arange(vb.num_views))["z"], dim=2)


def loop_mean(first: Tensor, second: Tensor, negatives: Negatives) -> Tensor:
    losses = loop_loss(first, second, negatives, TEMPERATURE)
    return torch.tensor(losses, dtype=torch.float64).mean().float()


def test_standard_simclr_is_nt_xent(x: Tensor) -> None:
    method, vb = make_method(), make_batch(x[:2], "expert", "expert")
    u, v = embeddings(method, vb)
    torch.testing.assert_close(loss_of(Standard(), method, vb), loop_mean(u, v, "both"))


def test_loss_scale_is_a_factor(x: Tensor) -> None:
    vb = make_batch(x[:2], "expert", "expert")
    once = loss_of(Standard(), make_method(), vb)
    torch.testing.assert_close(loss_of(Standard(), make_method(loss_scale=3.0), vb), 3 * once)


@pytest.mark.parametrize("negatives", ["both", "other"])
@pytest.mark.parametrize("anchors", ["both", "first"])
def test_a2_is_the_base_loss_minus_the_mean_alignment(
    x: Tensor, negatives: Negatives, anchors: str
) -> None:
    method = make_method(negatives=negatives)
    vb = make_batch(x, "expert", "generated", "expert", "generated")
    u = embeddings(method, vb)
    base = loop_mean(u[0], u[2], negatives)
    first = sum((u[0] * u[g]).sum(1) for g in (1, 3)) / 2
    second = sum((u[2] * u[g]).sum(1) for g in (1, 3)) / 2
    aligned = (first + second) / 2 if anchors == "both" else first
    expected = base - (0.7 * aligned / TEMPERATURE).mean()
    strategy = A2(alpha=0.7, anchors=anchors)  # type: ignore[arg-type]
    torch.testing.assert_close(loss_of(strategy, method, vb), expected)


def test_a2_without_weight_is_the_base_loss_of_the_experts(x: Tensor) -> None:
    method = make_method(negatives="other")
    vb = make_batch(x[:3], "expert", "expert", "generated")
    base = loss_of(Standard(), method, make_batch(x[:2], "expert", "expert"))
    torch.testing.assert_close(loss_of(A2(alpha=0), method, vb), base)
    assert not torch.isclose(loss_of(A2(alpha=0.5), method, vb), base)


def test_copies_of_one_generated_view_count_once(x: Tensor) -> None:
    method = make_method(negatives="other")
    once = make_batch(x[:3], "expert", "expert", "generated")
    thrice = make_batch(x[[0, 1, 2, 2, 2]], "expert", "expert", *["generated"] * 3)
    torch.testing.assert_close(loss_of(A2(), method, once), loss_of(A2(), method, thrice))


def test_a2_sends_gradients_through_generated_and_expert_views(x: Tensor) -> None:
    method = make_method(negatives="other")
    images = x[:3].clone().requires_grad_()
    plan = A2().plan(make_batch(images, "expert", "expert", "generated"), method)
    alignment = replace(plan, weight=torch.tensor([0.0, 0, 1, 1]))
    objective(method, alignment).loss.backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((1, 2, 3, 4)) > 0).all()


def test_a2_full_with_two_views_is_nt_xent(x: Tensor) -> None:
    method, vb = make_method(), make_batch(x[:2], "expert", "expert")
    full = loss_of(A2(loss="full"), method, vb)
    torch.testing.assert_close(full, loss_of(Standard(), method, vb))


def test_a2_full_is_the_loop_over_all_pairs_and_rows(x: Tensor) -> None:
    method, vb = make_method(), make_batch(x[:3], "expert", "expert", "generated")
    u = embeddings(method, vb).double()
    rows = [(v, b) for v in range(3) for b in range(6)]
    losses = []
    for s, b in rows:
        others = [row for row in rows if row != (s, b)]
        bottom = sum(torch.exp(u[s, b] @ u[row] / TEMPERATURE) for row in others)
        for t in {0, 1, 2} - {s}:
            losses.append(-torch.log(torch.exp(u[s, b] @ u[t, b] / TEMPERATURE) / bottom))
    expected = torch.stack(losses).mean().float()
    torch.testing.assert_close(loss_of(A2(loss="full"), method, vb), expected)


def test_a_plan_is_summed_over_pairs_and_averaged_over_samples() -> None:
    pos = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    terms = PairTerms(torch.zeros(2, 2), pos, torch.full((2, 2), 10.0))
    plan = Plan(
        views=torch.tensor([0, 1]),
        targets=torch.tensor([0, 1]),
        pairs=torch.tensor([[0, 1], [1, 0]]),
        weight=torch.tensor([0.5, 2.0]),
        term=("total", "pos"),
        batch=make_batch(torch.zeros(2, 2, 3, 16, 16), "expert", "expert"),
    )
    assert reduce_terms(terms, plan) == (0.5 * (11 + 12) + 2 * (3 + 4)) / 2
    plan.weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert reduce_terms(terms, plan) == (11 + 4) / 2
    with pytest.raises(ConfigError, match="scores in parts are needed for the terms"):
        reduce_terms(pos, plan)
    plan.term = ("total", "total")
    assert reduce_terms(pos, plan) == (1 + 4) / 2


def test_targets_of_a_method_without_target_net_are_its_views(x: Tensor) -> None:
    method, vb = make_method(), make_batch(x[:2], "expert", "expert")
    plan = replace(Standard().plan(vb, method), targets=torch.tensor([1, 0]))
    with pytest.raises(ConfigError, match="simclr has no target net"):
        objective(method, plan)
