"""The training loop: loader, strategy, method, loss, step, commit, in the order they happen."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from viewstore.disk import make_directory, write_atomic
from viewstore.errors import ConfigError, StoppedError
from viewstore.records import canonical
from viewstore.train import checkpoint
from viewstore.train.checkpoint import TrainState, load_checkpoint, save_checkpoint
from viewstore.train.config import PretrainConfig
from viewstore.train.encoder_file import EncoderSettings, save_encoder
from viewstore.train.method import StepInfo
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


class Reporter(Protocol):
    """Told about finished views."""

    def advance(self, count: int = 1, **facts: float | int | str) -> None: ...


Progress = Callable[[int], AbstractContextManager[Reporter]]  # given the views still to come


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


def check_feed(config: PretrainConfig, feed: Feed) -> None:
    """Raise ConfigError if the views are not what the strategy wants; no data is read."""
    traits = config.method.TRAITS
    spec = config.strategy.request(traits, 0)
    spec.check(feed.roles, strategy=config.strategy.NAME)
    if feed.epoch_steps < 1:
        raise ConfigError(
            f"batch size must be at most the number of samples, got {config.batch_size}",
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
    check_feed(config, feed)
    device = torch.device(options.device)
    network = seeded_network(config.network, config.seed)
    method = config.method.make(network, amp=config.precision == "bf16").to(device).train()
    optimizer = config.optim.make(method.parameters())
    settings = {**config.to_json(), "store": feed.store_id}
    make_directory(options.out)
    path = options.out / checkpoint.NAME
    state = TrainState()
    if path.exists():
        state = load_checkpoint(path, settings, method, optimizer)
    if state.loader is not None:
        feed.loader.load_state_dict(state.loader)

    total = config.total_steps(feed.epoch_steps)
    spec = config.strategy.request(method.traits, 0)
    resumed_at, begun = state.step, time.monotonic()
    saved = begun
    views_left = (total - state.step) * config.batch_size * len(feed.roles)
    pending: list[Tensor] = []
    with (
        torch.backends.cudnn.flags(deterministic=True, benchmark=False),
        progress(views_left) as shown,
    ):
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

                pending.append(loss.detach())
                state.step += 1
                state.loader = batch.state
                last = state.step == total
                ended = state.step % feed.epoch_steps == 0
                stop = options.stop()
                if last or ended or stop or device.type == "cpu" or len(pending) >= CHECK_STEPS:
                    _look_at(pending, state)
                if ended:
                    state.history.append(statistics.fmean(state.partial))
                    state.partial.clear()
                loss_now = state.partial[-1] if state.partial else state.history[-1]
                shown.advance(len(vb) * vb.num_views, epoch=epoch + 1, loss=loss_now, lr=rate)
                if last or stop or time.monotonic() - saved > options.checkpoint_seconds:
                    _look_at(pending, state)
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
    result = TrainResult(
        encoder=options.out / ENCODER,
        steps=total,
        resumed_at=resumed_at,
        history=state.history,
        loss=statistics.fmean(state.partial) if state.partial else state.history[-1],
        seconds=time.monotonic() - begun,
    )
    _write_results(config, feed, options, network, result)
    return result


def _look_at(pending: list[Tensor], state: TrainState) -> None:
    """Move losses into the state. Raises ConfigError: one is not finite."""
    losses = torch.stack(pending).tolist() if pending else []
    first = state.step - len(losses)
    for number, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise ConfigError(
                f"the loss must be finite, got {loss} at step {first + number}",
                why="the last checkpoint is from before it",
                fix="lower --lr, or give --warmup-epochs",
            )
    state.partial += losses
    pending.clear()


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
