"""The options of `viewstore train`, in the groups that its help shows; which settings they name.

Those that name a setting of the run have no default here: a preset or a file may give the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from viewstore.cli.command import Decorator
from viewstore.cli.options import (
    DEVICE,
    FILE,
    NUMBER,
    POSITIVE,
    TORCH_THREADS,
    merge_settings,
    parse_assignments,
)
from viewstore.cli.sources import ON_UNREADABLE

NOT_NEGATIVE = click.IntRange(min=0)
# The settings that options name, as in a file of settings.
SETTING_OF = {
    "views": "views",
    "size": "size",
    "where": "where",
    "holdout": "holdout",
    "missing": "missing",
    "method": "method.name",
    "temperature": "method.temperature",
    "negatives": "method.negatives",
    "strategy": "strategy.name",
    "alpha": "strategy.alpha",
    "anchors": "strategy.a2.anchors",
    "a2_loss": "strategy.a2.loss",
    "a1_flip": "strategy.a1.a1_flip",
    "allow_scale_change": "strategy.graded.allow_scale_change",
    "backbone": "network.backbone",
    "projector": "network.projector",
    "in_channels": "network.in_channels",
    "optimizer": "optim.name",
    "lr": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "schedule": "optim.schedule",
    "warmup_epochs": "optim.warmup_epochs",
    "epochs": "epochs",
    "steps": "steps",
    "batch_size": "batch_size",
    "precision": "precision",
    "seed": "seed",
}
SETTINGS = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="K=V",
    help="Set K to V, a setting that has no option of its own, such as method.momentum=.99 or "
    "strategy.n_views=4; may be given many times.",
)


class _OutOption(click.Option):
    """The option --out, which must be given, but for --help-settings."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:  # noqa: ANN401
        if self.value_is_missing(value) and ctx.params.get("help_settings"):
            return None
        return super().process_value(ctx, value)


GROUPS: Mapping[str, tuple[Decorator, ...]] = {
    "Settings": (
        click.option(
            "--preset",
            metavar="NAME",
            help="Begin with the settings of a paper's run, such as simsiam-cifar10 or "
            "hvp-dino-vits: docs/training.md lists them. All below count over them.",
        ),
        click.option(
            "--config",
            type=FILE,
            metavar="FILE",
            help="Take settings from this TOML file, or from the config.json of another run; they "
            "count over the preset's, and options count over both.",
        ),
        SETTINGS,
        click.option(
            "--help-settings",
            is_flag=True,
            is_eager=True,
            help="List the settings that --preset, --method, --strategy, --backbone and "
            "--optimizer leave, with default and meaning, and train nothing.",
        ),
    ),
    "Views": (
        click.option(
            "--source",
            metavar="SRC",
            help="Train on these images instead of a store; views are then drawn as it trains.",
        ),
        click.option(
            "--views",
            metavar="LIST",
            help="Name a view set or an online policy for each view, for example "
            "simclr,simclr,w-search; cached:NAME and online:NAME choose where both exist; "
            "NAME@SET.COLUMN shows the views that a columns set chose.  [default: the preset's]",
        ),
        click.option(
            "--size",
            type=POSITIVE,
            metavar="PX",
            help="Make online views PX pixels wide and high.  [default: as the cached ones]",
        ),
        click.option(
            "--policy",
            type=FILE,
            multiple=True,
            metavar="FILE",
            help="Let --views name the policy in this TOML file too; may be given many times.",
        ),
        click.option(
            "--where", metavar="Q", help="Train only on samples like these, say 'distance < 0.35'."
        ),
        click.option(
            "--holdout",
            type=click.IntRange(2),
            metavar="N",
            help="Leave out every Nth row, for eval.",
        ),
        click.option(
            "--missing",
            type=click.Choice(["raise", "resample"]),
            help="Choose what a view that could not be made does: end the training, or give way to "
            "another view of its sample.  [default: raise]",
        ),
        ON_UNREADABLE,
    ),
    "Method and strategy": (
        click.option(
            "--method",
            metavar="NAME",
            help="Train by this method: simclr, simsiam, byol, moco-v2, barlow-twins, dino, ibot "
            "or deepcluster-v2.  [default: simclr]",
        ),
        click.option(
            "--temperature",
            type=NUMBER,
            metavar="T",
            help="Divide similarities by T in the method's loss.  [default: the method's, 0.5 of "
            "simclr]",
        ),
        click.option(
            "--negatives",
            type=click.Choice(["both", "other"]),
            help="Choose the views of other samples in simclr's denominator: of both views or of "
            "the other one.  [default: both]",
        ),
        click.option(
            "--strategy",
            metavar="NAME,..",
            help="Make losses of the views by this strategy, or by several together: standard, "
            "hvp, cooperative, random, min_iou, a1, dssl, hexa, a2, graded, viewmaker or stn.  "
            "[default: standard]",
        ),
        click.option(
            "--alpha",
            type=NUMBER,
            metavar="A",
            help="Weigh a2's alignment, or dssl's loss of standard views, by A.  [default: 0.5 of "
            "a2, 1 of dssl]",
        ),
        click.option(
            "--anchors",
            type=click.Choice(["both", "first"]),
            help="Choose the expert views that a2 aligns generated ones with.  [default: both]",
        ),
        click.option(
            "--a2-loss",
            type=click.Choice(["align", "full"]),
            help="Choose a2's loss: align aligns generated views with experts; full takes every "
            "pair of views, with all views in the denominator.  [default: align]",
        ),
        click.option(
            "--a1-flip",
            type=click.BOOL,
            metavar="0|1",
            help="Flip half of a1's generated views (1), or none (0), as digits want.  "
            "[default: 1]",
        ),
        click.option(
            "--allow-scale-change",
            is_flag=True,
            default=None,
            help="Let graded draw views together with another factor than the method's own, as if "
            "with another learning rate.",
        ),
    ),
    "Network": (
        click.option(
            "--backbone",
            metavar="NAME",
            help="Train this network: resnet18, resnet50, vit-ti, vit-ti8, vit-s, vit-b, conv6, "
            "conv6-half, conv6-quarter or conv3; or timm:NAME, transformers:NAME, or "
            "MODULE:FUNCTION of yours.  [default: resnet18]",
        ),
        click.option(
            "--projector",
            metavar="W,..",
            help="Give the layers of the projector these widths.  [default: the method's, 2048,128 "
            "of simclr]",
        ),
        click.option(
            "--in-channels",
            type=click.Choice(["1", "3"]),
            help="Let the network see gray (1) or colour (3).  [default: 3]",
        ),
    ),
    "Optimizer": (
        click.option(
            "--optimizer",
            type=click.Choice(["sgd", "adam", "adamw", "lars", "larc-sgd"]),
            help="Train with this optimizer.  [default: sgd]",
        ),
        click.option(
            "--lr",
            type=NUMBER,
            metavar="LR",
            help="Set the learning rate of a step of 256 samples.  [default: the optimizer's]",
        ),
        click.option(
            "--weight-decay",
            type=NUMBER,
            metavar="WD",
            help="Set the weight decay.  [default: the optimizer's]",
        ),
        click.option(
            "--schedule",
            type=click.Choice(["cosine", "constant", "steps"]),
            help="Let the learning rate fall as a cosine, stay constant, or fall at the epochs of "
            "--set optim.milestones=[60,80].  [default: cosine]",
        ),
        click.option(
            "--warmup-epochs",
            type=NOT_NEGATIVE,
            metavar="E",
            help="Raise the learning rate from 0 over the first E epochs.  [default: 0]",
        ),
    ),
    "Run": (
        click.option(
            "-o",
            "--out",
            cls=_OutOption,
            required=True,
            type=FILE,
            metavar="DIR",
            help="Write checkpoint and encoder to this folder; a run that is there goes on.",
        ),
        click.option("--epochs", type=POSITIVE, metavar="E", help="Train for E epochs."),
        click.option(
            "--steps", type=POSITIVE, metavar="N", help="Train for N steps, instead of --epochs."
        ),
        click.option(
            "--extend",
            is_flag=True,
            help="Let the run that is there go on for more epochs or steps than it was to.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(2),
            metavar="B",
            help="Take B samples for each step.  [default: 256]",
        ),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "bf16", "fp16"]),
            help="Multiply in this precision.  [default: fp32]",
        ),
        click.option("--seed", type=int, metavar="N", help="Seed all random draws.  [default: 0]"),
        DEVICE,
        TORCH_THREADS,
        click.option(
            "--keep-every",
            type=POSITIVE,
            metavar="E",
            help="Keep a copy of the checkpoint of every Eth epoch.",
        ),
        click.option(
            "--half", is_flag=True, help="Round the weights of the written encoder to float16."
        ),
    ),
    "Logs and monitors": (
        click.option(
            "--log",
            default="csv",
            show_default=True,
            metavar="KIND,..",
            help="Log to csv (DIR/metrics.csv), tensorboard or wandb.",
        ),
        click.option(
            "--log-every",
            type=POSITIVE,
            default=50,
            show_default=True,
            metavar="N",
            help="Log every N steps.",
        ),
        click.option(
            "--selection-log/--no-selection-log",
            default=None,
            help="Write what a strategy that chooses views saw and took to DIR/selection, or do "
            "not.  [default: where it chooses]",
        ),
        click.option(
            "--knn-every",
            type=POSITIVE,
            metavar="E",
            help="After every E epochs look at the network on clean images, for DIR/curve.jsonl: "
            "kNN, effective rank, and whether it has collapsed.",
        ),
        click.option(
            "--knn",
            type=click.Choice(["monitor", "ca", "gs", "dino"]),
            help="Choose the neighbours and the temperature as this paper does.  "
            "[default: monitor]",
        ),
        click.option(
            "--knn-bank",
            type=click.IntRange(2),
            metavar="N",
            help="Let kNN learn from N samples.  [default: 4096]",
        ),
        click.option(
            "--knn-queries",
            type=POSITIVE,
            metavar="M",
            help="Ask kNN about M samples.  [default: 1024]",
        ),
        click.option(
            "--stop-on-collapse",
            is_flag=True,
            help="End the run when three readings in a row say that the network has collapsed.",
        ),
    ),
}


def given_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the command line names, flat. Raises ConfigError: one twice."""
    from viewstore.images.policy_values import read_policy
    from viewstore.train.loop.layers import flat

    flags = {setting: options[name] for name, setting in SETTING_OF.items()}
    flags["policies"] = [read_policy(path) for path in options["policy"]] or None
    if flags["network.in_channels"] is not None:
        flags["network.in_channels"] = int(flags["network.in_channels"])
    return merge_settings(flat(parse_assignments(options["assignments"], prefix="")), flags)
