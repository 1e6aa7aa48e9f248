"""Networks for images of 16 to 256 pixels: their widths, and a step of each."""

from dataclasses import replace

import pytest
import torch

from viewstore.errors import ConfigError
from viewstore.generators.gan.inverter import InverterShape
from viewstore.generators.gan.inverter_training import InverterSettings, train_inverter
from viewstore.generators.gan.settings import PRESETS, GanSettings, settings_of
from viewstore.generators.gan.training import train_generator

STEP = GanSettings(
    kimg=0.004, latent_dim=4, mapping_layers=1, channels=4, batch=4, augment=0.5, group=2
)


def test_wide_layers_are_narrowed_where_images_are_large() -> None:
    wide = GanSettings(channels=512, channel_base=16384)
    assert wide.architecture(32, 3).channels == (512,) * 4
    assert wide.architecture(256, 3).channels == (512, 512, 512, 512, 256, 128, 64)
    with pytest.raises(ConfigError, match="channel_base must be at least the 256 pixels"):
        GanSettings(channel_base=128).architecture(256, 3)


@pytest.mark.parametrize("side", [16, 32, 64, 128, 256])
def test_one_step_at_each_size(side: int) -> None:
    keyed = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8, generator=keyed)
    network = train_generator(images, STEP)
    assert (network.res, network.channels, network.num_codes) == (
        side,
        3,
        2 * (side.bit_length() - 2),
    )
    made = network.synthesis(network.sample(2, 0))
    assert made.shape == (2, 3, side, side)
    assert bool(made.isfinite().all())


def test_an_inverter_of_a_large_generator_takes_a_step() -> None:
    images = torch.zeros(4, 3, 128, 128)
    network = train_generator(images, replace(STEP, kimg=0.001, augment="none"))
    inverter = train_inverter(
        images, network, lambda x: x.mean((2, 3)), InverterSettings(steps=1, batch=2)
    )
    assert inverter.shape == InverterShape.of(network)
    assert inverter(images[:1]).shape == (1, 12, 4)


def test_presets_are_settings_and_what_is_given_counts_over_them() -> None:
    assert settings_of("digits", {}) == GanSettings()
    paper = settings_of("cifar", {"kimg": 1.0})
    assert (paper.mapping_layers, paper.latent_dim, paper.channels) == (2, 512, 512)
    assert (paper.batch, paper.gamma, paper.group, paper.ema_kimg) == (64, 0.01, 32, 500.0)
    assert (paper.augment, paper.ada_target, paper.augment_ops) == ("ada", 0.6, "flip,bgc")
    assert paper.kimg == 1.0
    assert PRESETS["cifar"]["kimg"] == 10_000.0
    assert paper.architecture(32, 3, classes=10).channels == (512,) * 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augment": "often"}, "augment must be none, ada or a number in .* got 'often'"),
        ({"augment": 1.5}, "augment must be none, ada or a number in .* got 1.5"),
        ({"augment": True}, "augment must be none, ada or a number in .* got True"),
        ({"augment": "ada", "augment_ops": "x"}, "augment_ops must be letters"),
        ({"augment": "ada", "ada_target": 1.0}, "ada_target must be below 1"),
        ({"ada_kimg": 5.0}, "ada_kimg has no effect without augment=ada, and it is none"),
        ({"augment": 0.5, "ada_target": 0.5}, "ada_target has no effect without augment=ada"),
        ({"augment_ops": "c"}, "augment_ops has no effect without another augment than none"),
        ({"conditional": 1}, "conditional must be true or false, got 1"),
        ({"channels": 4.5}, "channels must be a whole number, got 4.5"),
        ({"batch": True}, "batch must be a whole number, got True"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
    ],
)
def test_settings_that_say_nothing_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of("digits", given)
