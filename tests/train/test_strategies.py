"""What A1 and A2 promise, beyond what every strategy promises in conformance/."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.a1 import A1, CROPS, crop_images
from viewstore.train.a2 import A2
from viewstore.train.losses import info_nce, nt_xent
from viewstore.train.method import Method, PairTerms
from viewstore.train.networks import NetworkSettings, seeded_network
from viewstore.train.objective import Plan, objective, reduce_terms
from viewstore.train.simclr import SimCLRSettings
from viewstore.train.standard import Standard
from viewstore.train.strategy import Strategy
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


def test_standard_simclr_is_nt_xent(x: Tensor) -> None:
    method, vb = make_method(), make_batch(x[:2], "expert", "expert")
    u, v = embeddings(method, vb)
    torch.testing.assert_close(
        loss_of(Standard(), method, vb), nt_xent(u, v, temperature=TEMPERATURE).mean()
    )


def test_loss_scale_is_a_factor(x: Tensor) -> None:
    vb = make_batch(x[:2], "expert", "expert")
    once = loss_of(Standard(), make_method(), vb)
    torch.testing.assert_close(loss_of(Standard(), make_method(loss_scale=3.0), vb), 3 * once)


@pytest.mark.parametrize("negatives", ["both", "other"])
@pytest.mark.parametrize("anchors", ["both", "first"])
def test_a2_is_the_base_loss_minus_the_mean_alignment(
    x: Tensor, negatives: str, anchors: str
) -> None:
    method = make_method(negatives=negatives)
    vb = make_batch(x, "expert", "generated", "expert", "generated")
    u = embeddings(method, vb)
    base = (nt_xent if negatives == "both" else info_nce)(u[0], u[2], temperature=TEMPERATURE)
    first = sum((u[0] * u[g]).sum(1) for g in (1, 3)) / 2
    second = sum((u[2] * u[g]).sum(1) for g in (1, 3)) / 2
    aligned = (first + second) / 2 if anchors == "both" else first
    expected = (base - 0.7 * aligned / TEMPERATURE).mean()
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


def test_a1_trains_on_the_generated_view_as_it_was_cropped(x: Tensor) -> None:
    method, vb = make_method(), make_batch(x[:2], "generated", "expert")
    plan = A1().plan(vb, method)
    assert torch.equal(plan.batch.x[16][1], x[1])
    assert not torch.equal(plan.batch.x[16][0], x[0])
    u, v = embeddings(method, plan.batch)
    expected = nt_xent(u, v, temperature=TEMPERATURE).mean()
    torch.testing.assert_close(objective(method, plan).loss, expected)


def test_a1_without_crop_and_flip_is_standard(x: Tensor) -> None:
    method, vb = make_method(), make_batch(x[:2], "expert", "generated")
    plain = loss_of(Standard(), method, vb)
    torch.testing.assert_close(loss_of(A1(crop="none", flip=0), method, vb), plain)


def test_draws_of_a1_belong_to_sample_epoch_and_seed_alone(x: Tensor) -> None:
    method, vb = make_method(), make_batch(x[:2], "expert", "generated")

    def made(batch: ViewBatch) -> Tensor:
        return A1(crop="largecrop").plan(batch, method).batch.x[16][1]

    alone = make_batch(x[:2, 3:4], "expert", "generated")
    alone = replace(alone, index=torch.tensor([3]))
    torch.testing.assert_close(made(alone)[0], made(vb)[3])
    assert not torch.equal(made(replace(vb, epoch=1)), made(vb))
    assert not torch.equal(made(replace(vb, seed=6)), made(vb))
    same_sample = make_batch(x[:2, [0, 0]], "expert", "generated")
    first, second = made(same_sample)
    assert not torch.equal(first, second)


def test_flips_of_a1_have_their_probability(x: Tensor) -> None:
    method = make_method()
    images = x[:2, :1].expand(-1, 400, -1, -1, -1).contiguous()
    vb = make_batch(images, "expert", "generated")
    views = A1(crop="none", flip=0.25).plan(vb, method).batch.x[16][1]
    flipped = (views - images[1].flip(3)).abs().amax((1, 2, 3)) < 1e-5
    plain = (views - images[1]).abs().amax((1, 2, 3)) < 1e-5
    assert (flipped ^ plain).all()
    assert 60 <= flipped.sum() <= 140


def test_a_crop_is_the_box_of_the_image_resized() -> None:
    ramp = torch.arange(16.0).expand(2, 1, 16, 16)
    boxes = np.array([[0, 4, 16, 8], [0, 4, 16, 8]], np.float32)
    plain, flipped = crop_images(ramp, boxes, np.array([False, True]))
    expected = 3.5 + (torch.arange(16) + 0.5) / 2  # centres of pixels of half the width
    torch.testing.assert_close(plain[0], expected.expand(16, 16))
    torch.testing.assert_close(flipped, plain.flip(2))


def test_crops_are_named_after_their_size() -> None:
    areas = [CROPS[name][0][0] for name in ("largecrop", "medcrop", "smallcrop", "none")]
    assert areas == [0.5, 0.7, 0.9, 1.0]


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
