"""What the commands about generators share: a source as one array, and sets of generated images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from viewstore.generators.gan.frechet import Features, Frechet
    from viewstore.generators.stylegan2.network import StyleGAN2


BATCH = 100
MEASURED_IMAGES = 2000
MEASURED_SEED = 1
PIXELS = "pixels"
ACROSS, MAX_CLASSES = 8, 16  # images beside each other in a grid, and classes below each other

FEATURES = click.option(
    "--features",
    default=PIXELS,
    show_default=True,
    metavar="F",
    help="Measure the Fréchet distance in pixels (40 principal components of them), or in the "
    "features of the encoder in the file F, of viewstore train or a .pt2 of torch.export.",
)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The images of a source.

    Attributes:
        levels: uint8 [N, C, S, S], in row order.
        labels: int64 [N], -1 where an image has none.
        names: Of the labels; empty if they have none.
    """

    levels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def rows(self, rows: NDArray[Any]) -> Pictures:
        """Return some of them, by number or as a mask [N]."""
        return Pictures(levels=self.levels[rows], labels=self.labels[rows], names=self.names)

    def spread(self, count: int) -> Pictures:
        """Return at most `count` of them, evenly spread over the rows."""
        import numpy as np

        num = min(len(self.levels), count)
        return self.rows(np.linspace(0, len(self.levels) - 1, num).astype(np.int64))

    def signed(self) -> NDArray[np.float32]:
        """Return the images as float32 in [-1, 1]."""
        from viewstore.sources.image_array import signed

        return signed(self.levels)


def read_pictures(
    terminal: Terminal, spec: str, *, size: int | None, channels: int | None, limit: int | None
) -> Pictures:
    """Return the images of a source as `read_images` reads them, with their labels."""
    import numpy as np

    from viewstore.build.rows import say_left_out
    from viewstore.sources.image_array import read_images
    from viewstore.sources.table import Source

    opened: list[Source] = []

    def say(source: Source) -> None:
        say_left_out(source, spec, terminal)
        opened.append(source)

    levels = read_images(spec, size=size, channels=channels, limit=limit, opened=say)
    table = opened[0].table
    return Pictures(levels=levels, labels=table.label.astype(np.int64), names=table.label_names)


def synthesise(network: StyleGAN2, codes: Tensor, *, noise: Any) -> NDArray[np.float32]:  # noqa: ANN401
    """Return the images of codes [N, L, D], clamped to [-1, 1]."""
    import numpy as np
    import torch

    size = (network.channels, network.res, network.res)
    images = np.empty((len(codes), *size), np.float32)
    with torch.no_grad():
        for first in range(0, len(codes), BATCH):
            made = network.synthesis(codes[first : first + BATCH], noise=noise)
            images[first : first + BATCH] = made.clamp(-1, 1).cpu().numpy()
    return images


def generated(network: StyleGAN2, real: Pictures, *, seed: int) -> NDArray[np.float32]:
    """Return as many images as `real` are, of a conditional network of the same classes."""
    import torch

    classes = network.classes_in_turn(len(real.levels))
    if classes is not None and has_classes(network, real):
        classes = torch.from_numpy(real.labels)
    return synthesise(network, network.sample(len(real.levels), seed, classes), noise="const")


def has_classes(network: StyleGAN2, real: Pictures) -> bool:
    """Return whether all labels of `real` are classes of a conditional network."""
    return bool(((real.labels >= 0) & (real.labels < network.c_dim)).all())


def shown(network: StyleGAN2) -> NDArray[np.float32]:
    """Return the images of fixed latents, ACROSS in a row; of a conditional network a row a class.

    The latents of a column are the same for all classes; of many classes 16 are shown.
    """
    import torch

    from viewstore.generators.stylegan2.codes import keyed_normal

    if not network.c_dim:
        return synthesise(network, network.sample(ACROSS * ACROSS, seed=0), noise="const")
    few = min(network.c_dim, MAX_CLASSES)
    classes = torch.linspace(0, network.c_dim - 1, few).round().long()
    z = keyed_normal(ACROSS, network.z_dim, 0).to(network.w_avg)
    with torch.no_grad():
        codes = network.mapping(z.repeat(few, 1), classes.repeat_interleave(ACROSS))
    return synthesise(network, codes, noise="const")


def distance_to(real: Pictures, features: str, terminal: Terminal, *, device: str) -> Frechet:
    """Return what measures the distance to `real`, in the features that --features names.

    Raises:
        ConfigError: There is no such file, or there are too few images.
        CheckpointError: It is no encoder.
    """
    from viewstore.generators.gan.frechet import Frechet, principal_components

    images = real.signed()
    found = (
        principal_components(images)
        if features == PIXELS
        else _encoder(Path(features), terminal, device=device)
    )
    measured = Frechet(images, found)
    if len(images) // 2 <= measured.dimensions:
        terminal.note(
            f"half of the {len(images)} real images are no more than the {measured.dimensions} "
            "features: the distance and its reference are much too large, compare neither with "
            "those of other numbers of images"
        )
    return measured


def _encoder(path: Path, terminal: Terminal, *, device: str) -> Features:
    from viewstore.build.roles import load_model
    from viewstore.generators.gan.encoder_features import encoder_features

    if not path.is_file():
        raise ConfigError(
            f"--features must be {PIXELS} or the file of an encoder, and there is no {path}",
            where=str(path),
        )
    encoder = load_model("encoder", path, terminal).to(device)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"features of the encoder {path.name}, sha256 {sha256[:12]}"
    return encoder_features(encoder, name, device=device)


def frechet_facts(measured: Frechet, distance: float, real: Pictures, seed: int) -> dict[str, Any]:
    """Return a distance with all that it depends on."""
    return {
        "frechet": distance,
        "frechet_images": len(real.levels),
        "frechet_seed": seed,
        "frechet_features": measured.features,
        "frechet_dimensions": measured.dimensions,
        "frechet_reference": measured.reference,
        "frechet_reference_images": measured.reference_images,
    }
