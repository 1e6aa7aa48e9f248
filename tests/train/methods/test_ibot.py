"""iBOT against loops from the paper: masks, and the loss of masked patches."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.world import make_method, make_views, same, snapshot, train_step
from viewstore.errors import ConfigError
from viewstore.train.methods.ibot import IBOT, IBOTSettings
from viewstore.train.plan import Pair, Plan, Row
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import At, Views

CROPS = ("global", "global", "local")
STANDARD = strategy_of("standard", {})
NETWORK: dict[str, Any] = {
    "backbone": "vit-ti",
    "patch": 4,
    "projector_norm": "none",
    "activation": "gelu",
}


def make_ibot(**settings: Any) -> IBOT:  # noqa: ANN401
    method = make_method(IBOTSettings(**{"outputs": 24} | settings), **NETWORK)
    assert isinstance(method, IBOT)
    return method


def views_of(ibot: IBOT, roles: tuple[str, ...] = CROPS, samples: int = 4, step: int = 0) -> Views:
    return ibot.annotate(make_views(roles, samples=samples, step=step))


def plan_of(ibot: IBOT, views: Views) -> Plan:
    return ibot.standard(views, [Row(view) for view in views.base])


def with_masks(views: Views, *masks: Tensor) -> Views:
    params = [{**params, "mask": mask} for params, mask in zip(views.params, masks, strict=True)]
    return replace(views, params=tuple(params))


def patch_loss(ibot: IBOT, plan: Plan, target: int = 0) -> Tensor:
    """The scores [B] of the pair of a target with its own view."""
    student, targets = ibot.both(plan, "attack")
    (pair,) = [p for p in plan.pairs if p.student == p.target == target]
    return ibot.score(student, targets, pair, plan).pull


def test_masks_hide_patches_of_large_crops_and_are_keyed() -> None:
    ibot = make_ibot()
    views = views_of(ibot, samples=8)
    masks = [views.column("mask", view) for view in range(3)]
    assert [tuple(mask.shape) for mask in masks] == [(8, 16), (8, 16), (8, 4)]
    assert all(mask.dtype == torch.bool for mask in masks)
    assert (masks[0].sum(1) == 4).all()  # floor(.3 * 16)
    assert not masks[2].any()
    assert not torch.equal(masks[0], masks[1])
    assert len({tuple(mask.tolist()) for mask in masks[0]}) > 1
    order = torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])
    moved = ibot.annotate(replace(views, sample=views.sample[order]))
    assert torch.equal(moved.column("mask", 0), masks[0][order])
    later = ibot.annotate(replace(views, at=replace(views.at, epoch=1)))
    assert not torch.equal(later.column("mask", 0), masks[0])
    again = ibot.annotate(replace(views, at=replace(views.at, step=1)))
    assert torch.equal(again.column("mask", 0), masks[0])


def test_the_student_does_not_see_masked_patches_and_the_teacher_does() -> None:
    ibot = make_ibot().eval()
    views = views_of(ibot)
    mask = views.column("mask", 0)
    hidden = mask.view(4, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    covered = torch.where(hidden, 255 - views.pixels[0], views.pixels[0])
    other = replace(views, pixels=(covered, *views.pixels[1:]))
    for net, unchanged in (("student", True), ("target", False)):
        first, second = (
            ibot.encode(each, [Row(0)], net=net, mode="probe")  # type: ignore[arg-type]
            for each in (views, other)
        )
        for name in ("z", "patch"):
            assert torch.equal(first[name], second[name]) is unchanged


def test_the_plan_is_that_of_dino_and_each_target_with_its_own_view() -> None:
    ibot = make_ibot(cls_weight=0.5, patch_weight=3.0)
    plan = plan_of(ibot, views_of(ibot))
    found = {(pair.student, pair.target): pair.weight for pair in plan.pairs}
    assert found == {
        (1, 0): 0.125,
        (2, 0): 0.125,
        (0, 1): 0.125,
        (2, 1): 0.125,
        (0, 0): 1.5,
        (1, 1): 1.5,
    }
    plain = plan_of(make_ibot(), views_of(make_ibot(), ("expert",) * 3))
    assert sum(pair.weight for pair in plain.pairs) == pytest.approx(2.0)


def softmax(values: Tensor) -> list[float]:
    powers = [math.exp(value) for value in (values - values.max()).tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("shared_head", [True, False])
def test_the_loss_is_the_loop_of_the_paper(shared_head: bool) -> None:
    ibot = make_ibot(
        shared_head=shared_head,
        temperature=0.3,
        teacher_temperature_start=0.25,
        patch_temperature_start=0.2,
        patch_weight=0.7,
    )
    draws = torch.Generator().manual_seed(2)
    for center in (ibot.center, ibot.patch_center):
        center.copy_(torch.randn(24, generator=draws) / 10)
    heads = ibot.last_layers()[-1], ibot.averages()[-1][0]
    for averaged, _ in ibot.averages()[1:]:
        torch.nn.init.normal_(averaged.weight, generator=draws)  # type: ignore[arg-type]
    views = views_of(ibot)
    plan = plan_of(ibot, views)
    student, target = ibot.both(plan, "probe")

    def cross(wanted: Tensor, found: Tensor, center: Tensor, temperature: float) -> float:
        p, q = softmax((wanted - center) / temperature), softmax(found / 0.3)
        return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))

    expected = 0.0
    for b in range(4):
        for t in range(2):
            for s in range(3):
                if s != t:
                    wanted, found = target["logits"][t, b], student["logits"][s, b]
                    expected += cross(wanted, found, ibot.center, 0.25) / 4
            masked = torch.nonzero(views.column("mask", t)[b]).flatten().tolist()
            for place in masked:
                logits = [
                    F.normalize(emb["patch"][t, b, place], dim=0) @ F.normalize(h.weight, dim=1).T  # type: ignore[arg-type]
                    for emb, h in zip((student, target), heads, strict=True)
                ]
                one = cross(logits[1], logits[0], ibot.patch_center, 0.2)
                expected += 0.7 * one / len(masked) / 2
    loss = ibot.reduce(student, target, plan)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-5)


def test_an_empty_mask_contributes_nothing_and_no_nan() -> None:
    ibot = make_ibot()
    views = views_of(ibot)
    mask = views.column("mask", 0).clone()
    mask[1] = False
    views = with_masks(views, mask, torch.zeros_like(mask), views.column("mask", 2))
    plan = plan_of(ibot, views)
    first, second = patch_loss(ibot, plan, 0), patch_loss(ibot, plan, 1)
    assert first[1] == 0
    assert (first[[0, 2, 3]] > 0).all()
    assert torch.equal(second, torch.zeros(4))
    loss = ibot(plan).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(p.grad is None or p.grad.isfinite().all() for p in ibot.parameters())

    none = make_ibot(mask_ratio=0.0)
    embedded = train_step(none, STANDARD, make_views(CROPS))
    assert math.isfinite(embedded.loss.item())


def test_gradients_of_patches_reach_the_mask_token_and_no_target() -> None:
    ibot = make_ibot(cls_weight=0.0)
    ibot(plan_of(ibot, views_of(ibot))).loss.backward()
    token = ibot.student.backbone.get_parameter("mask_token")
    assert token.grad is not None
    assert token.grad.abs().sum() > 0
    assert all(p.grad is None for module, _ in ibot.averages() for p in module.parameters())


def test_a_made_row_has_the_patch_loss_of_the_row_that_it_was_made_from() -> None:
    """Such as an adversarial view, whose mask is that of its parent."""
    ibot = make_ibot()
    views = views_of(ibot)
    views, number = views.plus(
        views.pixels[0].float(), role="adversarial", parent=0, params=views.params[0]
    )
    plan = plan_of(ibot, replace(views, base=(0, 1)))
    plan = replace(plan, students=(*plan.students, Row(number, made_from=0)))
    student, target = ibot.both(plan, "probe", "running")
    clean, made = (ibot.score(student, target, Pair(s, 0), plan).pull for s in (0, 2))
    torch.testing.assert_close(made, clean, rtol=1e-4, atol=1e-5)
    across = ibot.score(student, target, Pair(2, 1), plan).pull
    expected = ibot.score(student, target, Pair(0, 1), plan).pull
    torch.testing.assert_close(across, expected, rtol=1e-4, atol=1e-5)


def test_a_partner_is_the_patch_of_another_sample() -> None:
    ibot = make_ibot()
    plan = plan_of(ibot, views_of(ibot))
    student, target = ibot.both(plan, "probe")
    partner = torch.tensor([2, 3, 1, 0])
    found = ibot.score(student, target, Pair(0, 0, partner=partner), plan).pull
    moved = {"patch": target["patch"][:, partner], "z": target["z"]}
    assert torch.equal(found, ibot.score(student, moved, Pair(0, 0), plan).pull)


@pytest.mark.parametrize("shared_head", [True, False])
def test_centers_are_the_means_of_all_logits_of_the_teacher(shared_head: bool) -> None:
    ibot = make_ibot(shared_head=shared_head)
    views = views_of(ibot)
    done = ibot(plan_of(ibot, views))
    head = ibot.averages()[-1][0]
    logits = torch.stack([head(done.target["patch"][t]) for t in range(2)])
    assert logits.shape == (2, 4, 16, 24)
    ibot.commit([done], views.at)
    torch.testing.assert_close(ibot.patch_center, 0.1 * logits.mean((0, 1, 2)))
    torch.testing.assert_close(ibot.center, 0.1 * done.target["logits"].mean((0, 1)))


@pytest.mark.parametrize("shared_head", [True, False])
def test_last_layers_are_frozen_and_averaged(shared_head: bool) -> None:
    ibot = make_ibot(shared_head=shared_head)
    layers = ibot.last_layers()
    assert len(layers) == (1 if shared_head else 2)
    assert len(ibot.averages()) == 1 + len(layers)
    before = [layer.weight.clone() for layer in layers]
    train_step(ibot, STANDARD, make_views(CROPS))
    assert all(torch.equal(old, layer.weight) for old, layer in zip(before, layers, strict=True))
    train_step(ibot, STANDARD, make_views(CROPS, step=4))
    assert not any(torch.equal(o, layer.weight) for o, layer in zip(before, layers, strict=True))


def test_temperatures_grow_over_thirty_epochs() -> None:
    ibot = make_ibot()
    for epoch, expected in ((0, 0.04), (29, 0.07), (99, 0.07)):
        now = At(epoch=epoch, step=epoch, epoch_steps=1, total_steps=100, seed=0)
        assert ibot.patch_temperature(now) == pytest.approx(expected)
        assert ibot.teacher_temperature(now) == pytest.approx(expected)


def test_embedding_and_scoring_change_nothing() -> None:
    ibot = make_ibot()
    train_step(ibot, STANDARD, make_views(CROPS))
    plan = plan_of(ibot, views_of(ibot, step=1))
    before = snapshot(ibot)
    for mode in ("probe", "attack"):
        student, target = ibot.both(plan, mode)  # type: ignore[arg-type]
        for pair in plan.pairs:
            ibot.score(student, target, pair, plan)
        assert same(before, snapshot(ibot))


def test_hard_views_are_chosen_with_their_masks() -> None:
    """The score of a pair has its patch terms, and the chosen rows keep their own masks."""
    ibot = make_ibot().eval()
    views = views_of(ibot, ("global",) * 4)
    plan = strategy_of("hvp", {"n_views": 4}).plan(views, ibot)
    chosen = torch.stack([torch.as_tensor(row.view) for row in plan.students])
    best = torch.full((4,), -torch.inf)
    found = torch.zeros(2, 4, dtype=torch.int64)
    for pair in ((0, 1), (0, 3), (2, 1), (2, 3)):
        one = ibot.standard(views, [Row(view) for view in pair])
        student, target = ibot.both(one, "probe")
        terms = [p.weight * ibot.score(student, target, p, one).pull for p in one.pairs]
        assert len(terms) == 4
        loss = torch.stack(terms).sum(0)
        found = torch.where(loss > best, torch.tensor(pair)[:, None], found)
        best = torch.maximum(best, loss)
    assert torch.equal(chosen, found)
    loss = ibot(ibot.standard(views, [Row(view) for view in chosen]), "probe").loss
    torch.testing.assert_close(loss, best.mean(), rtol=1e-5, atol=1e-6)
    masks = torch.stack([views.column("mask", view) for view in range(4)])
    assert torch.equal(views.column("mask", chosen[0]), masks[chosen[0], torch.arange(4)])


def test_a_network_without_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a vision transformer, conv3 is none") as caught:
        make_method(IBOTSettings())
    assert caught.value.fix == "give --backbone vit-ti, vit-s or vit-b, or --method dino"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IBOTSettings(mask_ratio=1.5), r"mask_ratio must be in \[0, 1\], got 1.5"),
        (lambda: IBOTSettings(patch_temperature=0), "patch_temperature must be above 0, got 0"),
        (lambda: IBOTSettings(patch_weight=-1), "patch_weight must be at least 0, got -1"),
        (lambda: IBOTSettings(outputs=0), "outputs must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
