"""A2 and the standard plan against loops over samples, views and rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.loops import loop_loss
from tests.train.world import make_method, make_views, slots_of
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Frame, Method
from viewstore.train.methods.deepcluster_v2 import DeepClusterV2Settings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import Negatives, SimCLRSettings
from viewstore.train.methods.traits import Traits
from viewstore.train.plan import Pair, Plan, Scores, pull, total
from viewstore.train.strategies.a2 import A2
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.standard import Standard
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import Views

TEMPERATURE = 0.5
EEG = ("expert", "expert", "generated")


def simclr(**settings: Any) -> Method:  # noqa: ANN401
    # In evaluation mode views do not meet in batch statistics, so that they can be compared.
    return make_method(SimCLRSettings(**settings)).eval()


def loss_of(strategy: Strategy, method: Method, views: Views) -> Tensor:
    loss: Tensor = method(strategy.plan(views, method)).loss
    return loss


def a2(**settings: Any) -> Strategy:  # noqa: ANN401
    return strategy_of("a2", settings)


def embeddings(method: Method, views: Views) -> Tensor:
    plan = Standard(roles=None).rows(views, method)
    return F.normalize(method.encode(views, plan, net="student", mode="train")["z"], dim=2)


def loop_mean(first: Tensor, second: Tensor, negatives: Negatives) -> Tensor:
    losses = loop_loss(first, second, negatives, TEMPERATURE)
    return torch.tensor(losses, dtype=torch.float64).mean().float()


def test_standard_simclr_is_nt_xent() -> None:
    method, views = simclr(), make_views(EEG[:2])
    u, v = embeddings(method, views)
    torch.testing.assert_close(
        loss_of(Strategy(Standard()), method, views), loop_mean(u, v, "both")
    )


def test_loss_scale_is_a_factor() -> None:
    views = make_views(EEG[:2])
    once = loss_of(Strategy(Standard()), simclr(), views)
    scaled = loss_of(Strategy(Standard()), simclr(loss_scale=3.0), views)
    torch.testing.assert_close(scaled, 3 * once)


def test_two_pairs_a_sample_are_the_mean_of_two_plans() -> None:
    method, views = simclr(), make_views(("expert",) * 4)
    u = embeddings(method, views)
    expected = (loop_mean(u[0], u[1], "both") + loop_mean(u[2], u[3], "both")) / 2
    strategy = Strategy(Standard(pairs_per_sample=2))
    torch.testing.assert_close(loss_of(strategy, method, views), expected)


@pytest.mark.parametrize("negatives", ["both", "other"])
@pytest.mark.parametrize("anchors", ["both", "first"])
def test_a2_is_the_base_loss_minus_the_mean_alignment(negatives: Negatives, anchors: str) -> None:
    method = simclr(negatives=negatives)
    views = make_views(("expert", "generated", "expert", "generated"))
    u = embeddings(method, views)
    base = loop_mean(u[0], u[2], negatives)
    first = sum((u[0] * u[g]).sum(1) for g in (1, 3)) / 2
    second = sum((u[2] * u[g]).sum(1) for g in (1, 3)) / 2
    aligned = (first + second) / 2 if anchors == "both" else first
    expected = base - (0.7 * aligned / TEMPERATURE).mean()
    torch.testing.assert_close(loss_of(a2(alpha=0.7, anchors=anchors), method, views), expected)


def test_a2_without_weight_is_the_base_loss_of_the_experts() -> None:
    method, views = simclr(negatives="other"), make_views(EEG)
    two = replace(views, pixels=views.pixels[:2], role=views.role[:2])
    base = loss_of(Strategy(Standard()), method, two)
    torch.testing.assert_close(loss_of(a2(alpha=0), method, views), base)
    assert not torch.isclose(loss_of(a2(alpha=0.5), method, views), base)


@pytest.mark.parametrize("divide_by_k", [True, False])
def test_copies_of_one_generated_view_count_once_or_each(divide_by_k: bool) -> None:
    method, once = simclr(negatives="other"), make_views(EEG)
    g = once.pixels[2]
    thrice = replace(make_views((*EEG, *EEG[2:] * 2)), pixels=(*once.pixels, g, g))
    base = loss_of(a2(alpha=0), method, once)
    alone = loss_of(a2(divide_by_k=divide_by_k), method, once) - base
    three = loss_of(a2(divide_by_k=divide_by_k), method, thrice) - base
    torch.testing.assert_close(three, alone if divide_by_k else 3 * alone)


def test_a2_sends_gradients_through_generated_and_expert_views() -> None:
    method, views = simclr(negatives="other"), make_views(EEG)
    levels = tuple(pixels.float().requires_grad_() for pixels in views.pixels)
    plan = a2().plan(replace(views, pixels=levels), method)
    method(replace(plan, pairs=plan.pairs[2:])).loss.backward()
    for level in levels:
        assert level.grad is not None
        assert (level.grad.abs().sum((1, 2, 3)) > 0).all()


def test_experts_behind_the_second_are_aligned_where_no_view_is_generated() -> None:
    method = simclr()
    plan = a2().plan(make_views(("expert",) * 3), method)
    assert [row.view for row in plan.students] == [0, 1, 2]
    assert [(pair.student, pair.target) for pair in plan.pairs] == [(1, 0), (0, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("given", [{}, {"anchors": "first"}, {"delta": 1.0}, {"beta": 1.0}])
@pytest.mark.parametrize("symmetric", [False, True])
def test_anchors_are_targets_of_the_standard_plan_beside_those_of_other_stages(
    given: dict[str, Any], symmetric: bool
) -> None:
    method = make_method(MoCoV2Settings(queue_size=16, symmetric=symmetric))
    views = make_views((*EEG, "heavy", "heavy"), (-1, -1, -1, 0, 1))
    plan = strategy_of("dssl,a2", given).plan(views, method)
    aligned = [pair for pair in plan.pairs if plan.students[pair.student].view == 2]
    shown = [plan.targets[pair.target].view for pair in aligned if pair.target is not None]
    expected = ([0] if "anchors" in given else [0, 1]) if symmetric else [1]
    assert shown == expected
    assert sum(pair.weight for pair in aligned) == pytest.approx(0.5)


def test_a2_full_is_the_loop_over_all_pairs_and_rows() -> None:
    method, views = simclr(), make_views(EEG)
    u = embeddings(method, views).double()
    rows = [(v, b) for v in range(3) for b in range(len(views))]
    losses = []
    for s, b in rows:
        others = [row for row in rows if row != (s, b)]
        bottom = sum(torch.exp(u[s, b] @ u[row] / TEMPERATURE) for row in others)
        for t in {0, 1, 2} - {s}:
            losses.append(-torch.log(torch.exp(u[s, b] @ u[t, b] / TEMPERATURE) / bottom))
    expected = torch.stack(losses).mean().float()
    torch.testing.assert_close(loss_of(a2(loss="full"), method, views), expected)


class Fixed(Method):
    """A method whose scores are given."""

    def head(self, features: Tensor, net: str) -> dict[str, Tensor]:
        return {"z": features}

    def score(self, student: object, target: object, pair: Pair, plan: Plan) -> Scores:
        value = torch.tensor([1.0, 2.0]) + 2 * pair.student
        zero = torch.zeros(2)
        return Scores(zero, value, zero + 10, zero, 1.0, 1.0)


def test_a_plan_is_summed_over_pairs_and_averaged_over_samples() -> None:
    method, views = simclr(), make_views(EEG[:2], samples=2)
    fixed = Fixed(method.student, method.traits, Frame(prepare=method.prepare))
    plan = Strategy(Standard()).plan(views, method)
    pairs = (Pair(0, 1, 0.5, total), Pair(1, 0, 2.0, pull))
    assert fixed.reduce({}, {}, replace(plan, pairs=pairs)) == (0.5 * (11 + 12) + 2 * (3 + 4)) / 2
    weights = (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    pairs = tuple(replace(pair, weight=w) for pair, w in zip(pairs, weights, strict=True))
    assert fixed.reduce({}, {}, replace(plan, pairs=pairs)) == (11 + 4) / 2


@pytest.mark.parametrize(
    ("names", "given", "roles", "message"),
    [
        ("standard", {}, ("expert",), "standard trains on at least 2 views, got 1"),
        ("standard", {}, EEG, "on views of one role, or on global and local crops, got expert"),
        ("standard", {"pairs_per_sample": 2}, EEG[:2], "two pairs a sample need 4 views, got 2"),
        ("a2", {}, EEG[:2], "a2 needs two views and at least one generated view"),
        ("a2", {}, ("expert", "generated", "generated"), "at least 2 views, got 1"),
    ],
)
def test_other_views_than_a_strategy_wants_are_refused(
    names: str, given: dict[str, Any], roles: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        strategy_of(names, given).check(SimCLRSettings.TRAITS, slots_of(roles))
    assert "--views " in (caught.value.fix or "")


def test_anchors_are_refused_where_views_learn_labels() -> None:
    labels = DeepClusterV2Settings.TRAITS
    a2().check(labels, slots_of(EEG))
    with pytest.raises(ConfigError, match="a2 with anchors first does not") as caught:
        a2(anchors="first").check(labels, slots_of(EEG))
    assert "--set strategy.anchors=both" in str(caught.value.fix)


BARLOW = Traits(
    name="barlow", samplewise=False, target="none", decomposable=False, forward="per_view"
)
MOCO = replace(SimCLRSettings.TRAITS, name="moco", negatives="queue", target="ema")


@pytest.mark.parametrize(
    ("given", "traits", "why"),
    [({}, BARLOW, "samplewise"), ({"loss": "full"}, MOCO, "denominator runs over all views")],
)
def test_what_cannot_work_is_refused_naming_strategy_trait_and_fix(
    given: dict[str, Any], traits: Traits, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"strategy a2.* method {traits.name}") as caught:
        a2(**given).check(traits, slots_of(EEG))
    assert why in (caught.value.why or "")
    assert "use --" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        ("a3", {}, "there is no strategy 'a3'"),
        ("a2,a2", {}, "strategy a2 is given twice"),
        ("a2", {"alfa": 1}, "has no setting 'alfa'; did you mean 'alpha'"),
        ("a2", {"standard.roles": "heavy"}, r"has no setting 'standard\.roles'"),
        ("a2", {"alpha": -1}, "alpha must be at least 0"),
        ("a2", {"anchors": "last"}, "anchors must be both or first"),
        ("a2", {"loss": "half"}, "loss must be align or full"),
        ("a2", {"loss": "full", "alpha": 1}, "alpha 1.* has no effect in strategy a2: loss full"),
        ("a2", {"loss": "full", "anchors": "first"}, "anchors first has no effect"),
        ("a2", {"loss": "full", "divide_by_k": False}, "divide_by_k False has no effect"),
        ("standard", {"pairs_per_sample": 3}, "pairs_per_sample must be 1 or 2"),
    ],
)
def test_unknown_names_and_settings_are_refused(
    names: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy_of(names, given)


def test_settings_go_to_the_part_that_has_them() -> None:
    strategy = strategy_of("standard,a2", {"a2.alpha": 0.25, "roles": "expert"})
    assert strategy == Strategy(Standard(roles="expert"), (A2(alpha=0.25),))
    assert strategy.name == "a2"
