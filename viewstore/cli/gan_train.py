"""The command `gan train`: a generator from images, or the inverter of a generator."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.gan import check_out, summary_text, write_pictures
from viewstore.cli.gan_images import (
    ACROSS,
    FEATURES,
    MEASURED_IMAGES,
    MEASURED_SEED,
    PIXELS,
    Pictures,
    distance_to,
    frechet_facts,
    generated,
    read_pictures,
    shown,
)
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
from viewstore.errors import ConfigError, nearest
from viewstore.progress import tracked

if TYPE_CHECKING:
    from viewstore.generators.gan.frechet import Frechet
    from viewstore.generators.gan.settings import GanSettings
    from viewstore.generators.stylegan2.network import StyleGAN2


STATE = ".state.safetensors"  # ending of the file beside --out that a training is kept in
MEASURES = 5  # how often in a training the distance to the real images is taken


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
    help="Leave out rows 0, K, 2K, ...; an inverter is measured on them.",
)
@click.option(
    "--preset",
    type=click.Choice(["digits", "cifar"]),
    help="Begin with the settings of the shipped digits, or of CIFAR-10 in the paper of ADA, "
    "which wants a GPU (generator).  [default: digits]",
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
    help="Keep the state of the training in this file, and go on from it (generator).  [default: "
    "beside --out, until that is written]",
)
@FEATURES
@click.option(
    "--grids",
    type=click.Choice(["newest", "all"]),
    default="newest",
    show_default=True,
    help="Keep the picture of the newest snapshot, or of each (generator).",
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
    inverter lr and feature_weight.

    --set conditional=true trains a generator of the source's classes. --set augment=ada is for few
    images: the discriminator sees them augmented, with a probability that follows ada_target at
    the speed of ada_kimg; --set augment=0.2 keeps it. augment_ops says how: b (turns, shifts), g
    (zoom, rotation, stretch), c (colours), or names such as flip,shift,c; nothing is mirrored
    unless flip is named.

    A generator training that was interrupted, by whatever it was, goes on by the same command, bit
    for bit where its state was last written: at a stop signal, and every snapshot_kimg.
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
    others = ["gan_file", "encoder"] if part == "generator" else ["state", "preset"]
    if part == "inverter" and (options["features"], options["grids"]) != (PIXELS, "newest"):
        raise ConfigError("--features and --grids do not belong to --part inverter")
    for name in others:
        if options[name] is not None:
            flag = name.removesuffix("_file")
            raise ConfigError(f"--{flag} does not belong to --part {part}")
    return given


def _check_names(kind: type, given: dict[str, Any]) -> None:
    """Raise ConfigError if a setting is given that this training does not have."""
    known = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            raise ConfigError(
                f"this training has no setting {name!r}; {nearest(name, known)}", code="VS102"
            )


def _train_generator(
    terminal: Terminal, given: dict[str, Any], options: dict[str, Any], stop: Callable[[], bool]
) -> dict[str, Any]:
    import torch

    from viewstore.files.disk import unlink
    from viewstore.generators.gan.file import Origin, rounded, write_generator
    from viewstore.generators.gan.settings import GanSettings, settings_of
    from viewstore.generators.gan.training import train_generator

    _check_names(GanSettings, given)
    settings = settings_of(options["preset"] or "digits", given)
    out, device = options["out"], options["device"]
    pictures, training, _ = _pictures(terminal, options, size=options["size"], channels=None)
    real = pictures.spread(MEASURED_IMAGES)
    distance = distance_to(real, options["features"], terminal, device=device)
    snapshot = _Snapshots(terminal, settings, options, real, distance)
    state = options["state"] or out.with_suffix(STATE)
    for taken in (out, out.with_suffix(".png")):
        if state.absolute() == taken.absolute():
            raise ConfigError(
                f"--state must be a file of its own, and {taken.name} is that of the "
                f"{'weights' if taken == out else 'pictures'}",
                where=f"--state {state}",
                fix="give another name, or leave --state out",
            )
    if state.exists():
        terminal.note(f"going on from the state in {state}")
    total = settings.steps * settings.batch
    with tracked(terminal, "gan train", total, "images") as progress:
        network = train_generator(
            torch.from_numpy(training.levels),
            settings,
            labels=torch.from_numpy(training.labels),
            state=state,
            device=device,
            progress=progress,
            snapshot=snapshot,
            stop=stop,
        )
    half = options["dtype"] == "f16"
    network = rounded(network, half=half)
    near = distance(generated(network, real, seed=MEASURED_SEED))
    facts = frechet_facts(distance, near, real, MEASURED_SEED)
    facts["sigma_w"] = network.sigma_w
    facts["parameters"] = sum(value.numel() for value in network.parameters())
    origin = Origin(provenance=_provenance(settings, options, facts))
    if settings.conditional:
        origin.provenance["classes"] = list(pictures.names) or network.c_dim
    written = write_generator(out, network, origin, half=half)
    if options["state"] is None:  # a file that the user named may be gone on with, for longer
        unlink(state)
    said = {"quality": distance.text(near), "grid": str(snapshot.picture)}
    return facts | said | {"classes": network.c_dim, "fingerprint": written.fingerprint}


class _Snapshots:
    """What is shown of a training as it goes: a picture at each snapshot, at some the distance.

    Which of them is a function of the images seen, so that a resumed training shows the same.
    """

    def __init__(
        self,
        terminal: Terminal,
        settings: GanSettings,
        options: dict[str, Any],
        real: Pictures,
        distance: Frechet,
    ) -> None:
        """Raise ConfigError if the picture would take the place of the weights."""
        self._terminal, self._settings = terminal, settings
        self._real, self._distance = real, distance
        self._device, self._all = options["device"], options["grids"] == "all"
        self.picture: Path = options["out"].with_suffix(".png")
        if self.picture == options["out"]:
            raise ConfigError(
                f"--out must name the weights, and {self.picture.name} is where their pictures go",
                where=str(self.picture),
                fix="end it in .safetensors",
            )
        terminal.note(f"at each snapshot {self.picture} shows what the generator makes")

    def __call__(self, seen: int, network: StyleGAN2) -> None:
        network = network.to(self._device)
        images = shown(network)
        write_pictures(self.picture, images, across=ACROSS)
        if self._all:
            kept = self.picture.with_name(f"{self.picture.stem}-{seen:09d}.png")
            write_pictures(kept, images, across=ACROSS)
        if self._due(seen):
            near = self._distance(generated(network, self._real, seed=MEASURED_SEED))
            self._terminal.note(f"{seen / 1000:.1f} kimg: {self._distance.text(near)}")

    def _due(self, seen: int) -> bool:
        """Return whether a fifth of the training ended since the snapshot before."""
        batch, steps = self._settings.batch, self._settings.steps
        every = self._settings.snapshot_steps
        step = seen // batch
        before = (step - 1) // every * every
        return step * MEASURES // steps > before * MEASURES // steps


def _train_inverter(
    terminal: Terminal, given: dict[str, Any], options: dict[str, Any], stop: Callable[[], bool]
) -> dict[str, Any]:
    import torch

    from viewstore.build.roles import load_model, open_generator, packaged_weights
    from viewstore.generators.gan.inverter import write_inverter
    from viewstore.generators.gan.inverter_training import InverterSettings, quality, train_inverter

    _check_names(InverterSettings, given)
    settings = InverterSettings(**given)
    opened = open_generator(options["gan_file"] or packaged_weights("gan"), terminal)
    encoder = load_model("encoder", options["encoder"] or packaged_weights("encoder"))
    network = opened.network.to(options["device"])
    encoder = encoder.to(options["device"])
    _, *parts = _pictures(terminal, options, size=network.res, channels=network.channels)
    training, held_out = (torch.from_numpy(part.signed()) for part in parts)
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


def _pictures(
    terminal: Terminal, options: dict[str, Any], *, size: int | None, channels: int | None
) -> tuple[Pictures, Pictures, Pictures]:
    """Return all images, those to train on, and those held out."""
    import numpy as np

    found = read_pictures(
        terminal, options["source"], size=size, channels=channels, limit=options["limit"]
    )
    rows, holdout = np.arange(len(found.levels)), options["holdout"]
    out = rows < 0 if holdout is None else rows % holdout == 0
    return found, found.rows(~out), found.rows(out)


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
