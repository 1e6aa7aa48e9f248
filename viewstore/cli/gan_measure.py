"""The command `gan measure`: how far what a generator makes is from the images of a source."""

from __future__ import annotations

from pathlib import Path

import click

from viewstore.cli.command import command
from viewstore.cli.gan import summary_text
from viewstore.cli.gan_images import (
    FEATURES,
    MEASURED_IMAGES,
    MEASURED_SEED,
    distance_to,
    frechet_facts,
    generated,
    has_classes,
    read_pictures,
)
from viewstore.cli.options import DEVICE, FILE, POSITIVE, SOURCES, TORCH_THREADS
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError


@command(
    "measure",
    example="viewstore gan measure --gan gan.safetensors --source photos --features encoder.pt2",
)
@click.option(
    "--gan",
    "gan_file",
    type=FILE,
    metavar="FILE",
    help="Take this generator.  [default: the packaged one, of digits]",
)
@click.option("--source", default="digits", show_default=True, metavar="SRC", help=SOURCES)
@click.option(
    "--limit", type=POSITIVE, metavar="N", help="Take the first N images of the source only."
)
@click.option(
    "--holdout",
    type=click.IntRange(min=2),
    metavar="K",
    help="Compare with rows 0, K, 2K, ... only, which a training with --holdout K left out.",
)
@FEATURES
@click.option(
    "--n",
    "count",
    type=click.IntRange(min=4),
    default=MEASURED_IMAGES,
    show_default=True,
    metavar="N",
    help="Compare at most N real images, evenly spread, with as many that are generated.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=MEASURED_SEED,
    show_default=True,
    metavar="S",
    help="Seed of the latents.",
)
@DEVICE
@TORCH_THREADS
def measure(
    terminal: Terminal,
    gan_file: Path | None,
    source: str,
    limit: int | None,
    holdout: int | None,
    features: str,
    count: int,
    seed: int,
    device: str,
    threads: int | None,
) -> None:
    """Print the Fréchet distance of generated images to real ones, with what it means.

    The features it is measured in, the number of images and the distance between two halves of the
    real ones stand beside it: a distance is comparable only where all of these are equal. Few
    images make it too large, and the halves, which have half as many, more so. A conditional
    network makes images of the classes of the source.
    """
    import numpy as np
    import torch

    from viewstore.build.roles import open_generator, packaged_weights

    if threads is not None:
        torch.set_num_threads(threads)
    network = open_generator(gan_file or packaged_weights("gan"), terminal).network.to(device)
    pictures = read_pictures(
        terminal, source, size=network.res, channels=network.channels, limit=limit
    )
    if holdout is not None:
        pictures = pictures.rows(np.arange(len(pictures.levels)) % holdout == 0)
    real = pictures.spread(count)
    if len(real.levels) < 4:
        raise ConfigError(
            f"a distance with its reference needs at least 4 images, got {len(real.levels)}",
            where=source,
        )
    measured = distance_to(real, features, terminal, device=device)
    distance = measured(generated(network, real, seed=seed))
    facts = frechet_facts(measured, distance, real, seed)
    facts |= {"source": source, "holdout": holdout, "fingerprint": network.fingerprint}
    if network.c_dim:
        facts["classes"] = "of the source" if has_classes(network, real) else "each in turn"
    terminal.result(facts, f"{summary_text(facts)}\n{measured.text(distance)}")
