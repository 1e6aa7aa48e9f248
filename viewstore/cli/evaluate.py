"""The command eval: a trained encoder is probed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from viewstore.cli.command import command
from viewstore.cli.options import DEVICE, FILE, POSITIVE, TORCH_THREADS
from viewstore.cli.sources import ON_UNREADABLE, read_source, skip_advised
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError, counted

if TYPE_CHECKING:
    from viewstore.sources.table import SourceTable

    Rows = tuple[SourceTable, NDArray[np.int64]]  # rows of a source


@command("eval", example="viewstore eval run --source digits --probe knn --holdout 4")
@click.argument("checkpoint", type=FILE)
@click.option(
    "--source", required=True, metavar="SRC", help="Let the probe learn from these labelled images."
)
@click.option("--test", metavar="SRC", help="Ask the probe about these labelled images.")
@click.option(
    "--holdout",
    type=click.IntRange(2),
    metavar="N",
    help="Ask about every Nth row of --source, and learn from the others.",
)
@click.option(
    "--probe",
    type=click.Choice(["knn", "linear", "logreg"]),
    default="knn",
    show_default=True,
    help="Probe by nearest neighbours, or by a classifier on frozen features without augmentation: "
    "linear (SGD) or logreg (logistic regression).",
)
@click.option(
    "--knn",
    "preset",
    type=click.Choice(["monitor", "ca", "gs", "dino"]),
    default="monitor",
    show_default=True,
    help="Choose the neighbours and the temperature of knn as this paper does; monitor is for a "
    "quick look.",
)
@click.option(
    "--limit",
    type=POSITIVE,
    metavar="N",
    help="Take N images of each source, spread over its labels.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Seed the training of linear.",
)
@ON_UNREADABLE
@DEVICE
@TORCH_THREADS
def evaluate(terminal: Terminal, **options: Any) -> int:  # noqa: ANN401
    """Probe a trained encoder: CHECKPOINT is its file, or the folder of its run."""
    import torch

    from viewstore.train.encoder_file import load_encoder
    from viewstore.train.eval.probes import evaluate as probe
    from viewstore.train.eval.probes import features_of

    if (options["test"] is None) == (options["holdout"] is None):
        raise ConfigError(
            "eval needs --test SRC or --holdout N, one of them",
            why="a probe must not be asked about what it learnt from",
            fix="give --holdout 4 to ask about every fourth row of --source",
        )
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    encoder = load_encoder(encoder_path(options["checkpoint"])).to(options["device"])
    bank, queries = _probed(terminal, options)
    with skip_advised():
        known = features_of(encoder, *bank, device=options["device"])
        asked = features_of(encoder, *queries, device=options["device"])
    score = probe(
        known,
        asked,
        options["probe"],
        preset=options["preset"],
        seed=options["seed"],
    )
    facts = {
        "probe": options["probe"],
        "metric": score.metric,
        "accuracy": score.accuracy,
        "standard_error": score.standard_error,
        "queries": score.queries,
        "bank": score.bank,
        "encoder": encoder.digest,
        **score.details,
    }
    name = score.metric
    if score.metric == "knn":
        name = f"knn of {counted(score.details['neighbours'], 'neighbour')}"
    text = (
        f"{name}: {100 * score.accuracy:.2f} % of {score.queries} right "
        f"(standard error {100 * score.standard_error:.2f}), learnt from {score.bank}"
    )
    terminal.result(facts, text)
    return 0


def _probed(terminal: Terminal, options: dict[str, Any]) -> tuple[Rows, Rows]:
    """Return the rows that a probe learns from, and those that it is asked about."""
    from viewstore.train.eval.probes import labelled_alike, split_rows, spread_rows

    table = read_source(terminal, options["source"], options["on_error"])
    rows = spread_rows(table.label, options["limit"])
    if options["holdout"] is not None:
        bank, queries = split_rows(len(rows), options["holdout"])
        return (table, rows[bank]), (table, rows[queries])
    tested = read_source(terminal, options["test"], options["on_error"])
    tested = labelled_alike(tested, table, (options["test"], options["source"]))
    return (table, rows), (tested, spread_rows(tested.label, options["limit"]))


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
