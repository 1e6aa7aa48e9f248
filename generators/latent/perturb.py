"""W-perturb: views decoded from randomly perturbed latents, at no chosen distance.

Source: Han et al., "Constructive Assimilation", which writes N(0, sigma I) for a standard
deviation sigma; sigma .2 in units "abs" with psi .7 is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import Column, Status
from viewstore.generators.contract import (
    PARENT,
    Context,
    Input,
    OfSource,
    Rendered,
    Sample,
    check_counts,
    settings_but,
)
from viewstore.generators.latent.checks import (
    SIZES,
    check_encoder,
    check_positive,
    check_size,
    checked_parent,
    known_latents,
    latent_columns,
    not_automatic,
    parent_of,
)
from viewstore.generators.latent.decode import (
    Features,
    clamped_share,
    decoded_features,
    decoder_of,
    gan_of,
    start_noise,
    to_pixels,
)
from viewstore.generators.latent.goal import distances
from viewstore.generators.numerics import device_class, from_pixels, repeatable
from viewstore.images.colours import Pixels


@dataclass(frozen=True, kw_only=True)
class WPerturb(OfSource):
    """The user's settings of W-perturb; what is None is automatic.

    Attributes:
        views: Number of views of each sample.
        height, width: Size of the views in pixels, which must be that of the generator's images.
        sigma: Standard deviation of the noise, independent in each code and dimension.
        sigma_units: Multiples of the standard deviation of each dimension of the generator's
            codes, of all classes where it has classes ("wstd"), or of 1 ("abs").
        psi: Truncation, which must be that of the view set `recon`.
        measured: Whether an encoder measures distances; automatic is yes if one is given.
        keep_latents: Whether to store the latents of views and anchor.
        device_class: Kind of device, "cpu" or "cuda"; recorded in the plan, never to be set.
        threads: Threads of torch in each process. Part of the plan: another number rounds
            differently.
        code_shape: Shape of the generator's latents; recorded in the plan, never to be set.
        latents: Mean and spread of a pair's latents; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 2
    NEEDS: ClassVar[tuple[str, ...]] = ("gan", "encoder")

    views: int = 8
    height: int | None = None
    width: int | None = None
    sigma: float = 0.2
    sigma_units: Literal["wstd", "abs"] = "wstd"
    psi: float = 1.0
    measured: bool | None = None
    keep_latents: bool = False
    device_class: str | None = None
    threads: int = 1
    code_shape: tuple[int, int] | None = None
    latents: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_positive("w-perturb", self, ("views", "sigma", "psi", "threads"))
        check_counts("w-perturb", self, ("threads",))
        if self.sigma_units not in ("wstd", "abs"):
            raise ConfigError(
                f"w-perturb.sigma_units must be one of ('wstd', 'abs'), got {self.sigma_units!r}"
            )

    def resolve(self, context: Context) -> ResolvedPerturb:
        """Fill in the size and what depends on the networks given.

        Raises:
            ConfigError: The networks or the parent do not fit.
        """
        gan, encoder = gan_of(context), context.models.get("encoder")
        check_size(gan, self.height, self.width)
        measured = encoder is not None if self.measured is None else self.measured
        if measured:
            if encoder is None:
                raise ConfigError("w-perturb.measured needs an encoder; give one with --encoder")
            check_encoder(gan, encoder)
        if context.parent is not None:
            checked_parent(context, self.psi)
        return ResolvedPerturb(
            **not_automatic(self),
            height=gan.res,
            width=gan.res,
            measured=measured,
            device_class=device_class(context.device),
            code_shape=(gan.num_codes, gan.w_dim),
            latents=known_latents(context),
        )

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set `recon`, which must have this psi."""
        return {PARENT: Input("recon", {"psi": self.psi})}

    def refreshed(self) -> Mapping[str, Any]:
        """Return the settings but for the sizes, which are those of the generator."""
        return settings_but(self, *SIZES)

    def reads_source(self) -> bool:
        """Return that no source image is opened: views start from stored latents."""
        return False


@dataclass(frozen=True, kw_only=True)
class ResolvedPerturb:
    """What `WPerturb` resolves to; its attributes are those of `WPerturb`.

    Attributes:
        code_shape: Of the generator's latents, (L, D).
        latents: What `statistics` says of those of a pair; None for a GAN.
    """

    views: int
    height: int
    width: int
    sigma: float
    sigma_units: Literal["wstd", "abs"]
    psi: float
    measured: bool
    keep_latents: bool
    device_class: str
    threads: int
    code_shape: tuple[int, int]
    latents: Mapping[str, Any] | None

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view."""
        return ("generated",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        per_view = {"status": "u1", "parent": "i4", "seed": "u8", "clipped": "f4"}
        if self.measured:
            per_view["distance"] = "f4"
        latents = self.code_shape if self.keep_latents else None
        return latent_columns(per_view, views=self.views, latents=latents)

    def make(self, context: Context) -> WPerturbGenerator:
        """Return the generator. Raises ConfigError: the parent is absent, or does not fit."""
        return WPerturbGenerator(self, context)


class WPerturbGenerator:
    """Decodes perturbed latents, one sample at a time: a constant shape."""

    def __init__(self, settings: ResolvedPerturb, context: Context) -> None:
        checked_parent(context, settings.psi)
        self._settings = settings
        self._context = context
        self._decode = decoder_of(
            gan_of(context), settings.psi, settings.latents, device=context.device
        )
        gan = self._decode.gan
        self._encoder = context.models["encoder"].to(context.device) if settings.measured else None
        self._sigma = torch.full((gan.w_dim,), settings.sigma, device=context.device)
        if settings.sigma_units == "wstd":
            self._sigma *= gan.w_std

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield one Rendered for each sample, in their order."""
        for sample in samples:
            with repeatable(self._context.device, self._settings.threads):
                rendered = self._one(sample)
            yield rendered

    @torch.no_grad()
    def _one(self, sample: Sample) -> Rendered:
        settings, device, row = self._settings, self._context.device, sample.index
        parent = parent_of(sample)
        latent0 = parent.params("latent")[0]
        noise, seeds = start_noise(self._context.stream, row, settings.views, settings.code_shape)
        start = torch.from_numpy(latent0.astype(np.float32)).to(device)
        latents = start + self._sigma * noise.to(device)
        decoded = self._decode(latents)
        pixels = to_pixels(decoded)
        params: dict[str, NDArray[Any]] = {
            "status": np.full(settings.views, Status.OK, np.uint8),
            "parent": np.zeros(settings.views, np.int32),
            "seed": seeds,
            "clipped": clamped_share(decoded),
        }
        if self._encoder is not None:
            params |= self._distances(self._encoder, pixels, parent.pixels()[0])
        if settings.keep_latents:
            params |= {"latent": latents.cpu().numpy().astype(np.float16), "latent0": latent0}
        return Rendered(index=row, pixels=pixels, params=params)

    def _distances(
        self, encoder: Features, pixels: Pixels, anchor: Pixels
    ) -> dict[str, NDArray[Any]]:
        device = self._context.device
        features = decoded_features(
            pixels[None], codec=self._context.codec, encoder=encoder, device=device
        )[0]
        measured = distances(features, encoder(from_pixels(anchor[None], device))[0])
        to_anchor, mean_pair, least_pair = (values.cpu().numpy() for values in measured)
        if len(features) == 1:
            return {"distance": to_anchor}
        return {
            "distance": to_anchor,
            "mean_pair_distance": mean_pair,
            "min_pair_distance": least_pair,
        }
