"""Graded similarity against loops, closed gradients and the baselines that it grades."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.train.loops import loop_loss
from tests.train.world import make_method, make_views, slots_of
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.embeddings import Emb
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.overlap import ioa, iou
from viewstore.train.plan import AlignScale, Pair, Scores, graded
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import Views

EE = ("expert", "expert")
BOX = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
SETTINGS = {
    "simclr": SimCLRSettings(),
    "simclr, scaled": SimCLRSettings(loss_scale=3.0),
    "moco-v2": MoCoV2Settings(queue_size=32),
    "simsiam": SimSiamSettings(),
    "simsiam, mse": SimSiamSettings(scale="mse"),
    "byol": BYOLSettings(),
    "byol, half": BYOLSettings(scale="half"),
}
OWN = {"simsiam, mse", "byol"}  # whose scale the paper keeps


def strategy(**given: Any) -> Strategy:  # noqa: ANN401
    return strategy_of("graded", given)


def same_boxes(views: Views) -> Views:
    """The views with one crop box each sample: psi is 1."""
    return replace(views, params=(views.params[0],) * views.num_views)


def boxes(views: Views, *given: list[float]) -> Views:
    """The views with the same boxes for every sample."""
    params = tuple({"crop_box": torch.tensor([box] * len(views))} for box in given)
    return replace(views, params=params)


def embeddings(method: Method, *, samples: int = 8) -> tuple[Emb, Emb]:
    """Embeddings float64 of two rows, of student and target, that are leaves."""
    draws = torch.Generator().manual_seed(5)

    def emb() -> Tensor:
        return torch.randn(2, samples, 16, generator=draws, dtype=torch.float64)

    if method.traits.target == "none":
        both = {"z": emb().requires_grad_()}
        return both, both
    return {"z": emb().requires_grad_(), "p": emb().requires_grad_()}, {"z": emb()}


def gradients(method: Method, views: Views, given: Strategy) -> tuple[Tensor, ...]:
    """Gradients of the loss by the student's embeddings."""
    student, target = embeddings(method)
    if "queue" in dict(method.named_buffers()):
        method.double()
    plan = given.plan(views, method)
    leaves = [value for value in student.values() if value.requires_grad]
    loss = method.reduce(student, target, plan)
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


@settings(deadline=None)
@given(BOX, BOX)
def test_overlaps_are_shares_of_painted_pixels(first: tuple[int, ...], second: Any) -> None:  # noqa: ANN401
    masks = []
    for top, left, height, width in (first, second):
        mask = torch.zeros(20, 20, dtype=torch.bool)
        mask[top : top + height, left : left + width] = True
        masks.append(mask)
    shared = float((masks[0] & masks[1]).sum())
    a, b = torch.tensor([first]), torch.tensor([second])
    share, back = ioa(a, b).double(), ioa(b, a).double()
    assert share.item() == pytest.approx(shared / float(masks[0].sum()))
    areas = [float(box[0, 2] * box[0, 3]) for box in (a, b)]
    assert share.item() * areas[0] == pytest.approx(back.item() * areas[1])
    if shared:
        union = share * back / (share + back - share * back)
        torch.testing.assert_close(iou(a, b).double(), union, rtol=1e-6, atol=0)
    else:
        assert iou(a, b).item() == 0


@settings(deadline=None)
@given(BOX, BOX, st.integers(-5, 5), st.integers(1, 4))
def test_overlaps_do_not_change_when_boxes_are_moved_scaled_and_mirrored_together(
    first: tuple[int, ...], second: tuple[int, ...], shift: int, scale: int
) -> None:
    def moved(box: tuple[int, ...]) -> Tensor:
        top, left, height, width = box
        return scale * torch.tensor([[top + shift, 20 - left - width, height, width]])

    for measure in (ioa, iou):
        expected = measure(torch.tensor([first]), torch.tensor([second]))
        torch.testing.assert_close(measure(moved(first), moved(second)), expected)


def test_the_inner_of_nested_boxes_is_covered_and_disjoint_ones_are_not() -> None:
    inner, outer = torch.tensor([[2, 2, 2, 3]]), torch.tensor([[0, 0, 6, 10]])
    assert ioa(inner, outer).item() == 1
    assert ioa(outer, inner).item() == pytest.approx(6 / 60)
    assert ioa(inner, inner + torch.tensor([2, 0, 0, 0])).item() == 0


def psi_of(overlap: float, lam: float) -> float:
    """Psi as the plan logs it, of an inner box of this share that is the target."""
    method = make_method(SimSiamSettings())
    outer, part = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10 * overlap]
    views = boxes(make_views(EE), outer, part)
    plan = strategy(**{"lambda": lam, "allow_scale_change": True}).plan(views, method)
    alone = replace(plan, pairs=plan.pairs[:0])
    assert alone.log["psi"].shape == ()
    return 2 * float(plan.log["psi"]) - 1  # the other direction has psi 1


def test_psi_rises_with_the_overlap_up_to_lambda() -> None:
    found = [psi_of(overlap / 20, 0.5) for overlap in range(1, 21)]
    expected = [min(overlap / 20 / 0.5, 1) for overlap in range(1, 21)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert psi_of(0.1, 0) == 1


@pytest.mark.parametrize("name", list(SETTINGS))
def test_traits_have_the_scale_of_the_scores(name: str) -> None:
    method = make_method(SETTINGS[name])
    student, target = embeddings(method)
    plan = strategy_of("standard", {}).plan(make_views(EE), method.double())
    scores = method.score(student, target, plan.pairs[0], plan)
    assert (scores.scale, scores.inverse_tau) == pytest.approx(
        (method.traits.scale, method.traits.inverse_tau)
    )
    assert SETTINGS[name].traits == method.traits
    (slope,) = torch.autograd.grad(scores.pull.sum(), scores.cosine)
    torch.testing.assert_close(slope, torch.full_like(slope, -scores.scale))


@pytest.mark.parametrize("name", list(SETTINGS))
def test_psi_one_is_the_baseline_with_exact_and_its_paper_scale_with_paper(name: str) -> None:
    method = make_method(SETTINGS[name])
    views = same_boxes(make_views(EE))
    base = gradients(method, views, strategy_of("standard", {}))
    exact = gradients(method, views, strategy(align_scale="exact"))
    paper = gradients(method, views, strategy(align_scale="paper"))
    drawn = gradients(method, views, DrawnOnly())  # type: ignore[arg-type]
    ratio = method.traits.inverse_tau / (method.traits.scale / 2)
    for own, same, other, alignment in zip(base, exact, paper, drawn, strict=True):
        torch.testing.assert_close(same, own, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(other - own, (ratio - 1) * alignment, rtol=1e-9, atol=1e-12)
    assert math.isclose(ratio, 1) == (name in OWN)


class DrawnOnly:
    """The standard plan with the part alone that draws pairs together."""

    def plan(self, views: Views, method: Method) -> Any:  # noqa: ANN401
        plan = strategy_of("standard", {}).plan(views, method)
        return replace(plan, pairs=tuple(replace(p, term=lambda s: s.pull) for p in plan.pairs))


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_changed_scale_needs_the_flag(name: str) -> None:
    traits, slots = SETTINGS[name].traits, slots_of(EE)
    strategy(align_scale="exact").check(traits, slots)
    strategy(allow_scale_change=True).check(traits, slots)
    if name in OWN:
        strategy().check(traits, slots)
        return
    with pytest.raises(ConfigError, match="graded with align_scale paper") as caught:
        strategy().check(traits, slots)
    assert "use --set strategy.align_scale=exact" in (caught.value.fix or "")


def scores_of(student: Tensor, target: Tensor, **other: Any) -> Scores:  # noqa: ANN401
    u, v = F.normalize(student, dim=-1), F.normalize(target, dim=-1)
    cosine = (u * v).sum(-1)
    values = {"scale": 1.0, "inverse_tau": 1.0, "push": torch.zeros_like(cosine)} | other
    return Scores(cosine=cosine, pull=-cosine, squared_distance=(u - v).square().sum(-1), **values)


@pytest.mark.parametrize("align_scale", ["paper", "exact"])
def test_the_gradient_is_that_of_appendix_c(align_scale: AlignScale) -> None:
    draws = torch.Generator().manual_seed(2)
    u, v = (
        F.normalize(torch.randn(9, 5, generator=draws, dtype=torch.float64), dim=1)
        for _ in range(2)
    )
    u.requires_grad_()
    psi = torch.linspace(0, 1, 9, dtype=torch.float64)
    squared = (u - v).square().sum(1)
    scores = Scores(u.sum(1), u.sum(1), 0 * squared, squared, 6.0, 5.0)
    graded(psi, align_scale)(scores).sum().backward()
    factor = 5.0 if align_scale == "paper" else 3.0
    d = squared.detach().sqrt()
    expected = (2 * factor * (d - (1 - psi)) / d)[:, None] * (u.detach() - v)
    assert u.grad is not None
    torch.testing.assert_close(u.grad, expected, rtol=1e-12, atol=1e-12)


def at_distance(d: float) -> tuple[Tensor, Tensor]:
    """Two unit vectors of the plane at this distance."""
    angle = 2 * math.asin(d / 2)
    u = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    return u.requires_grad_(), torch.tensor([[1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(("d", "psi", "sign"), [(1, 0, 0), (0.5, 0, 1), (0.9, 0.4, -1)])
def test_views_nearer_than_the_target_distance_are_driven_apart(
    d: float, psi: float, sign: int
) -> None:
    u, v = at_distance(d)
    graded(torch.tensor([psi], dtype=torch.float64), "paper")(scores_of(u, v)).sum().backward()
    assert u.grad is not None
    toward = (u.grad * (v - u.detach())).sum()  # of a step down the gradient, its opposite
    assert torch.sign(toward.round(decimals=12)).item() == sign


@pytest.mark.parametrize("d", [0.0, 1e-9, 1e-7])
def test_the_gradient_is_zero_and_finite_where_views_coincide(d: float) -> None:
    u, v = at_distance(d)
    loss = graded(torch.tensor([0.3], dtype=torch.float64), "paper")(scores_of(u, v)).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert u.grad is not None
    torch.testing.assert_close(u.grad, torch.zeros_like(u))


def test_small_distances_are_not_lost_in_float32() -> None:
    u, v = (each.detach().float() for each in at_distance(1e-3))
    value = graded(torch.ones(1), "paper")(scores_of(u, v))
    assert value.item() == pytest.approx(1e-6, rel=1e-3)


def test_each_direction_has_its_own_psi_and_the_push_is_that_of_nt_xent() -> None:
    method = make_method(SimCLRSettings())
    student, target = embeddings(method)
    small, large = [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 8.0, 8.0]
    given = strategy(**{"lambda": 1, "allow_scale_change": True})
    found = {}
    for name, order in (("ab", (small, large)), ("ba", (large, small))):
        plan = given.plan(boxes(make_views(EE), *order), method)
        for pair in plan.pairs:
            scores = method.score(student, target, pair, plan)
            found[name, pair.student] = pair.term(scores) - scores.push
    u = F.normalize(student["z"].detach(), dim=2)
    d = (u[0] - u[1]).norm(dim=1)
    for name, row, psi in (("ab", 0, 1), ("ab", 1, 0.25), ("ba", 0, 0.25), ("ba", 1, 1)):
        torch.testing.assert_close(found[name, row].detach(), 2 * (d - (1 - psi)).square())
    plan = given.plan(same_boxes(make_views(EE)), method)
    whole = method.reduce(student, target, plan)
    # At psi = 1 the pull is 2 (1 - cos) / tau in place of -cos / tau.
    expected = torch.tensor(loop_loss(*student["z"], "both", 0.5)).mean()
    extra = ((2 - 2 * (u[0] * u[1]).sum(1)) / 0.5 + (u[0] * u[1]).sum(1) / 0.5).mean()
    torch.testing.assert_close(whole.detach(), expected + extra, check_dtype=False)


def test_chosen_views_are_graded_by_their_own_boxes() -> None:
    method = make_method(SimSiamSettings())
    views = make_views(("expert",) * 4)
    plan = strategy_of("hvp,graded", {"allow_scale_change": True}).plan(views, method)
    pair = plan.pairs[0]
    rows = plan.students[pair.student].view, plan.targets[pair.target or 0].view
    for sample in range(len(views)):
        a, b = (views.params[int(row[sample])]["crop_box"][sample][None] for row in rows)  # type: ignore[index]
        psi = (ioa(a, b) / 0.5).clamp(max=1).double()
        scores = scores_of(*torch.randn(2, len(views), 4, dtype=torch.float64))
        expected = (scores.squared_distance[sample].sqrt() - (1 - psi)).square()
        torch.testing.assert_close(pair.term(scores)[sample], expected[0], rtol=1e-6, atol=1e-7)


def test_a_third_view_is_graded_without_the_push_and_other_cosines_stay() -> None:
    method = make_method(SimCLRSettings())
    plan = strategy_of("a2,graded", {"align_scale": "exact"}).plan(
        same_boxes(make_views(("expert",) * 3)), method
    )
    base = strategy_of("a2", {}).plan(make_views(("expert",) * 3), method)
    student, target = embeddings(method)
    student = target = {"z": torch.cat([student["z"], student["z"][:1].flip(1)])}
    for own, other in zip(base.pairs, plan.pairs, strict=True):
        before = own.term(method.score(student, target, own, base))
        after = other.term(method.score(student, target, other, plan))
        torch.testing.assert_close(after - before, torch.full_like(after, 2.0))  # 1 / tau


@pytest.mark.parametrize("name", list(METHODS))
def test_methods_without_a_distance_are_refused(name: str) -> None:
    traits = method_of(name, {}).traits
    if traits.decomposable:
        strategy(align_scale="exact").check(traits, slots_of(EE))
        return
    with pytest.raises(ConfigError, match=f"strategy graded .* method {name}") as caught:
        strategy(align_scale="exact").check(traits, slots_of(EE))
    assert "decomposable" in (caught.value.why or "")


def test_views_without_a_crop_of_the_sample_are_refused() -> None:
    traits, slots = SimSiamSettings(scale="mse").traits, slots_of(EE)
    lacking = (*slots, slots[0]._replace(columns=frozenset(["flip"]), name="w-search"))
    with pytest.raises(ConfigError, match="column crop_box, which w-search lacks"):
        strategy().check(traits, lacking)
    with pytest.raises(ConfigError, match="compares crops of a sample, and generated-1 is none"):
        strategy().check(traits, slots_of(("expert", "generated")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lambda": 1.5}, r"lambda must be in \[0, 1\], got 1.5"),
        ({"lamda": 1}, "has no setting 'lamda'; did you mean 'lambda'"),
        ({"measure": "giou"}, "measure must be ioa or iou"),
        ({"align_scale": "half"}, "align_scale must be paper or exact"),
    ],
)
def test_other_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy(**given)


def test_pairs_are_graded_as_they_were() -> None:
    plan = strategy(align_scale="exact").plan(make_views(EE), make_method(SimSiamSettings()))
    assert [(pair.student, pair.target, pair.weight) for pair in plan.pairs] == [
        (1, 0, 0.5),
        (0, 1, 0.5),
    ]
    assert all(isinstance(pair, Pair) for pair in plan.pairs)
