"""DeepCluster-v2 against loops from the paper: loss, memory, clusters of an epoch, and resuming."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.world import (
    PREPARE,
    ROWS,
    SAMPLES,
    at,
    make_method,
    make_views,
    same,
    snapshot,
    train_step,
)
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Frame
from viewstore.train.methods.deepcluster_v2 import (
    DeepClusterV2,
    DeepClusterV2Settings,
    first_rows,
)
from viewstore.train.plan import Pair, Plan, Row
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import At, Views

CROPS = ("global", "global", "local")
STANDARD = strategy_of("standard", {})
STEPS = 4  # of an epoch


def make_clusters(**settings: Any) -> DeepClusterV2:  # noqa: ANN401
    settings = {"prototypes": (4, 3, 5)} | settings
    method = make_method(DeepClusterV2Settings(**settings), projector_last="none")
    assert isinstance(method, DeepClusterV2)
    return method


def epoch_of(epoch: int) -> list[Views]:
    """Views of the steps of an epoch, of half of the rows of the store, in an order of its own."""
    order = torch.randperm(ROWS // 2, generator=torch.Generator().manual_seed(epoch))
    return [
        replace(make_views(CROPS, step=STEPS * epoch + step), sample=2 * order[step::STEPS])
        for step in range(STEPS)
    ]


def sweep_of(method: DeepClusterV2, epoch: int = 0) -> Callable[[], Iterator[Plan]]:
    return lambda: (STANDARD.plan(views, method) for views in epoch_of(epoch))


def begin(method: DeepClusterV2, epoch: int = 0) -> None:
    method.begin_epoch(epoch_of(epoch)[0].at, sweep_of(method, epoch))


def plan_of(method: DeepClusterV2, views: Views) -> Plan:
    return method.standard(views, [Row(view) for view in views.base])


def test_each_view_learns_from_the_prototypes_at_one_weight() -> None:
    plan = plan_of(make_clusters(), make_views(CROPS))
    assert [(p.student, p.target, p.weight) for p in plan.pairs] == [
        (0, None, 1 / 3),
        (1, None, 1 / 3),
        (2, None, 1 / 3),
    ]
    assert plan.targets == ()


@pytest.mark.parametrize("partners", [False, True])
def test_the_loss_is_the_loop_of_the_paper(partners: bool) -> None:
    method = make_clusters(temperature=0.3).double()
    draws = torch.Generator().manual_seed(4)
    prototypes = torch.randn(method.prototypes.shape, generator=draws, dtype=torch.float64)
    method.prototypes.copy_(F.normalize(prototypes, dim=1))
    for head, count in enumerate((4, 3, 5)):
        method.assignments[head] = torch.randint(0, count, (ROWS,), generator=draws)
    z = torch.randn(3, SAMPLES, 16, generator=draws, dtype=torch.float64)
    views = make_views(CROPS)
    partner = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]) if partners else None
    plan = plan_of(method, views)
    plan = replace(plan, pairs=tuple(replace(pair, partner=partner) for pair in plan.pairs))
    expected = 0.0
    for view in range(3):
        for b in range(SAMPLES):
            row = int(views.sample[b if partner is None else partner[b]])
            unit = [value / math.hypot(*z[view, b].tolist()) for value in z[view, b].tolist()]
            first = 0
            for head, count in enumerate((4, 3, 5)):
                heads = method.prototypes[first : first + count].tolist()
                logits = [sum(x * y for x, y in zip(unit, c, strict=True)) / 0.3 for c in heads]
                whole = math.log(sum(math.exp(value) for value in logits))
                expected += (whole - logits[int(method.assignments[head, row])]) / 3
                first += count
    loss = method.reduce({"z": z}, {}, plan)
    assert loss.item() == pytest.approx(expected / 3 / SAMPLES, rel=1e-12)


def test_rows_that_were_not_seen_have_no_loss_and_no_gradient() -> None:
    method = make_clusters()
    begin(method)
    views = make_views(CROPS)
    views = replace(views, sample=torch.tensor([0, 1, 2, 3, 4, 5, 6, 7]))  # odd rows are unseen
    z = torch.randn(3, SAMPLES, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    plan = plan_of(method, views)
    scores = method.score({"z": z}, {}, plan.pairs[0], plan)
    for values in (scores.pull, scores.cosine, scores.squared_distance):
        assert not values[1::2].any()
        assert (values[::2] != 0).all()
    (gradient,) = torch.autograd.grad(method.reduce({"z": z}, {}, plan), [z])
    assert not gradient[:, 1::2].any()
    assert gradient[:, ::2].any(2).all()
    unseen = replace(views, sample=2 * torch.arange(SAMPLES) + 1)
    loss = method(plan_of(method, unseen)).loss
    assert loss.item() == 0
    loss.backward()


def test_one_pass_before_epoch_0_fills_the_memory_and_moves_nothing_else() -> None:
    method = make_clusters()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    random = torch.get_rng_state()
    begin(method)
    after = method.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"memory", "prototypes", "assignments"}
    assert torch.equal(random, torch.get_rng_state())
    assert (method.assignments[:, ::2] >= 0).all()
    assert (method.assignments[:, 1::2] == -100).all()
    assert not method.memory[:, 1::2].any()
    for views in epoch_of(0):
        emb = method.encode(views, [Row(0), Row(1)], net="student", mode="probe")
        expected = F.normalize(emb["z"], dim=-1)
        torch.testing.assert_close(method.memory[:, views.sample], expected)


def test_statistics_of_the_first_pass_are_those_of_batches() -> None:
    """Running statistics of a new network are those of nothing."""
    method, running = make_clusters(), make_clusters().eval()
    begin(method)
    begin(running)
    assert not torch.allclose(method.memory, running.memory, atol=1e-2)


@pytest.mark.parametrize("crops", [(0, 1), (1,)])
def test_head_h_clusters_crop_h_modulo_their_number(crops: tuple[int, ...]) -> None:
    method = make_clusters(crops_for_assign=crops)
    begin(method)
    first = 0
    seen = torch.arange(0, ROWS, 2)
    for head, count in enumerate((4, 3, 5)):
        rows = method.memory[head % len(crops), seen]
        prototypes = method.prototypes[first : first + count]
        assert torch.equal((rows @ prototypes.T).argmax(1), method.assignments[head, seen])
        for k in range(count):  # after ten iterations the clusters of so few rows stay
            members = rows[method.assignments[head, seen] == k]
            if len(members):
                mean = F.normalize(members.mean(0), dim=0)
                torch.testing.assert_close(prototypes[k], mean, rtol=1e-4, atol=1e-5)
        first += count


def test_an_epoch_of_the_fixture_has_its_assignments(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(shared / "fixtures/ssl/deepclusterv2_assign.npz", allow_pickle=False) as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}
    method = make_method(DeepClusterV2Settings(prototypes=(5, 5, 7)), projector=(8,))
    assert isinstance(method, DeepClusterV2)
    index = known["memory_index"].long()
    method.memory[:, index] = known["memory_embeddings"]
    starts = [known[f"init_centroids{head}"] for head in range(3)]

    def given(rows: Tensor, count: int, head: int, now: At) -> Tensor:
        """Places of the fixture's centroids, which are rows of its memory."""
        distance = (starts[head][:, None] - method.memory[head % 2, rows]).norm(dim=2)
        assert distance.amin(1).max() < 1e-6
        return distance.argmin(1)

    monkeypatch.setattr("viewstore.train.methods.deepcluster_v2.first_rows", given)
    method.begin_epoch(at(STEPS), sweep_of(method))
    assert torch.equal(method.assignments[:, :60], known["assignments"].long())
    assert (method.assignments[:, 60:] == -100).all()
    expected = torch.cat([known[f"centroids{head}"] for head in range(3)])
    torch.testing.assert_close(method.prototypes, expected, rtol=0, atol=1e-6)


def test_clusters_start_at_different_rows_that_seed_epoch_and_head_draw() -> None:
    rows = torch.arange(40)
    found = first_rows(rows, 10, 0, at())
    assert len(set(found.tolist())) == 10
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(shuffled[first_rows(shuffled, 10, 0, at())], found)
    for head, now in ((1, at()), (0, at(STEPS)), (0, at(seed=4))):
        assert not torch.equal(first_rows(rows, 10, head, now), found)
    assert torch.equal(first_rows(rows, 10, 0, at(1)), found)


def test_the_memory_takes_the_base_rows_of_the_crops_alone() -> None:
    method = make_clusters()
    begin(method)
    views = epoch_of(0)[0]
    plan = plan_of(method, views)
    added = Row(1, made_from=1)
    plan = replace(plan, students=(*plan.students, added), pairs=(*plan.pairs, Pair(3, None)))
    before = method.memory.clone()
    done = method(plan)
    assert torch.equal(method.memory, before)
    method.commit([done], views.at)
    expected = F.normalize(done.student["z"][:2], dim=-1)
    assert torch.equal(method.memory[:, views.sample], expected)
    others = sorted(set(range(ROWS)) - set(views.sample.tolist()))
    assert torch.equal(method.memory[:, others], before[:, others])


def test_all_micro_batches_of_a_step_come_into_the_memory() -> None:
    method = make_clusters()
    done = [method(plan_of(method, views)) for views in epoch_of(0)[:2]]
    method.commit(done, at())
    for each in done:
        expected = F.normalize(each.student["z"][:2], dim=-1)
        assert torch.equal(method.memory[:, each.plan.views.sample], expected)
    assert int(method.memory[0].any(1).sum()) == 2 * SAMPLES


def test_later_epochs_cluster_what_training_has_seen() -> None:
    method = make_clusters()
    begin(method)
    first = method.assignments.clone()
    for views in epoch_of(0):
        train_step(method, STANDARD, views)
    memory = method.memory.clone()

    def never() -> Iterator[Plan]:
        raise AssertionError("a later epoch needs no pass")

    method.begin_epoch(epoch_of(1)[0].at, never)
    assert torch.equal(method.memory, memory)
    assert not torch.equal(method.assignments, first)
    assert (method.assignments[:, 1::2] == -100).all()


def trained(method: DeepClusterV2, epochs: int, stop: int | None = None, start: int = 0) -> None:
    """Train as the loop does, from step `start` to before `stop`; an epoch begins at its first."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.05)
    for epoch in range(epochs):
        for number, views in enumerate(epoch_of(epoch), STEPS * epoch):
            if stop is not None and number >= stop:
                return
            if number < start:
                continue
            if number % STEPS == 0:
                begin(method, epoch)
            train_step(method, STANDARD, views, optimizer)


@pytest.mark.parametrize("stop", [1, STEPS, STEPS + 2])
def test_resuming_gives_the_bits_of_a_run_that_never_stopped(stop: int) -> None:
    whole, before, after = make_clusters(), make_clusters(), make_clusters()
    trained(whole, 3)
    trained(before, 3, stop=stop)
    after.load_state_dict({name: v.clone() for name, v in before.state_dict().items()})
    trained(after, 3, start=stop)
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in after.state_dict().items())


def test_prototypes_are_not_trained_and_the_loss_falls() -> None:
    method = make_clusters()
    begin(method)
    assert {name for name, _ in method.named_parameters()} == {
        f"student.{name}" for name, _ in method.student.named_parameters()
    }
    before = method.prototypes.clone()
    views = epoch_of(0)[0]
    losses = [
        train_step(method, STANDARD, replace(views, at=at(step))).loss.item() for step in range(5)
    ]
    assert losses[-1] < losses[0]
    assert torch.equal(method.prototypes, before)


def test_embedding_and_scoring_change_nothing() -> None:
    method = make_clusters()
    begin(method)
    train_step(method, STANDARD, epoch_of(0)[0])
    plan = plan_of(method, epoch_of(0)[1])
    before = snapshot(method)
    for mode in ("probe", "attack"):
        student, target = method.both(plan, mode)  # type: ignore[arg-type]
        for pair in plan.pairs:
            method.score(student, target, pair, plan)
        assert same(before, snapshot(method))
    assert method.evaluated is method.student


def test_hard_views_are_the_two_with_the_greatest_losses() -> None:
    method = make_clusters().eval()
    begin(method)
    views = replace(make_views(("expert",) * 4), sample=epoch_of(0)[0].sample)
    strategy = strategy_of("hvp", {"n_views": 4, "allow_per_view": True})
    plan = strategy.plan(views, method)
    chosen = torch.stack([torch.as_tensor(row.view) for row in plan.students])
    one = plan_of(method, views)
    student, _ = method.both(one, "probe")
    losses = torch.stack([method.score(student, {}, pair, one).pull for pair in one.pairs])
    assert torch.equal(chosen.sort(0).values, losses.topk(2, 0).indices.sort(0).values)


def test_too_few_rows_are_refused_before_and_within_training() -> None:
    with pytest.raises(ConfigError, match="an epoch shows 64, fewer than 65") as caught:
        make_clusters(prototypes=(65, 3))
    assert caught.value.where == "--set method.prototypes=[65, 3]"
    assert "--set method.prototypes=[64, 3]" in str(caught.value.fix)
    make_clusters(prototypes=(64, 3))
    with pytest.raises(ConfigError, match="an epoch shows 32, fewer than 33"):
        begin(make_clusters(prototypes=(33,)))


def test_crops_that_are_not_there_are_refused() -> None:
    method = make_clusters(crops_for_assign=(0, 3))
    with pytest.raises(ConfigError, match=r"below the 3 views that train, got \[0, 3\]"):
        plan_of(method, make_views(CROPS))


def test_what_a_run_shows_is_checked_before_data_is_read() -> None:
    settings = DeepClusterV2Settings(prototypes=(33,), crops_for_assign=(0, 2))
    network = make_clusters().student
    frame = Frame(prepare=PREPARE, num_rows=ROWS, epoch_samples=33, views=3)
    settings.make(network, frame)
    with pytest.raises(ConfigError, match="an epoch shows 32, fewer than 33"):
        settings.make(network, replace(frame, epoch_samples=32))
    with pytest.raises(ConfigError, match="an epoch shows 64, fewer than 65"):
        replace(settings, prototypes=(65,)).make(network, replace(frame, epoch_samples=100))
    with pytest.raises(ConfigError, match=r"below the 2 views that train, got \[0, 2\]"):
        settings.make(network, replace(frame, views=2))


def test_lists_of_settings_are_taken() -> None:
    settings = DeepClusterV2Settings(prototypes=[7, 8], crops_for_assign=[1])  # type: ignore[arg-type]
    assert settings == DeepClusterV2Settings(prototypes=(7, 8), crops_for_assign=(1,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepClusterV2Settings(temperature=0), "temperature must be above 0, got 0"),
        (lambda: DeepClusterV2Settings(prototypes=()), "prototypes must be a number from 1"),
        (lambda: DeepClusterV2Settings(prototypes=(5, 0)), r"each head, got \[5, 0\]"),
        (lambda: DeepClusterV2Settings(crops_for_assign=(0, 0)), r"different .*, got \[0, 0\]"),
        (lambda: DeepClusterV2Settings(crops_for_assign=(-1,)), r"different .*, got \[-1\]"),
        (lambda: DeepClusterV2Settings(iterations=0), "iterations must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
