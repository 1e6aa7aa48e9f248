"""Backbones of users and of other packages: by name, with their width found, or a clear refusal.

The packages are not installed here: modules with their documented interface stand in for them.
"""

import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError, UnavailableError
from viewstore.train.nets.backbone import stage
from viewstore.train.nets.domains import add_domain, use_domain
from viewstore.train.nets.foreign import is_foreign, runs_code
from viewstore.train.nets.network import Network, NetworkSettings, seeded_network


class Net(nn.Module):
    """A user's network, whose output has spatial positions."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 6, 3)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


def fail() -> nn.Module:
    raise RuntimeError("its own fault")


@pytest.fixture(autouse=True)
def nets(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("usernets")
    module.net = Net
    module.flat = lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    module.tokens = lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(2))
    module.number = lambda: 3
    module.needs = lambda width: nn.Linear(width, width)
    module.fails = fail
    module.text = "not a function"
    monkeypatch.setitem(sys.modules, "usernets", module)


def make(name: str, *, in_channels: int = 3) -> Network:
    settings = NetworkSettings(backbone=name, in_channels=in_channels, projector=(8, 4))
    return seeded_network(settings, 0, size=16)


def test_a_function_of_the_user_makes_a_backbone_with_its_width_and_untouched_statistics() -> None:
    before = torch.get_rng_state()
    network = make("usernets:net", in_channels=1).train()
    assert torch.equal(torch.get_rng_state(), before)
    assert network.backbone.width == 6
    norm = network.get_submodule("backbone.net.norm")
    assert not norm.running_mean.any()
    assert norm.num_batches_tracked == 0
    assert network.backbone.net.training
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert network(x).shape == (4, 4)
    assert norm.num_batches_tracked == 1
    features = network.backbone.eval()(x)
    torch.testing.assert_close(features, network.backbone.net(x).mean((2, 3)))
    assert torch.equal(network.backbone.probe_features(x), features)
    again = make("usernets:net", in_channels=1).state_dict()
    assert torch.equal(
        again["backbone.net.conv.weight"], network.state_dict()["backbone.net.conv.weight"]
    )


def test_a_flat_output_is_taken_as_it_is_and_domains_reach_into_it() -> None:
    assert make("usernets:flat").backbone.width == 5
    network = make("usernets:net")
    add_domain(network)
    with use_domain(network, "adv"):
        network(torch.rand(4, 3, 16, 16))
    assert network.state_dict()["backbone.net.norm.num_batches_tracked"] == 0
    assert network.state_dict()["backbone.net.norm.adv.num_batches_tracked"] == 1


def test_a_foreign_backbone_has_no_stages() -> None:
    with pytest.raises(ConfigError, match="stage must be one of the backbone's, none, got 0"):
        stage(make("usernets:net").backbone, torch.zeros(1, 3, 16, 16), 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuchmodule:net", "there is no backbone nosuchmodule:net: No module named"),
        ("usernets:nett", "there is no backbone usernets:nett: .* has no attribute 'nett'"),
        ("usernets:text", "there is no backbone usernets:text: 'not a function' is not a callable"),
        ("usernets:needs", "backbone usernets:needs cannot be made: .* 'width'"),
        ("usernets:number", "usernets:number must make a torch.nn.Module, got int"),
        ("usernets:tokens", r"must return features \[N, F\] .* got \[1, 4, 16\]"),
        ("usernets:fails", "backbone usernets:fails cannot be made: its own fault"),
    ],
)
def test_what_is_no_backbone_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(name)
    assert caught.value.where == name


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("nosuchmodule:net", "in this folder set PYTHONPATH=."),
        ("nosuch.module:net", "in this folder set PYTHONPATH=."),
        ("usernets.py:net", "name the module, not its file: usernets:net"),
        ("usernets:nett", "name a function of usernets that returns a torch.nn.Module"),
        ("usernets:text", "name a function of usernets that returns a torch.nn.Module"),
    ],
)
def test_the_advice_fits_what_is_missing(name: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(name)
    assert str(caught.value.fix).endswith(fix)


def test_a_module_that_needs_another_one_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needsother.py").write_text("import nosuchpackage")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="No module named 'nosuchpackage'") as caught:
        make("needsother:net")
    assert caught.value.fix == "see that `python -c 'import needsother'` works"


def test_a_backbone_that_cannot_see_the_images_says_so() -> None:
    settings = NetworkSettings(backbone="usernets:flat", projector=(4,))
    with pytest.raises(ConfigError, match=r"cannot be run on images \[1, 3, 32, 32\]"):
        seeded_network(settings, 0, size=32)


def test_settings_of_our_backbones_are_not_for_others() -> None:
    with pytest.raises(ConfigError, match="patch needs patches; usernets:net has none"):
        NetworkSettings(backbone="usernets:net", patch=4)


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_a_package_that_is_missing_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnavailableError, match=f"{package}:NAME needs the package {package}") as e:
        make(f"{package}:resnet18")
    assert e.value.fix == f"pip install {package}"


def test_a_model_of_timm_is_made_without_classifier_and_without_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timm: Any = ModuleType("timm")
    calls = []

    def create_model(name: str, **settings: object) -> nn.Module:
        calls.append((name, settings))
        if name == "resnet18" and "img_size" in settings:
            raise TypeError("ResNet.__init__() got an unexpected keyword argument 'img_size'")
        return Net(int(str(settings["in_chans"])))

    timm.create_model = create_model
    timm.is_model = lambda name: name in ("resnet18", "vit_tiny_patch16_224")
    monkeypatch.setitem(sys.modules, "timm", timm)
    settings = {"pretrained": False, "num_classes": 0, "in_chans": 1}
    assert make("timm:resnet18", in_channels=1).backbone.width == 6
    assert calls[-1] == ("resnet18", settings)
    make("timm:vit_tiny_patch16_224", in_channels=1)
    assert calls[-1] == ("vit_tiny_patch16_224", {"img_size": 16, **settings})
    with pytest.raises(ConfigError, match="timm has no model resnet19"):
        make("timm:resnet19")


@pytest.mark.parametrize("output", ["pooler_output", "last_hidden_state", "tokens"])
def test_a_model_of_transformers_is_made_of_its_configuration(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers: Any = ModuleType("transformers")

    class Config:
        @staticmethod
        def for_model(name: str, **settings: object) -> dict[str, object]:
            if name != "resnet":
                raise ValueError(f"Unrecognized model identifier: {name}")
            return settings

    class Model(Net):
        @classmethod
        def from_config(cls, config: dict[str, int]) -> "Model":
            assert config["image_size"] == 16
            return cls(config["num_channels"])

        def forward(self, x: Tensor) -> Any:  # noqa: ANN401
            out = super().forward(x)
            if output == "pooler_output":
                pooled = out.mean((2, 3), keepdim=True)
                return OrderedDict(last_hidden_state=out + 1, pooler_output=pooled)
            hidden = out.flatten(2).transpose(1, 2) if output == "tokens" else out
            return OrderedDict(last_hidden_state=hidden, pooler_output=None)

    transformers.AutoConfig, transformers.AutoModel = Config, Model
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    network = make("transformers:resnet", in_channels=1).eval()
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    net: Any = network.backbone.net
    wanted = net.norm(net.conv(x)).mean((2, 3))
    torch.testing.assert_close(network.backbone(x), wanted)
    with pytest.raises(ConfigError, match="transformers has no model of type gpt99"):
        make("transformers:gpt99")


def test_only_functions_of_users_run_code_that_a_name_chooses() -> None:
    names = ["conv3", "usernets:net", "a.b:c", "timm:resnet18", "transformers:vit", "os:a/b", ":x"]
    assert [is_foreign(name) for name in names] == [False, True, True, True, True, False, False]
    assert [runs_code(name) for name in names] == [False, True, True, False, False, False, False]
