"""The training loop: loader, strategy, method, loss, step, commit, in the order they happen."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from viewstore.errors import ConfigError, StoppedError
from viewstore.files.disk import make_directory, write_atomic
from viewstore.format.records import canonical
from viewstore.progress import Progress
from viewstore.train import checkpoint
from viewstore.train.checkpoint import TrainState, load_checkpoint, save_checkpoint
from viewstore.train.config import PretrainConfig
from viewstore.train.encoder_file import EncoderSettings, save_encoder
from viewstore.train.method import Method, StepInfo
from viewstore.train.networks import Network, seeded_network
from viewstore.train.objective import objective
from viewstore.train.views import LoaderBatch, view_batch

ENCODER = "encoder.safetensors"
RESULT = "train.json"
CHECK_STEPS = 20  # a loss is looked at this many steps late at most: looking waits for a GPU


class StatefulBatch(LoaderBatch, Protocol):
    """A batch that knows where the loader is after it."""

    @property
    def state(self) -> dict[str, Any]: ...


class Loader(Protocol):
    """Yields the steps of one epoch, from where it is to the epoch's end."""

    def __iter__(self) -> Iterator[StatefulBatch]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Where the views come from.

    Attributes:
        loader: The loader.
        roles: Role of each view.
        epoch_steps: Steps of an epoch.
        size: Side of the largest views: what the encoder will be given.
        policy: The expert policy that the views were drawn with, for the encoder's file.
        store_id: Digest of the store.
    """

    loader: Loader
    roles: tuple[str, ...]
    epoch_steps: int
    size: int
    policy: str
    store_id: str


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; none of this enters its settings.

    Attributes:
        out: Folder of checkpoint, encoder and result.
        device: Torch device.
        checkpoint_seconds: Least time between two checkpoints.
        half: Round the encoder's weights to float16 when it is written.
        stop: Asked after every step; true means: write a checkpoint and stop.
        command: The command line, for the encoder's provenance.
    """

    out: Path
    device: str = "cpu"
    checkpoint_seconds: float = 300.0
    half: bool = False
    stop: Callable[[], bool] = lambda: False
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        encoder: The encoder's file.
        steps: Steps of the whole run.
        resumed_at: Step at which this process took over, 0 for a fresh run.
        history: Mean loss of each whole epoch.
        loss: Mean loss of the last epoch, whole or not.
        seconds: Time this process trained.
    """

    encoder: Path
    steps: int
    resumed_at: int
    history: list[float]
    loss: float
    seconds: float


def check_views(config: PretrainConfig, roles: tuple[str, ...], samples: int) -> None:
    """Raise ConfigError if views of these roles and so many samples cannot be trained on."""
    spec = config.strategy.request(config.method.TRAITS, 0)
    spec.check(roles, strategy=config.strategy.NAME)
    if config.batch_size > samples:
        raise ConfigError(
            f"batch size must be at most the {samples} samples, got {config.batch_size}",
            fix="give a smaller --batch-size",
        )


def pretrain(
    config: PretrainConfig, feed: Feed, options: RunOptions, progress: Progress
) -> TrainResult:
    """Train until the end and write the encoder; go on with the run in `options.out`.

    Raises:
        ConfigError: Settings contradict each other, the views or the run in `options.out`; or
            the loss is not finite.
        StoppedError: `options.stop` said so; the checkpoint is written.
    """
    check_views(config, feed.roles, feed.epoch_steps * config.batch_size)
    make_directory(options.out)
    device = torch.device(options.device)
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    # The process's generator is lent to the run: seeded for it, and given back as it was.
    with torch.random.fork_rng(cuda), torch.backends.cudnn.flags(deterministic=True):
        torch.manual_seed(config.seed)
        network = seeded_network(config.network, config.seed)
        method = config.method.make(network, amp=config.precision == "bf16").to(device).train()
        result = _train(config, feed, options, method, progress)
    _write_results(config, feed, options, network, result)
    return result


def _train(
    config: PretrainConfig, feed: Feed, options: RunOptions, method: Method, progress: Progress
) -> TrainResult:
    optimizer = config.optim.make(method.parameters())
    settings = {**config.to_json(), "store": feed.store_id}
    path = options.out / checkpoint.NAME
    state = TrainState()
    if path.exists():
        state = load_checkpoint(path, settings, method, optimizer)
    if state.loader is not None:
        feed.loader.load_state_dict(state.loader)
    device = torch.device(options.device)
    losses = Losses(state, every=1 if device.type == "cpu" else CHECK_STEPS)
    total = config.total_steps(feed.epoch_steps)
    spec = config.strategy.request(method.traits, 0)
    resumed_at, begun = state.step, time.monotonic()
    saved = begun

    remaining = total - state.step
    progress.begin("train", remaining * config.batch_size * len(feed.roles), "views")
    try:
        while state.step < total:
            for batch in feed.loader:
                epoch = state.step // feed.epoch_steps
                vb = view_batch(
                    batch,
                    roles=feed.roles,
                    prepare=config.prepare,
                    device=device,
                    epoch=epoch,
                    step=state.step,
                    seed=config.seed,
                    params=spec.params,
                )
                rate = config.optim.rate(
                    state.step,
                    total_steps=total,
                    epoch_steps=feed.epoch_steps,
                    batch_size=config.batch_size,
                )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                plan = config.strategy.plan(vb, method)
                loss, student, target = objective(method, plan)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                method.commit(student, target, StepInfo(epoch, state.step, total))

                state.step += 1
                state.loader = batch.state
                losses.add(loss, epoch_ended=state.step % feed.epoch_steps == 0)
                views = len(vb) * vb.num_views
                progress.advance(views, epoch=epoch + 1, loss=losses.last, lr=rate)
                last, stop = state.step == total, options.stop()
                if last or stop or time.monotonic() - saved > options.checkpoint_seconds:
                    losses.settle()
                    save_checkpoint(path, state, settings, method, optimizer)
                    saved = time.monotonic()
                if last:
                    break
                if stop:
                    raise StoppedError(
                        f"training stopped after step {state.step} of {total}",
                        where=str(path),
                        fix="run the same command again to go on",
                    )
    finally:
        progress.end()
    return TrainResult(
        encoder=options.out / ENCODER,
        steps=total,
        resumed_at=resumed_at,
        history=state.history,
        loss=statistics.fmean(state.partial or state.history[-1:]),
        seconds=time.monotonic() - begun,
    )


class Losses:
    """The losses of a run, looked at now and then: looking waits for a GPU."""

    def __init__(self, state: TrainState, *, every: int) -> None:
        """Write into `state`, at most `every` steps late."""
        self.state = state
        self.every = every
        self.last = math.nan
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor, *, epoch_ended: bool) -> None:
        """Take the loss of the step that `state.step` has just counted."""
        self._pending.append(loss.detach())
        if epoch_ended or len(self._pending) >= self.every:
            self.settle()
        if epoch_ended:
            self.state.history.append(statistics.fmean(self.state.partial))
            self.state.partial.clear()

    def settle(self) -> None:
        """Look at what was added. Raises ConfigError: a loss is not finite."""
        losses = torch.stack(self._pending).tolist() if self._pending else []
        self._pending.clear()
        for step, loss in enumerate(losses, self.state.step - len(losses)):
            if not math.isfinite(loss):
                raise ConfigError(
                    f"the loss must be finite, got {loss} at step {step}",
                    why="the last checkpoint is from before it",
                    fix="lower --lr, or give --warmup-epochs",
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
    """Write the encoder and the record of the run."""
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
        backbone=config.network.backbone,
        in_channels=config.network.in_channels,
        projector=config.network.projector,
        size=feed.size,
        mean=prepare.mean,
        std=prepare.std,
        policy=feed.policy,
        provenance={key: value for key, value in record.items() if key != "history"},
    )
    save_encoder(result.encoder, encoder, network, half=options.half)
