"""The command `gan train`: a generator from images, or the inverter of a generator."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from viewstore.cli.command import command
from viewstore.cli.gan import check_out, summary_text, synthesise, write_pictures
from viewstore.cli.options import (
    DEVICE,
    FILE,
    NUMBER,
    POSITIVE,
    SETTINGS,
    SOURCES,
    merge_settings,
    parse_assignments,
)
from viewstore.cli.stopping import stoppable
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError
from viewstore.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from viewstore.generators.stylegan2.network import StyleGAN2


MEASURES = 5  # how often in a training the distance to the real images is taken
MEASURED_IMAGES = 2000
SHOWN = 64  # images in the picture of a snapshot


@command(
    "train",
    example="viewstore gan train --part generator --source digits --holdout 4 "
    "--out gan.safetensors",
)
@click.option(
    "--part",
    type=click.Choice(["generator", "inverter"]),
    required=True,
    help="Train a generator, or the inverter of one.",
)
@click.option(
    "--source",
    default="digits",
    show_default=True,
    metavar="SRC",
    help=SOURCES,
)
@click.option(
    "-o", "--out", type=FILE, required=True, metavar="FILE", help="Write the weights to this file."
)
@click.option(
    "--size",
    type=click.IntRange(4, 1024),
    metavar="PX",
    help="Train on images PX pixels wide and high, a power of two.",
)
@click.option(
    "--limit", type=POSITIVE, metavar="N", help="Take the first N images of the source only."
)
@click.option(
    "--holdout",
    type=click.IntRange(min=2),
    metavar="K",
    help="Leave out rows 0, K, 2K, ..., and measure on them.",
)
@click.option("--kimg", type=NUMBER, metavar="K", help="Show K thousand images (generator).")
@click.option("--steps", type=int, metavar="N", help="Show N batches (inverter).")
@click.option("--batch", type=int, metavar="B", help="Take B images for each step.")
@click.option("--seed", type=int, metavar="N", help="Seed all random draws.  [default: 0]")
@SETTINGS
@click.option(
    "--gan",
    "gan_file",
    type=FILE,
    metavar="FILE",
    help="Invert the generator in this file (inverter).",
)
@click.option(
    "--encoder",
    type=FILE,
    metavar="FILE",
    help="Compare features of the encoder in this file, or of MODULE:FUNCTION (inverter).",
)
@click.option(
    "--state",
    type=FILE,
    metavar="FILE",
    help="Keep the state of the training in this file, and go on from it (generator).",
)
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16"]),
    default="f16",
    show_default=True,
    help="Write the weights in this precision.",
)
@DEVICE
@click.option(
    "--threads",
    type=POSITIVE,
    metavar="N",
    help="Let torch use N threads.  [default: torch chooses]",
)
def train(terminal: Terminal, part: str, threads: int | None, **options: Any) -> None:  # noqa: ANN401
    """Train a generator on images, or the inverter that guesses a generator's latents.

    The defaults are the recipe of the shipped digits weights; --set changes any other setting: of
    a generator latent_dim, mapping_layers, channels, channel_base, gamma, group, ema_kimg, lr and
    snapshot_kimg, for example --set latent_dim=512 --set channels=512 for photographs; of an
    inverter lr and feature_weight. With --state, an interrupted generator training goes on bit
    for bit where it was.
    """
    import torch

    from viewstore.train.loop.distributed import check_alone

    check_alone(os.environ)
    if threads is not None:
        torch.set_num_threads(threads)
    given = _given(part, options)
    check_out(options["out"])
    started, cpu = time.perf_counter(), time.process_time()
    work = _train_generator if part == "generator" else _train_inverter
    with stoppable(terminal) as stop:
        facts = work(terminal, given, options, lambda: stop.requested)
    facts |= {"file": str(options["out"]), "bytes": options["out"].stat().st_size}
    facts |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    terminal.result(facts, summary_text(facts))


def _given(part: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were given; those of the other part are refused."""
    flags = {name: options[name] for name in ("kimg", "steps", "batch", "seed")}
    given = merge_settings(parse_assignments(options["assignments"]), flags)
    others = ["gan_file", "encoder"] if part == "generator" else ["state"]
    for name in others:
        if options[name] is not None:
            flag = name.removesuffix("_file")
            raise ConfigError(f"--{flag} does not belong to --part {part}")
    return given


def _settings(kind: Callable[..., Any], given: dict[str, Any]) -> Any:  # noqa: ANN401
    from viewstore.errors import nearest

    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(
                f"this training has no setting {name!r}; {nearest(name, known)}", code="VS102"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{name} must be a number, got {value!r}")
    return kind(**given)


def _train_generator(
    terminal: Terminal, given: dict[str, Any], options: dict[str, Any], stop: Callable[[], bool]
) -> dict[str, Any]:
    from viewstore.generators.gan.file import Origin, rounded, write_generator
    from viewstore.generators.gan.frechet import PixelFrechet
    from viewstore.generators.gan.training import GanSettings, train_generator

    settings = _settings(GanSettings, given)
    everything, training, _ = _images(terminal, options, size=options["size"], channels=None)
    distance = PixelFrechet(_spread(everything))
    due = [round(settings.kimg * 1000 * i / MEASURES) for i in range(1, MEASURES)]

    picture = options["out"].with_suffix(".png")
    if picture == options["out"]:
        raise ConfigError(
            f"--out must name the weights, and {picture.name} is where their pictures go",
            where=str(picture),
            fix="end it in .safetensors",
        )
    terminal.note(f"at each snapshot {picture} shows what the generator makes")

    def measure(seen: int, network: StyleGAN2) -> None:
        write_pictures(picture, synthesise(network, network.sample(SHOWN, seed=0), noise="const"))
        if due and seen >= due[0]:
            due.pop(0)
            near = distance(_generated(network, len(everything)))
            terminal.note(f"{seen / 1000:.1f} kimg: {distance.text(near)}")

    total = settings.steps * settings.batch
    with tracked(terminal, "gan train", total, "images") as progress:
        network = train_generator(
            training,
            settings,
            state=options["state"],
            device=options["device"],
            progress=progress,
            snapshot=measure,
            stop=stop,
        )
    half = options["dtype"] == "f16"
    network = rounded(network, half=half)
    facts: dict[str, Any] = {
        "frechet": distance(_generated(network, len(everything))),
        "frechet_images": min(len(everything), MEASURED_IMAGES),
        "sigma_w": network.sigma_w,
        "parameters": sum(value.numel() for value in network.parameters()),
    }
    origin = Origin(provenance=_provenance(settings, options, facts))
    written = write_generator(options["out"], network, origin, half=half)
    measured = {
        "frechet_features": distance.features,
        "frechet_reference": distance.reference,
        "quality": distance.text(facts["frechet"]),
        "grid": str(picture),
    }
    return facts | measured | {"fingerprint": written.fingerprint}


def _train_inverter(
    terminal: Terminal, given: dict[str, Any], options: dict[str, Any], stop: Callable[[], bool]
) -> dict[str, Any]:
    from viewstore.build.roles import load_model, open_generator, packaged_weights
    from viewstore.generators.gan.inverter import write_inverter
    from viewstore.generators.gan.inverter_training import InverterSettings, quality, train_inverter

    settings = _settings(InverterSettings, given)
    opened = open_generator(options["gan_file"] or packaged_weights("gan"), terminal)
    encoder = load_model("encoder", options["encoder"] or packaged_weights("encoder"))
    network = opened.network.to(options["device"])
    encoder = encoder.to(options["device"])
    _, training, held_out = _images(terminal, options, size=network.res, channels=network.channels)
    with tracked(terminal, "inverter", settings.steps, "steps") as progress:
        trained = train_inverter(
            training,
            network,
            encoder,
            settings,
            device=options["device"],
            progress=progress,
            stop=stop,
        )
    judged = held_out if len(held_out) else training
    measured = quality(judged, trained, network.cpu(), encoder.cpu())
    facts: dict[str, Any] = {
        **measured,
        "measured_on": "held-out images" if len(held_out) else "training images",
        "parameters": sum(value.numel() for value in trained.parameters()),
    }
    trained.provenance = _provenance(settings, options, facts)
    written = write_inverter(options["out"], trained, half=options["dtype"] == "f16")
    return facts | {"digest": written.digest}


def _images(
    terminal: Terminal, options: dict[str, Any], *, size: int | None, channels: int | None
) -> tuple[NDArray[np.float32], Tensor, Tensor]:
    """Return all images, those to train on, and those held out: [N, C, S, S] in [-1, 1]."""
    import torch

    from viewstore.build.rows import say_left_out
    from viewstore.sources.image_array import read_images, signed

    spec = options["source"]
    levels = read_images(
        spec,
        size=size,
        channels=channels,
        limit=options["limit"],
        opened=lambda source: say_left_out(source, spec, terminal),
    )
    images = signed(levels)
    holdout = options["holdout"]
    out = np.zeros(len(images), bool) if holdout is None else np.arange(len(images)) % holdout == 0
    return images, torch.from_numpy(images[~out]), torch.from_numpy(images[out])


def _spread(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return at most MEASURED_IMAGES of the images, evenly spread over the rows."""
    num = min(len(images), MEASURED_IMAGES)
    return images[np.linspace(0, len(images) - 1, num).astype(np.int64)]


def _generated(network: StyleGAN2, real: int) -> NDArray[np.float32]:
    codes = network.sample(min(real, MEASURED_IMAGES), seed=1)
    return synthesise(network, codes, noise="const")


def _provenance(
    settings: Any,  # noqa: ANN401
    options: dict[str, Any],
    metrics: dict[str, Any],
) -> dict[str, Any]:
    """Return how weights came to be, without times and paths: the same run gives the same."""
    import importlib.metadata
    import platform

    names = ("viewstore", "torch", "numpy")
    return {
        "settings": dataclasses.asdict(settings),
        "source": Path(options["source"]).name,
        "holdout": options["holdout"],
        "limit": options["limit"],
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
        "metrics": metrics,
    }
