"""What looks at a run and changes nothing of it: losses, logs, monitors, pictures, progress."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from viewstore.errors import CheckpointError, ConfigError, DivergedError, StoppedError
from viewstore.progress import Progress
from viewstore.train.distributed import all_reduce_mean, any_rank, rank, world_size
from viewstore.train.eval.transform import OURS
from viewstore.train.loop.checkpoint import DAMAGED_FIX, TrainState
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.lines import Curve
from viewstore.train.loop.logs import open_logs
from viewstore.train.loop.meter import Meter
from viewstore.train.loop.monitors import CollapseDetector, Monitor, choose_rows, clean_images
from viewstore.train.loop.pictures import BATCH, batch_picture, save_picture
from viewstore.train.loop.run import Feed, Run, RunOptions, StatefulBatch
from viewstore.train.loop.selection_log import SelectionLog
from viewstore.train.methods.embeddings import Embedded
from viewstore.train.overlap import choice_facts
from viewstore.train.plan import Plan
from viewstore.train.views import Views

CHECK_STEPS = 20  # reading a loss waits for a GPU: it is read this many steps late at most


class Watch:
    """Reads the steps of a run into its logs, and ends it where it is to be ended.

    The first of several processes alone writes; all of them end together.

    Attributes:
        collapsed: Whether the last reading of the monitor said so.
    """

    def __init__(
        self,
        config: PretrainConfig,
        feed: Feed,
        options: RunOptions,
        run: Run,
        progress: Progress,
    ) -> None:
        """Open the logs in the folder of a run, cut off behind its checkpoint.

        Raises:
            ConfigError: The monitor has no labelled images.
            FormatError: A file in the folder is none that a log writes.
        """
        self._options, self._run, self._progress = options, run, progress
        self._roles = feed.roles
        self._first = rank() == 0
        step = run.state.step
        every = 1 if run.device.type == "cpu" else CHECK_STEPS
        self.losses = Losses(run.state, every=every)
        self._meter = Meter(run.device)
        self._saved = time.monotonic()
        self._curve = self._monitor = self._selections = None
        self.collapsed = _detector(run).collapsed
        run.halted = self.collapsed and options.stop_on_collapse
        if self._first and options.monitor is not None:
            self._monitor = _monitor(config, feed, options, run)
        run.begin()  # behind all that is refused: a run that does not begin leaves no folder
        self._logs = open_logs(options.log if self._first else (), options.out, step=step)
        if self._monitor is not None:
            self._curve = Curve(options.out, step=step)
        logs = options.selection and config.strategy.chooser.logs
        if self._first and logs and feed.source is not None:
            digest = feed.source().images_digest
            self._selections = SelectionLog(options.out, source=digest, step=step)

    def waiting(self, batches: Iterable[StatefulBatch]) -> Iterator[StatefulBatch]:
        """Yield batches; the time until each is there is logged."""
        return self._meter.waiting(batches)

    def step(self, batch: StatefulBatch, done: Sequence[Embedded], rate: float) -> None:
        """Read the step that was done, count it, and write what is due.

        Args:
            batch: Its views, as the loader delivered them.
            done: What the method made of each micro-batch.
            rate: The learning rate.

        Raises:
            DivergedError: The loss is not finite.
            StoppedError: The run is to stop; the checkpoint is written.
        """
        run, at = self._run, self._run.at
        loss = all_reduce_mean(torch.stack([each.loss.detach() for each in done]).mean())
        run.state.step += 1
        run.state.loader = batch.state
        self.losses.add(loss, epoch_ended=run.epoch_ended)
        for embedded in done:
            self._log_choice(embedded.plan)
        shown = sum(len(pixels) for pixels in done[0].plan.views.pixels) * len(done)
        self._meter.add(
            views=shown,
            forwards=run.method.take_forwards(),
            backwards=sum(len(each.plan.students) for each in done),
            facts={"loss": loss, **_facts(done), **(run.adversary.facts if run.adversary else {})},
        )
        known = {} if self.losses.last is None else {"loss": self.losses.last}
        self._progress.advance(
            len(batch.index) * len(self._roles), epoch=at.epoch + 1, **known, lr=rate
        )
        if run.state.step % self._options.log_every == 0 or run.ended:
            self._line(at.epoch, rate)
        if at.step % at.epoch_steps == 0:
            self._picture(done[0].plan.views)
        if run.epoch_ended:
            self._look(at.epoch)
        self._keep_or_stop()

    def _log_choice(self, plan: Plan) -> None:
        if self._selections is None or "losses" not in plan.log:
            return
        log, views = plan.log, plan.views
        self._selections.add(
            epoch=views.at.epoch,
            step=views.at.step,
            sample=views.sample,
            pairs=log["pairs"],
            losses=log["losses"],
            chosen=log["chosen"],
            selected=log["selected"],
            params=[each for each in views.params if each],
        )

    def _line(self, epoch: int, rate: float) -> None:
        values = {"epoch": epoch, "lr": rate, **self._meter.read()}
        self._logs.scalars(self._run.state.step, values)

    def _picture(self, views: Views) -> None:
        """Save a picture of a batch, once an epoch, where anything is logged."""
        if not self._first or not self._options.log:
            return
        there = [view for view in range(views.num_views) if len(views.pixels[view])]
        picture = batch_picture(
            [views.pixels[view] for view in there], [views.role[view] for view in there]
        )
        save_picture(self._options.out / BATCH, picture)
        self._logs.picture(self._run.state.step, "batch", picture)

    def _look(self, epoch: int) -> None:
        """Take a reading of the monitor, if one is due after an epoch."""
        if self._monitor is None or self._curve is None or not self._monitor.due(epoch):
            return
        reading = self._monitor.read(epoch=epoch, step=self._run.state.step)
        self.collapsed = bool(reading["collapsed"])
        self._run.state.monitors = self._monitor.detector.to_json()
        loss = self._run.state.history[-1]
        self._curve.append({**reading, "loss": loss})
        numbers = {k: v for k, v in reading.items() if isinstance(v, float)}
        self._logs.scalars(self._run.state.step, numbers)

    def _keep_or_stop(self) -> None:
        """Write a checkpoint if one is due; end the run if it is to be ended."""
        run, options = self._run, self._options
        collapsed = any_rank(self.collapsed and options.stop_on_collapse)
        stop = any_rank(options.stop()) or collapsed
        kept = options.keep_every is not None and run.epoch_ended
        due = time.monotonic() - self._saved > options.checkpoint_seconds
        if run.ended or stop or any_rank(due) or kept:
            self.losses.flush()
            if self._selections is not None:
                self._selections.flush()
            run.save()
            self._saved = time.monotonic()
        run.halted = collapsed
        if stop and not (run.ended or collapsed):
            raise StoppedError(
                f"training stopped after step {run.state.step} of {run.total_steps}",
                where=str(run.path),
                why="this checkpoint holds everything up to that step",
                fix=f"start torchrun again, with {count} processes as before and the same command"
                if (count := world_size()) > 1
                else None,
            )

    def close(self) -> None:
        """Close the logs."""
        self._logs.close()


class Losses:
    """The losses of a run, read several at a time: reading one waits for a GPU."""

    def __init__(self, state: TrainState, *, every: int) -> None:
        """Write losses into `state`, at most `every` steps late."""
        self.state = state
        self.every = every
        self.last: float | None = None  # before one was read
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor, *, epoch_ended: bool) -> None:
        """Add the loss, a scalar, of the step before `state.step`. Raises as `flush` does."""
        self._pending.append(loss.detach())
        if epoch_ended or len(self._pending) >= self.every:
            self.flush()
        if epoch_ended:
            self.state.history.append(statistics.fmean(self.state.partial))
            self.state.partial.clear()

    def flush(self) -> None:
        """Read the losses added since the last time. Raises DivergedError: one is not finite."""
        losses = torch.stack(self._pending).tolist() if self._pending else []
        self._pending.clear()
        for step, loss in enumerate(losses, self.state.step - len(losses)):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss must be finite, got {loss} at step {step}",
                    why="its checkpoint, if one was written, is from before it",
                    fix="train into another --out with a lower --lr, or with --warmup-epochs",
                )
            self.state.partial.append(loss)
            self.last = loss


def _facts(done: Sequence[Embedded]) -> Mapping[str, Tensor]:
    """Return the scalars of the log of a step's first plan."""
    log = done[0].plan.log
    facts = {name: value for name, value in log.items() if value.ndim == 0}
    if "iou" in log:
        facts |= choice_facts(log["iou"].T, log["chosen"])
    return facts


def _monitor(config: PretrainConfig, feed: Feed, options: RunOptions, run: Run) -> Monitor:
    """Return the monitor of a run, on rows of its source."""
    assert options.monitor is not None
    if feed.source is None:
        raise ConfigError(
            "kNN while training needs the source images of the store",
            where="--knn-every",
            fix="leave out --knn-every",
        )
    if config.where is not None:
        raise ConfigError(
            "kNN while training looks at all samples, and the run is to train on some of them",
            where="--knn-every",
            why=f"--where '{config.where}' chooses samples, which kNN cannot tell apart",
            fix="leave out --knn-every or --where",
        )
    table = feed.source()
    labels = np.asarray(table.label)
    every = np.arange(len(labels))
    trained = every if feed.rows is None else feed.rows
    rows = choose_rows(
        labels,
        trained,
        options.monitor,
        seed=config.seed,
        held_out=None if feed.rows is None else np.setdiff1d(every, trained),
    )
    network = run.method.evaluated
    crop, side = OURS.policy(feed.size), (feed.size, feed.size)

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        features = network.backbone(config.prepare(images.to(run.device)))
        return features, torch.nn.functional.normalize(network.projector(features).float(), dim=1)

    return Monitor(
        settings=options.monitor,
        rows=rows,
        labels=labels,
        images=clean_images(table, lambda image: crop.render(image, {}, side, "area")),
        network=network,
        embed=embed,
        detector=_detector(run),
    )


def _detector(run: Run) -> CollapseDetector:
    """Return the detector of a run, with the readings that its checkpoint counts."""
    try:
        return CollapseDetector.from_json(run.state.monitors or {"low": 0})
    except CheckpointError as error:
        raise error.located(str(run.path), fix=DAMAGED_FIX) from error
