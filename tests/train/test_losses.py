"""Losses against slow loops from the papers and against numbers of public implementations."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.loops import loop_loss
from viewstore.train.losses import Negatives, pair_contrast

NEGATIVES: list[Negatives] = ["both", "other"]


def symmetric(first: Tensor, second: Tensor, negatives: Negatives, temperature: float) -> Tensor:
    """The mean of both directions, [N]: NT-Xent for "both", InfoNCE for "other" negatives."""
    u, v = F.normalize(first, dim=1), F.normalize(second, dim=1)
    directions = [
        pair_contrast(*pair, negatives=negatives, temperature=temperature)
        for pair in ((u, v), (v, u))
    ]
    return torch.stack([each.pull + each.push for each in directions]).mean(0)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    return first, first + torch.randn(7, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_the_loss_is_the_loop_of_the_paper(
    pair: tuple[Tensor, Tensor], negatives: Negatives
) -> None:
    expected = torch.tensor(loop_loss(*pair, negatives, 0.3), dtype=torch.float64)
    torch.testing.assert_close(symmetric(*pair, negatives, 0.3), expected, rtol=1e-12, atol=0)


def test_fewer_negatives_are_a_lower_loss(pair: tuple[Tensor, Tensor]) -> None:
    assert (symmetric(*pair, "other", 0.5) < symmetric(*pair, "both", 0.5)).all()


def test_the_parts_are_the_cosine_and_its_pull(pair: tuple[Tensor, Tensor]) -> None:
    u, v = (F.normalize(z, dim=1) for z in pair)
    parts = pair_contrast(u, v, negatives="both", temperature=0.3)
    torch.testing.assert_close(parts.cosine, F.cosine_similarity(u, v))
    torch.testing.assert_close(parts.pull, -parts.cosine / 0.3)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradients_are_those_of_finite_differences(
    pair: tuple[Tensor, Tensor], negatives: Negatives
) -> None:
    inputs = [z[:3].clone().requires_grad_() for z in pair]
    assert torch.autograd.gradcheck(lambda a, b: symmetric(a, b, negatives, 0.5), inputs)


def test_nt_xent_and_its_gradient_are_those_of_public_implementations(shared: Path) -> None:
    with np.load(shared / "fixtures/ssl/ntxent_T0.5.npz", allow_pickle=False) as file:
        known = {name: torch.from_numpy(file[name]) for name in file.files}
    first = known["z1"].requires_grad_()
    second = known["z2"].requires_grad_()
    losses = symmetric(first, second, "both", float(known["temperature"]))
    losses.mean().backward()
    close = {"rtol": 1e-5, "atol": 1e-6}
    for name in ("supcon", "lightly", "patrickhua", "solo", "hvp_mean"):
        torch.testing.assert_close(losses.mean(), known[name], check_dtype=False, **close)
    torch.testing.assert_close(2 * losses, known["hvp_acs_per_sample"], **close)
    scaled = 0.5 / 0.07 * losses.mean()
    torch.testing.assert_close(scaled, known["supcon_base_temp_0p07"], check_dtype=False, **close)
    torch.testing.assert_close(first.grad, known["grad_z1"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second.grad, known["grad_z2"], rtol=1e-4, atol=1e-6)
