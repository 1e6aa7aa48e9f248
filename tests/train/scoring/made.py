"""Small methods that have trained two steps, and images for their scorers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.train.world import ROWS, at, make_method, make_views, train_step
from viewstore.train.loop.checkpoint import TrainState, save_checkpoint
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.run import make_method as made_for_run
from viewstore.train.methods.base import Method, MethodSettings
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.deepcluster_v2 import DeepClusterV2, DeepClusterV2Settings
from viewstore.train.methods.dino import DINOSettings
from viewstore.train.methods.ibot import IBOTSettings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.methods.table import method_of
from viewstore.train.methods.traits import Net
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.scoring.scorer import MethodScorer
from viewstore.train.strategies.table import strategy_of

SIDE = 16
UNKNOWN = 5  # the sample without clusters
STANDARD = strategy_of("standard", {})
VIT: dict[str, Any] = {
    "backbone": "vit-ti",
    "patch": 4,
    "projector_norm": "none",
    "activation": "gelu",
}
SETTINGS: dict[str, tuple[MethodSettings, dict[str, Any]]] = {
    "simclr": (SimCLRSettings(loss_scale=1.5, temperature=0.4), {}),
    "simsiam": (SimSiamSettings(predictor_hidden=16, scale="mse"), {}),
    "byol": (BYOLSettings(predictor_hidden=16), {}),
    "moco": (MoCoV2Settings(queue_size=32, temperature=0.2), {}),
    "moco-both": (MoCoV2Settings(queue_size=32, symmetric=True), {}),
    "dino": (DINOSettings(outputs=24), {}),
    "ibot": (IBOTSettings(outputs=24, patch_weight=0.7, mask_ratio=0.4), VIT),
    "deepcluster": (DeepClusterV2Settings(prototypes=(4, 3)), {"projector_last": "none"}),
}


def trained(name: str) -> Method:
    """Return a method whose statistics, targets and memories two steps have moved."""
    settings, network = SETTINGS[name]
    method = make_method(settings, **network)
    _cluster(method)
    for step in (0, 1):
        train_step(method, STANDARD, make_views(("global", "global"), step=step))
    return method


def _cluster(method: Method) -> None:
    """Give a method of prototypes some, and clusters to all samples but one."""
    if isinstance(method, DeepClusterV2):
        draws = torch.Generator().manual_seed(2)
        prototypes = torch.randn(method.prototypes.shape, generator=draws)
        method.prototypes.copy_(torch.nn.functional.normalize(prototypes, dim=1))
        rows = torch.arange(method.assignments.shape[1])
        method.assignments.copy_(rows % torch.tensor(method.settings.prototypes)[:, None])
        method.assignments[:, UNKNOWN] = -100


def scorer_of(name: str, *, step: int = 2) -> MethodScorer:
    """Return the scorer of a trained method."""
    return MethodScorer(trained(name), at(step), num_rows=ROWS, input_size=None)


def images(*shape: int, seed: int = 0, side: int = SIDE) -> Tensor:
    """Return random images in [0, 1], [*shape, 3, side, side]."""
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 3, side, side, generator=draws)


@dataclass(frozen=True)
class Plain:
    """The networks of a method in evaluation mode, in float64 but where they have constants."""

    method: Any

    @classmethod
    def of(cls, method: Method, dtype: torch.dtype = torch.float64) -> Plain:
        """Copy the networks of a method."""
        return cls(copy.deepcopy(method).to(dtype).eval())

    def z(self, image: Tensor, net: Net = "student") -> Tensor:
        """Return the projection of one image [3, H, W], [D]."""
        network = self.method.network(net)
        mean, std = (torch.tensor(each).double().view(3, 1, 1) for each in self.normalisation)
        found: Tensor = network.projector(network.backbone(((image.double() - mean) / std)[None]))
        return found[0]

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the channels."""
        return self.method.prepare.mean, self.method.prepare.std


def unit(vector: Tensor) -> Tensor:
    """Return a vector of length 1."""
    return vector / vector.square().sum().sqrt()


FRAME = {"rows": 48, "size": 16, "epoch_steps": 6, "views": 2}
KINDS: dict[str, dict[str, Any]] = {
    "simclr": {},
    "moco-v2": {"queue_size": 32},
    "dino": {"outputs": 24, "teacher_warmup_epochs": 4, "teacher_temperature_start": 0.02},
    "deepcluster-v2": {"prototypes": (4, 3)},
}
HARD = strategy_of("hvp", {"allow_per_view": True})


def config_of(name: str, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    config = PretrainConfig(
        views=("simclr",) * 4,
        method=method_of(name, KINDS.get(name, {})),
        strategy=HARD,
        network=NetworkSettings(backbone="conv3", projector=(16, 8)),
        epochs=5,
        batch_size=8,
    )
    return replace(config, **changes)


def write_checkpoint(
    path: Path,
    name: str,
    *,
    step: int = 12,
    frame: Mapping[str, int] = FRAME,
    made: Mapping[str, Any] = {},
    **settings: Any,  # noqa: ANN401
) -> Method:
    """Write a checkpoint as a run does, with weights of random sizes; return its method.

    `made` are settings of the run; the others, and `frame`, are what the file says in their place.
    """
    config = config_of(name, **made)
    with torch.random.fork_rng(devices=[]):
        rows = frame.get("rows", FRAME["rows"])
        method = made_for_run(config, **{**FRAME, "rows": rows})
        for value in method.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.1 * torch.rand(value.shape))
    _cluster(method)
    method.train()
    optimizer = config.optim.make(method.groups())
    told = {**config.to_json(), "store": "some store", "processes": 2, **settings}
    save_checkpoint(path, TrainState(step=step), told, method, optimizer, frame=frame)
    return method
