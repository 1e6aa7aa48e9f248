"""What the tests of probes share: separable features, a small source, a small random encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewstore.sources.open import open_source
from viewstore.sources.table import SourceTable
from viewstore.train.encoder_file import Encoder, EncoderSettings
from viewstore.train.eval.features import Images
from viewstore.train.eval.samples import Samples
from viewstore.train.nets.network import seeded_network


def blobs(count: int, seed: int, *, spread: float = 0.2) -> Samples:
    """Samples of three classes around three unit vectors."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = np.eye(3, 5)[labels] + spread * rng.normal(size=(count, 5))
    return Samples(features.astype(np.float32), labels)


def halves(count: int, *, classes: int = 2, size: int = 16) -> NDArray[np.uint8]:
    """Images of which class c is bright in column band c, in the order 0, 1, .., 0, 1, .."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (count, size, size, 3), np.uint8)
    width = size // classes
    for number, image in enumerate(images):
        band = number % classes * width
        image[:, band : band + width] += 140
    return images


def source(path: Path, count: int = 40, *, classes: int = 2) -> SourceTable:
    """A source of `halves`, with labels."""
    images = halves(count, classes=classes)
    np.savez(path / "halves.npz", images=images, labels=np.arange(count) % classes)
    return open_source(str(path / "halves.npz")).table


def images(path: Path, count: int = 40, *, classes: int = 2) -> tuple[Images, Images]:
    """Bank and queries of such a source: every fourth image is a query."""
    table = source(path, count, classes=classes)
    rows = np.arange(count)
    asked = rows // classes % 4 == 0
    return Images(table=table, rows=rows[~asked]), Images(table=table, rows=rows[asked])


def encoder(size: int = 16) -> Encoder:
    """An encoder of random weights."""
    settings = EncoderSettings(
        backbone="conv3",
        in_channels=3,
        projector=(8,),
        size=size,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        policy="cifar",
    )
    return Encoder(settings, seeded_network(settings.network(), 0))
