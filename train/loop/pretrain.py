"""The training loop: loader, strategy, method, loss, step, commit, in this order.

The command line calls `pretrain` with the settings of a run, its views and its folder.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from viewstore.errors import ConfigError, DivergedError, StoppedError
from viewstore.files.disk import make_directory, write_atomic
from viewstore.format.records import canonical
from viewstore.progress import Progress
from viewstore.train.encoder_file import EncoderSettings, save_encoder
from viewstore.train.loop import checkpoint
from viewstore.train.loop.checkpoint import (
    TrainState,
    load_checkpoint,
    save_checkpoint,
    try_checkpoint,
)
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.distributed import check_alone
from viewstore.train.loop.scaling import PRECISIONS
from viewstore.train.methods.base import Frame, Method
from viewstore.train.nets.domains import add_domain
from viewstore.train.nets.network import Network, seeded_network
from viewstore.train.strategies.base import Slot
from viewstore.train.strategies.table import STRATEGIES, strategy_of
from viewstore.train.views import At, LoaderBatch, views_of

ENCODER = "encoder.safetensors"
RESULT = "train.json"
CHECK_STEPS = 20  # reading a loss waits for a GPU: it is read this many steps late at most


class StatefulBatch(LoaderBatch, Protocol):
    """A batch with the loader's state after it."""

    @property
    def state(self) -> dict[str, Any]: ...


class Loader(Protocol):
    """What the loop uses of a loader: an iteration yields the steps that are left of one epoch."""

    def __iter__(self) -> Iterator[StatefulBatch]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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
    """

    loader: Loader
    slots: tuple[Slot, ...]
    epoch_steps: int
    num_rows: int
    size: int
    policy: str
    store_id: str
    shown_id: str | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each view."""
        return tuple(slot.role for slot in self.slots)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; none of this is among its settings.

    Attributes:
        out: Folder of checkpoint, encoder and result.
        device: Name of the torch device.
        checkpoint_seconds: Least time between two checkpoints.
        half: Round the weights of the encoder's file to float16.
        stop: Called after every step; true writes a checkpoint and ends the run.
        command: The command line, for the provenance in the encoder's file.
    """

    out: Path
    device: str = "cpu"
    checkpoint_seconds: float = 300.0
    half: bool = False
    stop: Callable[[], bool] = lambda: False
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
        encoder: Path of the encoder's file.
        steps: Number of steps of the whole run.
        resumed_at: First step of this process, 0 for a fresh run.
        history: Mean loss of each finished epoch.
        loss: Mean loss of the last epoch, finished or not.
        seconds: Time that this process trained.
    """

    encoder: Path
    steps: int
    resumed_at: int
    history: list[float]
    loss: float
    seconds: float


def check_views(config: PretrainConfig, slots: tuple[Slot, ...], samples: int) -> None:
    """Raise ConfigError unless views of these slots, of so many samples, can be trained on."""
    try:
        config.strategy.check(config.method.traits, slots)
    except ConfigError as error:
        raise ConfigError(
            str(error),
            code=error.code,
            where=error.where,
            why=error.why,
            fix="; or ".join([str(error.fix), *_other_strategies(config, slots)]),
        ) from None
    if config.batch_size > samples:
        raise ConfigError(
            f"batch size must be at most the {samples} samples, got {config.batch_size}",
            fix=f"give --batch-size {samples}, or a smaller one"
            if samples > 1
            else "train on more samples",
        )


def _other_strategies(config: PretrainConfig, slots: tuple[Slot, ...]) -> Iterator[str]:
    """Yield advice to take each other strategy that trains the method on views of these slots."""
    for name, part in STRATEGIES.items():
        try:
            strategy_of(name, {}).check(config.method.traits, slots)
        except ConfigError:
            continue
        yield f"give --strategy {name}, which {part.USE}"


def pretrain(
    config: PretrainConfig, feed: Feed, options: RunOptions, progress: Progress
) -> TrainResult:
    """Train to the end, from the checkpoint in `options.out` if there is one; write the encoder.

    `progress` counts views, with the epoch, the last loss and the learning rate.

    Raises:
        ConfigError: Settings contradict each other, the views or the run in `options.out`.
        DivergedError: The loss is not finite.
        StoppedError: `options.stop` returned true; the checkpoint is written.
    """
    check_alone(os.environ)
    check_views(config, feed.slots, feed.epoch_steps * config.batch_size)
    make_directory(options.out)
    device = torch.device(options.device)
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    # The run seeds the generator of the process, which is restored behind it.
    with torch.random.fork_rng(cuda), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        method = _method(config, feed).to(device).train()
        result = _train(config, feed, options, method, progress)
    _write_results(config, feed, options, method.evaluated, result)
    return result


def _method(config: PretrainConfig, feed: Feed) -> Method:
    """Return the method with weights drawn by the run's seed."""
    torch.manual_seed(config.seed)
    frame = Frame(
        prepare=config.prepare,
        amp=PRECISIONS[config.precision],
        num_rows=feed.num_rows,
        batch_size=config.batch_size,
    )
    network = seeded_network(config.network, config.seed, size=feed.size)
    method = config.method.make(network, frame)
    if config.strategy.adversarial:
        add_domain(method)
    return method


def _train(
    config: PretrainConfig, feed: Feed, options: RunOptions, method: Method, progress: Progress
) -> TrainResult:
    optimizer = config.optim.make(method.groups())
    settings = {**config.to_json(), "store": feed.shown_id or feed.store_id}
    path = options.out / checkpoint.NAME
    state = TrainState()
    if path.exists():
        state = load_checkpoint(path, settings, method, optimizer)
    else:
        try_checkpoint(path, method, optimizer)
    if state.loader is not None:
        feed.loader.load_state_dict(state.loader)
    device = torch.device(options.device)
    losses = Losses(state, every=1 if device.type == "cpu" else CHECK_STEPS)
    total = config.total_steps(feed.epoch_steps)
    resumed_at, started = state.step, time.monotonic()
    saved = started

    remaining = total - state.step
    progress.begin("train", remaining * config.batch_size * len(feed.roles), "views")
    try:
        while state.step < total:
            for batch in feed.loader:
                epoch = state.step // feed.epoch_steps
                at = At(epoch, state.step, feed.epoch_steps, total, config.seed)
                rate = config.optim.apply(
                    optimizer,
                    state.step,
                    total_steps=total,
                    epoch_steps=feed.epoch_steps,
                    batch_size=config.batch_size,
                )
                views = method.annotate(views_of(batch, roles=feed.roles, device=device, at=at))
                embedded = method(config.strategy.plan(views, method))
                optimizer.zero_grad()
                embedded.loss.backward()
                method.gradients_ready(at)
                optimizer.step()
                method.commit([embedded], at)

                state.step += 1
                state.loader = batch.state
                losses.add(embedded.loss, epoch_ended=state.step % feed.epoch_steps == 0)
                progress.advance(
                    len(views) * views.num_views, epoch=epoch + 1, loss=losses.last, lr=rate
                )
                last, stop = state.step == total, options.stop()
                if last or stop or time.monotonic() - saved > options.checkpoint_seconds:
                    losses.flush()
                    save_checkpoint(path, state, settings, method, optimizer)
                    saved = time.monotonic()
                if last:
                    break
                if stop:
                    raise StoppedError(
                        f"training stopped after step {state.step} of {total}",
                        where=str(path),
                        why="this checkpoint holds everything up to that step",
                    )
    finally:
        progress.end()
    return TrainResult(
        encoder=options.out / ENCODER,
        steps=total,
        resumed_at=resumed_at,
        history=state.history,
        loss=statistics.fmean(state.partial or state.history[-1:]),
        seconds=time.monotonic() - started,
    )


class Losses:
    """The losses of a run, read several at a time: reading one waits for a GPU."""

    def __init__(self, state: TrainState, *, every: int) -> None:
        """Write losses into `state`, at most `every` steps late."""
        self.state = state
        self.every = every
        self.last = math.nan
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


def _write_results(
    config: PretrainConfig,
    feed: Feed,
    options: RunOptions,
    network: Network,
    result: TrainResult,
) -> None:
    """Write train.json, the record of the run, and the encoder's file."""
    record = {
        "settings": config.to_json(),
        "store": feed.store_id,
        "steps": result.steps,
        "loss": result.loss,
        "history": result.history,
        "command": options.command,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_atomic(options.out / RESULT, canonical(record) + b"\n")
    prepare = config.prepare
    encoder = EncoderSettings(
        **vars(config.network),
        size=feed.size,
        mean=prepare.mean,
        std=prepare.std,
        policy=feed.policy,
        provenance={key: value for key, value in record.items() if key != "history"},
    )
    save_encoder(result.encoder, encoder, network, half=options.half)
