"""What every method promises; a new one is a new row. See also conformance/."""

from dataclasses import fields, replace
from itertools import permutations

import pytest
import torch
from torch import Tensor

from tests.train.methods.build import (
    changed,
    counted,
    make_at,
    make_method,
    make_views,
    score_of,
    snapshot,
    standard_plan,
    train_step,
)
from viewstore.train.methods.base import MethodSettings
from viewstore.train.methods.barlow_twins import BarlowTwinsSettings
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.plan import Pair, Row
from viewstore.train.strategies.table import STRATEGIES, strategy_of

ROWS: dict[str, MethodSettings] = {
    "simclr": SimCLRSettings(),
    "simclr, loss scale": SimCLRSettings(loss_scale=7.142857, negatives="other"),
    "simsiam": SimSiamSettings(),
    "simsiam, mse": SimSiamSettings(scale="mse"),
    "byol": BYOLSettings(),
    "byol, half": BYOLSettings(scale="half"),
    "moco-v2": MoCoV2Settings(queue_size=24),
    "moco-v2, symmetric": MoCoV2Settings(queue_size=24, symmetric=True),
    "barlow-twins": BarlowTwinsSettings(),
}
FORWARDS = {  # of the backbones of student and target, for two views
    "simclr": (1, 0),  # of both views together
    "simclr, loss scale": (1, 0),
    "simsiam": (2, 0),
    "simsiam, mse": (2, 0),
    "byol": (2, 2),
    "byol, half": (2, 2),
    "moco-v2": (1, 1),
    "moco-v2, symmetric": (2, 2),
    "barlow-twins": (2, 0),
}
every = pytest.mark.parametrize("row", list(ROWS))


def embeddings(row: str, count: int = 2, samples: int = 6) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(8)
    return {
        name: torch.randn(count, samples, 16, generator=draws).requires_grad_() for name in "zp"
    }


@every
def test_scoring_and_embedding_change_nothing(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    views = make_views()
    train_step(method, views)
    before = snapshot(method)
    plan = standard_plan(method, views)
    for mode in ("probe", "attack"):
        for statistics in (None, "pooled", "per_view", "running"):
            student, target = method.both(plan, mode, statistics)  # type: ignore[arg-type]
            for pair in plan.pairs:
                method.score(student, target, pair, plan)
            method.reduce(student, target, plan)
            assert changed(before, snapshot(method)) == []
    method.forward(plan, "probe")
    assert changed(before, snapshot(method)) == []


@every
def test_an_attack_has_gradients_of_pixels_alone(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    views = make_views()
    pixels = views.pixels[0].float().requires_grad_()
    attacked = replace(views, pixels=(pixels, *views.pixels[1:]))
    loss = method.forward(standard_plan(method, attacked), "attack").loss
    (gradient,) = torch.autograd.grad(loss, [pixels])
    assert gradient.abs().max() > 0
    assert all(each.grad is None for each in method.parameters())


@every
def test_the_backbone_embeds_each_view_once(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    with counted(method.student.backbone) as student:
        if method.traits.target == "ema":
            with counted(method.network("target").backbone) as target:
                method(standard_plan(method, make_views()))
        else:
            target = []
            method(standard_plan(method, make_views()))
    assert (len(student), len(target)) == FORWARDS[row]
    assert method.forwards == (sum(student) + sum(target)) / 6


@every
def test_the_scale_is_the_slope_of_the_pull_by_the_cosine(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    emb = embeddings(row)
    scores = score_of(method, dict(emb), dict(emb), Pair(0, 1))
    if not method.traits.decomposable:
        assert scores.scale == 0
        return
    (slope,) = torch.autograd.grad(scores.pull.sum(), [scores.cosine])
    torch.testing.assert_close(-slope, torch.full_like(slope, scores.scale))
    temperature = getattr(ROWS[row], "temperature", 1.0)
    assert scores.inverse_tau == pytest.approx(1 / temperature)


@every
def test_the_distance_is_exact_where_views_nearly_meet(row: str) -> None:
    """From the difference of unit vectors: 2 - 2 cos has lost all digits there."""
    method = make_method(ROWS[row], batch_size=6)
    emb = {name: value.detach() for name, value in embeddings(row).items()}
    near = {name: value + 1e-4 * value.flip(-1) for name, value in emb.items()}
    student = emb | {"z": emb["z"], "p": emb["z"]}
    scores = score_of(method, dict(student), dict(near), Pair(0, 0))
    u, v = (torch.nn.functional.normalize(x["z"][0].double(), dim=1) for x in (student, near))
    torch.testing.assert_close(
        scores.squared_distance.double(), (u - v).square().sum(1), rtol=5e-3, atol=0
    )


@every
def test_weights_of_the_standard_plan_do_not_grow_with_views(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    sums = []
    for count in (2, 3, 4):
        views = make_views(("expert",) * count)
        weights = [pair.weight for pair in standard_plan(method, views).pairs]
        sums.append(sum(weights))
    assert sums == pytest.approx([sums[0]] * 3)


@every
def test_a_partner_is_the_target_of_another_sample(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    emb = {name: value.detach() for name, value in embeddings(row).items()}
    partner = torch.tensor([2, 0, 1, 5, 3, 4])
    scores = score_of(method, dict(emb), dict(emb), Pair(0, 1, partner=partner))
    moved = {name: value[:, partner] for name, value in emb.items()}
    assert torch.equal(
        scores.cosine, score_of(method, dict(emb), dict(moved), Pair(0, 1)).cosine
    )


@every
def test_a_detached_pair_has_no_gradient_into_its_target(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    student, target = embeddings(row), embeddings(row)
    scores = score_of(method, dict(student), dict(target), Pair(0, 1, detach=True))
    loss = (scores.pull + scores.push - scores.cosine).sum()
    assert all(
        gradient is None or not gradient.any()
        for gradient in torch.autograd.grad(loss, list(target.values()), allow_unused=True)
    )


@every
def test_the_loss_does_not_depend_on_the_order_of_samples(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    views = make_views()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = replace(
        views,
        pixels=tuple(pixels[order] for pixels in views.pixels),
        sample=views.sample[order],
    )
    first, second = (
        method.forward(standard_plan(method, each), "probe").loss for each in (views, moved)
    )
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@every
def test_every_trained_parameter_is_in_one_group_and_moves(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    grouped = [each for group in method.groups() for each in group.parameters]
    assert len({id(each) for each in grouped}) == len(grouped)
    trained = {id(each) for each in method.parameters() if each.requires_grad}
    assert {id(each) for each in grouped} == trained
    before = [each.clone() for each in grouped]
    train_step(method, make_views())
    assert not any(map(torch.equal, before, grouped))
    assert all(not group.adapt or p.ndim > 1 for group in method.groups() for p in group.parameters)


@every
def test_the_loss_falls(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    views = make_views()
    losses = [train_step(method, replace(views, at=make_at(step))) for step in range(4)]
    assert losses[-1] < losses[0]


@every
def test_a_step_is_committed_once(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6)
    embedded = method(standard_plan(method, make_views()))
    method.commit([embedded], make_at(4))
    with pytest.raises(RuntimeError, match="step 4 was committed already"):
        method.commit([embedded], make_at(4))


@every
def test_embeddings_of_rows_chosen_per_sample_are_those_of_the_views(row: str) -> None:
    method = make_method(ROWS[row], batch_size=6).eval()
    views = make_views(("expert",) * 3)
    chosen = torch.tensor([0, 1, 2, 0, 1, 2])
    rows = [Row(0), Row(1), Row(2), Row(chosen)]
    z = method.encode(views, rows, net="student", mode="probe")["z"]
    torch.testing.assert_close(z[3], z[chosen, torch.arange(6)])


def test_every_method_of_the_table_has_a_row() -> None:
    assert {settings.TRAITS.name for settings in ROWS.values()} == set(METHODS)
    for name, kind in METHODS.items():
        assert kind.TRAITS.name == name


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_strategy_changes_a_setting_of_a_method(name: str) -> None:
    """Of which negatives and temperature are defaults that results are compared by."""
    plain = method_of(name, {})
    settings = {item.name: getattr(plain, item.name) for item in fields(plain)}  # type: ignore[arg-type]
    for strategy in STRATEGIES:
        made = strategy_of(strategy, {})
        method = make_method(method_of(name, {}))
        kept = method.settings
        assert {key: getattr(kept, key) for key in settings} == settings, made.name
    assert all(a == b for a, b in permutations([plain, method_of(name, {})], 2))
