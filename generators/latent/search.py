"""W-search settings: views at a chosen feature distance of their anchor, apart from each other.

What they resolve to, and the search itself, are in `engine`.
Source: Han et al., "Constructive Assimilation", section 3.

Online search is not offered: one step per batch against the current encoder does worse than no
generated view at all (appendix F of the paper).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np

from viewstore.errors import ConfigError
from viewstore.generators.contract import (
    PARENT,
    Context,
    Input,
    OfSource,
    check_counts,
    settings_but,
)
from viewstore.generators.latent.calibration import calibrate
from viewstore.generators.latent.checks import (
    SIZES,
    check_encoder,
    check_positive,
    check_size,
    checked_parent,
    default_slots,
    known_latents,
    not_automatic,
)
from viewstore.generators.latent.decode import LatentDecoder, gan_of
from viewstore.generators.latent.engine import OnMiss, ResolvedSearch, Solver, Units
from viewstore.generators.latent.goal import WITHIN_BOUND, Anchor, Delta, Spread, Stop
from viewstore.generators.numerics import Precision, device_class
from viewstore.store.constraints import pair_bound
from viewstore.store.view_set import ViewSet

PresetName = Literal["fast", "paper"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What the automatic settings of W-search are, but for those that are None here too.

    None means: by the encoder (eps1, and by that eps_min), or by the device (precision).
    """

    eps1: float | None = None
    eps_min: float | None = None
    lam: float
    units: Units
    lr: float
    start: float
    exact_first: bool
    psi: float
    stop: Stop
    max_steps: int
    precision: Precision | None = None


PRESETS: dict[PresetName, Preset] = {
    "fast": Preset(
        lam=0.1,
        units="sigma_w",
        lr=0.04,
        start=0.1,
        exact_first=False,
        psi=1.0,
        stop="distances",
        max_steps=400,
    ),
    "paper": Preset(
        eps1=0.3,
        eps_min=0.0,
        lam=0.01,
        units="abs",
        lr=0.01,
        start=0.001,
        exact_first=True,
        psi=0.7,
        stop="loss",
        max_steps=1000,
        precision="fp32",
    ),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "preset": get_args(PresetName),
    "solver": get_args(Solver),
    "anchor": get_args(Anchor),
    "delta": get_args(Delta),
    "spread": get_args(Spread),
    "units": get_args(Units),
    "stop": get_args(Stop),
    "precision": get_args(Precision),
    "on_miss": get_args(OnMiss),
}
PUBLISHED_EPS2 = {0.1: 0.15, 0.2: 0.35}  # by eps1, where it is not eps1 + .2
TOL_SEARCH: dict[Precision, float] = {"bf16": 0.01, "fp32": 0.015}
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class WSearch(OfSource):
    """The user's settings of W-search. What is None takes the preset's value, or is automatic.

    Attributes:
        views: Number of views of each sample, n; at least 2 unless lam is 0.
        height, width: Size of the views in pixels, which must be that of the generator's images.
        preset: Which automatic values to take: "fast", or "paper" for the published ones.
        solver: How views are searched: "adam" follows the gradient; "secant" looks at points by
            forward passes alone, at a third of the cost, and leaves to Adam what it cannot do.
            Automatic is adam, and secant where the generator has no gradient. "paper" is adam.
        probes: Directions of latents that secant looks along first, from each anchor, and as many
            again where these do not do.
        eps1: Distance of each view to the anchor, in the encoder's features; automatic is the
            mean distance of expert views ("fast") or .3 ("paper").
        eps2: Mean distance of each view to the others; automatic is .95 of what geometry allows
            ("fast"), or .2 above eps1, but .15 at eps1 .1 and .35 at .2 ("paper"). A single view
            has none.
        eps_min: Least distance between two views, 0 = off; automatic is half of eps1 ("fast") or
            0 ("paper").
        lam: Weight of the pairwise terms; 0 searches by the distance to the anchor alone.
            Automatic is .1 ("fast") or .01 ("paper").
        delta: How a distance other than eps1 is punished: "l2", "l1", "cosine", or "hinge", which
            punishes only one below it.
        spread: Whether eps2 holds for the mean distance of each view ("per-view"), or of the
            sample ("mean").
        anchor: Whether distances are to the features of the reconstruction ("recon"), or of the
            source image ("image").
        units: What `lr` and `start` are multiples of: the spread of the generator's codes
            ("sigma_w"), or 1 ("abs").
        lr: Learning rate of Adam.
        start: Standard deviation of the noise that each view starts with under Adam.
        exact_first: View 0 starts on the anchor. Never so if lam is 0: it could not leave.
        psi: Truncation, which must be that of the view set `recon`.
        stop: Whether a sample is a candidate by its distances ("distances"), or by its loss
            alone ("loss").
        loss_stop: The loss of a candidate, for stop "loss".
        tol: Greatest |distance - eps1| of stored pixels in a converged sample.
        tol_search: The same under search; automatic is .015, and .01 in bf16.
        max_steps: Updates of Adam after which a sample that did not converge ends.
        precision: Precision of the networks under search, "fp32" or "bf16"; automatic is bf16
            on CUDA and fp32 on CPU, with "paper" fp32 on both.
        keep_latents: Whether to store the latents of views and anchor.
        on_miss: Whether a sample that does not converge is kept ("keep"), with status 2, or stops
            the build ("error").
        strict: Whether an eps2 that no views can reach is an error.
        slots: Samples at a time; automatic is 16 on CPU and 128 on CUDA, fewer where images
            are large. Part of the plan, like `device_class` and `threads`: another number rounds
            differently.
        device_class: Kind of device, "cpu" or "cuda"; recorded in the plan, never to be set.
        threads: Threads of torch in each process.
        code_shape: Shape of the generator's latents; recorded in the plan, never to be set.
        calibration: What eps1 was taken from; recorded in the plan, never to be set.
        latents: Mean and spread of a pair's latents; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 2
    NEEDS: ClassVar[tuple[str, ...]] = ("gan", "encoder")
    LATER: ClassVar[Mapping[str, Any]] = {"solver": "adam", "probes": 24}

    views: int = 8
    height: int | None = None
    width: int | None = None
    preset: PresetName = "fast"
    solver: Solver | None = None
    probes: int = 24
    eps1: float | None = None
    eps2: float | None = None
    eps_min: float | None = None
    lam: float | None = None
    delta: Delta = "l2"
    spread: Spread = "per-view"
    anchor: Anchor = "recon"
    units: Units | None = None
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
    on_miss: OnMiss = "keep"
    strict: bool = False
    slots: int | None = None
    device_class: str | None = None
    threads: int = 1
    code_shape: tuple[int, int] | None = None
    calibration: dict[str, float] | None = None
    latents: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ConfigError(f"w-search.{name} must be one of {allowed}, got {value!r}")
        positive = ("views", "probes", "lr", "psi", "loss_stop", "tol", "tol_search", "max_steps")
        check_positive("w-search", self, (*positive, "slots", "threads"))
        check_counts("w-search", self, ("slots", "threads", "max_steps"))
        if self.views > 1:  # a single view has no pairs, and resolves to an eps2 of 0
            check_positive("w-search", self, ("eps2",))
        if self.eps1 is not None and not 0 < self.eps1 < 2:
            raise ConfigError(f"w-search.eps1 must be in (0, 2), got {self.eps1}")
        for name in ("eps2", "eps_min", "lam", "start"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"w-search.{name} must be 0 or more, got {value}")
        if self.solver == "secant":
            self._check_secant()
        lam = _or(self.lam, PRESETS[self.preset].lam)
        if self.views < 2 and lam:
            raise ConfigError(
                f"w-search.views must be 2 or more while lam is {lam}, got {self.views}",
                why="lam weighs the distances between the views of a sample",
                fix="give --views 2 or more, or --set lam=0",
            )

    def _check_secant(self) -> None:
        if _or(self.stop, PRESETS[self.preset].stop) == "loss":
            raise ConfigError(
                "w-search.solver=secant stops by distances, not by the loss",
                why="preset=paper is the published search, which is solver=adam"
                if self.preset == "paper"
                else None,
                fix="set solver=adam, or preset=fast and stop=distances",
            )
        if self.probes < self.views - 1:
            raise ConfigError(
                f"w-search.probes must be {self.views - 1} or more for {self.views} views, "
                f"got {self.probes}"
            )

    def resolve(self, context: Context) -> ResolvedSearch:
        """Fill in the size, the distances and what depends on the device.

        Warns if eps2 is out of reach, or if reconstructions lie far from their source images.

        Raises:
            ConfigError: The networks or the parent do not fit, or `strict` and eps2 is out of
                reach.
        """
        gan, preset = gan_of(context), PRESETS[self.preset]
        check_size(gan, self.height, self.width)
        check_encoder(gan, context.models["encoder"])
        eps1, calibration = _or(self.eps1, preset.eps1), self.calibration
        if eps1 is None:
            measured = calibrate(context)
            context.note(measured.text())
            calibration, eps1 = measured.to_json(), measured.mean
        fast: Precision = "bf16" if device_class(context.device) == "cuda" else "fp32"
        precision = _or(_or(self.precision, preset.precision), fast)
        psi = _or(self.psi, preset.psi)
        resolved = ResolvedSearch(
            **not_automatic(self),
            height=gan.res,
            width=gan.res,
            code_shape=(gan.num_codes, gan.w_dim),
            eps1=eps1,
            eps2=self._reachable(eps1, context),
            eps_min=_or(_or(self.eps_min, preset.eps_min), eps1 / 2 if self.views > 1 else 0.0),
            lam=_or(self.lam, preset.lam),
            solver=self._solver(gan),
            units=_or(self.units, preset.units),
            lr=_or(self.lr, preset.lr),
            start=_or(self.start, preset.start),
            exact_first=_or(self.exact_first, preset.exact_first),
            psi=psi,
            stop=_or(self.stop, preset.stop),
            tol_search=_or(self.tol_search, TOL_SEARCH[precision]),
            max_steps=_or(self.max_steps, preset.max_steps),
            precision=precision,
            slots=_or(self.slots, default_slots(gan, context.device, views=self.views)),
            device_class=device_class(context.device),
            calibration=calibration,
            latents=known_latents(context),
        )
        if context.parent is not None:
            _warn_of_shift(context, checked_parent(context, psi), eps1)
        return resolved

    def _reachable(self, eps1: float, context: Context) -> float:
        """Return eps2, given or lowered to what geometry allows; `paper` keeps it in the loss."""
        preset = PRESETS[self.preset]
        if self.views < 2:
            return _or(self.eps2, 0.0)
        bound = pair_bound(eps1, self.views)
        within = WITHIN_BOUND * bound
        published = self.preset == "paper"
        eps2 = _or(self.eps2, published_eps2(eps1) if published else within)
        if eps2 <= bound or not _or(self.lam, preset.lam):
            return eps2
        unreachable = (
            f"eps2={eps2:.3f} cannot be reached with eps1={eps1:.3f} and n={self.views} "
            f"(bound {bound:.3f}); "
        )
        if self.strict:
            raise ConfigError(
                f"{unreachable}strict allows {within:.3f}", fix=f"set eps2 to {within:.3f} or less"
            )
        ends = f"{within:.3f}"
        if _or(self.stop, preset.stop) == "loss":
            ends = f"loss {np.format_float_scientific(self.loss_stop, trim='-', exp_digits=1)}"
        kept = "kept in the loss, " if published else ""
        context.warn(f"{unreachable}{kept}stopping at {ends}")
        return eps2 if published else within

    def _solver(self, gan: LatentDecoder) -> Solver:
        """Return the solver: the one given, or that which the generator allows.

        Raises:
            ConfigError: It cannot work with this generator.
        """
        steps = gan.differentiable
        automatic: Solver = "adam" if steps or self.preset == "paper" else "secant"
        solver = _or(self.solver, automatic)
        if solver == "secant":
            self._check_secant()
        elif not steps:
            raise ConfigError(
                "the decoder has no gradient by its latents, which w-search.solver=adam follows",
                code="VS103",
                fix="set solver=secant, with preset=fast; or export a decoder through which torch "
                "can differentiate",
            )
        return solver

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set `recon`, which must have this psi."""
        return {PARENT: Input("recon", {"psi": _or(self.psi, PRESETS[self.preset].psi)})}

    def refreshed(self) -> Mapping[str, Any]:
        """Return the settings but for sizes, and a calibrated eps1 with what follows from it."""
        if self.calibration is None or self.eps1 is None:
            return settings_but(self, *SIZES)
        dropped = ["eps1", "calibration"]
        if self.eps_min == self.eps1 / 2:
            dropped.append("eps_min")
        if self.views > 1 and self.eps2 == WITHIN_BOUND * pair_bound(self.eps1, self.views):
            dropped.append("eps2")
        return settings_but(self, *SIZES, *dropped)


def published_eps2(eps1: float) -> float:
    """Return the mean pair distance that the paper pairs with a distance (appendix G)."""
    return PUBLISHED_EPS2.get(eps1, round(eps1 + 0.2, 6))


def _or(given: T | None, automatic: T) -> T:
    return automatic if given is None else given


def _warn_of_shift(context: Context, parent: ViewSet, eps1: float) -> None:
    if "anchor_shift" not in parent.params:
        return
    shift = float(parent.params["anchor_shift"].mean())
    if shift > eps1 / 2:
        context.warn(
            f"reconstructions are {shift:.3f} from their source images on average, "
            f"more than half of eps1={eps1:.3f}"
        )
