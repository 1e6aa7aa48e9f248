"""Where inversions start: known latents, an inverter's answer, the mean of a class, the average."""

from __future__ import annotations

import functools
from typing import Protocol

from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.generators.contract import Context, Sample
from viewstore.generators.latent.checks import check_inverter
from viewstore.generators.latent.decode import Decoder, gan_of
from viewstore.generators.latent.generated_source import Latents

# Settings that name a start other than the average code, in the order in which they are taken.
STARTS = ("known_latents", "inverter", "class_start")
STEPS = {"known_latents": 0, "inverter": 50}
STEPS_FROM_AVERAGE = 300


class StartSettings(Protocol):
    """What is read here of the settings of an inversion; None is automatic."""

    @property
    def known_latents(self) -> bool | None: ...
    @property
    def inverter(self) -> bool | None: ...
    @property
    def class_start(self) -> bool | None: ...


def check_starts(settings: StartSettings) -> None:
    """Raise ConfigError if more than one start is asked for."""
    chosen = [name for name in STARTS if getattr(settings, name)]
    if len(chosen) > 1:
        raise ConfigError(f"recon starts from one place, got {' and '.join(chosen)}")


def choose_start(settings: StartSettings, context: Context) -> tuple[str, Latents | None]:
    """Return where samples start, one of STARTS or "average", and the latents if they are known.

    Raises:
        ConfigError: What was asked for is not there, or does not fit the generator.
    """
    gan = gan_of(context)
    free = not any(getattr(settings, name) for name in STARTS)

    def wants(name: str) -> bool:
        given: bool | None = getattr(settings, name)
        return free if given is None else given

    if wants("known_latents"):
        known = latents_of_source(context, wanted=not free)
        if known is not None:
            return "known_latents", known
    if wants("inverter") and ("inverter" in context.models or not free):
        if "inverter" not in context.models:
            raise ConfigError("recon.inverter needs an inverter", fix="give one with --inverter")
        check_inverter(gan, context.models["inverter"])
        return "inverter", None
    check_inverter(gan, None)
    if wants("class_start") and (gan.c_dim or not free):
        if not gan.c_dim:
            raise ConfigError("recon.class_start needs a generator with classes")
        return "class_start", None
    return "average", None


def latents_of_source(context: Context, *, wanted: bool) -> Latents | None:
    """Return the latents that a generated source has of its images; None if it has none to take.

    Where another generator made the images, that is said.

    Raises:
        ConfigError: They do not fit the images or the generator; or they are `wanted`, and there
            are none, or they are another generator's.
    """
    gan = gan_of(context)
    known: Latents | None = context.known_latents()
    if known is None:
        if wanted:
            raise ConfigError(
                "recon.known_latents: the source has no latents of its images",
                fix="leave it out, or give a source that viewstore gan sample made",
            )
        return None
    if known.generator != gan.fingerprint:
        others = (
            f"the images of the source were made by the generator {known.generator[:12]}, "
            f"this is {gan.fingerprint[:12]}"
        )
        if wanted:
            raise ConfigError(others, code="VS103", fix="give the one that made them with --gan")
        context.warn(f"{others}: its latents are not taken, the images are inverted")
        return None
    if known.codes.shape[1] not in (1, gan.num_codes) or known.codes.shape[2] != gan.w_dim:
        raise ConfigError(
            f"latents of the source have shape {tuple(known.codes.shape[1:])}, "
            f"the generator's have {(gan.num_codes, gan.w_dim)}",
            code="VS103",
        )
    return known


class Starts:
    """Says where each sample starts."""

    def __init__(self, name: str, context: Context, decode: Decoder, digest: str | None) -> None:
        """Start from `name`, one of STARTS or "average".

        `digest`: Of the file of latents, if they are known.

        Raises:
            ConfigError: The source has other latents now.
        """
        self._decode = decode
        self._classes = decode.gan.c_dim if name == "class_start" else 0
        self._class_mean = functools.cache(decode.gan.class_mean)
        inverter = context.models["inverter"] if name == "inverter" else None
        self._inverter = None if inverter is None else inverter.to(context.device)
        self._known: Latents | None = context.known_latents() if name == "known_latents" else None
        if name == "known_latents" and (self._known is None or self._known.digest != digest):
            raise ConfigError(
                "the latents of the source are not those that recon was planned with",
                code="VS103",
                fix="give the source back as it was, or build into another --view-set",
            )

    def __call__(self, sample: Sample, target: Tensor) -> Tensor:
        """Return latents [1, L, D] for a sample of image `target` [1, C, H, W] in [-1, 1]."""
        gan = self._decode.gan
        if self._inverter is not None:
            return self._decode.untruncated(self._inverter(target))
        code = gan.w_avg[None, None]
        if self._known is not None:
            code = self._decode.untruncated(self._known.codes[sample.index][None].to(code))
        elif 0 <= sample.label < self._classes:
            code = self._class_mean(sample.label)[None, None]
        return code.expand(1, gan.num_codes, gan.w_dim)
