"""The search of W-search: a pool that searches, the judging of stored pixels, a pool that refines.

Source: Han et al., "Constructive Assimilation", section 3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import StoppedError
from viewstore.format.columns import Column, Status
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.latent.checks import checked_parent, latent_columns, parent_of
from viewstore.generators.latent.decode import (
    decoder_of,
    fit_source,
    gan_of,
    start_noise,
    unit_images,
)
from viewstore.generators.latent.goal import (
    Anchor,
    Goal,
    is_accepted,
    is_candidate,
    measure,
)
from viewstore.generators.latent.judge import Judge, Judged
from viewstore.generators.latent.lanes import Lanes
from viewstore.generators.latent.probes import probe_directions, simplex_rotation
from viewstore.generators.latent.secant import Asking, Probing, SecantSearch
from viewstore.generators.latent.slots import AdamState, Finished, SlotPool, Start
from viewstore.generators.numerics import (
    Precision,
    autocast,
    from_pixels,
    keep_freed_memory,
    repeatable,
)

Solver = Literal["adam", "secant"]
Units = Literal["sigma_w", "abs"]
OnMiss = Literal["keep", "error"]

SPANS = 3  # of probe directions, each made of the ones before and as many more
REFUSALS = 3  # the one that sends a sample to the refining pool, and two there
REFINE_SHARE, JUDGE_SHARE = 8, 16  # slots of the search pool per slot there, per sample judged


@dataclass(frozen=True, kw_only=True)
class ResolvedSearch(Goal):
    """What `WSearch` resolves to; its attributes are those of `Goal` and of `WSearch`.

    Attributes:
        code_shape: Of the generator's latents, (L, D).
        calibration: What eps1 was taken from; None if it was given.
        latents: What `statistics` says of those of a pair; None for a GAN.
    """

    height: int
    width: int
    preset: str
    solver: Solver
    probes: int
    anchor: Anchor
    units: Units
    lr: float
    start: float
    exact_first: bool
    psi: float
    tol_search: float
    max_steps: int
    precision: Precision
    keep_latents: bool
    on_miss: OnMiss
    strict: bool
    slots: int
    device_class: str
    threads: int
    code_shape: tuple[int, int]
    calibration: dict[str, float] | None
    latents: Mapping[str, Any] | None

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view."""
        return ("generated",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        per_view = {"status": "u1", "parent": "i4", "seed": "u8", "distance": "f4"}
        per_view |= {"steps": "i4", "converged": "u1", "clipped": "f4", "loss0": "f4", "loss": "f4"}
        return latent_columns(
            per_view,
            views=self.views,
            latents=self.code_shape if self.keep_latents else None,
            per_sample=("anchor_shift", "x_invert_mse"),
        )

    def make(self, context: Context) -> WSearchGenerator:
        """Return the generator. Raises ConfigError: the parent is absent, or does not fit."""
        return WSearchGenerator(self, context)


@dataclass(frozen=True, eq=False)
class _Job:
    """A sample under search: what its views are measured against, and how often it was refused.

    `search` is that of the solver secant, which has the sample first; `solver` has it now.
    """

    index: int
    latent0: Tensor  # of the anchor, [L, D]
    features0: Tensor  # of the anchor, [E]
    anchor_shift: float
    invert_mse: float
    seeds: NDArray[np.uint64]
    solver: Solver
    search: SecantSearch | None
    refusals: int = 0

    @property
    def forwards(self) -> NDArray[np.int32]:
        """Forward passes of each view in the secant search, [n] or [1]."""
        return np.zeros(1, np.int32) if self.search is None else self.search.forwards.numpy()


class _Pool(Protocol):
    """What samples are searched in: `SlotPool` or `Lanes`."""

    @property
    def free(self) -> int: ...

    @property
    def busy(self) -> int: ...

    def fill(self, queue: Iterator[Start[_Job]]) -> None: ...

    def step(self) -> list[Finished[_Job]]: ...


class WSearchGenerator:
    """Searches samples in a pool, and what is refused or left in a small one."""

    def __init__(self, settings: ResolvedSearch, context: Context) -> None:
        checked_parent(context, settings.psi)
        keep_freed_memory()
        self._settings = settings
        self._context = context
        self._decode = decoder_of(
            gan_of(context), settings.psi, settings.latents, device=context.device
        )
        self._encoder = context.models["encoder"].to(context.device)
        unit = self._decode.gan.sigma_w if settings.units == "sigma_w" else 1.0
        self._lr = settings.lr * unit
        self._start_std = settings.start * unit
        judged_at_once = max(1, settings.slots // JUDGE_SHARE)
        self._judge = Judge(settings, context, self._decode, slots=judged_at_once)
        self._refiner: Solver = "adam" if self._decode.gan.differentiable else "secant"

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield one Rendered for each sample, as they finish, in no fixed order.

        Samples that were refused wait until they fill the refining pool, or nothing else is left.
        """
        slots = self._settings.slots
        search = self._pool(self._settings.solver, slots, self._settings.precision)
        refine = self._pool(self._refiner, max(1, slots // REFINE_SHARE), "fp32")
        starts = (self.start(sample) for sample in samples)
        refused: deque[Start[_Job]] = deque()
        while True:
            with self._repeatable():
                search.fill(starts)
                done = search.step() if search.busy else []
                ended = self._settle(done, refused)
                last = not search.busy and not done
                while last or len(refused) > refine.free:
                    refine.fill(_popped(refused))
                    if not refine.busy:
                        break
                    ended += self._settle(refine.step(), refused)
            yield from ended
            if last:
                return

    def _repeatable(self) -> Any:  # noqa: ANN401
        return repeatable(self._context.device, self._settings.threads)

    def _pool(self, solver: Solver, slots: int, precision: Precision) -> _Pool:
        settings, device = self._settings, self._context.device

        def evaluate(latents: Tensor) -> Tensor:
            with autocast(device, precision):
                features: Tensor = self._encoder(unit_images(self._decode(latents)))
            return features.float()

        def objective(latents: Tensor, targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            features = evaluate(latents.flatten(0, 1)).reshape(*latents.shape[:2], -1)
            return measure(settings, features, targets[0])

        if solver == "secant":
            return Lanes(
                lanes=slots * settings.views,
                evaluate=lambda latents: evaluate(latents.to(device)).cpu(),
                begin=self._secant,
            )
        return SlotPool(
            slots=slots,
            lr=self._lr,
            max_steps=settings.max_steps,
            objective=objective,
            judge=self._is_candidate,
        )

    def _tol_search(self, job: _Job) -> float:
        tol: float = self._settings.tol_search / 2**job.refusals
        return tol

    def _is_candidate(self, job: _Job, measured: NDArray[np.float32]) -> bool:
        return is_candidate(self._settings, measured, tol_search=self._tol_search(job))

    def _secant(self, start: Start[_Job]) -> Asking[Finished[_Job]]:
        """Search a sample by forward passes; if its probes find no way, it stays at its start."""
        search = start.job.search
        assert search is not None, "samples begin with the solver of the settings"
        reached = yield from search.search(self._tol_search(start.job))
        found = torch.stack([search.first, search.features]).float()
        anchors = start.job.features0.cpu().expand(2, -1)
        first, last = measure(self._settings, found, anchors)[1].numpy()
        latents = search.latents.to(start.latents) if search.aimed else start.latents
        return Finished(
            start=start,
            latents=latents,
            last=last,
            reached=reached,
            state=AdamState.new(latents, first),
        )

    @torch.no_grad()
    def start(self, sample: Sample) -> Start[_Job]:
        """Return a sample on its way into the pool: its noised latents and its anchor."""
        device, row = self._context.device, sample.index
        parent, settings = parent_of(sample), self._settings
        stored = parent.params("latent")[0].astype(np.float32)
        latent0 = torch.from_numpy(stored).to(device)
        source = fit_source(sample.image, self._context)
        h_recon, h_image = self._encoder(
            from_pixels(np.stack([parent.pixels()[0], source]), device)
        )
        noise, seeds = start_noise(self._context.stream, row, settings.views, settings.code_shape)
        if settings.exact_first and settings.has_pairs:
            noise[0] = 0
        anchor = h_recon if settings.anchor == "recon" else h_image
        job = _Job(
            index=row,
            latent0=latent0,
            features0=anchor,
            anchor_shift=float((h_image - h_recon).norm()),
            invert_mse=float(parent.params("x_invert_mse")),
            seeds=seeds,
            solver=settings.solver,
            search=self._search_of(row, latent0, anchor, h_recon),
        )
        latents = latent0 + self._start_std * noise.to(device)
        return Start(job=job, latents=latents, target=(job.features0,))

    def _search_of(
        self, row: int, latent0: Tensor, anchor: Tensor, recon: Tensor
    ) -> SecantSearch | None:
        """Return the secant search of a sample, if that is the solver."""
        settings, stream = self._settings, self._context.stream
        if settings.solver != "secant":
            return None
        probing = Probing(
            latent0=latent0.cpu(),
            anchor=anchor.cpu(),
            recon=recon.cpu(),
            directions=probe_directions(
                stream,
                row,
                (SPANS, settings.probes, *settings.code_shape),
                self._decode.gan.sigma_w,
            ),
            rotation=simplex_rotation(stream, row, settings.views),
        )
        return SecantSearch(settings, probing)

    def _settle(self, done: list[Finished[_Job]], refused: deque[Start[_Job]]) -> list[Rendered]:
        """Judge samples that left a pool; those that may go on join `refused`."""
        ended = []
        for first in range(0, len(done), self._judge.slots):
            some = done[first : first + self._judge.slots]
            judged_ones = self._judge.judge(
                [_finite(each) for each in some], [each.start.job.features0 for each in some]
            )
            for finished, judged in zip(some, judged_ones, strict=True):
                rendered = self._decide(finished, judged)
                if isinstance(rendered, Start):
                    refused.append(rendered)
                else:
                    ended.append(rendered)
        return ended

    def _decide(self, done: Finished[_Job], judged: Judged) -> Rendered | Start[_Job]:
        """Return the end of a sample, or its start in the refining pool."""
        job, settings = done.start.job, self._settings
        if not np.isfinite(done.last).all():
            return self._rendered(done, judged, Status.FAILED)
        if done.reached and is_accepted(self._settings, judged.measured):
            return self._rendered(done, judged, Status.OK)
        later = self._going_on(done)
        if later is not None:
            return later
        if settings.on_miss == "error":
            more = "max_steps" if self._refiner == "adam" else "probes"
            raise StoppedError(
                f"sample {job.index} did not converge in {self._steps(done).max()} steps",
                fix=f"allow more with {more}, or keep such samples with on_miss=keep",
            )
        return self._rendered(done, judged, Status.GOAL_NOT_MET)

    def _going_on(self, done: Finished[_Job]) -> Start[_Job] | None:
        """Return the start in the refining pool of a sample that was refused, or is left over.

        None if it was refused often enough, or if the solver of that pool had it already.
        """
        job, settings = done.start.job, self._settings
        if done.reached:
            spent = job.refusals + 1 == REFUSALS or done.state.steps >= settings.max_steps
            if spent or settings.stop == "loss":
                return None
        elif job.solver == self._refiner:
            return None
        later = replace(job, solver=self._refiner, refusals=job.refusals + done.reached)
        return replace(done.start, job=later, latents=done.latents, state=done.state)

    def _steps(self, done: Finished[_Job]) -> NDArray[np.int32]:
        """Return the forward passes of each view, [n]; of Adam all but the first."""
        steps = done.start.job.forwards + done.state.steps
        return np.broadcast_to(steps, self._settings.views).astype(np.int32)

    def _rendered(self, done: Finished[_Job], judged: Judged, status: int) -> Rendered:
        job, views = done.start.job, self._settings.views
        anchor, mean_pair, least_pair, loss = judged.measured.T
        params: dict[str, NDArray[Any]] = {
            "status": np.full(views, status, np.uint8),
            "parent": np.zeros(views, np.int32),
            "seed": job.seeds,
            "distance": anchor,
            "steps": self._steps(done),
            "converged": np.full(views, status == Status.OK, np.uint8),
            "clipped": judged.clipped,
            "loss0": done.state.first[:, 3],
            "loss": loss,
            "anchor_shift": np.array(job.anchor_shift, np.float32),
            "x_invert_mse": np.array(job.invert_mse, np.float32),
        }
        if views > 1:
            params |= {"mean_pair_distance": mean_pair, "min_pair_distance": least_pair}
        if self._settings.keep_latents:
            params["latent"] = _finite(done).cpu().numpy().astype(np.float16)
            params["latent0"] = job.latent0.cpu().numpy().astype(np.float16)
        return Rendered(index=job.index, pixels=judged.pixels, params=params)


def _finite(done: Finished[_Job]) -> Tensor:
    """Return the latents of a sample, or those of its reconstruction if it is not finite."""
    if np.isfinite(done.last).all():
        return done.latents
    return done.start.job.latent0.expand_as(done.latents)


def _popped(queue: deque[Start[_Job]]) -> Iterator[Start[_Job]]:
    while queue:
        yield queue.popleft()
