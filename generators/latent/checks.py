"""What the settings of latent views share: checks against the networks, and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, cast

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.generators.gan.inverter import Inverter, InverterShape
from viewstore.generators.latent.calibration import calibrate
from viewstore.generators.stylegan2.network import StyleGAN2

if TYPE_CHECKING:
    from viewstore.generators.contract import Context


SLOTS_CPU, SLOTS_CUDA = 16, 128


class KeepsLatents(Protocol):
    """As much of the settings of latent views as decides their columns."""

    @property
    def views(self) -> int: ...
    @property
    def keep_latents(self) -> bool: ...
    @property
    def code_shape(self) -> tuple[int, int] | None: ...


def latent_columns(
    settings: KeepsLatents, per_view: Mapping[str, str], *, per_sample: tuple[str, ...] = ()
) -> tuple[Column, ...]:
    """Return the columns of latent views: dtypes `per_view`, and f4 `per_sample`, by name.

    Views with a distance, if there are several, have distances to each other too.
    """
    views = settings.views
    if "distance" in per_view and views > 1:
        per_view = {**per_view, "mean_pair_distance": "f4", "min_pair_distance": "f4"}
    columns = [Column(name=name, dtype=dtype, shape=(views,)) for name, dtype in per_view.items()]
    columns += [Column(name=name, dtype="f4", shape=()) for name in per_sample]
    if settings.keep_latents:
        assert settings.code_shape is not None, "resolved settings know the shape of the latents"
        shape = tuple(settings.code_shape)
        columns.append(Column(name="latent", dtype="f2", shape=(views, *shape), pack=False))
        columns.append(Column(name="latent0", dtype="f2", shape=shape, pack=False))
    return tuple(sorted(columns, key=lambda column: column.name))


def gan_of(context: Context) -> StyleGAN2:
    """Return the context's generator. Raises ConfigError if there is none."""
    if "gan" not in context.models:
        raise ConfigError("latent views need a generator", fix="give one with --gan")
    return cast(StyleGAN2, context.models["gan"])


def device_class(device: str) -> str:
    """Return "cpu" or "cuda": what rounds in the same way."""
    return device.partition(":")[0]


def default_slots(device: str) -> int:
    """Return the number of samples that are worked on at a time."""
    return SLOTS_CUDA if device_class(device) == "cuda" else SLOTS_CPU


def check_positive(kind: str, settings: object, names: tuple[str, ...]) -> None:
    """Raise ConfigError if a setting that is given is not above 0."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{kind}.{name} must be above 0, got {value}")


def check_size(gan: StyleGAN2, height: int | None, width: int | None) -> None:
    """Raise ConfigError if a view set's size, where it is given, is not the generator's."""
    if {height, width} - {None, gan.res}:
        raise ConfigError(
            f"view size must be the generator's, {gan.res}x{gan.res}, got {height}x{width}",
            code="VS103",
        )


def check_encoder(gan: StyleGAN2, encoder: Any) -> None:  # noqa: ANN401
    """Raise ConfigError if an encoder cannot see what the generator makes."""
    if gan.channels == 3 and encoder.in_channels == 1:
        raise ConfigError(
            "the generator makes images of 3 channels, the encoder reads 1 channel",
            code="VS103",
            fix="give an encoder that was trained on colour images",
        )


def check_inverter(gan: StyleGAN2, inverter: Inverter) -> None:
    """Raise ConfigError if an inverter was trained for another generator."""
    wanted, found = asdict(InverterShape.of(gan)), asdict(inverter.shape)
    for name, value in wanted.items():
        if found[name] != value:
            raise ConfigError(
                f"the inverter was trained for {name} {found[name]}, not {value}",
                code="VS103",
                fix="give the inverter that was trained for this generator",
            )


def check_parent(context: Context, psi: float) -> None:
    """Raise ConfigError if the parent view set holds no latents of this generator and psi."""
    gan = gan_of(context)
    if context.parent is None:
        raise ConfigError("latent views start from the view set 'recon', which is not there")
    shape = tuple(context.parent.plan.column("latent").shape)
    if shape != (1, gan.num_codes, gan.w_dim):
        raise ConfigError(
            f"latents of {context.parent.name} have shape {shape[1:]}, "
            f"the generator's have {(gan.num_codes, gan.w_dim)}",
            code="VS103",
            fix=f"build {context.parent.name} again with this generator",
        )
    inverted = context.parent.plan.generator["args"]["psi"]
    if inverted != psi:
        raise ConfigError(
            f"psi must be that of the inversion, {inverted:g}, got {psi:g}",
            code="VS103",
            fix=f"pass psi={inverted:g}, or build {context.parent.name} with psi={psi:g}",
        )


def calibrate_for(context: Context) -> dict[str, float]:
    """Measure the expert views that the context's encoder was trained with."""
    encoder = context.models["encoder"].to(context.device)
    return calibrate(
        encoder=encoder,
        policy=encoder.policy,
        source_image=context.source_image,
        num_samples=context.num_samples,
        seed=context.seed,
        size=gan_of(context).res,
        device=context.device,
    ).to_json()
