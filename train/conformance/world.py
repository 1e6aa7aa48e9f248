"""Methods on small networks, and views of noisy images with the params that strategies read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from viewstore.loaders.batches.batch import IMAGENET_MEAN, IMAGENET_STD
from viewstore.train.methods.base import Frame, Method, MethodSettings
from viewstore.train.methods.embeddings import Embedded
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings, seeded_network
from viewstore.train.strategies.base import Slot, Strategy
from viewstore.train.views import At, Preprocessing, Views

SAMPLES, SIDE, ROWS = 8, 16, 64
PREPARE = Preprocessing(in_channels=3, mean=IMAGENET_MEAN, std=IMAGENET_STD)
COLUMNS = frozenset(["crop_box", "flip", "jitter", "jitter_order", "gray", "blur", "solarize"])


def make_method(settings: MethodSettings | str, **network: Any) -> Method:  # noqa: ANN401
    """Return a method on conv3, or on another network, drawn by seed 0."""
    if isinstance(settings, str):
        settings = method_of(settings, {})
    values = {"backbone": "conv3", "projector": (32, 16)} | network
    frame = Frame(prepare=PREPARE, num_rows=ROWS, batch_size=SAMPLES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return settings.make(seeded_network(NetworkSettings(**values), 0), frame).train()


def at(step: int = 0, *, total_steps: int = 20, seed: int = 3) -> At:
    """Return the clock of a run of epochs of 4 steps."""
    return At(step // 4, step, 4, total_steps, seed)


def make_views(
    roles: Sequence[str],
    parent: Sequence[int] = (),
    *,
    step: int = 0,
    samples: int = SAMPLES,
    side: int = SIDE,
) -> Views:
    """Return views of noisy copies of one image a sample; local ones have half the side.

    Heavy views are noisier copies of their parent. Crop boxes lie within 16 pixels.
    """
    generator = torch.Generator().manual_seed(100 + step)
    sample = torch.randperm(ROWS, generator=generator)[:samples]
    images = torch.rand(
        (ROWS, 3, side, side), generator=torch.Generator().manual_seed(9), dtype=torch.float32
    )[sample]
    parent = tuple(parent) or (-1,) * len(roles)
    pixels: list[Tensor] = []
    params = []
    for view, role in enumerate(roles):
        image = images if parent[view] < 0 else pixels[parent[view]].float() / 255
        if role == "local":
            image = torch.nn.functional.avg_pool2d(image, 2)
        noise = torch.rand(image.shape, generator=generator)
        share = 0.6 if role == "heavy" else 0.3
        pixels.append((255 * ((1 - share) * image + share * noise)).to(torch.uint8))
        params.append(_params(samples, generator))
        if role == "cutmix":
            partner = torch.randint(0, ROWS, (samples,), generator=generator)
            params[-1] |= {"mix_partner": partner, "mix_lambda": torch.full((samples,), 0.75)}
    return Views(
        tuple(pixels),
        tuple(roles),
        parent,
        tuple(params),
        sample,
        at(step),
        tuple(range(len(roles))),
    )


def _params(samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    corner = torch.randint(0, 8, (samples, 2), generator=generator).float()
    sides = torch.randint(4, 9, (samples, 2), generator=generator).float()
    jitter = torch.rand(samples, 4, generator=generator) * 0.4 + 0.8
    jitter[:, 3] = 0.05
    return {
        "crop_box": torch.cat([corner, sides], 1),
        "flip": torch.randint(0, 2, (samples,), generator=generator, dtype=torch.uint8),
        "jitter": jitter,
        "jitter_order": torch.arange(4, dtype=torch.uint8).repeat(samples, 1),
        "gray": torch.zeros(samples, dtype=torch.uint8),
        "blur": torch.zeros(samples),
        "solarize": torch.full((samples,), 256, dtype=torch.int32),
    }


def with_made(strategy: Strategy, views: Views) -> Views:
    """Return the views, and behind them those that a maker's fresh network makes of them."""
    if strategy.maker is None:
        return views
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = strategy.maker.network(slots_of(views.role, views.parent), 3)
        return strategy.maker.make(views, network).views


def slots_of(roles: Sequence[str], parent: Sequence[int] = ()) -> tuple[Slot, ...]:
    """Return the slots of a loader that delivers `make_views` of these roles."""
    parent = tuple(parent) or (-1,) * len(roles)
    return tuple(
        Slot(role, SIDE // 2 if role == "local" else SIDE, COLUMNS, above, f"{role}-{view}")
        for view, (role, above) in enumerate(zip(roles, parent, strict=True))
    )


def train_step(
    method: Method,
    strategy: Strategy,
    views: Views,
    optimizer: torch.optim.Optimizer | None = None,
) -> Embedded:
    """Train one step as the loop does; return what the method returned."""
    if optimizer is None:
        trained = [each for each in method.parameters() if each.requires_grad]
        optimizer = torch.optim.SGD(trained, 0.05)
    embedded: Embedded = method(strategy.plan(method.annotate(views), method))
    optimizer.zero_grad()
    torch.autograd.backward(embedded.loss)
    method.gradients_ready(views.at)
    optimizer.step()
    method.commit([embedded], views.at)
    return embedded


def snapshot(method: Method) -> list[Tensor]:
    """Return copies of all that planning and scoring may not change."""
    state = [value.clone() for value in method.state_dict().values()]
    state += [p.grad.clone() for p in method.parameters() if p.grad is not None]
    return [*state, torch.get_rng_state()]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Return whether two snapshots are equal, bit for bit."""
    return len(first) == len(second) and all(map(torch.equal, first, second))
