"""The training loop: loader, strategy, method, loss, step, commit, in this order.

The command line calls `pretrain` with the settings of a run, its views and its folder.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from viewstore.errors import ConfigError
from viewstore.files.disk import write_atomic
from viewstore.format.records import canonical
from viewstore.progress import Progress
from viewstore.train.distributed import rank, world_size
from viewstore.train.encoder_file import EncoderSettings, save_encoder
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.distributed import Ranks, check_alone
from viewstore.train.loop.run import Feed, Run, RunOptions
from viewstore.train.loop.watch import Watch
from viewstore.train.nets.network import Network
from viewstore.train.settings import settings_named
from viewstore.train.strategies.base import Slot
from viewstore.train.strategies.table import STRATEGIES, strategy_of
from viewstore.train.views import views_of

ENCODER = "encoder.safetensors"
CONFIG = "config.json"
RESULT = "train.json"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
        encoder: Path of the encoder's file.
        steps: Number of steps of the whole run, to its end or its collapse.
        resumed_at: First step of this process, 0 for a fresh run.
        history: Mean loss of each finished epoch.
        loss: Mean loss of the last epoch, finished or not.
        seconds: Time that this process trained.
        collapsed: Whether the last reading of the monitor said so.
    """

    encoder: Path
    steps: int
    resumed_at: int
    history: list[float]
    loss: float
    seconds: float
    collapsed: bool = False


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
            fix="; or ".join([str(error.fix), *_other_strategies(error, config, slots)]),
        ) from None
    if config.batch_size > samples:
        raise ConfigError(
            f"batch size must be at most the {samples} samples, got {config.batch_size}",
            fix=f"give --batch-size {samples}, or a smaller one"
            if samples > 1
            else "train on more samples",
        )


def _other_strategies(
    error: ConfigError, config: PretrainConfig, slots: tuple[Slot, ...]
) -> list[str]:
    """Return advice to take another strategy, which trains the method on views of these slots.

    There is none where the error is not about the views, and only a strategy is advised that has
    all settings that were given.
    """
    if not (error.where or "").startswith("--views"):
        return []
    parts = config.strategy.parts
    given = {
        name: value
        for part in parts
        for name, value in settings_named(part).items()
        if value != settings_named(type(part)()).get(name)
    }
    found = []
    for name in STRATEGIES.own.keys() - set(config.strategy.name.split(",")):
        try:
            strategy_of(name, given).check(config.method.traits, slots)
        except ConfigError:
            continue
        found.append(name)
    order = [name for name in STRATEGIES.own if name in found]
    return [f"give --strategy {name}, which {STRATEGIES[name].USE}" for name in order[:2]]


def pretrain(
    config: PretrainConfig, feed: Feed, options: RunOptions, progress: Progress
) -> TrainResult:
    """Train to the end, from the checkpoint in `options.out` if there is one; write the encoder.

    `progress` counts views, with the epoch, the last loss and the learning rate. Within a process
    group each process trains on its share of every batch, and the first one writes.

    Raises:
        ConfigError: Settings contradict each other, the views or the run in `options.out`.
        DivergedError: The loss is not finite.
        StoppedError: `options.stop` returned true; the checkpoint is written.
    """
    if world_size() == 1:
        check_alone(os.environ)
    check_views(config, feed.slots, feed.epoch_steps * config.batch_size)
    for text in feed.warnings:
        progress.warn(text)
    ranks = Ranks(rank(), world_size(), torch.device(options.device))
    cuda = [torch.cuda.current_device()] if ranks.device.type == "cuda" else []
    # The run seeds the generator of the process, which is restored behind it.
    with torch.random.fork_rng(cuda), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        run = Run(config, feed, options, ranks)
        watch = Watch(config, feed, options, run, progress)
        if ranks.rank == 0:
            write_atomic(options.out / CONFIG, canonical(config.to_json()) + b"\n")
        started = time.monotonic()
        left = (run.total_steps - run.state.step) * config.batch_size * len(feed.roles)
        progress.begin("train", left, "views")
        try:
            _train(config, feed, run, watch)
        finally:
            progress.end()
            watch.close()
    state = run.state
    result = TrainResult(
        encoder=options.out / ENCODER,
        steps=state.step,
        resumed_at=run.resumed_at,
        history=state.history,
        loss=statistics.fmean(state.partial or state.history[-1:]),
        seconds=time.monotonic() - started,
        collapsed=watch.collapsed,
    )
    run.freeze()
    if run.adversary is not None:
        for text in run.adversary.maker.warnings(run.adversary.facts):
            progress.warn(text)
    if ranks.rank == 0:
        _write_results(config, feed, options, run.method.evaluated, result)
    return result


def _train(config: PretrainConfig, feed: Feed, run: Run, watch: Watch) -> None:
    """Take the steps that are left of a run."""
    method, optimizer, parts = run.method, run.optimizer, config.optim.accumulate
    for batch in watch.waiting(run.batches()):
        at = run.at
        rate = config.optim.apply(
            optimizer,
            at.step,
            total_steps=at.total_steps,
            epoch_steps=at.epoch_steps,
            batch_size=config.batch_size,
        )
        views = views_of(batch, roles=feed.roles, device=run.device, at=at)
        views = method.annotate(run.played(views))
        done = []
        for part in views.parts(parts):
            embedded = run.model(config.strategy.plan(part, method))
            run.scaling.backward(embedded.loss / parts)
            done.append(embedded)
        method.gradients_ready(at)
        if run.scaling.step(optimizer, clip=config.optim.clip):
            method.commit(done, at)
        optimizer.zero_grad()
        watch.step(batch, done, rate)


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
