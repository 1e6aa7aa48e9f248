"""What the encoder of a function of the user's is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from viewstore.generators.checkpoints.function import Made, made_encoder
from viewstore.plugins import Check

SIDE = 24
Elsewhere = Callable[[], Sequence[str]]  # the digest, made in a fresh process


def encoder_checks(name: str, elsewhere: Elsewhere) -> list[Check]:
    """Return what the encoder that "module:function" makes is held to."""
    return [
        Check("it is made alike each time", "no build could go on", lambda: _remade(name)),
        Check("another process makes the same", "no build could go on", lambda: (
            _elsewhere(name, elsewhere)
        )),
        Check("an image's features do not depend on others", "views would depend on their company",
              lambda: _company(name)),
        Check("features follow the image", "latent views could not be searched with it",
              lambda: _gradient(name)),
        Check("seeing images changes nothing", "features would depend on what was seen before",
              lambda: _changed(name)),
    ]  # fmt: skip


def _images(network: Made) -> torch.Tensor:
    height, width = network.input_size or (SIDE, SIDE)
    return torch.rand(6, 3, height, width, generator=torch.Generator().manual_seed(0))


def _remade(name: str) -> str | None:
    first, second = made_encoder(name), made_encoder(name)
    return None if first.digest == second.digest else "its weights are others the second time"


def _elsewhere(name: str, elsewhere: Elsewhere) -> str | None:
    here, there = made_encoder(name).digest, elsewhere()[0]
    return None if here == there else f"its digest is {here[:12]}, and {there[:12]}"


def _company(name: str) -> str | None:
    network = made_encoder(name)
    images = _images(network)
    with torch.no_grad():
        together = network(images)
        for row in range(len(images)):
            alone = network(images[row : row + 1])[0]
            if not torch.allclose(together[row], alone, rtol=1e-4, atol=1e-5):
                off = float((together[row] - alone).abs().max())
                return f"unit features of image {row} are off by {off:.2g} when it is seen alone"
    return None


def _gradient(name: str) -> str | None:
    network = made_encoder(name)
    images = _images(network).requires_grad_()
    features = network(images)
    if not features.requires_grad:
        return "its features have no gradient with respect to the image"
    (gradient,) = torch.autograd.grad(features.square().sum(1)[0] + features[0, 0], images)
    if not gradient.isfinite().all():
        return "the gradient of its features is not finite"
    return None if gradient[0].any() else "the gradient of its features is 0"


def _changed(name: str) -> str | None:
    network = made_encoder(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        network(_images(network))
    moved = [key for key, value in network.state_dict().items() if not value.equal(before[key])]
    return f"{moved[0]} was changed" if moved else None
