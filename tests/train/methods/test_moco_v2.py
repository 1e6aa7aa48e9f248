"""MoCo-v2 against loops from the paper and one step of public implementations."""

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

from tests.train.methods.scores import (
    PlainNetwork,
    plain_method,
    random_rows,
    score_of,
    standard_plan,
)
from tests.train.world import PREPARE, SAMPLES, at, make_method, make_views, train_step
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Frame
from viewstore.train.methods.ema import Averaged
from viewstore.train.methods.embeddings import Embedded
from viewstore.train.methods.moco_v2 import MoCoV2, MoCoV2Settings
from viewstore.train.plan import Pair, Row
from viewstore.train.strategies.table import strategy_of

EE = ("expert", "expert")


def make_moco(dimension: int = 16, **settings: Any) -> MoCoV2:  # noqa: ANN401
    values = {"queue_size": 4 * SAMPLES} | settings
    method = make_method(MoCoV2Settings(**values), projector=(32, dimension))
    assert isinstance(method, MoCoV2)
    return method


def test_a_step_is_that_of_public_implementations(shared: Path) -> None:
    """In the order of the fixture: average, encode, score with the old queue, enqueue."""
    with np.load(shared / "fixtures/ssl/moco_queue_step.npz", allow_pickle=False) as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}
    momentum, temperature = float(known["m"]), float(known["T"])
    settings = MoCoV2Settings(temperature=temperature, momentum=momentum, queue_size=16)
    method = plain_method(settings, PlainNetwork(12, 8))
    assert isinstance(method, MoCoV2)
    query, key = method.student.projector, method.teacher.projector
    query.load_state_dict({"weight": known["wq"], "bias": known["bq"]})
    key.load_state_dict({"weight": known["wk_before"], "bias": known["bk_before"]})
    method.queue.copy_(known["queue_before"].T)
    images = tuple(known[name].reshape(4, 3, 2, 2) for name in ("x_q", "x_k"))
    views = replace(make_views(EE, samples=4), pixels=images)
    state, loss = {"rtol": 0, "atol": 1e-6}, {"rtol": 1e-5, "atol": 1e-6, "check_dtype": False}

    Averaged.update(method, (), views.at)
    for name, value in key.state_dict().items():
        torch.testing.assert_close(value, known[f"{name[0]}k_after"], **state)

    embedded = method(standard_plan(method, views))
    torch.testing.assert_close(F.normalize(embedded.student["z"][0], dim=1), known["q"], **state)
    torch.testing.assert_close(F.normalize(embedded.target["z"][0], dim=1), known["k"], **state)
    scores = method.score(embedded.student, embedded.target, Pair(0, 0), embedded.plan)
    torch.testing.assert_close(-scores.pull, known["logits"][:, 0], **loss)
    torch.testing.assert_close(scores.push, known["logits"].logsumexp(1), **loss)
    for name in ("loss", "solo_loss"):
        torch.testing.assert_close(embedded.loss, known[name], **loss)
    embedded.loss.backward()
    gradient = query.get_parameter("weight").grad
    torch.testing.assert_close(gradient, known["grad_wq"], rtol=1e-4, atol=1e-6)

    method.commit([embedded], views.at)
    torch.testing.assert_close(method.queue, known["queue_after"].T.contiguous(), **state)
    assert method.pointer == known["ptr_after"][0]
    again = momentum * known["wk_after"] + (1 - momentum) * known["wq"]
    torch.testing.assert_close(key.get_parameter("weight").data, again, **state)


def cross_entropy(query: Tensor, keys: list[Tensor], label: list[float], tau: float) -> float:
    """That of a label over keys, in loops."""
    logits = [float(query @ key) / tau for key in keys]
    whole = math.log(sum(math.exp(each) for each in logits))
    return sum(-share * (each - whole) for share, each in zip(label, logits, strict=False))


@pytest.mark.parametrize("cutmix_keys", ["own", "both"])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_is_the_loop_of_the_paper(cutmix_keys: str, mixed: bool) -> None:
    """A mixed view with the key of `own` has two terms; with `both`, one of a soft label."""
    moco = make_moco(5, temperature=0.3, cutmix_keys=cutmix_keys).double()
    q, k = random_rows(2)
    partner = torch.tensor([1, 2, 0, 4, 3, 6, 5])
    share = 0.7 if mixed else 1.0
    row = Row(0, made_from=0, mixed_with=partner) if mixed else Row(0)
    own, other = (
        score_of(moco, {"z": q[None]}, {"z": k[None]}, Pair(0, 0, partner=given), row)
        for given in (None, partner)
    )
    loss = share * (own.pull + own.push) + (1 - share) * (other.pull + other.push)
    u, v = F.normalize(q, dim=1), F.normalize(k, dim=1)
    for b in range(len(q)):
        queue = list(moco.queue)
        key, second = v[b], v[partner[b]]
        if mixed and cutmix_keys == "both":
            expected = cross_entropy(u[b], [key, second, *queue], [share, 1 - share], 0.3)
        else:
            expected = share * cross_entropy(u[b], [key, *queue], [1.0], 0.3)
            expected += (1 - share) * cross_entropy(u[b], [second, *queue], [1.0], 0.3)
        assert loss[b].item() == pytest.approx(expected, rel=1e-12)


def test_the_first_queue_is_of_unit_keys_that_the_seed_draws() -> None:
    network = make_moco().student
    queues = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        method = MoCoV2Settings(queue_size=32).make(network, Frame(prepare=PREPARE))
        queues.append(method.queue)
    assert queues[0].dtype == torch.float32
    torch.testing.assert_close(queues[0].norm(dim=1), torch.ones(32))
    assert torch.equal(queues[0], queues[1])
    assert not torch.equal(queues[0], queues[2])


def test_two_views_are_one_pair_and_two_forwards() -> None:
    plan = standard_plan(make_moco(), make_views(EE))
    assert [row.view for row in (*plan.students, *plan.targets)] == [0, 1]
    assert [(pair.student, pair.target, pair.weight) for pair in plan.pairs] == [(0, 0, 1.0)]


def test_symmetric_trains_both_orders_at_half_weight() -> None:
    plan = standard_plan(make_moco(symmetric=True), make_views(EE))
    assert sorted((p.student, p.target, p.weight) for p in plan.pairs) == [
        (0, 1, 0.5),
        (1, 0, 0.5),
    ]


@pytest.mark.parametrize("symmetric", [False, True])
def test_more_views_are_all_pairs_at_one_weight(symmetric: bool) -> None:
    plan = standard_plan(make_moco(symmetric=symmetric), make_views(("expert",) * 3))
    assert len({(pair.student, pair.target) for pair in plan.pairs}) == 6
    assert {pair.weight for pair in plan.pairs} == {1 / 6}


def enqueued(moco: MoCoV2, *done: Embedded, step: int = 0) -> Tensor:
    """Commit, and return the keys that have come into the queue, in their order."""
    start = int(moco.pointer)
    moco.commit(done, at(step))
    count = (int(moco.pointer) - start) % len(moco.queue)
    return moco.queue[(start + torch.arange(count)) % len(moco.queue)]


def test_the_queue_takes_the_base_keys_alone_and_replaces_the_oldest() -> None:
    moco = make_moco()
    fifo = list(moco.queue.clone())
    for step in range(5):
        views = make_views(("expert", "expert", "heavy"), step=step)
        plan = moco.standard(views, [Row(0), Row(1)])
        plan = replace(plan, targets=(*plan.targets, Row(2)))
        embedded = moco(plan)
        keys = F.normalize(embedded.target["z"][0], dim=1)
        assert torch.equal(enqueued(moco, embedded, step=step), keys)
        fifo = [*fifo[SAMPLES:], *keys]
        assert torch.equal(moco.queue.roll(-int(moco.pointer), 0), torch.stack(fifo))


def test_keys_of_micro_batches_enter_as_those_of_one_batch() -> None:
    whole, parts = make_moco(symmetric=True).eval(), make_moco(symmetric=True).eval()
    views = make_views(EE)
    together = enqueued(whole, whole(standard_plan(whole, views)))
    halves = [parts(standard_plan(parts, half)) for half in views.parts(2)]
    assert len(together) == 2 * SAMPLES
    torch.testing.assert_close(enqueued(parts, *halves), together)


def test_a_queue_of_one_batch_holds_the_last_keys() -> None:
    moco = make_moco(queue_size=SAMPLES, symmetric=True)
    embedded = moco(standard_plan(moco, make_views(EE)))
    moco.commit([embedded], at())
    assert torch.equal(moco.queue, F.normalize(embedded.target["z"][1], dim=1))
    assert moco.pointer == 0


def test_the_loss_is_that_of_the_queue_before_the_step() -> None:
    moco = make_moco()
    queue = moco.queue.clone()
    embedded = moco(standard_plan(moco, make_views(EE)))
    u, v = (F.normalize(z[0], dim=1) for z in (embedded.student["z"], embedded.target["z"]))
    logits = torch.cat([(u * v).sum(1, keepdim=True), u @ queue.T], 1) / 0.1
    expected = F.cross_entropy(logits, torch.zeros(SAMPLES, dtype=torch.int64))
    torch.testing.assert_close(embedded.loss, expected)


def test_the_network_of_the_keys_follows_with_the_new_parameters() -> None:
    moco = make_moco(momentum=0.75)
    before = [each.clone() for each in moco.teacher.parameters()]
    train_step(moco, strategy_of("standard", {}), make_views(EE))
    after = zip(before, moco.student.parameters(), moco.teacher.parameters(), strict=True)
    for old, trained, averaged in after:
        torch.testing.assert_close(averaged, 0.75 * old + 0.25 * trained, rtol=1e-6, atol=1e-7)
    assert all(group.decay for group in moco.groups())  # the source decays all parameters


def test_batches_that_do_not_divide_the_queue_are_refused_with_sizes_that_do() -> None:
    with pytest.raises(ConfigError, match="multiple of the batch size 8, got 20") as caught:
        make_moco(queue_size=20)
    assert caught.value.fix == "give --set method.queue_size=16 or 24"
    assert caught.value.where == "--set method.queue_size=20 --batch-size 8"
    for size in (16, 24):
        make_moco(queue_size=size)
    with pytest.raises(ConfigError) as caught:
        make_moco(queue_size=4)
    assert caught.value.fix == "give --set method.queue_size=8"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoCoV2Settings(temperature=0), "temperature must be above 0, got 0"),
        (lambda: MoCoV2Settings(queue_size=0), "queue_size must be at least 1, got 0"),
        (lambda: MoCoV2Settings(momentum=-0.1), r"momentum must be in \[0, 1\], got -0.1"),
        (lambda: MoCoV2Settings(cutmix_keys="all"), "cutmix_keys must be own or both, got 'all'"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
