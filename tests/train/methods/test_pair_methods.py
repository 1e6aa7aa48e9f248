"""What each method of pairs of views promises, beyond what all methods do in conformance/."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.methods.scores import counted, score_of, standard_plan
from tests.train.world import SAMPLES, at, make_method, make_views, same, snapshot, train_step
from viewstore.cli.train import config_of, train
from viewstore.train.methods.barlow_twins import BarlowTwinsSettings
from viewstore.train.methods.base import MethodSettings
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.plan import Pair
from viewstore.train.strategies.table import STRATEGIES, strategy_of

STANDARD = strategy_of("standard", {})
EE = ("expert", "expert")
# Each with the number of forwards of the student's and of the target's backbone for two views.
ROWS: dict[str, tuple[MethodSettings, int, int]] = {
    "simclr": (SimCLRSettings(), 1, 0),  # of both views together
    "simclr, loss scale": (SimCLRSettings(loss_scale=7.142857, negatives="other"), 1, 0),
    "simclr, per view": (SimCLRSettings(forward="per_view"), 2, 0),
    "simsiam": (SimSiamSettings(), 2, 0),
    "simsiam, mse": (SimSiamSettings(scale="mse"), 2, 0),
    "byol": (BYOLSettings(), 2, 2),
    "byol, half": (BYOLSettings(scale="half"), 2, 2),
    "moco-v2": (MoCoV2Settings(queue_size=32), 1, 1),
    "moco-v2, symmetric": (MoCoV2Settings(queue_size=32, symmetric=True), 2, 2),
    "barlow-twins": (BarlowTwinsSettings(), 2, 0),
}
every = pytest.mark.parametrize("row", list(ROWS))


def embeddings() -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(8)
    return {name: torch.randn(2, SAMPLES, 16, generator=draws).requires_grad_() for name in "zp"}


def detached(emb: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in emb.items()}


@every
def test_scoring_and_embedding_change_nothing(row: str) -> None:
    method = make_method(ROWS[row][0])
    views = make_views(EE)
    train_step(method, STANDARD, views)
    before = snapshot(method)
    plan = standard_plan(method, views)
    for mode in ("probe", "attack"):
        for statistics in (None, "pooled", "per_view", "running"):
            student, target = method.both(plan, mode, statistics)  # type: ignore[arg-type]
            for pair in plan.pairs:
                method.score(student, target, pair, plan)
            method.reduce(student, target, plan)
            assert same(before, snapshot(method))


@every
def test_an_attack_has_gradients_of_pixels_alone(row: str) -> None:
    method = make_method(ROWS[row][0])
    views = make_views(EE)
    pixels = views.pixels[0].float().requires_grad_()
    attacked = replace(views, pixels=(pixels, *views.pixels[1:]))
    loss = method.forward(standard_plan(method, attacked), "attack").loss
    (gradient,) = torch.autograd.grad(loss, [pixels])
    assert gradient.abs().max() > 0
    assert all(each.grad is None for each in method.parameters())


@every
def test_each_backbone_embeds_each_view_at_most_once(row: str) -> None:
    settings, of_student, of_target = ROWS[row]
    method = make_method(settings)
    plan = standard_plan(method, make_views(EE))
    student = method.network("student").backbone
    target = method.network("target").backbone
    with counted(student) as there, counted(target) as back:
        method(plan)
    assert len(there) == of_student
    assert len(back) == (of_target if method.traits.target == "ema" else of_student)
    assert method.forwards == 2 * (1 + (of_target == 2))


@every
def test_the_scale_is_the_slope_of_the_pull_by_the_cosine(row: str) -> None:
    settings = ROWS[row][0]
    method = make_method(settings)
    scores = score_of(method, embeddings(), embeddings(), Pair(0, 1))
    assert scores.inverse_tau == pytest.approx(1 / getattr(settings, "temperature", 1.0))
    if not method.traits.decomposable:
        assert scores.scale == 0
        return
    (slope,) = torch.autograd.grad(scores.pull.sum(), [scores.cosine])
    torch.testing.assert_close(-slope, torch.full_like(slope, scores.scale))


@every
def test_the_distance_is_exact_where_views_nearly_meet(row: str) -> None:
    """From the difference of unit vectors: 2 - 2 cos has lost all digits there."""
    z = embeddings()["z"].detach()
    near = z + 1e-4 * z.flip(-1)
    scores = score_of(make_method(ROWS[row][0]), {"z": z, "p": z}, {"z": near}, Pair(0, 0))
    u, v = (F.normalize(each[0].double(), dim=1) for each in (z, near))
    torch.testing.assert_close(
        scores.squared_distance.double(), (u - v).square().sum(1), rtol=5e-3, atol=0
    )


@every
def test_weights_of_the_standard_plan_do_not_grow_with_views(row: str) -> None:
    method = make_method(ROWS[row][0])
    sums = []
    for count in (2, 3, 4):
        pairs = standard_plan(method, make_views(("expert",) * count)).pairs
        sums.append(sum(pair.weight for pair in pairs))
    assert sums == pytest.approx([2.0 if row == "byol" else 1.0] * 3)


@every
def test_a_partner_is_the_target_of_another_sample(row: str) -> None:
    method = make_method(ROWS[row][0])
    emb = detached(embeddings())
    partner = torch.tensor([2, 0, 1, 5, 3, 4, 7, 6])
    scores = score_of(method, emb, emb, Pair(0, 1, partner=partner))
    moved = {name: value[:, partner] for name, value in emb.items()}
    assert torch.equal(scores.cosine, score_of(method, emb, moved, Pair(0, 1)).cosine)


@every
def test_a_detached_pair_has_no_gradient_into_its_target(row: str) -> None:
    method = make_method(ROWS[row][0])
    target = embeddings()
    scores = score_of(method, detached(embeddings()), target, Pair(0, 1, detach=True))
    for value in (scores.pull, scores.push, scores.cosine, scores.squared_distance):
        assert not value.requires_grad


@every
def test_every_trained_parameter_is_in_one_group_and_moves(row: str) -> None:
    method = make_method(ROWS[row][0])
    grouped = [each for group in method.groups() for each in group.parameters]
    assert len({id(each) for each in grouped}) == len(grouped)
    trained = {id(each) for each in method.parameters() if each.requires_grad}
    assert {id(each) for each in grouped} == trained
    assert all(not group.adapt or p.ndim > 1 for group in method.groups() for p in group.parameters)
    before = [each.clone() for each in grouped]
    train_step(method, STANDARD, make_views(EE))
    assert not any(map(torch.equal, before, grouped))


@every
def test_the_loss_of_views_that_are_seen_again_falls(row: str) -> None:
    method = make_method(ROWS[row][0])
    views = make_views(EE)
    losses = [
        train_step(method, STANDARD, replace(views, at=at(step))).loss.item() for step in range(4)
    ]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_strategy_changes_a_default_of_a_method(name: str, strategy: str) -> None:
    """Negatives and temperature above all: results of two strategies are compared."""
    assert METHODS[name].TRAITS.name == name
    words = f"views --views simclr,simclr --method {name} --strategy {strategy} --steps 1 --out run"
    options = train.make_context("train", words.split()).params
    assert config_of(options).method == method_of(name, {})
