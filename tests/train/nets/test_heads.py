"""Heads are the layers of their papers, and prototypes answer with cosines."""

import pytest
import torch
from torch import nn

from viewstore.train.nets.heads import (
    Activation,
    Norm,
    PrototypeHead,
    draw_truncated,
    predictor,
    projector,
)


def kinds(head: nn.Module) -> list[str]:
    """Name each layer, with + behind a linear one that has a bias and a norm that has weights."""
    found = []
    for layer in head.children():
        weighted = layer.bias if isinstance(layer, nn.Linear) else getattr(layer, "weight", None)
        found.append(type(layer).__name__ + "+" * (weighted is not None))
    return found


@pytest.mark.parametrize(
    ("norm", "last", "activation", "layers"),
    [
        ("bn", "bn", "relu", "Linear BatchNorm1d+ ReLU Linear BatchNorm1d"),
        ("bn", "none", "relu", "Linear BatchNorm1d+ ReLU Linear+"),
        ("none", "bn", "relu", "Linear+ ReLU Linear+"),
        ("none", "none", "gelu", "Linear+ GELU Linear+"),
    ],
)
def test_projectors_have_the_layers_of_their_settings(
    norm: Norm, last: Norm, activation: Activation, layers: str
) -> None:
    head = projector(6, (5, 4), norm=norm, last=last, activation=activation)
    assert kinds(head) == layers.split()
    assert head(torch.zeros(3, 6)).shape == (3, 4)


def test_a_predictor_is_that_of_simsiam() -> None:
    head = predictor(6, 3, 5)
    assert kinds(head) == ["Linear", "BatchNorm1d+", "ReLU", "Linear+"]
    assert head(torch.ones(2, 6)).shape == (2, 5)


def test_prototypes_answer_with_cosines() -> None:
    torch.manual_seed(0)
    head = PrototypeHead(4, 3)
    assert list(head.state_dict()) == ["weight"]
    x = torch.randn(2, 5, 4)
    found = head(x)
    for i in range(2):
        for j in range(5):
            for k in range(3):
                a, b = x[i, j].double(), head.weight[k].detach().double()
                cosine = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
                assert abs(found[i, j, k].item() - cosine.item()) < 1e-6
    with torch.no_grad():
        head.weight *= torch.tensor([[2.0], [0.5], [7.0]])
    torch.testing.assert_close(head(x), found)
    head(x).square().sum().backward()
    assert head.weight.grad is not None
    assert (head.weight.grad * head.weight).sum(1).abs().max() < 1e-5  # no gradient to the length


def test_truncated_weights_are_small_and_biases_zero() -> None:
    torch.manual_seed(0)
    head = projector(64, (256, 64), norm="none", activation="gelu")
    draw_truncated(head)
    for layer in head.children():
        if isinstance(layer, nn.Linear):
            assert 0.019 < layer.weight.std() < 0.021
            assert not layer.bias.any()
