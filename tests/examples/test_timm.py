"""The example for timm: with timm where it can be imported, and with a stand-in of its shape."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.examples.steps import check_learns, steps_of
from viewstore.loaders import ViewLoader

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 1.0)


class Backbone(nn.Sequential):
    """What timm.create_model returns with num_classes=0; it keeps the images that it is given."""

    num_features = 48

    def __init__(self) -> None:
        layers = nn.Conv2d(3, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 48, 3, 2)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.pretrained_cfg = {"mean": MEAN, "std": STD}
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return super().forward(x)


def test_any_model_of_that_shape_learns(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., str], store: str
) -> None:
    asked: list[dict[str, object]] = []
    made: list[Backbone] = []

    def create_model(name: str, **arguments: object) -> Backbone:
        asked.append({"name": name, **arguments})
        made.append(Backbone())
        return made[-1]

    timm = ModuleType("timm")
    timm.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    printed = run("timm_backbone", store, "--model", "vit", "--pretrained", "--img-size", 16)
    check_learns(steps_of(printed), by=0.3)
    assert run("timm_backbone", store) == printed
    assert asked == [
        {"name": "vit", "pretrained": True, "num_classes": 0, "img_size": 16},
        {"name": "resnet18", "pretrained": False, "num_classes": 0, "img_size": None},
    ]
    with ViewLoader(store, "near,near", batch_size=64, seed=0) as loader:
        batch = next(iter(loader))
    pixels = torch.cat([view.pixels for view in batch.views])
    levels = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(made[0].seen[0], (pixels / 255 - levels[0]) / levels[1])


def test_a_model_of_timm_learns(run: Callable[..., str], store: str) -> None:
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:  # torchvision of another torch raises the latter
        pytest.skip(f"needs timm: {error}")
    printed = run("timm_backbone", store, "--model", "resnet10t")
    check_learns(steps_of(printed), by=0.2)
    assert run("timm_backbone", store, "--model", "resnet10t") == printed
