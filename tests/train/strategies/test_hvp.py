"""Hard views: what is chosen is what loops over the paper's formulas choose, and nothing moves."""

import copy
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.train.strategies.small import (
    CROPS,
    EXPERTS,
    FRAME,
    NETWORK,
    SIZE,
    Clustered,
    Distilling,
    Plain,
    at_step,
    barlow,
    byol,
    moco,
    permuted,
    simsiam,
    traits,
    views_of_roles,
)
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.embeddings import Emb, Images
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.network import seeded_network
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.strategies.base import Chooser, Slot, Strategy
from viewstore.train.strategies.colours import coloured
from viewstore.train.strategies.controls import Cooperative, Random
from viewstore.train.strategies.hvp import HVP, BatchNorm
from viewstore.train.strategies.standard import Standard
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import Views

TEMPERATURE = 0.5


def simclr(**values: object) -> Method:
    settings = SimCLRSettings(**{"temperature": TEMPERATURE, **values})  # type: ignore[arg-type]
    return settings.make(seeded_network(NETWORK, 0), FRAME)


METHODS: dict[str, Callable[[], Method]] = {
    "simclr": simclr,
    "simsiam": simsiam,
    "byol": byol,
    "moco-v2": moco,
    "clustered": Clustered,
    "barlow-twins": barlow,
    "distilling": Distilling,
}


def roles_of(name: str) -> tuple[str, ...]:
    return CROPS if name == "distilling" else EXPERTS


def slots_of(*roles: str, columns: Sequence[str] = (), colourless: bool = False) -> list[Slot]:
    return [
        Slot(
            role,
            SIZE // 2 if role == "local" else SIZE,
            frozenset(columns),
            -1,
            "simclr",
            colourless,
        )
        for role in roles
    ]


def chosen(plan: Plan) -> Tensor:
    """Return the views of the students of a plan, [B, rows]; MoCo's target comes behind."""
    rows = {id(row): row for row in (*plan.students, *plan.targets)}.values()
    return torch.stack([torch.as_tensor(row.view).expand(len(plan.views)) for row in rows], 1)


def state_of(method: Method) -> list[Tensor]:
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    states = [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].tolist())]  # type: ignore[union-attr, index] # noqa: NPY002
    numbers = torch.tensor(random.getstate()[1], dtype=torch.float64)
    return [each.clone() for each in (*method.state_dict().values(), *gradients, *states, numbers)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("bn", ["batch_pooled", "batch_per_view", "eval"])
def test_choosing_changes_nothing(name: str, bn: BatchNorm) -> None:
    method = METHODS[name]()
    views = views_of_roles(*roles_of(name))
    first = replace(views, base=views.base[:2] if name != "distilling" else views.base)
    method(Standard().plan(first, method)).loss.backward()  # there are gradients, statistics moved
    before = state_of(method)
    training = [module.training for module in method.modules()]
    HVP(select_bn=bn, allow_per_view=True).plan(views, method)
    assert all(map(torch.equal, before, state_of(method)))
    assert [module.training for module in method.modules()] == training


def test_the_pair_is_that_of_a_triple_loop() -> None:
    """Equation 2, in float64: the pair of N views of each sample with the greatest loss."""
    method, views = simsiam(), views_of_roles(*["expert"] * 5)
    rows = [Row(view) for view in range(5)]
    emb = method.encode(views, rows, net="student", mode="probe", statistics="pooled")
    p, z = emb["p"].double(), emb["z"].double()

    def distance(a: Tensor, b: Tensor) -> float:
        return float(-(a @ b) / (a.norm() * b.norm()))

    plan = HVP(n_views=5).plan(views, method)
    for b in range(7):
        best, pair = -float("inf"), (-1, -1)
        for k in range(5):
            for other in range(k + 1, 5):
                loss = distance(p[k, b], z[other, b]) / 2 + distance(p[other, b], z[k, b]) / 2
                if loss > best:
                    best, pair = loss, (k, other)
        assert tuple(chosen(plan)[b].tolist()) == pair
        assert plan.log["losses"][plan.log["chosen"][b], b] == pytest.approx(best, abs=1e-6)


def nt_xent(first: Tensor, second: Tensor, negatives: str, *, positive: bool = True) -> Tensor:
    """Return the loss of each sample, float64 [B], term by term (arXiv:2002.05709, equation 1).

    `negatives` other is HVP's equation 3, of both views, with the `positive` in the sum or without.
    """
    u = [torch.nn.functional.normalize(z.double(), dim=1) for z in (first, second)]
    losses = []
    for b in range(len(first)):
        loss = torch.zeros((), dtype=torch.float64)
        for s, t in ((0, 1), (1, 0)):
            pool = [u[t][n] for n in range(len(first)) if positive or n != b]
            if negatives == "both":
                pool += [u[s][n] for n in range(len(first)) if n != b]
            bottom = sum(torch.exp(u[s][b] @ each / TEMPERATURE) for each in pool)
            loss = loss - torch.log(torch.exp(u[s][b] @ u[t][b] / TEMPERATURE) / bottom) / 2
        losses.append(loss)
    return torch.stack(losses)


@pytest.mark.parametrize("negatives", ["both", "other"])
def test_scores_of_simclr_are_six_separate_losses(negatives: str) -> None:
    method, views = simclr(negatives=negatives), views_of_roles(*EXPERTS)
    rows = [Row(view) for view in range(4)]
    z = method.encode(views, rows, net="student", mode="probe", statistics="pooled")["z"]
    plan = HVP().plan(views, method)
    pairs = list(itertools.combinations(range(4), 2))
    assert plan.log["pairs"].tolist() == [list(pair) for pair in pairs]
    separate = torch.stack([nt_xent(z[k], z[other], negatives) for k, other in pairs])
    torch.testing.assert_close(plan.log["losses"], separate.float())
    assert plan.log["chosen"].equal(separate.argmax(0))


class Embedded(Method):
    """SimCLR's scores of embeddings that are given, as colours of single pixels."""

    def __init__(self) -> None:
        super().__init__(seeded_network(NETWORK, 0), traits("none", negatives="batch"), FRAME)
        self.scorer = [simclr(negatives="other")]

    def trunk(self, images: Images, net: Net) -> Emb:
        return {"feat": images.pixels.mean((2, 3))}

    def head(self, features: Tensor, net: Net) -> Emb:
        return {"z": features}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        return self.scorer[0].score(student, target, pair, plan)


def test_the_positive_in_the_denominator_decides() -> None:
    """Equation 3 as printed drops it from the sum, and another pair is the hardest then."""
    generator = torch.Generator().manual_seed(0)
    changed, pairs = 0, list(itertools.combinations(range(6), 2))
    for _ in range(20):
        z = torch.randn((6, 2, 3), generator=generator)  # 6 views of 2 samples
        views = replace(
            views_of_roles(*["expert"] * 6, samples=2),
            pixels=tuple(each[:, :, None, None].expand(2, 3, 2, 2) for each in z),
        )
        plan = HVP(n_views=6).plan(views, Embedded())
        kept = torch.stack([nt_xent(z[a], z[b], "other") for a, b in pairs]).argmax(0)
        dropped = [nt_xent(z[a], z[b], "other", positive=False) for a, b in pairs]
        assert plan.log["chosen"].equal(kept)
        changed += int((torch.stack(dropped).argmax(0) != kept).sum())
    assert changed > 0


@pytest.mark.parametrize("chooser", [HVP(), Cooperative()])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_selected_is_the_extreme_of_the_logged_table(name: str, chooser: HVP) -> None:
    method, views = METHODS[name](), views_of_roles(*roles_of(name), samples=32)
    plan = replace(chooser, allow_per_view=True).plan(views, method)
    losses, pairs = plan.log["losses"], plan.log["pairs"]
    assert losses.dtype == torch.float32
    assert losses.shape == (len(pairs), 32)
    best = losses.argmax(0) if chooser.SIGN > 0 else losses.argmin(0)  # no ties in random data
    assert plan.log["chosen"].equal(best)
    assert plan.log["selected"][:, :2].equal(pairs[best])
    assert chosen(plan).equal(plan.log["selected"])
    assert len({tuple(pair) for pair in plan.log["selected"].tolist()}) > 1


@pytest.mark.parametrize("name", ["simclr", "simsiam", "moco-v2", "clustered"])
def test_permuted_candidates_permute_the_choice(name: str) -> None:
    method, views, order = METHODS[name](), views_of_roles(*EXPERTS), [2, 0, 3, 1]
    chooser = HVP(allow_per_view=True)
    plan = chooser.plan(views, method)
    other = chooser.plan(permuted(views, order), method)
    moved = torch.tensor(order)[chosen(other)]
    if name == "moco-v2":
        assert moved.equal(chosen(plan))
    else:
        assert moved.sort(dim=1).values.equal(chosen(plan).sort(dim=1).values)


def weights_after(strategy: Strategy, method: Method, views: Views, steps: int = 2) -> list[Tensor]:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        at = at_step(step + views.at.step)
        embedded = method(strategy.plan(replace(views, at=at), method))
        optimizer.zero_grad()
        embedded.loss.backward()
        optimizer.step()
        method.commit([embedded], at)
    return [value.clone() for value in method.state_dict().values()]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("chooser", [HVP, Cooperative])
def test_two_candidates_are_bitwise_the_standard_run(name: str, chooser: type[HVP]) -> None:
    roles = ("global",) * 2 + ("local",) * 2 if name == "distilling" else EXPERTS[:2]
    views, method = views_of_roles(*roles), METHODS[name]()
    expected = weights_after(Strategy(Standard()), copy.deepcopy(method), views)
    two = chooser(n_views=2, train_locals=2, allow_per_view=True)
    found = weights_after(Strategy(two), copy.deepcopy(method), views)
    assert all(map(torch.equal, expected, found))


@pytest.mark.parametrize("name", METHODS)
def test_steps_between_choices_are_bitwise_standard_steps_of_the_first_views(name: str) -> None:
    roles = roles_of(name)
    method, views = METHODS[name](), views_of_roles(*roles, at=at_step(1))
    chooser = HVP(every=3, allow_per_view=True)
    wanted = chooser.wants(roles, 1)
    assert wanted == ((0, 1, 4, 5, 6) if name == "distilling" else (0, 1))
    assert wanted == chooser.wants(roles, 2)
    assert chooser.wants(roles, 3) is None
    # What is not read has no samples.
    absent = tuple(
        pixels if view in wanted else pixels[:0] for view, pixels in enumerate(views.pixels)
    )
    standard = copy.deepcopy(method)
    expected = weights_after(
        Strategy(Standard()),
        standard,
        replace(
            views,
            pixels=tuple(views.pixels[view] for view in wanted),
            role=tuple(roles[view] for view in wanted),
        ),
    )
    found = weights_after(Strategy(chooser), method, replace(views, pixels=absent))
    assert all(map(torch.equal, expected, found))
    assert method.forwards == standard.forwards


def test_a_step_costs_a_forward_of_each_candidate_more() -> None:
    """In forwards of a view: N to choose, and 2 * (1 + 2) to train; the ratio is (N + 6) / 6."""
    backwards: list[int] = []

    def count_backwards(module: nn.Module, inputs: object, features: Tensor) -> None:
        if features.requires_grad:
            features.register_hook(lambda _: backwards.append(1))

    for count in (3, 4):
        method = simsiam()
        method.student.backbone.register_forward_hook(count_backwards)
        plan = HVP(n_views=count).plan(views_of_roles(*["expert"] * count), method)
        assert method.forwards == count
        method(plan).loss.backward()
        assert method.forwards == count + 2
        units = method.forwards + 2 * len(backwards)
        assert units == count + 2 * (1 + 2)
        assert units / 6 == pytest.approx((count + 6) / 6)
        backwards.clear()


def test_a_queue_scores_both_directions_and_trains_one() -> None:
    method, views = moco(), views_of_roles(*EXPERTS, samples=32)
    plan = HVP().plan(views, method)
    pairs = list(itertools.permutations(range(4), 2))
    assert plan.log["pairs"].tolist() == [list(pair) for pair in pairs]
    assert method.forwards == 8
    rows = [Row(view) for view in range(4)]
    q = method.encode(views, rows, net="student", mode="probe", statistics="pooled")["z"]
    k = method.encode(views, rows, net="target", mode="probe", statistics="pooled")["z"]
    q, k = (torch.nn.functional.normalize(each.double(), dim=2) for each in (q, k))
    queue = method.queue.double()
    for b in range(32):
        losses = []
        for first, second in pairs:
            positive = torch.exp(q[first, b] @ k[second, b] / 0.2)
            others = sum(torch.exp(q[first, b] @ key / 0.2) for key in queue)
            losses.append(float(-torch.log(positive / (positive + others))))
        assert tuple(chosen(plan)[b].tolist()) == pairs[int(np.argmax(losses))]
    assert len(plan.pairs) == len(plan.students) == 1


def test_prototypes_choose_the_two_hardest_views() -> None:
    method, views = Clustered(), views_of_roles(*EXPERTS)
    plan = HVP(allow_per_view=True).plan(views, method)
    rows = [Row(view) for view in range(4)]
    z = method.encode(views, rows, net="student", mode="probe", statistics="pooled")["z"]
    label = views.sample % z.shape[2]
    losses = torch.stack([torch.nn.functional.cross_entropy(x, label, reduction="none") for x in z])
    hardest = losses.topk(2, dim=0).indices.sort(dim=0).values.T
    assert chosen(plan).equal(hardest)


@pytest.mark.parametrize("chooser", [HVP(search="exact"), HVP(limit=0), HVP(limit=80)])
def test_crops_are_those_of_all_combinations(chooser: HVP) -> None:
    """4 of 2 globals, 20 of 3 of 6 local crops, scored one by one by the method itself."""
    method, views = Distilling(), views_of_roles(*CROPS)
    combinations = [
        (a, b, *local)
        for a, b in itertools.product((0, 2), (1, 3))
        for local in itertools.combinations(range(4, 10), 3)
    ]
    rows = [Row(view) for view in range(10)]
    student = method.encode(views, rows, net="student", mode="probe", statistics="pooled")
    target = method.encode(views, rows[:4], net="target", mode="probe", statistics="pooled")
    losses = torch.zeros((len(combinations), 7), dtype=torch.float64)
    for number, combination in enumerate(combinations):
        for t in combination[:2]:
            for s in combination:
                if s != t:
                    share = (target["z"][t].double() / 0.5).softmax(1)
                    losses[number] -= (share * student["z"][s].double().log_softmax(1)).sum(1)
    plan = chooser.plan(views, method)
    assert chosen(plan).equal(torch.tensor(combinations)[losses.argmax(0)])
    assert len(plan.students) == 5
    assert len(plan.targets) == 2
    best = losses.view(4, 20, 7).amax(1) / 8
    torch.testing.assert_close(plan.log["losses"], best.float())


def test_a_sample_of_combinations_is_that_of_its_step() -> None:
    method, views = Distilling(), views_of_roles(*CROPS, samples=32)
    few = HVP(limit=5)
    selected = {tuple(row) for row in few.plan(views, method).log["selected"].tolist()}
    assert 1 < len(selected) <= 5
    later = few.plan(replace(views, at=at_step(100)), method)
    assert not {tuple(row) for row in later.log["selected"].tolist()} <= selected


def test_pairs_of_experts_are_all_looked_at() -> None:
    method, views = simsiam(), views_of_roles(*EXPERTS)
    few, whole = HVP(limit=1).plan(views, method), HVP().plan(views, method)
    assert few.log["losses"].equal(whole.log["losses"])
    assert few.log["losses"].isfinite().all()


def test_half_the_size_is_every_second_pixel_or_the_mean_of_four() -> None:
    method, views = Plain(), views_of_roles(*EXPERTS)
    for filtered, half in (
        ("nearest", lambda x: x[..., ::2, ::2]),
        ("area", lambda x: torch.nn.functional.avg_pool2d(x.float(), 2)),
    ):
        small = replace(views, pixels=tuple(half(x) for x in views.pixels))
        plan = HVP(select_size=0.5, select_filter=filtered).plan(views, method)  # type: ignore[arg-type]
        assert plan.log["losses"].equal(HVP().plan(small, method).log["losses"])
        assert plan.views.pixels is views.pixels
    whole = HVP().plan(views, method).log["losses"]
    assert not HVP(select_size=0.5).plan(views, method).log["losses"].equal(whole)


def test_an_odd_side_loses_its_last_row() -> None:
    views = views_of_roles(*EXPERTS)
    odd = replace(views, pixels=tuple(x[..., :7, :7] for x in views.pixels))
    plan = HVP(select_size=0.5).plan(odd, Plain())
    cut = replace(views, pixels=tuple(x[..., :6:2, :6:2] for x in views.pixels))
    assert plan.log["losses"].equal(HVP().plan(cut, Plain()).log["losses"])


def colours(samples: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    jitter = torch.rand((samples, 4), generator=generator) + 0.5
    jitter[:, 3] = torch.rand(samples, generator=generator) * 0.2 - 0.1
    order = torch.stack([torch.randperm(4, generator=generator) for _ in range(samples)])
    return {
        "jitter": jitter,
        "jitter_order": order.to(torch.uint8),
        "gray": (torch.rand(samples, generator=generator) < 0.2).to(torch.uint8),
        "blur": torch.rand(samples, generator=generator),
        "solarize": torch.full((samples,), 256).to(torch.uint16),
    }


def colourless(first_seed: int) -> Views:
    params = [colours(7, first_seed + view) for view in range(4)]
    return replace(views_of_roles(*EXPERTS, params=params), colourless=(0, 1, 2, 3))


def test_without_colours_the_table_is_that_of_any_jitter() -> None:
    plans = [HVP(select_colors="none").plan(colourless(seed), Plain()) for seed in (0, 50)]
    assert plans[0].log["losses"].equal(plans[1].log["losses"])
    assert chosen(plans[0]).equal(chosen(plans[1]))
    assert plans[0].views.colourless == ()
    for plan, seed in zip(plans, (0, 50), strict=True):
        own = coloured(colourless(seed))
        assert all(map(torch.equal, plan.views.pixels, own.pixels))
    assert not plans[0].views.pixels[0].equal(plans[1].views.pixels[0])


def test_one_colour_is_that_of_the_first_candidate() -> None:
    views = colourless(0)
    plan = HVP(select_colors="one").plan(views, Plain())
    one = coloured(replace(views, params=(views.params[0],) * 4))
    assert plan.log["losses"].equal(HVP().plan(one, Plain()).log["losses"])
    own = coloured(views)
    assert all(map(torch.equal, plan.views.pixels, own.pixels))
    assert not HVP().plan(own, Plain()).log["losses"].equal(plan.log["losses"])


def test_views_of_steps_between_choices_get_their_colours() -> None:
    views = replace(colourless(0), at=at_step(1))
    absent = (views.pixels[0], views.pixels[1], views.pixels[2][:0], views.pixels[3][:0])
    bare = ({}, {})
    read = replace(views, pixels=absent, params=(*views.params[:2], *bare))
    plan = HVP(select_colors="none", every=2).plan(read, Plain())
    own = coloured(views)
    assert plan.views.pixels[0].equal(own.pixels[0])
    assert plan.views.pixels[1].equal(own.pixels[1])


def test_pooled_features_choose_as_an_identity_for_a_head() -> None:
    views = views_of_roles(*EXPERTS)
    head, pool = (HVP(select_at=at).plan(views, Plain()) for at in ("head", "pool"))
    assert pool.log["losses"].equal(head.log["losses"])
    assert chosen(pool).equal(chosen(head))
    assert pool.log["agreement"] == 1
    assert "agreement" not in head.log


@pytest.mark.parametrize("name", ["simsiam", "moco-v2"])
def test_a_stage_scores_the_cosine_of_its_flattened_output(name: str) -> None:
    method, views = METHODS[name](), views_of_roles(*EXPERTS, samples=32)
    plan = HVP(select_at="stage:1", select_bn="eval").plan(views, method)
    reference = copy.deepcopy(method).eval()
    with torch.no_grad():
        first, second, *_ = reference.student.backbone.children()
        stage = [second(first(method.prepare(x))) for x in views.pixels]
    flat = torch.nn.functional.normalize(torch.stack(stage).flatten(2).double(), dim=2)
    pairs = list(itertools.combinations(range(4), 2))
    losses = torch.stack([-(flat[a] * flat[b]).sum(1) for a, b in pairs])
    torch.testing.assert_close(plan.log["losses"], losses.float())
    head = HVP(select_bn="eval").plan(views, method)
    same = chosen(plan).sort(dim=1).values == chosen(head).sort(dim=1).values
    assert plan.log["agreement"] == same.all(1).float().mean()
    assert 0 < plan.log["agreement"] < 1


def test_a_probe_of_a_stage_stops_there() -> None:
    method, views = simsiam(), views_of_roles(*EXPERTS)
    entered = []
    list(method.student.backbone.children())[2].register_forward_hook(lambda *_: entered.append(1))
    HVP(select_at="stage:1", log_every=0).plan(views, method)
    assert entered == []


def test_a_stage_that_the_backbone_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match="stage must be one of the backbone's, 0 to 2, got 9"):
        HVP(select_at="stage:9").plan(views_of_roles(*EXPERTS), simsiam())


@pytest.mark.parametrize(
    ("every", "step", "logged"), [(100, 0, True), (100, 50, False), (50, 50, True), (0, 0, False)]
)
def test_a_choice_is_logged_at_times(every: int, step: int, logged: bool) -> None:
    views = views_of_roles(*EXPERTS, at=at_step(step))
    log = HVP(log_every=every).plan(views, Plain()).log
    assert set(log) == ({"pairs", "chosen", "selected", "losses"} if logged else set())


def boxes(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"crop_box": torch.randint(1, 20, (7, 4), generator=generator).float()}


def test_the_overlap_of_crops_is_logged_where_boxes_are_recorded() -> None:
    views = views_of_roles(*EXPERTS, params=[boxes(view) for view in range(4)])
    log = HVP().plan(views, Plain()).log
    for number, (a, b) in enumerate(itertools.combinations(range(4), 2)):
        for sample in range(7):
            (ya, xa, ha, wa), (yb, xb, hb, wb) = (
                views.params[view]["crop_box"][sample].tolist() for view in (a, b)
            )
            height = max(0, min(ya + ha, yb + hb) - max(ya, yb))
            width = max(0, min(xa + wa, xb + wb) - max(xa, xb))
            iou = height * width / (ha * wa + hb * wb - height * width)
            assert log["iou"][number, sample] == pytest.approx(iou)
    assert log["min_iou"].equal(log["iou"].argmin(0) == log["chosen"])


def test_a_cached_choice_is_the_standard_plan_of_what_was_picked() -> None:
    method, views = simsiam(), views_of_roles(*EXPERTS[:2])
    plan = HVP(source="cached").plan(views, method)
    assert [row.view for row in plan.students] == [0, 1]
    assert method.forwards == 0
    assert plan.log == {}


def test_a_cached_choice_is_compared_with_the_models_at_steps_that_log() -> None:
    method = simsiam()
    candidates = views_of_roles(*EXPERTS, samples=32)
    present = HVP().plan(candidates, method)
    first, second = (candidates.image(row.view) for row in present.students)
    half = torch.arange(32) < 16  # of which the pick is the present choice, in either order
    rest = [[v for v in range(4) if v not in chosen] for chosen in present.log["selected"].tolist()]
    others = [candidates.image(view) for view in torch.tensor(rest).T.contiguous()]
    kept = half[:, None, None, None]
    picked = [torch.where(kept, x, y) for x, y in zip((second, first), others, strict=True)]
    views = replace(
        candidates,
        pixels=(*picked, *candidates.pixels),
        role=("expert",) * 6,
        parent=(-1,) * 6,
        params=({},) * 6,
        base=tuple(range(6)),
    )
    cached = HVP(source="cached")
    plan = cached.plan(views, method)
    assert plan.log["agreement"] == 0.5
    assert plan.log["losses"].equal(present.log["losses"])
    assert plan.log["pairs"].equal(present.log["pairs"] + 2)
    assert plan.log["selected"].tolist() == [[0, 1]] * 32
    # Of 20 samples the pick is none of the candidates, which the model cannot choose.
    away = torch.arange(32)[:, None, None, None] >= 12
    unknown = (torch.where(away, picked[0].roll(1, 0), picked[0]), picked[1])
    changed = replace(views, pixels=(*unknown, *candidates.pixels))
    assert cached.plan(changed, method).log["agreement"] == 1
    nothing = (picked[0].roll(1, 0), picked[1])
    changed = replace(views, pixels=(*nothing, *candidates.pixels))
    assert "agreement" not in cached.plan(changed, method).log
    assert [row.view for row in plan.students] == [0, 1]
    assert cached.wants(views.role, 0) is None
    assert cached.wants(views.role, 1) == (0, 1)
    before = method.forwards
    assert cached.plan(replace(views, at=at_step(1)), method).log == {}
    assert method.forwards == before


def test_a_choice_of_stacked_sets_trains_their_crops() -> None:
    views = views_of_roles("global", "global", "local", "local")
    plan = HVP(source="cached").plan(views, Distilling())
    assert [row.view for row in plan.students] == [0, 1, 2, 3]


GOOD = traits("stopgrad")
PROTOTYPES = traits("prototype")
CROPPED = traits("ema", target_roles=("global",))


@pytest.mark.parametrize(
    ("chooser", "method", "slots"),
    [
        (HVP(), GOOD, slots_of(*EXPERTS)),
        (HVP(), traits("none", samplewise=False), slots_of(*EXPERTS)),
        (HVP(allow_per_view=True), PROTOTYPES, slots_of(*EXPERTS)),
        (HVP(search="exact"), CROPPED, slots_of(*CROPS)),
        (HVP(), GOOD, slots_of(*CROPS)),
        (HVP(search="exact", train_locals=1), GOOD, slots_of(*CROPS)),
        (HVP(), CROPPED, slots_of(*["global"] * 4)),
        (HVP(source="cached"), GOOD, slots_of(*EXPERTS[:2])),
        (HVP(source="cached", log_every=9), GOOD, slots_of(*EXPERTS[:2])),
        (HVP(source="cached"), GOOD, slots_of(*EXPERTS[:2], *EXPERTS)),
        (HVP(source="cached"), CROPPED, slots_of("global", "global", "local")),
        (HVP(select_at="stage:1"), GOOD, slots_of(*EXPERTS)),
        (HVP(select_at="pool"), CROPPED, slots_of(*CROPS)),
        (
            HVP(select_colors="none"),
            GOOD,
            slots_of(*EXPERTS, columns=tuple(colours(1, 0)), colourless=True),
        ),
    ],
)
def test_what_can_be_chosen_is_accepted(chooser: HVP, method: Traits, slots: list[Slot]) -> None:
    Strategy(chooser).check(method, slots)


@pytest.mark.parametrize(
    ("chooser", "method", "slots", "message"),
    [
        (HVP(), GOOD, slots_of(*EXPERTS[:2]), "chooses among n_views = 4 views, got 2"),
        (HVP(), GOOD, slots_of(*EXPERTS, "expert"), "chooses among n_views = 4 views, got 5"),
        (HVP(), GOOD, slots_of(*EXPERTS, "generated"), "among views of role expert, or among"),
        (HVP(), GOOD, slots_of("expert", "generated"), "among views of role expert, or among"),
        (HVP(), GOOD, slots_of(*EXPERTS, "local"), "among views of role expert, or among"),
        (HVP(), CROPPED, slots_of(*EXPERTS), "method small needs a view of role global"),
        (HVP(), CROPPED, slots_of("global", "local"), "n_views = 4 global crops, got 1"),
        (HVP(n_views=3), CROPPED, slots_of(*["global"] * 3), "n_views must be even"),
        (HVP(train_locals=7), CROPPED, slots_of(*CROPS), "train_locals must be at most .* 7 of 6"),
        (HVP(), PROTOTYPES, slots_of(*EXPERTS), "strategy hvp does not work with method small"),
        (Cooperative(), PROTOTYPES, slots_of(*EXPERTS), "strategy cooperative does not work"),
        (
            HVP(allow_per_view=True, select_at="pool"),
            PROTOTYPES,
            slots_of(*EXPERTS),
            "hvp with select_at pool does not work with method small",
        ),
        (HVP(search="exact"), GOOD, slots_of(*CROPS), "hvp with search exact does not work"),
        (HVP(select_at="stage:1"), CROPPED, slots_of(*CROPS), "compares views of one size"),
        (
            HVP(select_size=0.5),
            traits("ema", reads=("mask",)),
            slots_of(*EXPERTS),
            "hvp with select_size does not work",
        ),
        (HVP(select_colors="one"), GOOD, slots_of(*EXPERTS), "and those of simclr cannot have"),
        (
            HVP(select_colors="one"),
            GOOD,
            slots_of(*EXPERTS, columns=tuple(colours(1, 0))),
            "and those of simclr cannot have others",
        ),
        (HVP(source="cached"), GOOD, slots_of(*EXPERTS[:3]), "trains on two picked views"),
        (HVP(source="cached"), GOOD, slots_of("expert"), "trains on two picked views"),
        (HVP(limit=5), GOOD, slots_of(*EXPERTS), "limit 5 has no effect in strategy hvp: no local"),
        (HVP(search="exact"), GOOD, slots_of(*EXPERTS), "search exact has no effect"),
        (HVP(limit=0), CROPPED, slots_of(*["global"] * 4), "limit 0 has no effect"),
        (HVP(search="exact", limit=5), CROPPED, slots_of(*CROPS), "limit 5 has no effect .* exact"),
        (HVP(train_locals=1), GOOD, slots_of(*EXPERTS), "train_locals 1 has no effect"),
        (Random(train_locals=1), GOOD, slots_of(*EXPERTS), "has no effect in strategy random"),
        (HVP(source="cached", n_views=6), GOOD, slots_of(*EXPERTS[:2]), "n_views 6 has no effect"),
        (
            HVP(source="cached", select_bn="eval"),
            CROPPED,
            slots_of("global", "global", "local"),
            "select_bn eval has no effect",
        ),
        (
            HVP(source="cached", log_every=0),
            GOOD,
            slots_of(*EXPERTS[:2], *EXPERTS),
            "the 4 candidates behind the picked views are never read",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    chooser: HVP, method: Traits, slots: list[Slot], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Strategy(chooser).check(method, slots)


@pytest.mark.parametrize(
    ("chooser", "roles"),
    [
        (HVP(), EXPERTS),
        (HVP(), CROPS),
        (Random(train_locals=1), CROPS),
        (HVP(source="cached"), EXPERTS[:2]),
        (HVP(source="cached"), (*EXPERTS[:2], *EXPERTS)),
        (HVP(source="cached"), ("global", "global", "local")),
        (Standard(), CROPS),
        (Standard(pairs_per_sample=2), EXPERTS),
        (Standard(roles="local"), CROPS),
    ],
)
def test_rows_are_counted_before_there_are_views(chooser: Chooser, roles: tuple[str, ...]) -> None:
    method, counted = simsiam(), []
    made = method.standard

    def standard(views: Views, rows: Sequence[Row]) -> Plan:
        counted.append(len(rows))
        return made(views, rows)

    method.standard = standard  # type: ignore[method-assign]
    chooser.plan(views_of_roles(*roles, local_size=SIZE), method)
    assert counted[-1] == Strategy(chooser).count(roles)


def crops(global_crops: int, local_crops: int) -> list[Slot]:
    return slots_of(*["global"] * global_crops, *["local"] * local_crops)


@pytest.mark.parametrize(
    ("limit", "slots", "message"),
    [
        (131073, crops(4, 16), None),  # of 51,480 combinations: all
        (131072, crops(4, 20), None),
        (131073, crops(4, 20), "limit 131073 would look at 131073 of 739024 combinations"),
        (0, crops(4, 20), None),
        (0, crops(4, 40), "limit 0 would look at 551386115280 of 551386115280 combinations"),
        (128, crops(4, 40), None),
        (128, crops(6, 64), "numbers combinations of crops up to 9223372036854775807"),
    ],
)
def test_lists_of_combinations_that_no_memory_holds_are_refused(
    limit: int, slots: list[Slot], message: str | None
) -> None:
    chooser = HVP(limit=limit, n_views=sum(slot.role == "global" for slot in slots))
    if message is None:
        chooser.check(CROPPED, slots)
        return
    with pytest.raises(ConfigError, match=message) as caught:
        chooser.check(CROPPED, slots)
    if "limit" in message:
        assert "--set strategy.limit=131072, or less, or --set strategy.search=exact" in str(
            caught.value.fix
        )
        replace(chooser, limit=131072).check(CROPPED, slots)
        replace(chooser, limit=128, search="exact").check(CROPPED, slots)
        with pytest.raises(ConfigError) as pairs:
            chooser.check(GOOD, slots)
        assert pairs.value.fix == "give --set strategy.limit=131072, or less"
    else:
        assert "--set strategy.train_locals=8" in str(caught.value.fix)
        replace(chooser, train_locals=8).check(CROPPED, slots)


def test_the_refusal_of_prototypes_says_why_and_what_helps() -> None:
    with pytest.raises(ConfigError) as caught:
        HVP().check(PROTOTYPES, slots_of(*EXPERTS))
    assert caught.value.where == "--strategy hvp --method small"
    assert "each view has a loss of its own" in str(caught.value.why)
    assert "--set strategy.allow_per_view=true" in str(caught.value.fix)
    Strategy(HVP(allow_per_view=True)).check(PROTOTYPES, slots_of(*EXPERTS))


def test_the_refusal_of_a_count_says_how_to_change_it() -> None:
    with pytest.raises(ConfigError) as caught:
        HVP().check(GOOD, slots_of(*["expert"] * 6))
    assert "--views simclr,simclr,simclr,simclr;" in str(caught.value.fix)
    assert "--set strategy.n_views=6" in str(caught.value.fix)
    HVP(n_views=6).check(GOOD, slots_of(*["expert"] * 6))


@pytest.mark.parametrize(
    "values",
    [
        {"n_views": 1},
        {"n_views": 2.5},
        {"every": 0},
        {"log_every": -1},
        {"train_locals": -1},
        {"limit": -1},
        {"search": "all"},
        {"select_bn": "batch"},
        {"select_size": 0.25},
        {"select_filter": "cubic"},
        {"select_colors": "two"},
        {"select_at": "stage:"},
        {"source": "disk"},
        {"source": "cached", "select_colors": "none"},
        {"select_filter": "area"},
        {"source": "cached", "every": 2},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    name = next(reversed(values))
    with pytest.raises(ConfigError, match=f"^{name} "):
        HVP(**values)


def test_a_strategy_has_one_chooser() -> None:
    with pytest.raises(ConfigError, match="one chooser, got hvp and random"):
        strategy_of("hvp,random", {})
    with pytest.raises(ConfigError, match="one chooser, got hvp and cooperative"):
        strategy_of("hvp,cooperative", {})


def test_a_strategy_takes_the_settings_of_its_chooser() -> None:
    found = strategy_of("hvp", {"n_views": 6, "search": "exact"}).chooser
    assert found == HVP(n_views=6, search="exact")


@pytest.mark.parametrize("name", METHODS)
def test_hard_views_train(name: str) -> None:
    method, views = METHODS[name](), views_of_roles(*roles_of(name))
    before = [p.clone() for p in method.student.parameters()]
    weights_after(Strategy(HVP(allow_per_view=True)), method, views)
    assert any(not a.equal(b) for a, b in zip(before, method.student.parameters(), strict=True))
    assert all(isinstance(module, nn.Module) for module in method.modules())
