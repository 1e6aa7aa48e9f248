"""W-search settings: views at a chosen feature distance of their anchor, apart from each other.

The search itself is in `w_engine`. Source: Han et al., "Constructive Assimilation", section 3.

Online search is not offered: one step per batch against the current encoder does worse than no
generated view at all (appendix F of the paper).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.generators.contract import Context, Generator
from viewstore.generators.latent.checks import (
    calibrate_for,
    check_encoder,
    check_parent,
    check_positive,
    check_size,
    default_slots,
    device_class,
    gan_of,
    latent_columns,
)
from viewstore.generators.latent.decode import Precision
from viewstore.generators.latent.goal import WITHIN_BOUND, Anchor, Delta, Goal, Spread, Stop
from viewstore.store.constraints import pair_bound

if TYPE_CHECKING:
    from viewstore.generators.latent.engine import Search

Preset = Literal["fast", "paper"]

# What a preset says of the settings that are None. eps1, eps2, eps_min None: from the encoder.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "lam": 0.1,
        "units": "sigma_w",
        "lr": 0.04,
        "start": 0.1,
        "exact_first": False,
        "psi": 1.0,
        "stop": "distances",
        "max_steps": 400,
    },
    "paper": {
        "eps1": 0.3,
        "eps2": 0.5,
        "eps_min": 0.0,
        "lam": 0.01,
        "units": "abs",
        "lr": 0.01,
        "start": 0.001,
        "exact_first": True,
        "psi": 0.7,
        "stop": "loss",
        "max_steps": 1000,
        "precision": "fp32",
    },
}
CHOICES: dict[str, tuple[str, ...]] = {
    "preset": ("fast", "paper"),
    "anchor": ("recon", "image"),
    "delta": ("l2", "l1", "hinge", "cosine"),
    "spread": ("per-view", "mean"),
    "units": ("sigma_w", "abs"),
    "stop": ("distances", "loss"),
    "precision": ("fp32", "bf16"),
    "on_miss": ("keep", "error"),
}


@dataclass(frozen=True, kw_only=True)
class WSearch:
    """Settings of W-search. None takes the preset's value, or is filled in by `resolve`.

    Attributes:
        views: n. At least 2 unless lam is 0.
        preset: "fast", or "paper" for the published settings.
        eps1: Distance of each view to the anchor; `fast`: the mean distance of expert views.
        eps2: Mean distance of each view to the others; `fast`: .95 of what geometry allows.
        eps_min: Least distance between two views, 0 = off; `fast`: half of eps1.
        lam: Weight of the pairwise terms; 0 searches by the distance to the anchor alone.
        delta: How a distance other than eps1 is punished; "hinge" only one below it.
        spread: eps2 holds for each view's mean distance, or for the sample's.
        anchor: Distances are to the features of the reconstruction, or of the source image.
        units: What `lr` and `start` are multiples of: the spread of the generator's codes, or 1.
        lr: Of Adam.
        start: Standard deviation of the noise that each view starts with.
        exact_first: View 0 starts on the anchor. Never so if lam is 0: it could not leave.
        psi: Truncation, which must be that of the view set `recon`.
        stop: A sample is a candidate by its distances, or by its loss alone.
        loss_stop: The loss of a candidate, for stop "loss".
        tol: Greatest |distance - eps1| of stored pixels in a converged sample.
        tol_search: The same under search; by default .015, and .01 in bf16.
        max_steps: Updates after which a sample is kept as it is.
        precision: Of the networks under search; `fast`: bf16 on CUDA, fp32 on CPU.
        keep_latents: Whether to store the latents of views and anchor.
        on_miss: Whether a sample that does not converge is kept, with status 2, or stops the build.
        strict: Whether an eps2 that no views can reach is an error.
        slots: Samples at a time; by default 16 on CPU, 128 on CUDA. Part of the plan, like
            `device_class` and `threads`: another number rounds differently.
        calibration: What eps1 was taken from.
    """

    VERSION: ClassVar[int] = 1
    PARENT: ClassVar[str | None] = "recon"
    NEEDS: ClassVar[tuple[str, ...]] = ("gan", "encoder")

    views: int = 8
    height: int | None = None
    width: int | None = None
    preset: Preset = "fast"
    eps1: float | None = None
    eps2: float | None = None
    eps_min: float | None = None
    lam: float | None = None
    delta: Delta = "l2"
    spread: Spread = "per-view"
    anchor: Anchor = "recon"
    units: Literal["sigma_w", "abs"] | None = None
    lr: float | None = None
    start: float | None = None
    exact_first: bool | None = None
    psi: float | None = None
    stop: Stop | None = None
    loss_stop: float = 1e-3
    tol: float = 0.02
    tol_search: float | None = None
    max_steps: int | None = None
    precision: Precision | None = None
    keep_latents: bool = False
    on_miss: Literal["keep", "error"] = "keep"
    strict: bool = False
    slots: int | None = None
    device_class: str | None = None
    threads: int = 1
    code_shape: tuple[int, int] | None = None
    calibration: dict[str, float] | None = None

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ConfigError(f"w-search.{name} must be one of {allowed}, got {value!r}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_positive(
            "w-search",
            self,
            (
                *("views", "eps2", "lr", "psi", "loss_stop", "tol", "tol_search", "max_steps"),
                *("slots", "threads"),
            ),
        )
        if self.eps1 is not None and not 0 < self.eps1 < 2:
            raise ConfigError(f"w-search.eps1 must be in (0, 2), got {self.eps1}")
        for name in ("eps_min", "lam", "start"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"w-search.{name} must be 0 or more, got {value}")
        if self.views < 2 and self.lam:
            raise ConfigError(
                f"w-search.views must be 2 or more while lam is {self.lam}, got {self.views}"
            )

    def resolve(self, context: Context) -> Self:
        """Fill in the size, the distances and what depends on the device.

        Warns if eps2 is out of reach, or if reconstructions lie far from their source images.

        Raises:
            ConfigError: networks or parent do not fit, or `strict` and eps2 is out of reach.
        """
        gan, encoder = gan_of(context), context.models["encoder"]
        check_size(gan, self.height, self.width)
        check_encoder(gan, encoder)
        precision = self.precision
        if precision is None:
            precision = "bf16" if device_class(context.device) == "cuda" else "fp32"
        eps1, calibration = self.eps1, self.calibration
        if eps1 is None:
            calibration = calibrate_for(context)
            eps1 = calibration["mean"]
        resolved = replace(
            self,
            height=gan.res,
            width=gan.res,
            code_shape=(gan.num_codes, gan.w_dim),
            eps1=eps1,
            eps2=self._reachable(eps1, context),
            eps_min=eps1 / 2 if self.eps_min is None else self.eps_min,
            tol_search=self.tol_search or (0.01 if precision == "bf16" else 0.015),
            precision=precision,
            slots=self.slots or default_slots(context.device),
            device_class=device_class(context.device),
            calibration=calibration,
        )
        if context.parent is not None:
            check_parent(context, resolved.resolved_psi)
            _warn_of_shift(context, eps1)
        return resolved

    def _reachable(self, eps1: float, context: Context) -> float:
        """Return eps2, given or lowered to what geometry allows; `paper` keeps it in the loss."""
        if self.views < 2:
            return 0.0 if self.eps2 is None else self.eps2
        bound = pair_bound(eps1, self.views)
        if self.eps2 is None:
            return WITHIN_BOUND * bound
        if self.eps2 <= bound or not self.lam:
            return self.eps2
        message = (
            f"eps2={self.eps2:.3f} cannot be reached with eps1={eps1:.3f} and n={self.views} "
            f"(bound {bound:.3f}); stopping at {WITHIN_BOUND * bound:.3f}"
        )
        if self.strict:
            raise ConfigError(message, fix=f"set eps2 to {WITHIN_BOUND * bound:.3f} or less")
        context.warn(message)
        return self.eps2 if self.preset == "paper" else WITHIN_BOUND * bound

    @property
    def resolved_psi(self) -> float:
        assert self.psi is not None, "a preset gives psi"
        return self.psi

    def parent_settings(self) -> Mapping[str, Any]:
        return {"psi": self.resolved_psi}

    def goal(self) -> Goal:
        """Return what resolved settings ask of a sample."""
        return Goal(**{field.name: getattr(self, field.name) for field in fields(Goal)})

    def roles(self) -> tuple[str, ...]:
        return ("generated",) * self.views

    def columns(self) -> tuple[Column, ...]:
        per_view = {"status": "u1", "parent": "i4", "seed": "u8", "distance": "f4"}
        per_view |= {"steps": "i4", "converged": "u1", "clipped": "f4", "loss0": "f4", "loss": "f4"}
        return latent_columns(self, per_view, per_sample=("anchor_shift", "x_invert_mse"))

    def search(self) -> Search:
        """Return what these settings come to, once they are resolved."""
        from viewstore.generators.latent.engine import Search

        derived: dict[str, Any] = {
            "goal": self.goal(),
            "psi": self.resolved_psi,
            "unit_is_sigma": self.units == "sigma_w",
        }
        same = {each.name for each in fields(Search)} - set(derived)
        return Search(**derived, **{name: getattr(self, name) for name in same})

    def make(self, context: Context) -> Generator:
        from viewstore.generators.latent.engine import WSearchGenerator

        return WSearchGenerator(self.search(), context)


def _warn_of_shift(context: Context, eps1: float) -> None:
    assert context.parent is not None
    if "anchor_shift" not in context.parent.params:
        return
    shift = float(context.parent.params["anchor_shift"].mean())
    if shift > eps1 / 2:
        context.warn(
            f"reconstructions are {shift:.3f} from their source images on average, "
            f"more than half of eps1={eps1:.3f}"
        )
