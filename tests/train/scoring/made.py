"""Small methods that have trained two steps, and images for their scorers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.train.world import ROWS, at, make_method, make_views, train_step
from viewstore.train.methods.base import Method, MethodSettings, Net
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.deepcluster_v2 import DeepClusterV2, DeepClusterV2Settings
from viewstore.train.methods.dino import DINOSettings
from viewstore.train.methods.ibot import IBOTSettings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.scoring.scorer import MethodScorer
from viewstore.train.strategies.table import strategy_of

SIDE = 16
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
    if isinstance(method, DeepClusterV2):
        draws = torch.Generator().manual_seed(2)
        method.prototypes.copy_(
            torch.nn.functional.normalize(torch.randn(7, 16, generator=draws), dim=1)
        )
        method.assignments.copy_(torch.arange(ROWS) % torch.tensor([[4], [3]]))
        method.assignments[:, 5] = -100
    for step in (0, 1):
        train_step(method, STANDARD, make_views(("global", "global"), step=step))
    return method


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
