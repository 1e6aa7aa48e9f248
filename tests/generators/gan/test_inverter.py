"""The inverter and its training."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import read_tensors, write_tensors
from viewstore.generators.gan.inverter import Inverter, InverterShape, load_inverter, write_inverter
from viewstore.generators.gan.inverter_training import InverterSettings, train_inverter
from viewstore.generators.gan.keyed import keyed_generator
from viewstore.generators.gan.settings import GanSettings
from viewstore.generators.gan.training import initialise
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.progress import Fact, Silent

DIGITS = InverterShape(res=16, channels=1, num_codes=6, w_dim=32, generator="00")


@pytest.fixture
def network() -> StyleGAN2:
    settings = GanSettings(latent_dim=6, mapping_layers=1, channels=4)
    untrained = StyleGAN2(settings.architecture(8, 1))
    initialise(untrained, keyed_generator("test", 0))
    with torch.no_grad():
        untrained.w_avg.copy_(untrained.sample(500, 0)[:, 0].mean(0))
    return untrained.requires_grad_(False)


def encoder(x: Tensor) -> Tensor:
    """A small fixed projection: what an encoder is to the training."""
    assert bool(((x >= 0) & (x <= 1)).all())
    flat = x.flatten(1)
    projection = torch.randn(flat.shape[1], 5, generator=torch.Generator().manual_seed(0))
    return F.normalize(flat @ projection, dim=1)


def real_images(network: StyleGAN2) -> Tensor:
    images: Tensor = network.synthesis(network.sample(64, 1)).clamp(-1, 1)
    return images


def test_inverter_of_the_digits_has_the_specified_size() -> None:
    inverter = Inverter(DIGITS)
    assert sum(parameter.numel() for parameter in inverter.parameters()) == 113_408
    assert inverter(torch.zeros(2, 1, 16, 16)).shape == (2, 6, 32)


def test_codes_are_the_average_plus_an_offset() -> None:
    inverter = Inverter(DIGITS)
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before = inverter(x)
    inverter.w_avg += 3
    torch.testing.assert_close(inverter(x), before + 3)


@pytest.mark.parametrize("part", ["pixels", "features"])
def test_training_lowers_both_parts_of_the_loss(network: StyleGAN2, part: str) -> None:
    losses: list[float] = []

    class Recorded(Silent):
        def advance(self, count: int = 1, **facts: Fact) -> None:
            losses.append(float(facts[part]))

    settings = InverterSettings(steps=76, batch=16, lr=2e-3, feature_weight=1.0)
    trained = train_inverter(
        real_images(network),
        network,
        encoder,
        settings,
        progress=Recorded(),
    )
    assert losses[-1] < 0.6 * losses[0]
    assert (trained.res, trained.channels, trained.num_codes, trained.w_dim) == (8, 1, 4, 6)
    assert trained.shape.generator == network.fingerprint


def test_training_is_repeatable_and_seeded(network: StyleGAN2) -> None:
    images = real_images(network)

    def digest(seed: int) -> str:
        settings = InverterSettings(steps=3, batch=4, seed=seed)
        return train_inverter(images, network, encoder, settings).digest

    assert digest(0) == digest(0) != digest(1)


def test_generator_is_not_changed_by_the_training(network: StyleGAN2) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train_inverter(real_images(network), network, encoder, InverterSettings(steps=2, batch=4))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_images_of_another_size_are_refused(network: StyleGAN2) -> None:
    with pytest.raises(ConfigError, match=r"must be float32 \[N, 1, 8, 8\]"):
        train_inverter(torch.zeros(9, 1, 16, 16), network, encoder, InverterSettings())
    with pytest.raises(ConfigError, match=r"must be \[N, 1, 16, 16\], got \[2, 3, 16, 16\]"):
        Inverter(DIGITS)(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"batch": 2.5}, "batch must be a whole number, got 2.5"),
        ({"lr": -1}, "lr must be positive, got -1"),
        ({"lr": "much"}, "lr must be a number, got 'much'"),
        ({"feature_weight": float("inf")}, "feature_weight must be at least 0, got inf"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InverterSettings(**settings)
    InverterSettings(feature_weight=0.0)


@pytest.mark.parametrize("half", [False, True])
def test_file_gives_the_same_inverter(tmp_path: Path, half: bool) -> None:
    inverter = Inverter(DIGITS)
    inverter.provenance = {"seed": 4}
    path = tmp_path / "inverter"
    written = write_inverter(path, inverter, half=half)
    read = load_inverter(path)
    assert read.digest == written.digest
    assert (read.digest == inverter.digest) is not half
    assert read.shape == DIGITS
    assert read.provenance == {"seed": 4}


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"viewstore_inverter": "2"}, "viewstore_inverter = 2, wanted 1"),
        ({"shape": "{}"}, "missing 5 required"),
        ({"shape": '{"res":"x","channels":1,"num_codes":6,"w_dim":32,"generator":""}'}, "sizes of"),
        ({"shape": '{"res":32,"channels":1,"num_codes":6,"w_dim":32,"generator":""}'}, "Missing"),
        ({"shape": '{"res":24,"channels":1,"num_codes":6,"w_dim":32,"generator":""}'}, "power of"),
    ],
)
def test_files_of_something_else_are_refused(
    tmp_path: Path, about: dict[str, str], message: str
) -> None:
    path = tmp_path / "inverter"
    write_inverter(path, Inverter(DIGITS), half=True)
    tensors, text = read_tensors(path, "viewstore_inverter")
    write_tensors(path, tensors, text | about)
    with pytest.raises(CheckpointError, match=message):
        load_inverter(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "inverter"
    write_inverter(path, Inverter(DIGITS), half=False)
    tensors, text = read_tensors(path, "viewstore_inverter")
    tensors["w_avg"][0] = torch.nan
    write_tensors(path, tensors, text)
    with pytest.raises(CheckpointError, match="not finite"):
        load_inverter(path)
