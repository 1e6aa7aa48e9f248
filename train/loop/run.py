"""A run in progress: what a training changes, where it stands, and its checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from viewstore.errors import CheckpointError, ConfigError
from viewstore.sources.table import SourceTable
from viewstore.train.distributed import rank
from viewstore.train.loop import checkpoint
from viewstore.train.loop.adversary import Adversary
from viewstore.train.loop.checkpoint import (
    Trained,
    TrainState,
    kept_path,
    load_checkpoint,
    save_checkpoint,
    try_checkpoint,
)
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.distributed import Ranks
from viewstore.train.loop.monitors import MonitorSettings
from viewstore.train.loop.scaling import PRECISIONS, Scaling
from viewstore.train.maker_file import file_of, save_maker
from viewstore.train.methods.base import Frame, Method
from viewstore.train.nets.domains import add_domain
from viewstore.train.nets.network import seeded_network
from viewstore.train.plan import Plan, Row
from viewstore.train.strategies.base import Slot
from viewstore.train.strategies.colours import coloured
from viewstore.train.views import At, LoaderBatch, Views, views_of


class StatefulBatch(LoaderBatch, Protocol):
    """A batch with the loader's state after it."""

    @property
    def state(self) -> dict[str, Any]: ...


class Loader(Protocol):
    """What the loop uses of a loader: an iteration yields the steps that are left of one epoch."""

    def __iter__(self) -> Iterator[StatefulBatch]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def batch(self, epoch: int, step: int) -> StatefulBatch: ...


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The views of a run, as `feed.open_feed` opens them.

    Attributes:
        loader: The loader, which yields batches of V views.
        slots: What each view of a batch is, [V].
        epoch_steps: Number of steps of an epoch.
        num_rows: Rows of the store.
        size: Side of the largest views in pixels: the input size in the encoder's file.
        policy: Name of the expert policy of the views, for the encoder's file; "" if none.
        store_id: Digest of the store, for the encoder's file.
        shown_id: Digest of the rows and of the view sets that are shown, a setting of the run;
            None: that of the store.
        source: Returns the table of the images that the views are made from, for monitors and the
            log of choices; None: there is none.
        rows: The rows of the store that are trained on, int64; None: all.
        warnings: What whoever trains must know of the views.
    """

    loader: Loader
    slots: tuple[Slot, ...]
    epoch_steps: int
    num_rows: int
    size: int
    policy: str
    store_id: str
    shown_id: str | None = None
    source: Callable[[], SourceTable] | None = None
    rows: NDArray[Any] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each view."""
        return tuple(slot.role for slot in self.slots)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; none of this is among its settings.

    Attributes:
        out: Folder of checkpoint, encoder, result and logs.
        device: Name of the torch device.
        checkpoint_seconds: Least time between two checkpoints.
        keep_every: Keep a copy of the checkpoint of every so many epochs; None keeps none.
        extend: Let a run that is there go on to more epochs or steps than it was begun with.
        half: Round the weights of the encoder's file to float16.
        log: Names of `logs.LOGS` to write to.
        log_every: Steps between two lines of the logs.
        monitor: Look at the network on clean images; None does not.
        stop_on_collapse: End the run when the monitor says that it has collapsed.
        selection: Write what a chooser saw and took to the log of choices.
        stop: Called after every step; true writes a checkpoint and ends the run.
        command: The command line, for the provenance in the encoder's file.
    """

    out: Path
    device: str = "cpu"
    checkpoint_seconds: float = 300.0
    keep_every: int | None = None
    extend: bool = False
    half: bool = False
    log: tuple[str, ...] = ()
    log_every: int = 50
    monitor: MonitorSettings | None = None
    stop_on_collapse: bool = False
    selection: bool = True
    stop: Callable[[], bool] = lambda: False
    command: str = ""


class Run:
    """The method, its optimizer and its place in the training; begun, or gone on with.

    Attributes:
        method: What is trained; plans are made with it.
        model: The method as the loop calls it: within DistributedDataParallel if several
            processes train.
        optimizer, scaling: What makes a step of its gradients.
        adversary: The network that makes views against it, if there is one.
        state: Its progress.
        resumed_at: The first step of this process.
        total_steps: Length of the run.
        halted: Whether it ends before that, as its network has collapsed.
    """

    def __init__(
        self, config: PretrainConfig, feed: Feed, options: RunOptions, ranks: Ranks
    ) -> None:
        """Draw the weights by the run's seed, or read them from the checkpoint in its folder.

        Raises:
            ConfigError: The run in the folder has other settings, or cannot be kept.
            CheckpointError: Its checkpoint is damaged.
        """
        self._config, self._feed, self._options = config, feed, options
        self.device = ranks.device
        self.method = make_method(config, **frame_of(config, feed)).to(ranks.device).train()
        self.model: nn.Module = _distributed(self.method, ranks)
        self.optimizer = config.optim.make(self.method.groups())
        self.scaling = Scaling(config.precision, ranks.device)
        maker = config.strategy.maker
        self.adversary = None
        if maker is not None:
            self.adversary = Adversary(maker, config, feed.slots, ranks.device)
        self.state = TrainState()
        self.path = options.out / checkpoint.NAME
        self._settings = {**config.to_json(), "store": feed.shown_id or feed.store_id}
        if ranks.world_size > 1:
            self._settings["processes"] = ranks.world_size
        if self.path.exists():
            self._resume()
        elif options.extend:
            raise ConfigError(
                "--extend has no effect: there is no run to go on with",
                where=str(options.out),
                fix="leave out --extend, or name the --out of the run",
            )
        self.resumed_at = self.state.step
        self.halted = False
        self.total_steps = config.total_steps(feed.epoch_steps)

    def begin(self) -> None:
        """Make the folder of a new run, in which a checkpoint is tried. Raises as that does."""
        if not self.path.exists():
            try_checkpoint(self.path, self.method, self.optimizer, self._adversary)

    @property
    def _adversary(self) -> Trained | None:
        return None if self.adversary is None else self.adversary.trained

    def _resume(self) -> None:
        self.state = load_checkpoint(
            self.path,
            self._settings,
            self.method,
            self.optimizer,
            adversary=self._adversary,
            extend=self._options.extend,
        )
        checkpoint.check_progress(self.state, self._feed.epoch_steps, self.path)
        try:
            self.scaling.load_state_dict(self.state.scaler)
        except CheckpointError as error:
            raise error.located(str(self.path), fix=checkpoint.DAMAGED_FIX) from error
        if self.state.loader is not None:
            self._feed.loader.load_state_dict(self.state.loader)

    @property
    def at(self) -> At:
        """The clock of the step that comes next."""
        return self._at(self.state.step)

    def _at(self, step: int) -> At:
        steps = self._feed.epoch_steps
        return At(step // steps, step, steps, self.total_steps, self._config.seed)

    @property
    def epoch_ended(self) -> bool:
        """Whether the step before `at` was the last of its epoch."""
        return self.state.step % self._feed.epoch_steps == 0

    @property
    def ended(self) -> bool:
        """Whether all steps are done."""
        return self.state.step >= self.total_steps

    def batches(self) -> Iterator[StatefulBatch]:
        """Yield the batches of the steps that are left, epoch after epoch."""
        while not (self.ended or self.halted):
            if self.epoch_ended:
                self.method.begin_epoch(self.at, self._sweep)
            for batch in self._feed.loader:
                yield batch
                if self.ended or self.halted:
                    return

    def _sweep(self) -> Iterator[Plan]:
        """Yield standard plans of all batches of the epoch that begins; the loader stays."""
        roles = self._feed.roles
        base = self._config.strategy.base(roles)
        for step in range(self._feed.epoch_steps):
            batch = self._feed.loader.batch(self.at.epoch, step)
            at = self._at(self.state.step + step)
            views = replace(views_of(batch, roles=roles, device=self.device, at=at), base=base)
            views = self.method.annotate(coloured(views))
            present = [view for view in base if len(views.pixels[view]) == len(views)]
            yield self.method.standard(views, [Row(view) for view in present])

    def played(self, views: Views) -> Views:
        """Return the views of a step with those that are made in it, if the strategy makes any."""
        if self.adversary is None:
            return views
        return self.adversary.play(views, self.method, self._config.strategy)

    def save(self) -> None:
        """Write the checkpoint; keep a copy of it where the settings say so."""
        self.state.scaler = self.scaling.state_dict()
        paths = [self.path]
        every = self._options.keep_every
        epoch = self.state.step // self._feed.epoch_steps
        if every is not None and self.epoch_ended and epoch and epoch % every == 0:
            paths.append(kept_path(self.path, epoch))
            self.freeze(epoch)
        for path in paths:
            save_checkpoint(
                path,
                self.state,
                self._settings,
                self.method,
                self.optimizer,
                self._adversary,
                frame=frame_of(self._config, self._feed),
            )

    def freeze(self, epoch: int | None = None) -> None:
        """Write the network that makes views, if there is one: what generators read.

        `epoch`: of a checkpoint that is kept, beside which it lies; None: at the end.
        """
        if self.adversary is None or rank():
            return
        kind = self.adversary.maker.NAME
        path = self._options.out / file_of(kind)
        said = {
            "settings": self._settings,
            "step": self.state.step,
            "command": self._options.command,
        }
        save_maker(
            path if epoch is None else kept_path(path, epoch),
            kind,
            self.adversary.trained.model,
            said,
        )


def frame_of(config: PretrainConfig, feed: Feed) -> dict[str, int]:
    """Return what a run's method is made for besides its settings; its checkpoints keep it.

    That is the rows of the store, the side of its largest views, the steps of an epoch and the
    rows of a standard plan.
    """
    return {
        "rows": feed.num_rows,
        "size": feed.size,
        "epoch_steps": feed.epoch_steps,
        "views": config.strategy.count([slot.role for slot in config.strategy.slots(feed.slots)]),
    }


def make_method(
    config: PretrainConfig, *, rows: int, size: int, epoch_steps: int, views: int
) -> Method:
    """Return the method with weights drawn by the run's seed; the rest is as in `frame_of`."""
    torch.manual_seed(config.seed)
    frame = Frame(
        prepare=config.prepare,
        amp=PRECISIONS[config.precision],
        num_rows=rows,
        batch_size=config.batch_size,
        epoch_samples=epoch_steps * config.batch_size,
        views=views,
    )
    network = seeded_network(config.network, config.seed, size=size)
    method = config.method.make(network, frame)
    if config.strategy.adversarial:
        add_domain(method)
    return method


def _distributed(method: Method, ranks: Ranks) -> nn.Module:
    """Return the method with gradients averaged over the processes, if there are several."""
    if ranks.world_size == 1:
        return method
    # Buffers stay: every process commits the same, and each has statistics of its own samples.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(method, **options)
