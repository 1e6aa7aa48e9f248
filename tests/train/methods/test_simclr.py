"""SimCLR against slow loops from the papers and against numbers of public implementations."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.loops import loop_loss
from tests.train.methods.scores import random_rows
from tests.train.world import make_method, make_views
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.methods.simclr import Negatives, SimCLRSettings
from viewstore.train.plan import Pair, Plan, Row, Scores

EE = ("expert", "expert")
NEGATIVES: list[Negatives] = ["both", "other"]


def both_orders(method: Method, first: Tensor, second: Tensor) -> list[Scores]:
    emb = {"z": torch.stack([first, second])}
    rows = (Row(0), Row(1))
    pairs = (Pair(0, 1), Pair(1, 0))
    plan = Plan(make_views(EE, samples=len(first)), rows, rows, pairs, 2, 2)
    return [method.score(dict(emb), dict(emb), pair, plan) for pair in pairs]


def symmetric(method: Method, first: Tensor, second: Tensor) -> Tensor:
    """The mean of both orders, [N]."""
    return torch.stack([s.pull + s.push for s in both_orders(method, first, second)]).mean(0)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    first, noise = random_rows(2)
    return first, first + noise


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_the_loss_is_the_loop_of_the_paper(
    pair: tuple[Tensor, Tensor], negatives: Negatives
) -> None:
    method = make_method(SimCLRSettings(negatives=negatives, temperature=0.3))
    expected = torch.tensor(loop_loss(*pair, negatives, 0.3), dtype=torch.float64)
    torch.testing.assert_close(symmetric(method, *pair), expected, rtol=1e-12, atol=0)


def test_fewer_negatives_are_a_lower_loss(pair: tuple[Tensor, Tensor]) -> None:
    other, both = (make_method(SimCLRSettings(negatives=each)) for each in ("other", "both"))
    assert (symmetric(other, *pair) < symmetric(both, *pair)).all()


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradients_are_those_of_finite_differences(
    pair: tuple[Tensor, Tensor], negatives: Negatives
) -> None:
    method = make_method(SimCLRSettings(negatives=negatives))
    inputs = [z[:3].clone().requires_grad_() for z in pair]
    assert torch.autograd.gradcheck(lambda a, b: symmetric(method, a, b), inputs)


def test_nt_xent_and_its_gradient_are_those_of_public_implementations(shared: Path) -> None:
    with np.load(shared / "fixtures/ssl/ntxent_T0.5.npz", allow_pickle=False) as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}
    first = known["z1"].requires_grad_()
    second = known["z2"].requires_grad_()
    temperature = float(known["temperature"])
    method = make_method(SimCLRSettings(temperature=temperature))
    rows = torch.cat([s.pull + s.push for s in both_orders(method, first, second)])
    rows.mean().backward()
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(rows, known["hvp_per_row_2N"], **close)
    for name in ("supcon", "lightly", "patrickhua", "solo", "hvp_mean"):
        torch.testing.assert_close(rows.mean(), known[name], check_dtype=False, **close)
    torch.testing.assert_close(rows[:16] + rows[16:], known["hvp_acs_per_sample"], **close)
    torch.testing.assert_close(first.grad, known["grad_z1"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second.grad, known["grad_z2"], rtol=1e-4, atol=1e-6)
    larger = make_method(SimCLRSettings(temperature=temperature, loss_scale=0.5 / 0.07))
    scaled = symmetric(larger, first, second).mean()
    torch.testing.assert_close(scaled, known["supcon_base_temp_0p07"], check_dtype=False, **close)


def loop_push(anchor: Tensor, others: list[Tensor], temperature: float) -> float:
    return math.log(sum(math.exp(float(anchor @ other) / temperature) for other in others))


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_made_row_is_an_anchor_among_clean_rows(negatives: Negatives, mixed: bool) -> None:
    """Students 0, 1 are clean, 2 is made from 0; its clean row lacks the samples in the anchor."""
    z = random_rows(3)
    samples = range(z.shape[1])
    partner = torch.tensor([(b + 2) % len(samples) for b in samples])
    clean = (Row(0), Row(1))
    made = Row(1, made_from=0, mixed_with=partner if mixed else None)
    pair = Pair(2, 1, partner=partner if mixed else None)
    plan = Plan(make_views(EE, samples=len(samples)), (*clean, made), clean, (pair,), 2, 2)
    method = make_method(SimCLRSettings(negatives=negatives, temperature=0.3))
    scores = method.score({"z": z}, {"z": z[:2]}, pair, plan)
    u = F.normalize(z, dim=2)
    for b in samples:
        gone = {b, int(partner[b])} if mixed else {b}
        others = list(u[1])
        if negatives == "both":
            others += [u[0, i] for i in samples if i not in gone]
        assert scores.push[b].item() == pytest.approx(loop_push(u[2, b], others, 0.3), rel=1e-12)
        goal = u[1, partner[b]] if mixed else u[1, b]
        assert scores.cosine[b].item() == pytest.approx(float(u[2, b] @ goal), rel=1e-12)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_pool_names_the_rows_of_the_denominator(negatives: Negatives) -> None:
    z = random_rows(3)
    rows = (Row(0), Row(1), Row(0))
    pair = Pair(0, 1, pool=(0, 1, 2))
    plan = Plan(make_views(EE, samples=z.shape[1]), rows, rows, (pair,), 3, 3)
    method = make_method(SimCLRSettings(negatives=negatives, temperature=0.3))
    scores = method.score({"z": z}, {"z": z}, pair, plan)
    u = F.normalize(z, dim=2)
    for b in range(z.shape[1]):
        others = [u[row, i] for row in range(3) for i in range(z.shape[1]) if (row, i) != (0, b)]
        assert scores.push[b].item() == pytest.approx(loop_push(u[0, b], others, 0.3), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimCLRSettings(temperature=0), "temperature must be above 0, got 0"),
        (lambda: SimCLRSettings(loss_scale=-1), "loss_scale must be above 0, got -1"),
        (lambda: SimCLRSettings(negatives="none"), "negatives must be both or other, got 'none'"),
        (lambda: SimCLRSettings(gather="some"), "gather must be global or local, got 'some'"),
        (lambda: SimCLRSettings(forward="one"), "forward must be per_size or per_view, got 'one'"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
