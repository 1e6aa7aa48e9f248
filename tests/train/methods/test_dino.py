"""DINO against loops from the paper and one step of public implementations."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.world import at, make_method, make_views, same, snapshot, train_step
from viewstore.errors import ConfigError
from viewstore.train.methods.dino import DINO, DINOSettings
from viewstore.train.methods.embeddings import Embedded
from viewstore.train.nets.vit import DropPath
from viewstore.train.plan import Pair, Plan, Row
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import At, Views

CROPS = ("global", "global", "local", "local", "local")
STANDARD = strategy_of("standard", {})
HEAD: dict[str, Any] = {"projector_norm": "none", "activation": "gelu"}


def make_dino(network: dict[str, Any] | None = None, **settings: Any) -> DINO:  # noqa: ANN401
    settings = {"outputs": 24} | settings
    method = make_method(DINOSettings(**settings), **HEAD, **(network or {}))
    assert isinstance(method, DINO)
    return method


def plan_of(dino: DINO, views: Views) -> Plan:
    return dino.standard(views, [Row(view) for view in views.base])


def clock(epoch: int) -> At:
    return At(epoch=epoch, step=4 * epoch, epoch_steps=4, total_steps=400, seed=3)


def logits(rows: int, samples: int = 5, outputs: int = 24, seed: int = 1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(rows, samples, outputs, generator=draws, dtype=torch.float64)


def with_z(values: Tensor) -> dict[str, Tensor]:
    return {"logits": values, "z": values}


def test_a_step_is_that_of_public_implementations(shared: Path) -> None:
    with np.load(shared / "fixtures/ssl/dino_loss.npz", allow_pickle=False) as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}
    dino = make_dino(
        outputs=20,
        temperature=float(known["student_temp"]),
        teacher_temperature=0.07,
        teacher_temperature_start=0.04,
        teacher_warmup_epochs=5,
        center_momentum=float(known["center_momentum"]),
    )
    now = clock(int(known["epoch"]))
    assert dino.teacher_temperature(now) == pytest.approx(float(known["teacher_temp"]), rel=1e-12)
    dino.center.copy_(known["center_before"][0])
    views = replace(make_views(CROPS[:4], samples=6), at=now)
    plan = plan_of(dino, views)
    student = with_z(known["student"].unflatten(0, (4, 6)))
    target = with_z(known["teacher"].unflatten(0, (2, 6)))
    loss = dino.reduce(student, target, plan)
    for name in ("loss", "lightly"):
        torch.testing.assert_close(loss, known[name], rtol=1e-5, atol=1e-6, check_dtype=False)
    dino.commit([Embedded(loss, plan, student, target)], now)
    for name in ("center_after", "lightly_center_after"):
        torch.testing.assert_close(dino.center, known[name][0], rtol=0, atol=1e-6)


def softmax(values: list[float]) -> list[float]:
    whole = sum(math.exp(value - max(values)) for value in values)
    return [math.exp(value - max(values)) / whole for value in values]


def test_the_loss_is_the_loop_of_the_paper() -> None:
    dino = make_dino(temperature=0.3, teacher_temperature=0.2).double()
    dino.center.copy_(logits(1, 1, seed=5)[0, 0])
    student, target = logits(5), logits(2, seed=2)
    expected, pairs = 0.0, 0
    for t in range(2):
        for s in range(5):
            if s != t:
                pairs += 1
                for b in range(5):
                    wanted = softmax([x / 0.2 for x in (target[t, b] - dino.center).tolist()])
                    found = softmax([x / 0.3 for x in student[s, b].tolist()])
                    expected -= sum(p * math.log(q) for p, q in zip(wanted, found, strict=True)) / 5
    plan = plan_of(dino, make_views(CROPS, samples=5))
    assert pairs == len(plan.pairs) == 8
    loss = dino.reduce(with_z(student), with_z(target), plan)
    assert loss.item() == pytest.approx(expected / pairs, rel=1e-12)


def test_gradients_are_those_of_finite_differences_and_targets_have_none() -> None:
    dino = make_dino(temperature=0.3, teacher_temperature=0.2).double()
    plan = plan_of(dino, make_views(CROPS[:3], samples=2))
    student = logits(3, 2).requires_grad_()
    target = logits(2, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values: dino.reduce(with_z(values), with_z(target.detach()), plan), [student]
    )
    loss = dino.reduce(with_z(student), with_z(target), plan)
    assert torch.autograd.grad(loss, [target], allow_unused=True) == (None,)


def test_a_partner_is_the_target_of_another_sample() -> None:
    dino = make_dino()
    plan = plan_of(dino, make_views(CROPS[:2], samples=5))
    student, target = with_z(logits(2).float()), with_z(logits(2, seed=2).float())
    partner = torch.tensor([3, 0, 4, 1, 2])
    pair = Pair(0, 1, partner=partner)
    scores = dino.score(dict(student), dict(target), pair, plan)
    moved = {name: value[:, partner] for name, value in target.items()}
    expected = dino.score(dict(student), moved, Pair(0, 1), plan)
    assert torch.equal(scores.pull, expected.pull)
    assert torch.equal(scores.cosine, expected.cosine)
    assert (scores.scale, scores.inverse_tau) == (0.0, 10.0)
    assert not scores.push.any()


def test_targets_are_the_large_crops_alone() -> None:
    plan = plan_of(make_dino(), make_views(CROPS))
    pairs = {(pair.student, pair.target) for pair in plan.pairs}
    assert pairs == {(s, t) for t in (0, 1) for s in range(5) if s != t}
    assert {pair.weight for pair in plan.pairs} == {1 / 8}
    assert [row.view for row in plan.targets] == [0, 1]
    two = plan_of(make_dino(), make_views(("expert", "expert")))
    assert {(p.student, p.target, p.weight) for p in two.pairs} == {(0, 1, 0.5), (1, 0, 0.5)}


def test_two_large_and_three_small_crops_are_seven_forwards() -> None:
    dino = make_dino()
    dino(plan_of(dino, make_views(CROPS)))
    assert dino.forwards == 7


def test_the_temperature_grows_in_whole_epochs_and_then_stays() -> None:
    settings = {"teacher_temperature": 0.07, "teacher_warmup_epochs": 4}
    found = [make_dino(**settings).teacher_temperature(clock(epoch)) for epoch in range(6)]
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    assert make_dino().teacher_temperature(clock(0)) == 0.04
    short = make_dino(**settings | {"teacher_warmup_epochs": 1})
    assert [short.teacher_temperature(clock(epoch)) for epoch in (0, 1)] == [0.04, 0.07]


def test_the_center_is_of_the_base_targets_of_all_micro_batches() -> None:
    dino = make_dino()
    views = make_views(CROPS[:3])
    plan = plan_of(dino, views)
    more = replace(plan, targets=(*plan.targets, Row(0)))
    done = dino(more)
    dino.commit([done], at())
    expected = 0.1 * done.target["logits"][:2].mean((0, 1))
    torch.testing.assert_close(dino.center, expected)

    parts = make_dino()
    halves = [parts(plan_of(parts, make_views(CROPS, step=step)), "probe") for step in (1, 2)]
    parts.commit(halves, at())
    both = torch.cat([each.target["logits"] for each in halves], 1)
    torch.testing.assert_close(parts.center, 0.1 * both.mean((0, 1)))


def test_the_teacher_follows_along_a_cosine_and_is_what_is_kept() -> None:
    dino = make_dino(frozen_epochs=0)
    assert dino.evaluated is dino.teacher
    assert dino.momentum(at(0)) == pytest.approx(0.996)
    assert dino.momentum(at(10)) == pytest.approx(0.998)
    assert dino.momentum(at(20)) == pytest.approx(1.0)
    for averaged, trained in dino.averages():
        for old, new in zip(averaged.parameters(), trained.parameters(), strict=True):
            assert torch.equal(old, new)
            assert not old.requires_grad
    before = [each.clone() for module, _ in dino.averages() for each in module.parameters()]
    train_step(dino, STANDARD, make_views(CROPS))
    pairs = [
        (old, new)
        for averaged, trained in dino.averages()
        for old, new in zip(averaged.parameters(), trained.parameters(), strict=True)
    ]
    assert len(pairs) == len(before) == len(list(dino.student.parameters())) + 1
    for start, (old, new) in zip(before, pairs, strict=True):
        torch.testing.assert_close(old, 0.996 * start + 0.004 * new, rtol=1e-5, atol=1e-7)


def test_prototypes_are_not_trained_while_they_are_frozen() -> None:
    dino = make_dino(frozen_epochs=2)
    start = dino.prototypes.weight.clone()
    moved = []
    optimizer = torch.optim.AdamW([p for p in dino.parameters() if p.requires_grad], weight_decay=1)
    for step in (0, 4, 8):  # of epochs 0, 1 and 2
        kernel = next(dino.student.parameters()).clone()
        train_step(dino, STANDARD, make_views(CROPS, step=step), optimizer)
        moved.append(not torch.equal(dino.prototypes.weight, start))
        assert not torch.equal(kernel, next(dino.student.parameters()))
    assert moved == [False, False, True]
    assert make_dino().settings.frozen_epochs == 1


def test_embedding_and_scoring_change_nothing() -> None:
    dino = make_dino()
    train_step(dino, STANDARD, make_views(CROPS))
    views = make_views(CROPS, step=1)
    before = snapshot(dino)
    plan = plan_of(dino, views)
    for mode in ("probe", "attack"):
        student, target = dino.both(plan, mode)  # type: ignore[arg-type]
        for pair in plan.pairs:
            dino.score(student, target, pair, plan)
        assert same(before, snapshot(dino))


@pytest.mark.parametrize(
    "settings", [{"search": "sampled"}, {"search": "exact"}], ids=lambda each: each["search"]
)
def test_hard_crops_are_scored_by_the_loss_of_their_plan(settings: dict[str, Any]) -> None:
    """The choice has the greatest loss of all: that of each combination, trained by itself."""
    dino = make_dino().eval()
    views = make_views(("global",) * 4 + ("local",) * 3, samples=3)
    strategy = strategy_of("hvp", {"n_views": 4, "train_locals": 2, "limit": 0, **settings})
    chosen = torch.stack([torch.as_tensor(row.view) for row in strategy.plan(views, dino).students])
    best = torch.full((3,), -torch.inf)
    found = torch.zeros(4, 3, dtype=torch.int64)
    for pair in ((0, 1), (0, 3), (2, 1), (2, 3)):
        for crops in ((4, 5), (4, 6), (5, 6)):
            plan = dino.standard(views, [Row(view) for view in (*pair, *crops)])
            student, target = dino.both(plan, "probe")
            terms = [p.weight * dino.score(student, target, p, plan).pull for p in plan.pairs]
            loss = torch.stack(terms).sum(0)
            found = torch.where(loss > best, torch.tensor((*pair, *crops))[:, None], found)
            best = torch.maximum(best, loss)
    assert torch.equal(chosen, found)


def test_biases_and_norms_have_no_weight_decay() -> None:
    dino = make_dino({"backbone": "vit-ti", "patch": 8})
    grouped = {id(p): group.decay for group in dino.groups() for p in group.parameters}
    named = {name: p for name, p in dino.named_parameters() if p.requires_grad}
    assert len(grouped) == len(named)
    kept = {name for name, p in named.items() if not grouped[id(p)]}
    assert kept == {name for name in named if "norm" in name or name.endswith("bias")}


def test_drop_path_is_of_the_student_alone() -> None:
    dino = make_dino({"backbone": "vit-ti", "patch": 8, "drop_path": 0.3})
    rates = [
        [module.rate for module in net.modules() if isinstance(module, DropPath)]
        for net in (dino.student, dino.teacher)
    ]
    assert max(rates[0]) == pytest.approx(0.3)
    assert rates[1] == [0.0] * len(rates[0])


def test_the_head_starts_as_in_the_paper() -> None:
    dino = make_dino()
    for layer in dino.student.projector.modules():
        if isinstance(layer, torch.nn.Linear):
            assert 0.016 < layer.weight.std() < 0.024
            assert not layer.bias.any()
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    cosines = F.normalize(z, dim=1) @ F.normalize(dino.prototypes.weight, dim=1).T
    torch.testing.assert_close(dino.prototypes(z), cosines)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DINOSettings(temperature=0), "temperature must be above 0, got 0"),
        (lambda: DINOSettings(teacher_temperature=-1), "teacher_temperature must be above 0"),
        (lambda: DINOSettings(teacher_warmup_epochs=-1), "teacher_warmup_epochs must be at least"),
        (lambda: DINOSettings(center_momentum=2), r"center_momentum must be in \[0, 1\], got 2"),
        (lambda: DINOSettings(momentum=1.5), r"momentum must be in \[0, 1\], got 1.5"),
        (lambda: DINOSettings(outputs=0), "outputs must be at least 1, got 0"),
        (lambda: DINOSettings(frozen_epochs=-1), "frozen_epochs must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
