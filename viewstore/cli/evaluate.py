"""The command eval: a trained encoder is probed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import Decorator, command, options_of
from viewstore.cli.options import DEVICE, FILE, NUMBER, POSITIVE, TORCH_THREADS, check_file
from viewstore.cli.sources import ON_UNREADABLE, read_source, skip_advised
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError

if TYPE_CHECKING:
    from viewstore.sources.table import SourceTable
    from viewstore.train.encoder_export import Layout
    from viewstore.train.encoder_file import Encoder
    from viewstore.train.eval.features import Images

# The probes that an option has an effect on; on others it is refused.
TRAINED = ("linear", "semi", "finetune")
CLASSIFIED = ("knn", "linear", "logreg", "lowshot", "semi", "finetune")
KNN = ("monitor", "ca", "gs", "dino")  # presets of neighbours
PROBES = (*CLASSIFIED, "retrieval")
EFFECTS = {
    "test": CLASSIFIED,
    "holdout": CLASSIFIED,
    "limit": CLASSIFIED,
    "eval_resize": CLASSIFIED,
    "filter": CLASSIFIED,
    "knn": ("knn",),
    "weighting": ("knn",),
    "preset": ("linear", "finetune"),
    "epochs": TRAINED,
    "lr": TRAINED,
    "batch_size": TRAINED,
    "curve": TRAINED,
    "seed": (*TRAINED, "lowshot"),
    "convention": ("logreg",),
    "shots": ("lowshot",),
    "runs": ("lowshot",),
    "share": ("semi",),
    "subset": ("semi",),
    "ground_truth": ("retrieval",),
}

_ASKED: tuple[Decorator, ...] = (
    click.option("--test", metavar="SRC", help="Ask the probe about these labelled images."),
    click.option(
        "--holdout",
        type=click.IntRange(2),
        metavar="N",
        help="Ask about every Nth row of --source, and learn from the others.",
    ),
    click.option(
        "--limit",
        type=POSITIVE,
        metavar="N",
        help="Take N images of each source, spread over its labels.",
    ),
    click.option(
        "--eval-resize",
        type=click.Choice(["1", "8/7"]),
        help="Resize the short side to this share of the encoder's size before the centre crop.  "
        "[default: the preset's, else 1]",
    ),
    click.option(
        "--filter",
        type=click.Choice(["area", "linear", "pil", "antialias", "bicubic"]),
        help="Resize images that are not augmented by this filter; pil and bicubic are Pillow's.  "
        "[default: the preset's, else area]",
    ),
)
_CHOSEN: tuple[Decorator, ...] = (
    click.option(
        "--knn",
        type=click.Choice(KNN),
        help="Choose the neighbours and the temperature of knn as this paper does; monitor is for "
        "a quick look.  [default: monitor]",
    ),
    click.option(
        "--weighting",
        type=click.Choice(["exp", "uniform"]),
        help="Weigh neighbours by their similarity, or all alike.  [default: exp]",
    ),
    click.option(
        "--preset",
        metavar="NAME",
        help="Train linear or finetune as a paper does: frozen, simsiam-cifar, dssl-cifar, gs, "
        "gs-simsiam, simsiam-imagenet, hvp-simclr-imagenet, dino, moco, hexa-moco, hexa-dc, "
        "ca-cifar10, ca-cifar10-aug or hexa-cifar; finetune: hexa-ft or hvp-ft-NET-DATA, dino or "
        "simsiam on cifar10, cifar100, flowers, inat21 or food101.  [default: frozen; hexa-ft]",
    ),
    click.option(
        "--epochs", type=POSITIVE, metavar="E", help="Train for E epochs, not the preset's."
    ),
    click.option(
        "--lr", type=NUMBER, metavar="LR", help="Train at this learning rate, not the preset's."
    ),
    click.option(
        "--batch-size", type=POSITIVE, metavar="B", help="Train on batches of B, not the preset's."
    ),
    click.option(
        "--curve",
        type=FILE,
        metavar="FILE",
        help="Measure after each epoch too, and write that to FILE, JSON lines.",
    ),
    click.option(
        "--convention",
        type=click.Choice(["sum", "mean"]),
        help="Choose what the penalty of logreg stands beside: the sum of the losses or their "
        "mean.  [default: sum]",
    ),
    click.option(
        "--shots",
        metavar="K,..",
        help="Learn lowshot from K samples of each class.  [default: 2,4,8,16,32]",
    ),
    click.option(
        "--runs", type=POSITIVE, metavar="R", help="Draw R subsets for lowshot.  [default: 5]"
    ),
    click.option(
        "--share", type=NUMBER, metavar="X", help="Train semi on this share of the labels: .01, 1."
    ),
    click.option(
        "--subset",
        type=FILE,
        metavar="FILE",
        help="Train semi on the images whose keys FILE lists, one a line.",
    ),
    click.option(
        "--ground-truth",
        type=FILE,
        metavar="FILE",
        help="Search --source for what this JSON file says; docs/evaluation.md has its form.",
    ),
    click.option(
        "--seed",
        type=int,
        metavar="N",
        help="Seed the training of linear, semi and finetune, and the draws of subsets.  "
        "[default: 0]",
    ),
)


@command("eval", example="viewstore eval run --source digits --probe knn --holdout 4")
@click.argument("checkpoint", type=FILE)
@click.option(
    "--source",
    metavar="SRC",
    help="Let the probe learn from these labelled images, or from those of this store.",
)
@click.option(
    "--probe",
    type=click.Choice(PROBES),
    help="Probe by nearest neighbours; by a classifier on frozen features: linear (SGD), logreg "
    "(logistic regression) or lowshot (SVMs of few samples); by training all weights: semi (few "
    "labels) or finetune; or by retrieval of what --ground-truth names.  [default: knn]",
)
@options_of((*_ASKED, *_CHOSEN))
@click.option(
    "--export",
    type=FILE,
    metavar="FILE",
    help="Probe nothing, and write the backbone for other programs to FILE, safetensors.",
)
@click.option(
    "--layout",
    type=click.Choice(["torchvision", "timm"]),
    help="Name the tensors of --export as this library does.  [default: torchvision]",
)
@click.option(
    "--backbone",
    metavar="NAME",
    help="Let the file make its network by this function of yours, MODULE:FUNCTION, as train "
    "--backbone named it.",
)
@ON_UNREADABLE
@DEVICE
@TORCH_THREADS
def evaluate(terminal: Terminal, **options: Any) -> int:  # noqa: ANN401
    """Probe or export a trained encoder: CHECKPOINT is its file, or the folder of its run."""
    import torch

    from viewstore.cli.probing import Probing
    from viewstore.train.eval.features import Work

    if options["export"] is not None:
        return _export(terminal, options)
    options["probe"] = options["probe"] or "knn"
    check_options(options)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    encoder = _encoder(options).to(options["device"])
    work = Work(device=options["device"], threads=options["threads"], progress=terminal)
    with ExitStack() as stack, skip_advised():
        probing = Probing(encoder=encoder, options=options, work=work, stack=stack)
        plan = None if options["probe"] == "retrieval" else probing.plan()
        table = labelled(terminal, options["source"], options["on_error"])
        if plan is None:
            facts, text = probing.retrieve(table)
        else:
            facts, text = probing.classify(plan, *_probed(terminal, table, options))
    terminal.result(facts, text)
    return 0


def check_options(options: dict[str, Any]) -> None:
    """Raise ConfigError at options that contradict each other, are missing, or have no effect."""
    probe = options["probe"]
    if options["source"] is None:
        raise ConfigError(
            "eval needs --source SRC, or --export FILE",
            fix="give --source SRC --holdout 4 to probe the encoder",
        )
    if options["layout"] is not None:
        raise ConfigError("--layout has no effect without --export", fix="leave out --layout")
    for name, probes in EFFECTS.items():
        if options[name] is not None and probe not in probes:
            raise _no_effect(name, options)
    if probe in CLASSIFIED and (options["test"] is None) == (options["holdout"] is None):
        raise ConfigError(
            "eval needs --test SRC or --holdout N, one of them",
            why="a probe must not be asked about what it learnt from",
            fix="give --holdout 4 to ask about every fourth row of --source",
        )
    if probe == "semi" and (options["share"] is None) == (options["subset"] is None):
        raise ConfigError(
            "--probe semi needs --share X or --subset FILE, one of them",
            fix="give --share .1 to train on a tenth of the labels",
        )
    if probe == "retrieval" and options["ground_truth"] is None:
        raise ConfigError(
            "--probe retrieval needs --ground-truth FILE", fix="docs/evaluation.md has its form"
        )


def _no_effect(name: str, options: dict[str, Any]) -> ConfigError:
    """Return the error of an option that is not for the probe that was asked for."""
    said, probe = name.replace("_", "-"), options["probe"]
    fix = f"leave out --{said}, or give --probe {EFFECTS[name][0]}"
    if probe == "knn" and name == "preset" and options["preset"] in KNN:
        fix = f"give --knn {options['preset']} in its place"
    return ConfigError(
        f"--{said} has no effect on --probe {probe}",
        why=f"it is for {', '.join(EFFECTS[name])}",
        fix=fix,
    )


def _export(terminal: Terminal, options: dict[str, Any]) -> int:
    """Write the backbone by the names of another library."""
    from viewstore.train.encoder_export import save_export, stem_lines

    for name in (*EFFECTS, "source", "probe", "on_error", "threads"):
        if options[name] is not None:
            said = name.replace("_", "-")
            raise ConfigError(
                f"--{said} has no effect with --export", fix=f"leave out --{said}, or --export"
            )
    path = options["export"]
    layout: Layout = options["layout"] or "torchvision"
    check_file("--export", path, [".safetensors"])
    encoder = _encoder(options)
    save_export(path, encoder, layout)
    lines = stem_lines(encoder)
    facts = {
        "export": str(path),
        "layout": layout,
        "encoder": encoder.digest,
        "model_changes": list(lines),
    }
    text = [f"wrote {path}: {encoder.settings.backbone} as {layout} names it"]
    if lines:
        text.append(f"its stem is that for small images; before a model of {layout} loads it:")
        text += [f"  {line}" for line in lines]
    terminal.result(facts, "\n".join(text))
    return 0


def _encoder(options: dict[str, Any]) -> Encoder:
    """Return the encoder, whose network --backbone may make. Raises ConfigError: it does not."""
    from viewstore.train.encoder_file import load_encoder

    allowed = options["backbone"]
    encoder = load_encoder(encoder_path(options["checkpoint"]), backbone=allowed)
    if allowed is not None and encoder.settings.backbone != allowed:
        raise ConfigError(
            f"--backbone {allowed} has no effect: the encoder's backbone is "
            f"{encoder.settings.backbone}",
            fix="leave out --backbone",
        )
    return encoder


def labelled(terminal: Terminal, spec: str, on_error: Any) -> SourceTable:  # noqa: ANN401
    """Return the images of a source, or those that a store was built from."""
    import viewstore
    from viewstore.files.local import is_url, local_path
    from viewstore.format.paths import StorePaths

    if not is_url(spec) and not StorePaths(local_path(spec)).manifest.is_file():
        return read_source(terminal, spec, on_error)
    if on_error is not None:
        raise ConfigError(
            "--on-error has no effect on a store",
            where=spec,
            why="its rows were fixed when it was built",
            fix="leave out --on-error",
        )
    store = viewstore.open(spec)
    terminal.store_id = store.store_id
    return store.source_table


def _probed(
    terminal: Terminal, table: SourceTable, options: dict[str, Any]
) -> tuple[Images, Images]:
    """Return the images that a probe learns from, and those that it is asked about."""
    from viewstore.train.eval.features import Images
    from viewstore.train.eval.samples import labelled_alike, split_rows, spread_rows

    rows = spread_rows(table.label, options["limit"])
    if options["holdout"] is not None:
        bank, queries = split_rows(len(rows), options["holdout"])
        return Images(table=table, rows=rows[bank]), Images(table=table, rows=rows[queries])
    tested = labelled(terminal, options["test"], options["on_error"])
    tested = labelled_alike(tested, table, (options["test"], options["source"]))
    asked = spread_rows(tested.label, options["limit"])
    return Images(table=table, rows=rows), Images(table=tested, rows=asked)


def encoder_path(checkpoint: Path) -> Path:
    """Return the encoder's file of a run's folder, or the file itself. Raises ConfigError."""
    path = checkpoint / "encoder.safetensors" if checkpoint.is_dir() else checkpoint
    if not path.is_file():
        unfinished = (checkpoint / "checkpoint.safetensors").is_file()
        raise ConfigError(
            f"there is no encoder at {path}",
            where=str(checkpoint),
            why="its training has not ended yet" if unfinished else "nothing is there",
            fix="run the same train command again" if unfinished else "check the path",
        )
    return path
