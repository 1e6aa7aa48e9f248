"""HEXA against finite differences, closed projections and the equality of its two forms."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.train.world import make_method, make_views, same, slots_of, snapshot, train_step
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method, MethodSettings
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.deepcluster_v2 import DeepClusterV2Settings
from viewstore.train.methods.dino import DINOSettings
from viewstore.train.methods.embeddings import Emb, Images
from viewstore.train.methods.ibot import IBOTSettings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.simsiam import SimSiam, SimSiamSettings
from viewstore.train.methods.traits import Traits
from viewstore.train.nets.domains import add_domain, clean_state
from viewstore.train.plan import Pair, Plan, Row
from viewstore.train.strategies.adversarial import Attack
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import Views

EE = ("expert", "expert")
CROPS = ("global", "global", "local")
PLAIN = {"projector_norm": "none", "activation": "gelu"}
PATCHES = {"backbone": "vit-ti", "patch": 8}
METHODS = {
    "simclr": SimCLRSettings(),
    "simclr, other": SimCLRSettings(negatives="other"),
    "moco-v2": MoCoV2Settings(queue_size=16),
    "moco-v2, symmetric": MoCoV2Settings(queue_size=16, symmetric=True),
    "simsiam": SimSiamSettings(),
    "byol": BYOLSettings(),
}
every_method = pytest.mark.parametrize("name", list(METHODS))


def hexa(a1: float = 1, a2: float = 0, **given: Any) -> Strategy:  # noqa: ANN401
    return strategy_of("hexa", {"a1": a1, "a2": a2, **given})


def method_named(name: str) -> Method:
    method = make_method(METHODS[name])
    add_domain(method)
    return method


def made(plan: Plan, role: str) -> list[tuple[Row, Row]]:
    """Rows of a role beside the clean rows that they were made from."""
    return [
        (row, plan.students[row.made_from])
        for row in plan.students
        if row.made_from is not None and plan.views.role_of(row.view) == role
    ]


def change(plan: Plan) -> Tensor:
    """The changes of levels of all attacked rows."""
    views = plan.views
    pairs = made(plan, "adversarial")
    return torch.stack([views.image(a.view) - views.image(c.view).float() for a, c in pairs])


def of_pairs(plan: Plan, wanted: Sequence[Pair]) -> Plan:
    return replace(plan, pairs=tuple(wanted))


def gradient(method: Method, plan: Plan) -> Tensor:
    trained = [each for each in method.parameters() if each.requires_grad]
    loss = method(plan, "attack").loss  # which moves nothing, so that plans can be compared
    found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
    return torch.cat([each.flatten() for each in found])


class TwoLayers(SimSiam):
    """Rows are embedded by a smooth net of two layers, in float64."""

    def encode(self, views: Views, rows: Sequence[Row], **options: Any) -> Emb:  # noqa: ANN401
        del options
        values = [self.net(views.image(row.view).double().flatten(1) / 255) for row in rows]
        return {"z": torch.stack(values), "p": torch.stack(values).flip(2)}


def two_layers() -> Method:
    method = make_method(SimSiamSettings())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 6)).double()
    method.__class__ = TwoLayers
    method.net = net
    return method


def test_the_step_is_the_sign_of_finite_differences() -> None:
    method = two_layers()
    views = make_views(EE, samples=3, side=4)
    inner = tuple(pixels.clamp(2, 253) for pixels in views.pixels)  # so that nothing is clipped
    views = replace(views, pixels=inner)
    plan = hexa().plan(views, method)
    base = strategy_of("standard", {}).plan(views, method)
    checked = 0
    for number, (attacked, clean) in enumerate(made(plan, "adversarial")):
        levels = views.image(clean.view).double()

        def loss(moved: Tensor, number: int = number) -> Tensor:
            pixels = [each.double() for each in views.pixels]
            student = replace(views, pixels=(*pixels, moved))
            pairs = [replace(p, student=2) for p in base.pairs if p.student == number]
            changed = replace(
                base, views=student, students=(*base.students, Row(2)), pairs=tuple(pairs)
            )
            return method(changed, "attack").loss

        delta = plan.views.image(attacked.view) - levels
        for place in torch.cartesian_prod(*map(torch.arange, levels.shape)).tolist():
            moved = torch.zeros_like(levels)
            moved[tuple(place)] = 0.25
            slope = (loss(levels + moved) - loss(levels - moved)).item() / 0.5
            if abs(slope) > 1e-6:
                assert delta[tuple(place)].item() == (1 if slope > 0 else -1)
                checked += 1
    assert checked > 200


class Faint(SimSiam):
    """Rows are the first 32 values of an image in float16, and the loss is multiplied."""

    def reduce(self, student: Emb, target: Emb, plan: Plan) -> Tensor:
        return self.factor * super().reduce(student, target, plan)

    def trunk(self, images: Images, net: Any) -> Emb:  # noqa: ANN401
        return {"feat": self.prepare(images.pixels).flatten(1)[:, :32]}

    def head(self, features: Tensor, net: Any) -> Emb:  # noqa: ANN401
        half = features.half()
        return {"z": half, "p": half.flip(1)}


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e7])
def test_gradients_in_float16_neither_underflow_nor_overflow(factor: float) -> None:
    def changed(amp: torch.dtype | None, factor: float) -> Tensor:
        method = make_method(SimSiamSettings())
        method.__class__ = Faint
        method.amp, method.factor = amp, factor
        return change(hexa(attack_bn="clean").plan(make_views(EE), method))[:, :, 0, :2]

    exact = changed(torch.float16, 1.0)
    assert (exact != 0).float().mean() > 0.95
    assert (changed(torch.float16, factor) == exact).float().mean() > 0.99
    if factor < 1:  # without a multiple of the loss they vanish
        assert (changed(None, factor) != 0).float().mean() < 0.5


def values_of(change: Tensor) -> set[float]:
    return set(change.flatten().tolist())


@every_method
def test_levels_change_by_one_within_their_range(name: str) -> None:
    method, views = method_named(name), make_views(EE)
    assert values_of(change(hexa().plan(views, method))) == {-1, 1}
    extreme = tuple(torch.where(pixels < 128, 0, 255).to(torch.uint8) for pixels in views.pixels)
    plan = hexa().plan(replace(views, pixels=extreme), method)
    assert values_of(change(plan)) == {-1, 0, 1}
    assert all(float(p.min()) >= 0 and float(p.max()) <= 255 for p in plan.views.pixels)


@every_method
def test_a_small_step_raises_the_loss_of_nearly_all_samples(name: str) -> None:
    # In evaluation mode samples do not meet in batch statistics: each raises its own loss.
    method = method_named(name).eval()
    raised = []
    for step in range(6):
        plan = hexa(eps=0.1, step=0.1).plan(make_views(EE, step=step), method)
        student, target = method.both(plan, "attack")
        own = {(p.student, p.target): p for p in plan.pairs if plan.is_base(p)}
        for pair in plan.pairs[len(own) :]:
            made_from = plan.students[pair.student].made_from or 0
            pairs = own[made_from, pair.target], pair
            before, after = (method.score(student, target, each, plan) for each in pairs)
            raised.append(after.pull + after.push > before.pull + before.push)
    assert torch.cat(raised).float().mean() > 0.95


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("units", ["pixel255", "unit", "normalized"])
def test_projections_are_those_of_closed_form(norm: Any, units: Any) -> None:  # noqa: ANN401
    attack = Attack(norm=norm, units=units, eps=0.3)
    method = make_method("simsiam")
    draws = torch.Generator().manual_seed(3)
    clean = torch.full((4, 3, 5, 5), 127.0)
    std = torch.tensor(method.prepare.std)
    unit = {"pixel255": torch.ones(3), "unit": torch.full((3,), 255.0), "normalized": 255 * std}
    scale = unit[units][:, None, None]
    delta = torch.randn(clean.shape, generator=draws) * torch.tensor([0.05, 0.2, 1, 9]).view(
        4, 1, 1, 1
    )
    given = attack.unit(method.prepare.std, clean)
    torch.testing.assert_close(given, scale)
    found = (attack.within(clean + delta * scale / 10, clean, given) - clean) / scale
    for image, moved in zip(found, delta / 10, strict=True):
        if norm == "linf":
            expected = torch.tensor([min(max(v, -0.3), 0.3) for v in moved.flatten().tolist()])
        else:
            length = moved.square().sum().sqrt()
            expected = moved.flatten() * min(1.0, float(0.3 / length))
        torch.testing.assert_close(image.flatten(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("units", ["pixel255", "unit", "normalized"])
def test_budgets_hold_in_their_units_over_steps_from_a_random_start(norm: str, units: str) -> None:
    method = method_named("simsiam")
    eps = 0.02 if units != "pixel255" else 2.0
    given = {"norm": norm, "units": units, "eps": eps, "step": eps / 2, "steps": 3}
    views = make_views(EE)
    plan = hexa(**given, random_start=True).plan(views, method)
    std = torch.tensor(method.prepare.std).view(1, 1, 3, 1, 1)
    scale = {"pixel255": torch.ones(1), "unit": torch.tensor(255.0), "normalized": 255 * std}
    delta = change(plan) / scale[units]
    size = delta.abs().amax((2, 3, 4)) if norm == "linf" else delta.square().sum((2, 3, 4)).sqrt()
    assert size.max() <= eps * (1 + 1e-3)
    assert size.min() > eps / 4
    again = hexa(**given, random_start=True).plan(views, method)
    assert torch.equal(change(plan), change(again))
    assert not torch.equal(change(plan), change(hexa(**given).plan(views, method)))


def weights_after(eps: float, step: float) -> list[Tensor]:
    method = method_named("moco-v2")
    for number in range(3):
        train_step(method, hexa(eps=eps, step=step), make_views(EE, step=number))
    return list(method.state_dict().values())


def test_of_budgets_and_steps_of_one_or_three_only_three_of_each_differ() -> None:
    """The table of appendix A, as a theorem of one step in the greatest norm."""
    first = weights_after(1, 1)
    assert same(first, weights_after(1, 3))
    assert same(first, weights_after(3, 1))
    assert not same(first, weights_after(3, 3))


@every_method
def test_without_weights_it_is_the_standard_plan(name: str) -> None:
    assert not hexa(0, 0).adversarial
    method, views = make_method(METHODS[name]), make_views(EE)
    plan, base = hexa(0, 0).plan(views, method), strategy_of("standard", {}).plan(views, method)
    assert plan.views is not base.views
    assert plan.pairs == base.pairs or len(plan.pairs) == len(base.pairs)
    assert len(plan.students) == len(base.students)
    assert torch.equal(method(plan, "attack").loss, method(base, "attack").loss)


ARMS = {
    "std": ((0, 0), {}, []),
    "adv": ((1, 0), {}, [("adversarial", "adv", 1)]),
    "cmx": ((0, 1), {}, [("cutmix", "clean", 2)]),
    "adv+cmx": ((1, 1), {}, [("adversarial", "adv", 1), ("cutmix", "clean", 2)]),
    "adv+cmx_a": (
        (1, 1),
        {"cutmix_on": "adv"},
        [("adversarial", "adv", 1), ("cutmix", "adv", 2)],
    ),
    "adv+cmx+cmx_a": (
        (1, 1),
        {"cutmix_on": "both"},
        [("adversarial", "adv", 1), ("cutmix", "clean", 2), ("cutmix", "adv", 2)],
    ),
}


@pytest.mark.parametrize("arm", list(ARMS))
@pytest.mark.parametrize("name", ["simclr", "moco-v2"])
def test_the_rows_and_pairs_of_an_arm_of_figure_2(arm: str, name: str) -> None:
    (a1, a2), given, expected = ARMS[arm]
    method, views = method_named(name), make_views(EE)
    strategy = hexa(a1, a2, **given)
    assert strategy.adversarial == ("adv" in arm)
    strategy.check(method.traits, slots_of(EE))
    plan = strategy.plan(views, method)
    base = strategy_of("standard", {}).plan(views, method)
    assert plan.targets == plan.targets[: plan.base_targets]
    rows = plan.students[plan.base_students :]
    found = [(plan.views.role_of(row.view), row.bn) for row in rows]
    assert found == [(role, bn) for role, bn, _ in expected for _ in base.students]
    of_row = [[p for p in plan.pairs if p.student == n] for n in range(len(plan.students))]
    for place, row in enumerate(rows, len(base.students)):
        own = of_row[row.made_from or 0]
        count = 2 if row.mixed_with is not None else 1
        assert [p.target for p in of_row[place]] == [p.target for p in own] * count
        summed = sum(torch.as_tensor(p.weight) for p in of_row[place])
        expected_sum = sum(torch.as_tensor(p.weight) for p in own)
        torch.testing.assert_close(summed, torch.as_tensor(expected_sum).expand_as(summed))  # type: ignore[union-attr]


@every_method
def test_the_gradient_is_the_sum_of_those_of_three_losses(name: str) -> None:
    method = method_named(name)
    plan = hexa(0.7, 0.4).plan(make_views(EE), method)

    def part(role: str) -> list[Pair]:
        return [p for p in plan.pairs if plan.views.role_of(plan.students[p.student].view) == role]

    parts = [part(role) for role in ("expert", "adversarial", "cutmix")]
    assert sum(map(len, parts)) == len(plan.pairs)
    grads = [gradient(method, of_pairs(plan, pairs)) for pairs in parts]
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(gradient(method, plan), torch.stack(grads).sum(0), **close)
    once = hexa(1, 1).plan(make_views(EE), method)
    own = [p for p in once.pairs if plan.views.role_of(once.students[p.student].view) == "cutmix"]
    torch.testing.assert_close(0.4 * gradient(method, of_pairs(once, own)), grads[2], **close)


@every_method
def test_only_the_adversarial_domain_sees_attacked_rows(name: str) -> None:
    plain, attacked = method_named(name), method_named(name)
    views = make_views(EE)
    done = [
        method(strategy.plan(views, method))
        for method, strategy in ((plain, strategy_of("standard", {})), (attacked, hexa()))
    ]
    plain.commit([done[0]], views.at)
    attacked.commit([done[1]], views.at)
    own, other = clean_state(plain), clean_state(attacked)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own)  # queue and keys among them
    before, after = plain.state_dict(), attacked.state_dict()
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert moved
    assert all(".adv." in key and ("running" in key or "num_batches" in key) for key in moved)


@every_method
@pytest.mark.parametrize("given", [{}, {"steps": 3, "random_start": True, "attack_bn": "clean"}])
def test_planning_changes_nothing(name: str, given: dict[str, Any]) -> None:
    method = method_named(name)
    train_step(method, hexa(1, 1), make_views(EE))
    before, views = snapshot(method), make_views(EE, step=1)
    plan = hexa(1, 1, **given).plan(views, method)
    assert same(before, snapshot(method))
    again = hexa(1, 1, **given).plan(views, method)
    assert all(map(torch.equal, plan.views.pixels, again.views.pixels))
    assert not any(pixels.requires_grad for pixels in plan.views.pixels)


def test_the_domain_of_the_attack_changes_what_is_attacked_not_where_it_trains() -> None:
    method = method_named("moco-v2")
    train_step(method, hexa(), make_views(EE))
    views = make_views(EE, step=1)
    adv, clean = (hexa(attack_bn=bn).plan(views, method) for bn in ("adv", "clean"))
    assert {row.bn for row, _ in made(clean, "adversarial")} == {"adv"}
    assert not torch.equal(change(adv), change(clean))


def mixed_scores(name: str, **settings: Any) -> tuple[Any, Any, Tensor, Method, Plan]:  # noqa: ANN401
    kind = {"simclr": SimCLRSettings, "moco-v2": MoCoV2Settings}[name]
    method = make_method(kind(**settings))
    plan = hexa(0, 1).plan(make_views(EE), method)
    pairs = [p for p in plan.pairs if plan.students[p.student].mixed_with is not None]
    own = next(p for p in pairs if p.partner is None)
    other = next(p for p in pairs if p.partner is not None and p.student == own.student)
    student, target = method.both(plan, "attack")
    student = {key: value.double() for key, value in student.items()}
    target = {key: value.double() for key, value in target.items()}
    method.double()
    scores = [method.score(student, target, pair, plan) for pair in (own, other)]
    return scores[0], scores[1], torch.as_tensor(own.weight), method, plan


@pytest.mark.parametrize(
    ("name", "settings", "equal"),
    [
        ("simclr", {"negatives": "other"}, True),
        ("moco-v2", {"queue_size": 16, "cutmix_keys": "both"}, True),
        ("moco-v2", {"queue_size": 16, "cutmix_keys": "own"}, False),
    ],
)
def test_one_softmax_with_a_soft_label_is_two_terms_where_denominators_are_one(
    name: str, settings: dict[str, Any], equal: bool
) -> None:
    own, other, weight, _, plan = mixed_scores(name, **settings)
    column = next(row.view for row, _ in made(plan, "cutmix"))
    share = plan.views.column("mix_lambda", column).double()
    factor = float((weight / share.float()).mean())
    torch.testing.assert_close(weight, (factor * share).float())
    two_terms = share * (own.pull + own.push) + (1 - share) * (other.pull + other.push)
    # Cross-entropy of one softmax over logits of both keys with the label (lambda, 1 - lambda).
    soft = share * own.pull + (1 - share) * other.pull + own.push
    assert torch.allclose(own.push, other.push, rtol=0, atol=1e-12) == equal
    assert torch.allclose(two_terms, soft, rtol=0, atol=1e-12) == equal


def test_params_say_what_was_mixed_and_inherit_the_rest() -> None:
    method, views = method_named("moco-v2"), make_views((*EE, "expert"))
    plan = hexa(1, 1).plan(views, method)
    for row, clean in made(plan, "cutmix"):
        params, pixels = plan.views.params[row.view], plan.views.image(row.view)  # type: ignore[index]
        assert torch.equal(params["crop_box"], views.column("crop_box", clean.view))
        partner = row.mixed_with
        assert partner is not None
        assert torch.equal(params["mix_partner"], views.sample[partner])
        whole, other = views.image(clean.view), views.image(clean.view)[partner]
        for b, (x0, y0, x1, y1) in enumerate(params["mix_box"].tolist()):
            expected = whole[b].clone()
            expected[:, y0:y1, x0:x1] = other[b, :, y0:y1, x0:x1]
            assert torch.equal(pixels[b], expected)
            share = 1 - (x1 - x0) * (y1 - y0) / pixels.shape[-1] ** 2
            assert params["mix_lambda"][b].item() == pytest.approx(share)
        assert (params["mix_lambda"] >= params["mix_lambda0"] - 0.15).all()
    for row, clean in made(plan, "adversarial"):
        found = plan.views.params[row.view]  # type: ignore[index]
        assert torch.equal(found["crop_box"], views.column("crop_box", clean.view))
        assert plan.views.parent[row.view] == clean.view  # type: ignore[index]


def test_crops_have_one_partner_and_share_drawn_and_a_box_of_each_size() -> None:
    plan = hexa(0, 1).plan(make_views(CROPS), method_named("simclr"))
    first, second, local = (plan.views.params[row.view] for row, _ in made(plan, "cutmix"))  # type: ignore[index]
    assert torch.equal(first["mix_box"], second["mix_box"])
    for other in (second, local):
        assert torch.equal(first["mix_lambda0"], other["mix_lambda0"])
        assert torch.equal(first["mix_partner"], other["mix_partner"])
    assert not torch.equal(first["mix_box"], 2 * local["mix_box"])
    assert not torch.equal(first["mix_lambda"], local["mix_lambda"])


def test_a_batch_can_share_one_box() -> None:
    plan = hexa(0, 1, lam_scope="batch").plan(make_views(EE), method_named("simclr"))
    (row, _), *_ = made(plan, "cutmix")
    params = plan.views.params[row.view]  # type: ignore[index]
    assert len(params["mix_box"].unique(dim=0)) == 1
    later = hexa(0, 1, lam_scope="batch").plan(make_views(EE, step=1), method_named("simclr"))
    assert not torch.equal(
        params["mix_lambda0"],
        later.views.params[made(later, "cutmix")[0][0].view]["mix_lambda0"],  # type: ignore[index]
    )


@pytest.mark.parametrize(("sizes", "count"), [("largest", 2), ("all", 3)])
def test_small_crops_are_attacked_where_asked(sizes: str, count: int) -> None:
    plan = hexa(attack_sizes=sizes).plan(make_views(CROPS), method_named("simclr"))
    assert [row.made_from for row, _ in made(plan, "adversarial")] == list(range(count))
    attacked = plan.pairs[len(plan.pairs) - 2 * count :]
    assert [(p.student - 3, p.target) for p in attacked] == [
        (s, t) for s in range(count) for t in range(3) if s != t
    ] or sorted((p.student - 3, p.target) for p in attacked) == [
        (s, t) for s in range(count) for t in range(3) if s != t
    ]


def test_views_chosen_by_hvp_are_attacked_and_mixed() -> None:
    method, views = method_named("moco-v2"), make_views(("expert",) * 4)
    plan = strategy_of("hvp,hexa", {"a2": 1}).plan(views, method)
    (attacked, clean), (mixed, same_row) = made(plan, "adversarial") + made(plan, "cutmix")
    assert clean is same_row
    delta = plan.views.image(attacked.view) - views.image(clean.view).float()
    assert delta.abs().amax((1, 2, 3)).tolist() == [1] * 8
    boxes = plan.views.params[mixed.view]["crop_box"]  # type: ignore[index]
    assert torch.equal(boxes, views.column("crop_box", clean.view))


def test_a2_over_all_pairs_leaves_attacked_rows_to_themselves() -> None:
    method, views = method_named("simclr"), make_views((*EE, "generated"))
    plan = strategy_of("hexa,a2", {"loss": "full"}).plan(views, method)
    alone = hexa().plan(make_views(EE), method)
    assert [(p.student, p.target, p.weight, p.pool) for p in plan.pairs[:2]] == [
        (p.student, p.target, p.weight, p.pool) for p in alone.pairs[2:]
    ]
    shown = [(plan.students[p.student].view, plan.targets[p.target or 0].view) for p in plan.pairs]
    assert shown[2:] == [(s, t) for s in range(3) for t in range(3) if s != t]
    assert {p.pool for p in plan.pairs[2:]} == {(0, 1, 4)}
    assert torch.isfinite(method(plan).loss)


def test_a_step_of_moco_embeds_one_view_more_for_each_hard_example_and_two_for_the_attack() -> None:
    for (a1, a2), expected in (((0, 0), 2), ((1, 0), 5), ((0, 1), 3), ((1, 1), 6)):
        method = method_named("moco-v2")
        method(hexa(a1, a2).plan(make_views(EE), method))
        assert method.forwards == expected


WHOLE: dict[str, tuple[MethodSettings, dict[str, Any]]] = {
    "dino": (DINOSettings(outputs=32), PLAIN),
    "ibot": (IBOTSettings(outputs=32), PLAIN | PATCHES),
    "ibot, patches alone": (IBOTSettings(outputs=32, cls_weight=0), PLAIN | PATCHES),
    "deepcluster-v2": (DeepClusterV2Settings(prototypes=(4, 3)), {}),
}


def whole_method(name: str) -> tuple[Method, Views]:
    """A method whose loss has no parts, with its clusters where it has some, and its views."""
    settings, network = WHOLE[name]
    method = make_method(settings, **network)
    add_domain(method)
    views = method.annotate(make_views(("global", "global", "local"), samples=16))
    standard = strategy_of("standard", {})
    method.begin_epoch(views.at, lambda: iter([standard.plan(views, method)]))
    return method, views


@pytest.mark.parametrize("name", list(WHOLE))
def test_losses_without_parts_are_raised_too(name: str) -> None:
    method, views = whole_method(name)
    method.eval()
    plan = hexa(eps=0.1, step=0.1, attack_sizes="all").plan(views, method)
    student, target = method.both(plan, "attack")
    own = {(p.student, p.target): p for p in plan.pairs if plan.is_base(p)}
    losses = torch.zeros(2, len(views))
    for pair in plan.pairs[len(own) :]:
        made_from = plan.students[pair.student].made_from or 0
        both = (own[made_from, pair.target], pair)
        pulls = [method.score(student, target, each, plan).pull for each in both]
        losses = losses + pair.weight * torch.stack(pulls).detach()
    before, after = losses
    assert (after > before).float().mean() > 0.9


@pytest.mark.parametrize("name", list(WHOLE))
def test_centres_and_memories_take_clean_rows_alone(name: str) -> None:
    (plain, views), (attacked, _) = whole_method(name), whole_method(name)
    mixes = name == "deepcluster-v2"
    for method, strategy in ((plain, strategy_of("standard", {})), (attacked, hexa(1, int(mixes)))):
        method.commit([method(strategy.plan(views, method))], views.at)
    own, other = clean_state(plain), clean_state(attacked)
    # A mixed row runs through the clean norms of the student, whose statistics it moves.
    keys = [key for key in own if not (mixes and key.startswith("student."))]
    assert any(key in ("center", "memory") for key in keys)
    assert all(torch.equal(own[key], other[key]) for key in keys)


def test_two_labels_are_one_soft_label_of_prototypes() -> None:
    method, views = whole_method("deepcluster-v2")
    plan = hexa(0, 1).plan(views, method)
    student, target = method.both(plan, "attack")
    first = next(n for n, row in enumerate(plan.students) if row.mixed_with is not None)
    pairs = [pair for pair in plan.pairs if pair.student == first]
    column = plan.students[first].view
    found = sum(p.weight * method.score(student, target, p, plan).pull for p in pairs)
    share = plan.views.column("mix_lambda", column)
    z = torch.nn.functional.normalize(student["z"][first], dim=1)
    partner = plan.students[first].mixed_with
    assert partner is not None
    for b in range(len(views)):
        expected = torch.zeros(())
        for head, prototypes in enumerate(torch.split(method.prototypes, [4, 3])):  # type: ignore[call-overload]
            log_p = (prototypes @ z[b] / 0.1).log_softmax(0)
            labels = method.assignments[head, views.sample]  # type: ignore[index]
            soft = share[b] * log_p[labels[b]] + (1 - share[b]) * log_p[labels[partner[b]]]
            expected = expected - soft / 2
        assert found[b].item() == pytest.approx(expected.item() / 3, rel=1e-4)  # type: ignore[index]


CACHED = (*EE, "adversarial", "adversarial")


def test_views_that_were_attacked_before_are_trained_on_in_the_adversarial_domain() -> None:
    strategy, method = hexa(0.5), method_named("simclr")
    views = make_views(CACHED, (-1, -1, 1, 0))
    strategy.check(method.traits, slots_of(CACHED, (-1, -1, 1, 0)))
    plan = strategy.plan(views, method)
    assert method.forwards == 0
    assert [(row.view, row.bn, row.made_from) for row in plan.students[2:]] == [
        (3, "adv", 0),
        (2, "adv", 1),
    ]
    assert [(p.student, p.target, p.weight) for p in plan.pairs[2:]] == [(2, 1, 0.25), (3, 0, 0.25)]
    for parent in ((-1, -1, 0, 0), (-1,) * 4):
        with pytest.raises(ConfigError, match="got none of view"):
            strategy.check(method.traits, slots_of(CACHED, parent))


def test_the_age_of_attacks_is_logged_where_views_say_their_step() -> None:
    views = make_views(CACHED, (-1, -1, 1, 0), step=9)
    assert "adv_age" not in hexa().plan(views, method_named("simclr")).log
    params = tuple({**each, "model_step": torch.full((len(views),), 4)} for each in views.params)
    log = hexa().plan(replace(views, params=params), method_named("simclr")).log
    assert log["adv_age"].item() == 5
    unknown = tuple({**each, "model_step": torch.full((len(views),), -1)} for each in views.params)
    assert "adv_age" not in hexa().plan(replace(views, params=unknown), method_named("simclr")).log


MIXED = (*EE, "cutmix", "cutmix")


def test_views_that_were_mixed_before_learn_the_clusters_of_both_rows() -> None:
    settings = DeepClusterV2Settings(prototypes=(5, 7), temperature=0.3)
    method = make_method(settings)
    generator = torch.Generator().manual_seed(1)
    method.prototypes.copy_(torch.randn(method.prototypes.shape, generator=generator))  # type: ignore[operator]
    method.assignments.random_(0, 5, generator=generator)  # type: ignore[operator]
    views = make_views(MIXED, (-1, -1, 1, 0))
    strategy = hexa(0, 0.5)
    strategy.check(method.traits, slots_of(MIXED, (-1, -1, 1, 0)))
    plan = strategy.plan(views, method)
    assert [(row.view, row.bn, row.made_from) for row in plan.students[2:]] == [
        (3, "clean", 0),
        (2, "clean", 1),
    ]
    embedded = method(plan)
    wanted = 0.0
    heads = method.prototypes.split([5, 7])  # type: ignore[operator]
    for place, weight in ((0, 0.5), (1, 0.5), (2, 0.25), (3, 0.25)):
        z = torch.nn.functional.normalize(embedded.student["z"][place].detach().double(), dim=1)
        view = plan.students[place].view
        for b, row in enumerate(views.sample.tolist()):
            own, partner = [row], [1.0]
            if place > 1:
                params = views.params[view]  # type: ignore[index]
                share = float(params["mix_lambda"][b])
                own, partner = [row, int(params["mix_partner"][b])], [share, 1 - share]
            for head, prototypes in enumerate(heads):
                log_p = (prototypes.double() @ z[b] / 0.3).log_softmax(0)
                for label, share in zip(own, partner, strict=True):
                    cluster = int(method.assignments[head, label])  # type: ignore[index]
                    wanted -= weight * share * float(log_p[cluster]) / len(heads) / len(views)
    assert embedded.loss.item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("strategy", "parent", "message"),
    [
        (hexa(1, 0), (-1, -1, 1, 0), "would not train on each of its views"),
        (hexa(0, 1), (-1, -1, 1, 1), "would not train on each of its views"),
        (hexa(0, 1), (-1, -1, -1, -1), "would not train on each of its views"),
        (hexa(0, 1, lam_scope="batch"), (-1, -1, 1, 0), "lam_scope batch .* mixed before"),
    ],
)
def test_mixed_views_of_no_use_are_refused(
    strategy: Strategy, parent: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy.check(DeepClusterV2Settings.TRAITS, slots_of(MIXED, parent))


@pytest.mark.parametrize(
    ("strategy", "roles", "parent", "message"),
    [
        (hexa(steps=2), CACHED, (-1, -1, 1, 0), "steps 2 has no effect .* attacked before"),
        (hexa(0, 1), CACHED, (-1, -1, 1, 0), "adversarial-2 .number 2. .* would not train on it"),
        (hexa(), (*CACHED, "adversarial"), (-1, -1, 1, 0, 1), "adversarial-4 .* not train on it"),
        (hexa(), (*CROPS, *["adversarial"] * 3), (-1, -1, -1, 0, 1, 2), "adversarial-5 .* not"),
    ],
)
def test_attacked_views_and_settings_of_no_use_are_refused(
    strategy: Strategy, roles: tuple[str, ...], parent: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy.check(METHODS["simclr"].traits, slots_of(roles, parent))


CENTRES = Traits(
    name="centres", target="ema", decomposable=False, forward="per_size", target_roles=("global",)
)
TWINS = Traits(
    name="twins", samplewise=False, target="none", decomposable=False, forward="per_view"
)


@pytest.mark.parametrize(
    ("traits", "weights", "why"),
    [(TWINS, (1, 0), "(samplewise)"), (CENTRES, (1, 1), "(decomposable)")],
)
def test_methods_whose_targets_cannot_be_kept_or_mixed_are_refused(
    traits: Traits, weights: tuple[float, float], why: str
) -> None:
    with pytest.raises(ConfigError, match=f"strategy hexa.* method {traits.name}") as caught:
        hexa(*weights).check(traits, slots_of(CROPS))
    assert why in (caught.value.why or "")
    assert "use --" in (caught.value.fix or "")
    hexa(1, 0).check(CENTRES, slots_of(CROPS))


def test_mixed_views_of_a_store_and_graded_mixed_views_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"has role cutmix: .* not in the batch") as caught:
        hexa(0, 1).check(METHODS["simclr"].traits, slots_of((*EE, "cutmix")))
    assert "use --strategy hexa --set strategy.a2=1" in (caught.value.fix or "")
    with pytest.raises(ConfigError, match="graded cannot weigh the mixed views of hexa") as caught:
        strategy_of("hexa,graded", {"a2": 1})
    assert "two crop boxes" in (caught.value.why or "")
    plan = strategy_of("graded,hexa", {"align_scale": "exact"}).plan(
        make_views(EE), method_named("simclr")
    )
    assert len(plan.pairs) == 4
    assert "psi" in plan.log


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a1": -1}, "a1 must be at least 0"),
        ({"norm": "l1"}, "norm must be linf or l2"),
        ({"units": "levels"}, "units must be pixel255 or unit or normalized"),
        ({"eps": 0}, "eps must be above 0"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"attack_bn": "both"}, "attack_bn must be clean or adv"),
        ({"attack_sizes": "some"}, "attack_sizes must be largest or all"),
        ({"cutmix_on": "mixed"}, "cutmix_on must be clean or adv or both"),
        ({"lam_scope": "step"}, "lam_scope must be sample or batch"),
        ({"lam_scope": "batch"}, "lam_scope batch has no effect in strategy hexa: a2 is 0"),
        ({"cutmix_on": "adv"}, "cutmix_on adv has no effect"),
        ({"a1": 0, "a2": 1, "eps": 2}, "eps 2.* has no effect in strategy hexa: a1 is 0"),
        ({"a1": 0, "attack_sizes": "all"}, "attack_sizes all has no effect"),
    ],
)
def test_other_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy_of("hexa", given)


@pytest.mark.parametrize("given", [{}, {"a1": 0, "a2": 1}])
def test_hard_examples_need_pairs_of_the_method(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="hexa has no pair to learn by where dssl has alpha 0"):
        strategy_of("dssl,hexa", {"dssl.alpha": 0, **given})
    idle = strategy_of("dssl,hexa", {"dssl.alpha": 0, "a1": 0})
    views = make_views((*EE, "heavy", "heavy"), (-1, -1, 0, 1))
    assert len(idle.plan(views, make_method("simclr")).pairs) == 2


def test_stages_are_applied_in_one_order_however_they_are_named() -> None:
    first, second = (strategy_of(names, {}) for names in ("hexa,dssl,a2", "a2,dssl,hexa"))
    assert first == second
    assert first.name == "dssl,hexa,a2"
    assert copy.deepcopy(first) == first
