"""The command train: an encoder is trained on views."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.sources import read_source, skip_advised
from viewstore.cli.stopping import stoppable
from viewstore.cli.terminal import Terminal
from viewstore.cli.text import duration
from viewstore.cli.train_options import GROUPS, given_settings
from viewstore.errors import ConfigError, counted

if TYPE_CHECKING:
    from viewstore.train.loop.config import PretrainConfig
    from viewstore.train.loop.monitors import MonitorSettings
    from viewstore.train.loop.pretrain import TrainResult

MOST_THREADS = 4096
MONITORED = ("knn", "knn_bank", "knn_queries", "stop_on_collapse")  # all of --knn-every


@command(
    "train",
    example="viewstore train views --views simclr,simclr,w-search --strategy a2 --epochs 100 "
    "--out run",
    groups=GROUPS,
)
@click.argument("store", required=False)
def train(terminal: Terminal, **options: Any) -> int:  # noqa: ANN401
    """Train an encoder on views, or go on with a run; stopped at any moment, it loses minutes.

    DIR/encoder.safetensors is what `viewstore eval` and `viewstore build --encoder` read.
    """
    if options.pop("help_settings"):
        from viewstore.cli.settings_help import train_help

        terminal.result(*train_help(options))
        return 0

    import torch

    import viewstore
    from viewstore.progress import Silent
    from viewstore.train.loop.distributed import joined
    from viewstore.train.loop.feed import open_feed
    from viewstore.train.loop.logs import log_kinds
    from viewstore.train.loop.pretrain import pretrain
    from viewstore.train.loop.run import RunOptions
    from viewstore.train.source_store import store_of_source

    if (options["store"] is None) == (options["source"] is None):
        raise ConfigError("train needs a store or --source, one of them", fix="viewstore train -h")
    if options["source"] is None and options["on_error"] is not None:
        raise ConfigError(
            "--on-error has no effect on a store",
            why="rows of which no view could be made are left out by themselves",
            fix="leave out --on-error",
        )
    _check_machine(options)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    config = config_of(options)
    monitor = _monitor_of(options)
    kinds = log_kinds(options["log"])
    selection = _selection(options["selection_log"], config)
    store = (
        store_of_source(read_source(terminal, options["source"], options["on_error"]))
        if options["store"] is None
        else viewstore.open(options["store"])
    )
    terminal.store_id = store.store_id
    threads = options["threads"]
    advice = nullcontext() if options["source"] is None else skip_advised()
    with (
        joined(os.environ, options["device"]) as ranks,
        advice,
        stoppable(terminal) as stop,
        open_feed(store, config, num_threads=threads) as feed,
    ):
        run = RunOptions(
            out=options["out"],
            device=str(ranks.device),
            keep_every=options["keep_every"],
            extend=options["extend"],
            half=options["half"],
            log=kinds,
            log_every=options["log_every"],
            monitor=monitor,
            stop_on_collapse=options["stop_on_collapse"],
            selection=selection,
            stop=lambda: stop.requested,
            command=shlex.join(["viewstore", *terminal.arguments]),
        )
        result = pretrain(config, feed, run, Silent() if ranks.rank else terminal)
    code = int(result.collapsed and options["stop_on_collapse"])
    if ranks.rank:  # the first process speaks for all
        return code
    facts = {"preset": options["preset"], **_facts(config, result)}
    terminal.result(facts, _summary_text(facts))
    return code


def _check_machine(options: dict[str, Any]) -> None:
    """Raise ConfigError if the number of threads cannot train."""
    if (options["threads"] or 0) > MOST_THREADS:
        raise ConfigError(
            f"threads must be at most {MOST_THREADS}, got {options['threads']}",
            where="--threads",
            fix="leave out --threads: torch then chooses",
        )


def config_of(options: dict[str, Any]) -> PretrainConfig:
    """Return the settings that options ask for: of a preset, a file, and options over both.

    Raises:
        ConfigError: They contradict each other, or one is unknown or wrong.
    """
    from viewstore.train.loop.config import PretrainConfig
    from viewstore.train.loop.layers import Layer, located, merged, read_layer
    from viewstore.train.loop.presets import preset_layers

    layers = preset_layers(options["preset"]) if options["preset"] else []
    if options["config"]:
        layers.append(read_layer(options["config"]))
    layers.append(Layer("the command line", given_settings(options)))
    try:
        return PretrainConfig.of(merged(layers))
    except ConfigError as error:
        raise located(error, layers) from error


def _monitor_of(options: dict[str, Any]) -> MonitorSettings | None:
    """Return how the network is looked at. Raises ConfigError: options of it have no effect."""
    from viewstore.train.loop.monitors import MonitorSettings

    given = [name for name in MONITORED if options[name]]
    if options["knn_every"] is None:
        if given:
            said = given[0].replace("_", "-")
            raise ConfigError(
                f"--{said} has no effect without --knn-every",
                why="the network is then never looked at",
                fix=f"give --knn-every 1 too, or leave out --{said}",
            )
        return None
    names = {"every": "knn_every", "preset": "knn", "bank": "knn_bank", "queries": "knn_queries"}
    values = {name: options[option] for name, option in names.items()}
    return MonitorSettings(**{name: v for name, v in values.items() if v is not None})


def _selection(asked: bool | None, config: PretrainConfig) -> bool:
    """Return whether choices are logged. Raises ConfigError: there are none to be logged."""
    chooses = config.strategy.chooser.logs
    if asked is not None and not chooses:
        said = "--selection-log" if asked else "--no-selection-log"
        raise ConfigError(
            f"{said} has no effect on strategy {config.strategy.name}",
            why="it chooses no views",
            fix=f"leave out {said}",
        )
    return chooses if asked is None else asked


def _facts(config: PretrainConfig, result: TrainResult) -> dict[str, Any]:
    steps = result.steps - result.resumed_at
    trained = steps * config.batch_size * len(config.views)
    maker = config.strategy.maker
    return {
        "encoder": str(result.encoder),
        "maker": None if maker is None else maker.NAME,
        "method": config.method.TRAITS.name,
        "strategy": config.strategy.name,
        "views": list(config.views),
        "steps": result.steps,
        "resumed_at": result.resumed_at,
        "loss": result.loss,
        "history": result.history,
        "collapsed": result.collapsed,
        "seconds": result.seconds,
        "views_per_second": trained / max(result.seconds, 1e-9),
    }


def _summary_text(facts: dict[str, Any]) -> str:
    collapsed = ["the network has collapsed: its accuracy says nothing"] * facts["collapsed"]
    if facts["resumed_at"] == facts["steps"]:
        ended = f"this run had ended: loss {facts['loss']:.4f}; encoder {facts['encoder']}"
        return "\n".join([ended, *collapsed])
    begun = f" (on from step {facts['resumed_at']})" if facts["resumed_at"] else ""
    lines = [
        f"trained {counted(facts['steps'], 'step')}{begun} in {duration(facts['seconds'])}, "
        f"{facts['views_per_second']:.0f} views/s: loss {facts['loss']:.4f}",
        f"encoder {facts['encoder']}; beside it lie config.json, the checkpoint and the logs",
    ]
    if kind := facts["maker"]:
        lines.append(
            f"{kind}.safetensors lies there too: views are made of it with viewstore build "
            f"--generator {kind} --{kind} FILE"
        )
    return "\n".join([*lines, *collapsed])
