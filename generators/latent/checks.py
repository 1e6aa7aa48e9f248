"""What the settings of latent views share: columns, defaults, checks against the networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.generators.checkpoints.exported import Exported, shape_text
from viewstore.generators.contract import Context, Sample, SampleViews
from viewstore.generators.gan.inverter import Inverter
from viewstore.generators.latent.calibration import readable
from viewstore.generators.latent.decode import LatentDecoder, fit_source, gan_of
from viewstore.generators.latent.pair import ExportedDecoder, ExportedEncoder
from viewstore.generators.numerics import device_class
from viewstore.store.view_set import ViewSet

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SLOTS_CPU, SLOTS_CUDA = 16, 128
SIZES = ("height", "width", "code_shape")  # settings that are always those of the generator
# What the images in all slots may take while gradients are computed; measured at 32 to 256 px, a
# value of a feature map takes 60 to 67 bytes.
SLOT_BYTES_CPU, SLOT_BYTES_CUDA = 8 << 30, 48 << 30
BYTES_A_VALUE = 64
IMAGES_SEEN = 16  # source images, spread over the rows, before anything is written


def latent_columns(
    per_view: Mapping[str, str],
    *,
    views: int,
    latents: tuple[int, int] | None,
    per_sample: tuple[str, ...] = (),
) -> tuple[Column, ...]:
    """Return the columns of latent views, by name.

    Args:
        per_view: Dtypes of the columns with a value per view. A "distance", if there are several
            views, has distances of views to each other beside it.
        views: Per sample.
        latents: The shape (L, D) of latents, if those of views and anchor are stored.
        per_sample: Names of the float32 columns with a value per sample.
    """
    if "distance" in per_view and views > 1:
        per_view = {**per_view, "mean_pair_distance": "f4", "min_pair_distance": "f4"}
    columns = [Column(name=name, dtype=dtype, shape=(views,)) for name, dtype in per_view.items()]
    columns += [Column(name=name, dtype="f4", shape=(), per="sample") for name in per_sample]
    if latents is not None:
        columns.append(Column(name="latent", dtype="f2", shape=(views, *latents), pack=False))
        columns.append(Column(name="latent0", dtype="f2", shape=latents, pack=False, per="sample"))
    return tuple(sorted(columns, key=lambda column: column.name))


def not_automatic(settings: DataclassInstance) -> dict[str, Any]:
    """Return the settings, by name, whose defaults are not None: they resolve to themselves."""
    named = [field.name for field in fields(settings) if field.default is not None]
    return {name: getattr(settings, name) for name in named}


def default_slots(gan: LatentDecoder, device: str, *, views: int) -> int:
    """Return how many samples of `views` views are worked on at a time on a torch device.

    Large images get fewer. It depends on the kind of device, never on how large its memory is: the
    number is part of the plan.
    """
    cuda = device_class(device) == "cuda"
    most = SLOTS_CUDA if cuda else SLOTS_CPU
    memory = SLOT_BYTES_CUDA if cuda else SLOT_BYTES_CPU
    return max(1, min(most, memory // (BYTES_A_VALUE * gan.feature_values * views)))


def check_positive(kind: str, settings: object, names: tuple[str, ...]) -> None:
    """Raise ConfigError if a setting that is given is not above 0."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{kind}.{name} must be above 0, got {value}")


def check_size(gan: LatentDecoder, height: int | None, width: int | None) -> None:
    """Raise ConfigError if a view set's size, where it is given, is not the generator's."""
    if {height, width} - {None, gan.res}:
        raise ConfigError(
            f"view size must be the generator's, {gan.res}x{gan.res}, got {height}x{width}",
            code="VS103",
        )


def check_images(context: Context) -> None:
    """Look at a few source images; note if they are smaller than what the generator makes.

    Raises:
        ConfigError: The generator is gray and one of them is not.
    """
    rows = np.linspace(0, context.num_samples - 1, IMAGES_SEEN).astype(np.int64)
    smallest = gan_of(context).res
    for sample in readable(np.unique(rows).tolist(), context.source_image):
        fit_source(sample.image, context)
        smallest = min(smallest, *sample.size)
    if smallest < gan_of(context).res:
        context.note(
            f"there are source images of {smallest} pixels, the generator makes "
            f"{gan_of(context).res}: they are enlarged, and views show no more than they do"
        )


def check_encoder(gan: LatentDecoder, encoder: Any) -> None:  # noqa: ANN401
    """Raise ConfigError if an encoder cannot see what the generator makes.

    Of networks of others, whose code is not ours, two images are seen: their features must have a
    gradient with respect to the images.
    """
    if isinstance(encoder, Exported):
        with torch.enable_grad():
            images = torch.zeros(2, 3, gan.res, gan.res, requires_grad=True)
            followed = encoder.cpu()(images).requires_grad
        if not followed:
            raise ConfigError(
                "the encoder's features have no gradient with respect to the image",
                code="VS103",
                where="--encoder",
                why="latents are searched by the gradient of distances between features",
                fix="compute them by torch alone, without no_grad or detach",
            )
    if gan.channels == 3 and encoder.in_channels == 1:
        raise ConfigError(
            "the generator makes images of 3 channels, the encoder reads 1 channel",
            code="VS103",
            fix="give an encoder that was trained on colour images",
        )


def check_inverter(gan: LatentDecoder, inverter: Inverter | ExportedEncoder | None) -> None:
    """Raise ConfigError if an inverter, or none, does not do for a generator."""
    if inverter is None:
        if isinstance(gan, ExportedDecoder):
            raise ConfigError(
                "a decoder of torch.export needs the encoder that belongs to it",
                code="VS103",
                why="latents are what the encoder makes of images: the decoder has none to start "
                "from",
                fix="give it with --inverter",
            )
        return
    if isinstance(inverter, ExportedEncoder):
        _check_exported(gan, inverter)
        return
    wanted: dict[str, Any] = {"res": gan.res, "channels": gan.channels}
    wanted |= {"num_codes": gan.num_codes, "w_dim": gan.w_dim, "generator": gan.fingerprint}
    found = asdict(inverter.shape)
    for name, value in wanted.items():
        if found[name] != value:
            raise ConfigError(
                f"the inverter was trained for {name} {found[name]}, not {value}",
                code="VS103",
                fix="give the inverter that was trained for this generator",
            )


def _check_exported(gan: LatentDecoder, encoder: ExportedEncoder) -> None:
    """Raise ConfigError if an exported encoder sees other images, or gives other latents."""
    image, codes = (gan.channels, gan.res, gan.res), (gan.num_codes, gan.w_dim)
    advice = "export encoder and decoder of one network, for images of one size"
    if any(each not in (None, size) for each, size in zip(encoder.takes[1:], image, strict=True)):
        raise ConfigError(
            f"the encoder in --inverter takes images {shape_text(encoder.takes[1:])}, the decoder "
            f"in --gan makes {shape_text(image)}",
            code="VS103",
            fix=advice,
        )
    with torch.no_grad():
        found = tuple(encoder.to("cpu")(torch.zeros(1, *image)).shape[1:])
    if found != codes:
        raise ConfigError(
            f"the encoder in --inverter gives latents {shape_text(found)}, the decoder in --gan "
            f"takes {shape_text(codes)}",
            code="VS103",
            fix=advice,
        )


def parent_of(sample: Sample) -> SampleViews:
    """Return the reconstruction of a sample, which its views start from."""
    if sample.parent is None:
        raise ConfigError(f"row {sample.index} has no reconstruction for views to start from")
    return sample.parent


def checked_parent(context: Context, psi: float) -> ViewSet:
    """Return the parent view set, which holds latents of the context's generator at `psi`.

    Raises:
        ConfigError: There is none, or its latents are of another generator or psi.
    """
    gan, parent = gan_of(context), context.parent
    if parent is None:
        raise ConfigError("latent views start from the view set 'recon', which is not there")
    shape = tuple(parent.plan.column("latent").shape)
    if shape != (1, gan.num_codes, gan.w_dim):
        raise ConfigError(
            f"latents of {parent.name} have shape {shape[1:]}, "
            f"the generator's have {(gan.num_codes, gan.w_dim)}",
            code="VS103",
            fix=f"build {parent.name} again with this generator",
        )
    inverted = parent.plan.generator["args"]["psi"]
    if inverted != psi:
        raise ConfigError(
            f"psi must be that of the inversion, {inverted:g}, got {psi:g}",
            code="VS103",
            fix=f"pass psi={inverted:g}, or build {parent.name} with psi={psi:g}",
        )
    return parent


def known_latents(context: Context) -> Mapping[str, Any] | None:
    """Return what the parent's plan says of the latents of the context's pair; None for a GAN.

    Raises:
        ConfigError: The parent holds latents of a GAN.
    """
    parent = context.parent
    if parent is None or not isinstance(gan_of(context), ExportedDecoder):
        return None
    latents: Mapping[str, Any] | None = parent.plan.generator["args"].get("latents")
    if latents is None:
        raise ConfigError(
            f"{parent.name} holds latents of a GAN, not of the decoder in --gan",
            code="VS103",
            fix=f"build {parent.name} again with this decoder",
        )
    return latents
