"""The command train: an encoder is trained on views."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.options import DEVICE, FILE, NUMBER, POSITIVE, TORCH_THREADS
from viewstore.cli.sources import ON_UNREADABLE, read_source, skip_advised
from viewstore.cli.stopping import stoppable
from viewstore.cli.terminal import Terminal
from viewstore.cli.text import duration
from viewstore.errors import ConfigError, counted

if TYPE_CHECKING:
    from viewstore.train.loop.config import PretrainConfig
    from viewstore.train.loop.pretrain import TrainResult


OPTIMIZERS = ["sgd", "adam", "adamw"]


@command(
    "train",
    example="viewstore train views --views simclr,simclr,w-search --strategy a2 --epochs 100 "
    "--out run",
)
@click.argument("store", required=False)
@click.option(
    "--source",
    metavar="SRC",
    help="Train on these images instead of a store; views are then drawn as it trains.",
)
@click.option(
    "--method",
    default="simclr",
    show_default=True,
    metavar="NAME",
    help="Train by this method: simclr.",
)
@click.option(
    "--views",
    required=True,
    metavar="LIST",
    help="Name a view set or an online policy for each view, for example simclr,simclr,w-search; "
    "cached:NAME and online:NAME choose where both exist; NAME@SET.COLUMN shows the views that a "
    "columns set chose.",
)
@click.option(
    "--strategy",
    default="standard",
    show_default=True,
    metavar="NAME",
    help="Make losses of the views by this strategy: standard or a2.",
)
@click.option("--epochs", type=POSITIVE, metavar="E", help="Train for E epochs.")
@click.option("--steps", type=POSITIVE, metavar="N", help="Train for N steps, instead of --epochs.")
@click.option(
    "-o",
    "--out",
    required=True,
    type=FILE,
    metavar="DIR",
    help="Write checkpoint and encoder to this folder; a run that is there goes on.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    default=256,
    show_default=True,
    metavar="B",
    help="Take B samples for each step.",
)
@click.option(
    "--backbone",
    default="resnet18",
    show_default=True,
    metavar="NAME",
    help="Train this network: resnet18 (3x3 stem, no max-pool), conv6 or conv3, smaller each.",
)
@click.option(
    "--projector",
    default="2048,128",
    show_default=True,
    metavar="W,..",
    help="Give the layers of the projector these widths.",
)
@click.option(
    "--in-channels",
    type=click.Choice(["1", "3"]),
    default="3",
    show_default=True,
    help="Let the network see gray (1) or colour (3).",
)
@click.option(
    "--size",
    type=POSITIVE,
    metavar="PX",
    help="Make online views PX pixels wide and high.  [default: as the cached ones]",
)
@click.option(
    "--temperature",
    type=NUMBER,
    metavar="T",
    help="Divide similarities by T in the loss.  [default: the method's, 0.5 of simclr]",
)
@click.option(
    "--negatives",
    type=click.Choice(["both", "other"]),
    help="Choose the views of other samples in simclr's denominator: of both views or of the "
    "other one.  [default: both]",
)
@click.option(
    "--alpha", type=NUMBER, metavar="A", help="Weigh a2's alignment by A.  [default: 0.5]"
)
@click.option(
    "--anchors",
    type=click.Choice(["both", "first"]),
    help="Choose the expert views that a2 aligns generated ones with.  [default: both]",
)
@click.option(
    "--a2-loss",
    type=click.Choice(["align", "full"]),
    help="Choose a2's loss: align aligns generated views with experts; full takes every pair of "
    "views, with all views in the denominator.  [default: align]",
)
@click.option(
    "--optimizer",
    type=click.Choice(OPTIMIZERS),
    default="sgd",
    show_default=True,
    help="Train with this optimizer.",
)
@click.option(
    "--lr",
    type=NUMBER,
    metavar="LR",
    help="Set the learning rate of a step of 256 samples.  [default: the optimizer's]",
)
@click.option(
    "--weight-decay",
    type=NUMBER,
    metavar="WD",
    help="Set the weight decay.  [default: the optimizer's]",
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "constant"]),
    default="cosine",
    show_default=True,
    help="Let the learning rate fall as a cosine, or stay constant.",
)
@click.option(
    "--warmup-epochs",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="E",
    help="Raise the learning rate from 0 over the first E epochs.",
)
@click.option(
    "--holdout", type=click.IntRange(2), metavar="N", help="Leave out every Nth row, for eval."
)
@click.option(
    "--where", metavar="Q", help="Train only on samples like these, say 'distance < 0.35'."
)
@click.option(
    "--missing",
    type=click.Choice(["raise", "resample"]),
    default="raise",
    show_default=True,
    help="Choose what a view that could not be made does: end the training, or give way to another "
    "view of its sample.",
)
@ON_UNREADABLE
@click.option(
    "--seed", type=int, default=0, show_default=True, metavar="N", help="Seed all random draws."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Multiply in this precision.",
)
@DEVICE
@TORCH_THREADS
@click.option("--half", is_flag=True, help="Round the weights of the written encoder to float16.")
def train(terminal: Terminal, **options: Any) -> int:  # noqa: ANN401
    """Train an encoder on views, or go on with a run; stopped at any moment, it loses minutes.

    DIR/encoder.safetensors is what `viewstore eval` and `viewstore build --encoder` read.
    """
    import torch

    import viewstore
    from viewstore.train.loop.feed import open_feed, store_of_source
    from viewstore.train.loop.pretrain import pretrain
    from viewstore.train.loop.run import RunOptions

    if (options["store"] is None) == (options["source"] is None):
        raise ConfigError("train needs a store or --source, one of them", fix="viewstore train -h")
    if options["source"] is None and options["on_error"] is not None:
        raise ConfigError(
            "--on-error has no effect on a store",
            why="rows of which no view could be made are left out by themselves",
            fix="leave out --on-error",
        )
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    config = config_of(options)
    store = (
        store_of_source(read_source(terminal, options["source"], options["on_error"]))
        if options["store"] is None
        else viewstore.open(options["store"])
    )
    terminal.store_id = store.store_id
    threads = options["threads"]
    advice = nullcontext() if options["source"] is None else skip_advised()
    with (
        advice,
        stoppable(terminal) as stop,
        open_feed(store, config, num_threads=threads) as feed,
    ):
        run = RunOptions(
            out=options["out"],
            device=options["device"],
            half=options["half"],
            stop=lambda: stop.requested,
            command=shlex.join(["viewstore", *terminal.arguments]),
        )
        result = pretrain(config, feed, run, terminal)
    facts = _facts(config, result)
    terminal.result(facts, _summary_text(facts))
    return 0


def config_of(options: dict[str, Any]) -> PretrainConfig:
    """Return the settings that options ask for. Raises ConfigError."""
    from viewstore.train.loop.config import PretrainConfig
    from viewstore.train.loop.optim import OPTIMIZERS, OptimSettings
    from viewstore.train.methods.table import method_of
    from viewstore.train.nets.network import NetworkSettings
    from viewstore.train.strategies.table import strategy_of

    chosen = {
        "alpha": options["alpha"],
        "anchors": options["anchors"],
        "loss": options["a2_loss"],
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    strategy = strategy_of(options["strategy"], given)
    method = {
        name: options[name] for name in ("temperature", "negatives") if options[name] is not None
    }
    defaults = OPTIMIZERS[options["optimizer"]]
    lr, decay = options["lr"], options["weight_decay"]
    return PretrainConfig(
        views=tuple(name.strip() for name in options["views"].split(",")),
        method=method_of(options["method"], method),
        strategy=strategy,
        network=NetworkSettings(
            backbone=options["backbone"],
            in_channels=int(options["in_channels"]),
            projector=_widths(options["projector"]),
        ),
        optim=OptimSettings(
            name=options["optimizer"],
            lr=defaults.lr if lr is None else lr,
            weight_decay=defaults.weight_decay if decay is None else decay,
            schedule=options["schedule"],
            warmup_epochs=options["warmup_epochs"],
        ),
        epochs=options["epochs"],
        steps=options["steps"],
        batch_size=options["batch_size"],
        size=options["size"],
        seed=options["seed"],
        holdout=options["holdout"],
        where=options["where"],
        missing=options["missing"],
        precision=options["precision"],
    )


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise ConfigError(
            f"projector must be widths such as 2048,128, got {text!r}", where=f"--projector {text}"
        ) from None


def _facts(config: PretrainConfig, result: TrainResult) -> dict[str, Any]:
    steps = result.steps - result.resumed_at
    trained = steps * config.batch_size * len(config.views)
    return {
        "encoder": str(result.encoder),
        "method": config.method.TRAITS.name,
        "strategy": config.strategy.name,
        "views": list(config.views),
        "steps": result.steps,
        "resumed_at": result.resumed_at,
        "loss": result.loss,
        "history": result.history,
        "seconds": result.seconds,
        "views_per_second": trained / max(result.seconds, 1e-9),
    }


def _summary_text(facts: dict[str, Any]) -> str:
    if facts["resumed_at"] == facts["steps"]:
        return f"this run had ended: loss {facts['loss']:.4f}; encoder {facts['encoder']}"
    begun = f" (on from step {facts['resumed_at']})" if facts["resumed_at"] else ""
    return (
        f"trained {counted(facts['steps'], 'step')}{begun} in {duration(facts['seconds'])}, "
        f"{facts['views_per_second']:.0f} views/s: loss {facts['loss']:.4f}\n"
        f"encoder {facts['encoder']}"
    )
