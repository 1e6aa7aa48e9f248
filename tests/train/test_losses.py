"""Losses against slow loops from the papers and against numbers of public implementations."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from viewstore.train.losses import Negatives, info_nce, nt_xent


def loop_loss(
    first: Tensor, second: Tensor, negatives: Negatives, temperature: float
) -> list[float]:
    """The loss of each sample in float64, term by term."""
    views = [[row / np.linalg.norm(row) for row in z.double().numpy()] for z in (first, second)]
    losses = []
    for b in range(len(first)):
        total = 0.0
        for s, t in ((0, 1), (1, 0)):
            anchor = views[s][b]
            pool = list(views[t])
            if negatives == "both":
                pool += [row for i, row in enumerate(views[s]) if i != b]
            denominator = sum(math.exp(anchor @ row / temperature) for row in pool)
            total -= math.log(math.exp(anchor @ views[t][b] / temperature) / denominator)
        losses.append(total / 2)
    return losses


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    return first, first + torch.randn(7, 5, generator=generator, dtype=torch.float64)


def test_nt_xent_is_the_loop_of_the_paper(pair: tuple[Tensor, Tensor]) -> None:
    expected = torch.tensor(loop_loss(*pair, "both", 0.3), dtype=torch.float64)
    torch.testing.assert_close(nt_xent(*pair, temperature=0.3), expected, rtol=1e-12, atol=0)


def test_info_nce_has_the_negatives_of_the_other_view_only(pair: tuple[Tensor, Tensor]) -> None:
    expected = torch.tensor(loop_loss(*pair, "other", 0.3), dtype=torch.float64)
    torch.testing.assert_close(info_nce(*pair, temperature=0.3), expected, rtol=1e-12, atol=0)
    assert (info_nce(*pair) < nt_xent(*pair)).all()


@pytest.mark.parametrize("loss", [nt_xent, info_nce])
def test_gradients_are_those_of_finite_differences(
    loss: Callable[..., Tensor], pair: tuple[Tensor, Tensor]
) -> None:
    inputs = [z[:3].clone().requires_grad_() for z in pair]
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, temperature=0.5), inputs)


def test_nt_xent_and_its_gradient_are_those_of_public_implementations(shared: Path) -> None:
    with np.load(shared / "fixtures/ssl/ntxent_T0.5.npz", allow_pickle=False) as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}
    first = known["z1"].requires_grad_()
    second = known["z2"].requires_grad_()
    losses = nt_xent(first, second, temperature=float(known["temperature"]))
    losses.mean().backward()
    close = {"rtol": 1e-5, "atol": 1e-6}
    for name in ("supcon", "lightly", "patrickhua", "solo", "hvp_mean"):
        torch.testing.assert_close(losses.mean(), known[name], check_dtype=False, **close)
    torch.testing.assert_close(2 * losses, known["hvp_acs_per_sample"], **close)
    scaled = 0.5 / 0.07 * losses.mean()
    torch.testing.assert_close(scaled, known["supcon_base_temp_0p07"], check_dtype=False, **close)
    torch.testing.assert_close(first.grad, known["grad_z1"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second.grad, known["grad_z2"], rtol=1e-4, atol=1e-6)
