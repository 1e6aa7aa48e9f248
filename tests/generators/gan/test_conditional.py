"""Class-conditional training: the projection of the discriminator, labels, the file."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.generators.gan.discriminator import Discriminator
from viewstore.generators.gan.file import Origin, read_generator, write_generator
from viewstore.generators.gan.settings import GanSettings
from viewstore.generators.gan.training import GanTrainer, train_generator

SMALL = GanSettings(kimg=0.4, latent_dim=6, mapping_layers=1, channels=8, batch=8, conditional=True)


def shades(count: int = 40) -> tuple[Tensor, Tensor]:
    """Return images of three classes, which differ in their brightness."""
    keyed = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    noise = 0.05 * torch.randn(count, 1, 8, 8, generator=keyed)
    return (labels[:, None, None, None] - 1) * 0.7 + noise, labels


def test_the_score_is_the_projection_on_the_embedding_of_the_class() -> None:
    judge = Discriminator((4, 6), 1, group=2, classes=3).double().requires_grad_(False)
    judge.initialise(torch.Generator().manual_seed(0))
    keyed = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(judge.embed.bias, generator=keyed)
    images = torch.randn(4, 1, 8, 8, generator=keyed).double()
    labels = torch.tensor([0, 2, 1, 2])
    features: list[Tensor] = []
    judge.out.register_forward_hook(lambda module, given, made: features.append(made))
    found = judge(images, labels).tolist()
    (rows,) = features
    for row, label, score in zip(rows.tolist(), labels.tolist(), found, strict=True):
        width = len(row)
        assert width == 4
        embedded = [
            float(judge.embed.weight[i, label]) / math.sqrt(3) + float(judge.embed.bias[i])
            for i in range(width)
        ]
        size = math.sqrt(sum(e * e for e in embedded) / width + 1e-8)
        wanted = sum(x * e / size for x, e in zip(row, embedded, strict=True)) / math.sqrt(width)
        assert score == pytest.approx(wanted, rel=1e-9)


def test_a_discriminator_without_classes_is_as_it_was() -> None:
    plain = Discriminator((4, 4), 1, group=2)
    assert {name for name, _ in plain.named_parameters()}.isdisjoint({"embed.weight"})
    assert plain.out.weight.shape == (1, 4)


def test_labels_do_not_matter_to_a_training_that_is_not_conditional() -> None:
    images, labels = shades()
    plain = replace(SMALL, conditional=False, kimg=0.03)
    told = train_generator(images, plain, labels=labels)
    assert told.c_dim == 0
    assert told.fingerprint == train_generator(images, plain).fingerprint


def test_each_class_is_made_and_the_file_keeps_it(tmp_path: Path) -> None:
    images, labels = shades()
    network = train_generator(images, replace(SMALL, kimg=0.8), labels=labels)
    assert (network.c_dim, network.mapping.embed.weight.shape) == (3, (6, 3))
    classes = torch.arange(60) % 3
    made = network.synthesis(network.sample(60, 0, classes)).mean((1, 2, 3))
    dark, middle, bright = (float(made[classes == each].mean()) for each in range(3))
    assert dark < -0.2 < middle < 0.2 < bright
    path = tmp_path / "gan"
    write_generator(path, network, Origin(), half=False)
    read = read_generator(path).network
    assert (read.c_dim, read.fingerprint) == (3, network.fingerprint)
    torch.testing.assert_close(
        read.synthesis(read.sample(60, 0, classes)).mean((1, 2, 3)), made, rtol=0, atol=0
    )


def test_classes_of_generated_images_are_drawn_as_often_as_they_are_real() -> None:
    images, _ = shades()
    labels = (torch.arange(40) % 4 == 0).long()
    trainer = GanTrainer(images, SMALL, labels=labels)
    keyed = torch.Generator().manual_seed(0)
    drawn = torch.cat([trainer._fake(keyed)[2] for _ in range(100)])  # type: ignore[misc]
    assert float(drawn.float().mean()) == pytest.approx(0.25, abs=0.05)


def test_other_labels_are_another_training(tmp_path: Path) -> None:
    images, labels = shades()
    state, short = tmp_path / "state", replace(SMALL, kimg=0.03)
    first = train_generator(images, short, labels=labels, state=state)
    assert first.fingerprint != train_generator(images, short, labels=2 - labels).fingerprint
    with pytest.raises(ConfigError, match="is on other images"):
        train_generator(images, short, labels=2 - labels, state=state)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "they have no labels"),
        (torch.full((40,), -1), "they have no labels"),
        (torch.arange(40) % 3 - 1, "14 of 40 have no label"),
        (torch.arange(40) % 3 * 2, "3 different ones from 0 to 4"),
        (torch.arange(40) % 3 + 2**31, "from 2147483648 to 2147483650"),
        (torch.arange(39) % 3, r"labels must be int64 \[40\], got torch.int64 \[39\]"),
        (torch.zeros(40), r"got torch.float32 \[40\]"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: Tensor | None, message: str) -> None:
    images, _ = shades()
    with pytest.raises(ConfigError, match=message):
        train_generator(images, SMALL, labels=labels)
