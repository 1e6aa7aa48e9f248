"""DSSL against loops over its equations, numbers of its code, and pair lists of its figure 4."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.world import make_method, make_views, slots_of
from viewstore.errors import ConfigError
from viewstore.train.methods.barlow_twins import BarlowTwinsSettings
from viewstore.train.methods.base import Method, MethodSettings
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.embeddings import Emb
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.methods.traits import Traits
from viewstore.train.plan import Plan, cosine, total
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import Views

ROLES, PARENT = ("expert", "expert", "heavy", "heavy"), (-1, -1, 0, 1)
V1, V2, H1, H2 = range(4)
WEIGHTS = ("alpha", "beta", "gamma", "delta")
Named = dict[str, Tensor]


def dssl(*weights: float, **given: Any) -> Strategy:  # noqa: ANN401
    return strategy_of("dssl", {**dict(zip(WEIGHTS, weights, strict=False)), **given})


def views_of(roles: tuple[str, ...] = ROLES, parent: tuple[int, ...] = PARENT) -> Views:
    return make_views(roles, parent)


def listed(plan: Plan) -> list[tuple[Any, Any, float]]:
    """The pairs by the numbers of their views, with their weights."""
    return [
        (
            plan.students[pair.student].view,
            None if pair.target is None else plan.targets[pair.target].view,
            float(pair.weight),
        )
        for pair in plan.pairs
    ]


def given_embeddings(plan: Plan, p: Tensor, z: Tensor) -> tuple[Emb, Emb]:
    """Embeddings of the rows of a plan from those of each view, [V, B, D]."""
    students = torch.tensor([row.view for row in plan.students])
    targets = torch.tensor([row.view for row in plan.targets])
    return {"p": p[students], "z": z[students]}, {"z": z[targets].detach()}


def loss_of(strategy: Strategy, method: Method, p: Tensor, z: Tensor) -> Tensor:
    """The loss of made-up embeddings of v1, v2, h1 and h2."""
    plan = strategy.plan(make_views(ROLES, PARENT, samples=p.shape[1]), method)
    student, target = given_embeddings(plan, p, z)
    return method.reduce(student, target, plan)


@pytest.fixture
def known(shared: Path) -> Named:
    with np.load(shared / "fixtures/ssl/simsiam_byol_dssl.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"gamma": 0}, "dssl_code_symmetric"),
        ({"alpha": 0}, "dssl_code_one_way"),
        ({"alpha": 0, "gamma": 0, "delta": 1}, "dssl_code_reverse"),
        ({"alpha": 0, "soft": 1}, "dssl_code_reverse"),
        ({"soft": 0.1}, "dssl_cifar_code_soft0p1"),
        ({"soft": 0}, "dssl_cifar_code_soft0"),
        ({}, "dssl_imagenet_code"),
        ({"norm": "algorithm1"}, "dssl_paper_algorithm1"),
    ],
)
def test_losses_are_those_of_its_code(known: Named, given: dict[str, Any], name: str) -> None:
    p, z = (torch.stack([known[f"{k}{n}"] for n in ("1", "2", "1_hat", "2_hat")]) for k in "pz")
    found = loss_of(dssl(**given), make_method(SimSiamSettings()), p, z)
    torch.testing.assert_close(found, known[name], rtol=1e-5, atol=1e-6, check_dtype=False)


def random_embeddings(seed: int = 4) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    p, z = torch.randn(2, 4, 6, 5, generator=draws, dtype=torch.float64)
    return p, z


def equation_6(p: Tensor, z: Tensor, weights: tuple[float, ...]) -> float:
    """Equation 6 with LS and LA as printed, in loops over samples and directed pairs."""
    alpha, beta, gamma, delta = weights
    terms = {(V1, V2): alpha, (V2, V1): alpha, (H1, H2): beta, (H2, H1): beta}
    terms |= {(H1, V1): gamma, (H2, V2): gamma, (V1, H1): delta, (V2, H2): delta}
    summed = 0.0
    for b in range(p.shape[1]):
        for (s, t), weight in terms.items():
            u, v = p[s, b] / p[s, b].norm(), z[t, b] / z[t, b].norm()
            summed += weight * -float(u @ v)
    return summed / p.shape[1]


@pytest.mark.parametrize(
    "weights", [(0.3, 0.7, 1.1, 0.2), (1, 0, 1, 0), (1, 1, 1, 1), (0, 0, 0, 2)]
)
@pytest.mark.parametrize("settings", [SimSiamSettings(), BYOLSettings(scale="half")])
def test_the_sum_is_equation_6_and_other_norms_are_shares_of_it(
    settings: SimSiamSettings | BYOLSettings, weights: tuple[float, ...]
) -> None:
    method = make_method(settings)
    p, z = random_embeddings()
    expected = equation_6(p, z, weights)
    for norm, share in (("sum", 1), ("code", 2), ("algorithm1", 4)):
        found = loss_of(dssl(*weights, norm=norm), method, p, z)
        assert found.item() == pytest.approx(expected / share, rel=1e-12)


def test_byol_keeps_its_ratios_with_twice_the_weight() -> None:
    p, z = random_embeddings()
    weights = (0.3, 0.7, 1.1, 0.2)
    half = loss_of(dssl(*weights), make_method(BYOLSettings(scale="half")), p, z)
    whole = loss_of(dssl(*weights), make_method(BYOLSettings()), p, z)
    torch.testing.assert_close(whole, 4 * (half + sum(weights)))


@pytest.mark.parametrize("name", ["simclr", "simsiam", "byol", "moco-v2", "barlow-twins"])
def test_without_heavy_parts_it_is_the_standard_plan(name: str) -> None:
    method = make_method(name)
    plan = dssl(1, 0, 0, 0).plan(views_of(), method)
    base = strategy_of("standard", {}).plan(make_views(ROLES[:2]), method)
    assert listed(plan) == listed(base)
    assert len(plan.students) == len(base.students)
    assert [pair.term for pair in plan.pairs] == [pair.term for pair in base.pairs]


def arm(
    *weights: float,
    roles: tuple[str, ...] = ROLES,
    parent: tuple[int, ...] = PARENT,
    **given: Any,  # noqa: ANN401
) -> tuple[Strategy, tuple[str, ...], tuple[int, ...]]:
    return dssl(*weights, **given), roles, parent


# What DSSL's section 4.3 says of the arms of its figure 4: a strategy, views, and directed pairs.
FIG4 = {
    "c": (
        (strategy_of("standard", {"roles": "heavy"}), ROLES, PARENT),
        [(H2, H1), (H1, H2)],
    ),
    "d": ((strategy_of("standard", {}), ("expert", "heavy"), (-1, -1)), [(1, 0), (0, 1)]),
    "e": ((strategy_of("standard", {}), ("expert", "heavy"), (-1, 0)), [(1, 0), (0, 1)]),
    "f": (arm(1, 1, 0, 0), [(V2, V1), (V1, V2), (H2, H1), (H1, H2)]),
    "g": (
        arm(0, 0, 1, 0, roles=ROLES[:3], parent=(-1,) * 3, derive="from_sample", heavy_views=1),
        [(H1, V1)],
    ),
    "h": (arm(1, 0, 1, 1), [(V2, V1), (V1, V2), (H1, V1), (V1, H1), (H2, V2), (V2, H2)]),
    "i": (
        arm(1, 0, 1, 0, parent=(-1,) * 4, derive="from_sample"),
        [(V2, V1), (V1, V2), (H1, V1), (H2, V2)],
    ),
    "j": (arm(1, 0, 1, 0), [(V2, V1), (V1, V2), (H1, V1), (H2, V2)]),
}


@pytest.mark.parametrize("name", list(FIG4))
def test_the_pairs_of_an_arm_of_figure_4(name: str) -> None:
    (strategy, roles, parent), expected = FIG4[name]
    method = make_method(SimSiamSettings())
    strategy.check(method.traits, slots_of(roles, parent))
    plan = strategy.plan(views_of(roles, parent), method)
    assert listed(plan) == [(*pair, 0.5) for pair in expected]


def test_targets_are_standard_views_alone_without_beta_and_delta() -> None:
    for weights in itertools.product((0, 1), repeat=4):
        if not any(weights):
            continue
        plan = dssl(*weights).plan(views_of(), make_method(SimSiamSettings()))
        heavy_targets = {row.view for row in plan.targets} & {H1, H2}
        assert bool(heavy_targets) == bool(weights[1] or weights[3])
        assert len(set(plan.students)) == len(plan.students)
        assert plan.students[:2] == plan.targets[:2]


def test_equal_weights_are_symmetric_in_standard_and_heavy_views() -> None:
    method, (p, z) = make_method(SimSiamSettings()), random_embeddings()
    swapped = torch.tensor([H1, H2, V1, V2])
    fair, turned = (
        loss_of(dssl(1, 1, 1, 1), method, *e) for e in ((p, z), (p[swapped], z[swapped]))
    )
    torch.testing.assert_close(fair, turned, rtol=1e-12, atol=0)
    one_way, back = (loss_of(dssl(), method, *e) for e in ((p, z), (p[swapped], z[swapped])))
    assert not torch.isclose(one_way, back)


@pytest.mark.parametrize(
    "settings", [SimCLRSettings(), BarlowTwinsSettings(), MoCoV2Settings(), SimSiamSettings()]
)
@pytest.mark.parametrize("target_grad", [False, True])
def test_no_gradient_goes_into_the_target_of_a_direction_unless_asked(
    settings: MethodSettings,
    target_grad: bool,
) -> None:
    method = make_method(settings)
    views = views_of()
    levels = tuple(pixels.float().requires_grad_() for pixels in views.pixels)
    plan = dssl(0, 0, 1, 0, target_grad=target_grad).plan(replace(views, pixels=levels), method)
    grads = torch.autograd.grad(
        method(plan).loss, levels, allow_unused=True, materialize_grads=True
    )
    # Views that share batch statistics with heavy ones move with them: SimCLR embeds all at once.
    if method.traits.forward == "per_view":
        reached = [bool(grad.abs().sum() > 0) for grad in grads]
        into_target = target_grad and method.traits.target == "none"
        assert reached == [into_target, into_target, True, True]
    emb = {"z": torch.randn(len(plan.students), 8, 16, requires_grad=True)}
    emb["p"] = emb["z"]
    target = emb if method.traits.target == "none" else {"z": torch.randn(4, 8, 16)}
    method.reduce(emb, target, plan).backward()
    assert emb["z"].grad is not None
    moved = emb["z"].grad.abs().sum((1, 2)) > 0
    rows = {plan.students[n].view for n in moved.nonzero()[:, 0].tolist()}
    into_target = target_grad and method.traits.target == "none"
    assert rows == ({V1, V2, H1, H2} if into_target else {H1, H2})


def test_methods_with_negatives_align_by_the_cosine_and_weigh_their_own_loss() -> None:
    for norm, factor in (("code", 1), ("algorithm1", 0.5), ("sum", 2)):
        plan = dssl(norm=norm).plan(views_of(), make_method(SimCLRSettings()))
        assert [(pair.term, pair.weight, pair.detach) for pair in plan.pairs] == [
            (total, factor / 2, False),
            (total, factor / 2, False),
            (cosine, factor / 2, True),
            (cosine, factor / 2, True),
        ]
    method, (_, z) = make_method(SimCLRSettings()), random_embeddings()
    plan = dssl(0, 0, 1, 0).plan(make_views(ROLES, PARENT, samples=6), method)
    rows = {"z": z[torch.tensor([row.view for row in plan.students])]}
    u = F.normalize(z, dim=2)
    expected = -((u[H1] * u[V1]).sum(1) + (u[H2] * u[V2]).sum(1)) / 2
    torch.testing.assert_close(method.reduce(rows, rows, plan), expected.mean())


def test_moco_has_a_key_of_the_first_view_too_which_is_not_enqueued() -> None:
    method = make_method(MoCoV2Settings(queue_size=32))
    plan = dssl().plan(views_of(), method)
    assert listed(plan) == [(V1, V2, 1), (H1, V1, 0.5), (H2, V2, 0.5)]
    assert [row.view for row in plan.targets] == [V2, V1]
    assert (plan.base_students, plan.base_targets) == (1, 1)
    back = dssl(1, 1, 0, 1).plan(views_of(), method)
    assert listed(back) == [(V1, V2, 1), (H1, H2, 1), (V1, H1, 0.5), (V2, H2, 0.5)]


def test_one_heavy_view_belongs_to_the_first_standard_view() -> None:
    strategy = dssl(heavy_views=1)
    method = make_method(SimCLRSettings())
    strategy.check(method.traits, slots_of(ROLES[:3], PARENT[:3]))
    plan = strategy.plan(views_of(ROLES[:3], PARENT[:3]), method)
    assert listed(plan)[2:] == [(H1, V1, 0.5)]


def test_heavy_views_follow_the_views_that_a_chooser_takes() -> None:
    roles, parent = ("expert",) * 4 + ("heavy",) * 4, (-1,) * 4 + (2, 0, 3, 1)
    method, views = make_method(SimSiamSettings()), views_of(roles, parent)
    child = {2: 4, 0: 5, 3: 6, 1: 7}
    strategy = strategy_of("hvp,dssl", {})
    strategy.check(method.traits, slots_of(roles, parent))
    plan = strategy.plan(views, method)
    first, second, low, high = plan.students
    assert len(set(first.view.tolist())) > 1  # type: ignore[union-attr]
    for clean, heavy in ((first, low), (second, high)):
        expected = [child[view] for view in clean.view.tolist()]  # type: ignore[union-attr]
        assert heavy.view.tolist() == expected  # type: ignore[union-attr]
    by_position = strategy_of("hvp,dssl", {"derive": "from_sample"}).plan(views, method)
    assert torch.equal(by_position.students[2].view, first.view + 4)  # type: ignore[arg-type]


CROPS = Traits(
    name="crops",
    target="ema",
    decomposable=False,
    forward="per_size",
    target_roles=("global",),
)
LABELS = Traits(name="labels", target="prototype", decomposable=False, forward="per_size")


def method_with(traits: Traits) -> Method:
    """A method with the plans of these traits; its scores are not asked for."""
    method = make_method("byol" if traits.target == "ema" else "simclr")
    method.traits = traits
    return method


def test_a_heavy_view_of_a_global_crop_is_one_more_student_of_its_teacher() -> None:
    roles = ("local", "global", "global", "heavy", "heavy")
    views = make_views(roles, (-1, -1, -1, 2, 1))
    base = strategy_of("standard", {}).plan(make_views(roles[:3]), method_with(CROPS))
    method = make_method("simsiam")
    method.traits = CROPS
    parent = dssl().plan(views, method)
    own = len(base.pairs)
    assert listed(parent)[own:] == [(4, 1, 0.5), (3, 2, 0.5)]
    every = dssl(targets="all").plan(views, method)
    assert listed(every)[own:] == [(h, g, 0.25) for h in (4, 3) for g in (1, 2)]
    both = dssl(1, 1, 0, 0).plan(views, method)
    assert listed(both)[own:] == [(3, 4, 0.5), (4, 3, 0.5)]


def test_a_heavy_view_of_a_method_of_prototypes_learns_the_clean_label() -> None:
    class Labels(type(make_method("simclr"))):  # type: ignore[misc]
        def standard(self, views: Views, rows: Any) -> Plan:  # noqa: ANN401
            plan = super().standard(views, rows)
            pairs = tuple(replace(plan.pairs[0], student=s, target=None) for s in range(len(rows)))
            return replace(plan, targets=(), base_targets=0, pairs=pairs)

    method = make_method("simclr")
    method.__class__ = Labels
    method.traits = LABELS
    plan = dssl(1, 0, 1, 0).plan(views_of(), method)
    assert listed(plan) == [(view, None, 0.5) for view in (V1, V2, H1, H2)]
    for given in ({"beta": 1}, {"delta": 1}, {"soft": 0.1}):
        with pytest.raises(ConfigError, match="dssl with beta or delta") as caught:
            dssl(**given).check(LABELS, slots_of(ROLES, PARENT))
        assert "(target)" in (caught.value.why or "")
        assert "use --" in (caught.value.fix or "")
    dssl().check(LABELS, slots_of(ROLES, PARENT))
    with pytest.raises(ConfigError, match="dssl with targets all does not work"):
        dssl(targets="all").check(LABELS, slots_of(ROLES, PARENT))


@pytest.mark.parametrize(
    ("given", "roles", "parent", "message"),
    [
        ({}, ROLES[:2], (-1, -1), "got none of view 0"),
        ({}, ROLES, (-1,) * 4, "heavy-2 .number 2. is not"),
        ({}, ROLES[:3], (-1, -1, 0), "got none of view 1"),
        ({"heavy_views": 1}, ROLES[:3], (-1, -1, 1), "got none of view 0"),
        ({"derive": "from_sample"}, ROLES[:3], (-1,) * 3, "got none of view 1"),
    ],
)
def test_views_without_the_heavy_ones_are_refused(
    given: dict[str, Any], roles: tuple[str, ...], parent: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        dssl(**given).check(SimSiamSettings().traits, slots_of(roles, parent))
    assert "--views simclr,simclr,ra16/0,ra16/1" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("given", "roles", "parent", "spare"),
    [
        ({}, (*ROLES, "heavy"), (-1, -1, 0, 0, 1), 3),
        ({}, (*ROLES, "heavy"), (*PARENT, 2), 4),
        ({"heavy_views": 1}, ROLES, PARENT, 3),
        ({"derive": "from_sample"}, (*ROLES, "heavy"), (-1,) * 5, 4),
    ],
)
def test_heavy_views_that_would_not_be_trained_on_are_refused(
    given: dict[str, Any], roles: tuple[str, ...], parent: tuple[int, ...], spare: int
) -> None:
    strategy = dssl(**given)
    shown = {
        row.view for row in strategy.plan(views_of(roles, parent), make_method("simclr")).students
    }
    assert set(range(len(roles))) - shown == {spare}
    with pytest.raises(ConfigError, match=f"would not train on heavy view {spare}") as caught:
        strategy.check(SimSiamSettings().traits, slots_of(roles, parent))
    assert ("leave out --set strategy.heavy_views=1" in str(caught.value.fix)) == (
        "heavy_views" in given
    )


def test_heavy_views_without_a_weight_are_refused() -> None:
    with pytest.raises(ConfigError, match="beta, gamma and delta at 0"):
        dssl(1, 0, 0, 0).check(SimSiamSettings().traits, slots_of(ROLES, PARENT))


@pytest.mark.parametrize(
    "roles", [("heavy", "heavy"), ("expert", "heavy"), (*ROLES, "heavy"), ROLES]
)
def test_positions_are_advised_only_where_they_work(roles: tuple[str, ...]) -> None:
    slots = slots_of(roles)
    with pytest.raises(ConfigError, match="is not") as caught:
        dssl().check(SimSiamSettings().traits, slots)
    if "derive=from_sample" in str(caught.value.fix):
        dssl(derive="from_sample").check(SimSiamSettings().traits, slots)
    else:
        with pytest.raises(ConfigError):
            dssl(derive="from_sample").check(SimSiamSettings().traits, slots)


def test_a_chooser_needs_heavy_views_of_all_candidates() -> None:
    roles, parent = ("expert",) * 4 + ("heavy",) * 2, (-1,) * 4 + (0, 1)
    with pytest.raises(ConfigError, match="got none of view 2"):
        strategy_of("hvp,dssl", {}).check(SimSiamSettings().traits, slots_of(roles, parent))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta": -1}, "beta must be at least 0"),
        ({"soft": 2}, r"soft must be in \[0, 1\]"),
        ({"soft": 0.1, "delta": 0.2}, "soft sets gamma and delta"),
        ({"norm": "mean"}, "norm must be code or algorithm1 or sum"),
        ({"derive": "view"}, "derive must be from_view or from_sample"),
        ({"targets": "none"}, "targets must be parent or all"),
        ({"heavy_views": 3}, "heavy_views must be 1 or 2"),
        ({"heavy_views": 1, "beta": 1}, "beta weighs a loss of two heavy views"),
        ({"alpha": 0, "gamma": 0}, "nothing is trained"),
        ({"beta": 1, "gamma": 0, "targets": "all"}, "targets all has no effect .* gamma is 0"),
        ({"soft": 1, "targets": "all"}, "targets all has no effect"),
    ],
)
def test_other_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dssl(**given)
