"""Commands that print job files for clusters: jobfile slurm, jobfile kubernetes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli import options as shared
from viewstore.cli.command import (
    CONTEXT,
    Entry,
    LazyGroup,
    apply_common,
    command,
    common_options,
    options_of,
)
from viewstore.cli.terminal import Terminal

if TYPE_CHECKING:
    from viewstore.build.jobfile import SliceJob

COMMANDS = {
    "slurm": Entry("viewstore.cli.jobfile:slurm", "Print a batch script of a Slurm array."),
    "kubernetes": Entry("viewstore.cli.jobfile:kubernetes", "Print a Kubernetes Indexed Job."),
}
MAX_SLICES = 100_000  # of a Kubernetes Job with tries for each index
SLURM_SLICES = 1000  # below MaxArraySize, which is 1001 if the site says nothing
_OPTIONS = (
    shared.STORE_OR_BUCKET,
    click.option(
        "--view-set", metavar="NAME", help="Build this view set, which has a plan.  [required]"
    ),
    click.option(
        "--slices",
        type=click.IntRange(1, MAX_SLICES),
        metavar="N",
        help="Build it in N tasks, each with a slice of the shards.  [required]",
    ),
    click.option(
        "--at-once",
        type=shared.POSITIVE,
        metavar="M",
        help="Let at most M tasks run at a time.  [default: all]",
    ),
    click.option(
        "--gpus",
        type=click.IntRange(min=0),
        metavar="G",
        help="Ask for G GPUs for each task.  [default: 1 if networks make the views, else 0]",
    ),
    *shared.WEIGHTS,
)


@click.group("jobfile", cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT)
@common_options
@click.pass_context
def jobfile(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401
    """Print a job file that builds a planned view set on a cluster; nothing is submitted."""
    apply_common(context.ensure_object(Terminal), **options)


@command("slurm", example="viewstore jobfile slurm views --view-set w-search --slices 64")
@options_of(_OPTIONS)
def slurm(terminal: Terminal, **options: Any) -> None:  # noqa: ANN401
    """Print a batch script for sbatch: an array with a task for each slice.

    The store, unless STORE is the URL of a bucket, and the weights lie at the same paths on every
    node. A task that is stopped by its time limit is requeued, and goes on.
    """
    from viewstore.build import jobfile as texts

    job = _job(options)
    if job.slices > SLURM_SLICES:
        terminal.warn(
            f"an array of Slurm has at most {SLURM_SLICES} tasks unless the site sets a larger "
            f"MaxArraySize, and this one has {job.slices}; see: scontrol show config"
        )
    _answer(terminal, job, texts.slurm(job))


@command(
    "kubernetes",
    example="viewstore jobfile kubernetes views --view-set w-search --slices 64 "
    "--image registry.example/viewstore --claim views",
)
@options_of(_OPTIONS)
@click.option(
    "--image", required=True, metavar="IMAGE", help="Run this image; viewstore is installed in it."
)
@click.option(
    "--claim",
    metavar="CLAIM",
    help="Mount the ReadWriteMany volume of this claim at the path of the store. A store in a "
    "bucket needs none.",
)
def kubernetes(
    terminal: Terminal,
    image: str,
    claim: str | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Print an Indexed Job for kubectl apply, with an index for each slice.

    The image must have the files of weights that you name, at the same paths. A pod that is
    preempted comes back, and goes on where it was. It needs Kubernetes 1.29 or newer.
    """
    from viewstore.build import kubernetes_job as texts

    job = _job(options)
    _answer(terminal, job, texts.kubernetes(job, image=image, claim=claim))


def _job(options: dict[str, Any]) -> SliceJob:
    from viewstore.build.slice_job import slice_job

    store: Path | str = options["store"]
    return slice_job(
        store,
        options["view_set"],
        shared.weight_files(options),
        slices=options["slices"],
        at_once=options["at_once"],
        gpus=options["gpus"],
    )


def _answer(terminal: Terminal, job: SliceJob, text: str) -> None:
    facts = asdict(job) | {"finalise": job.finalise, "file": text}
    terminal.result(facts, text.removesuffix("\n"))
