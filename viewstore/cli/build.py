"""Commands that make views: build, gan invert, finalise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli import options as shared
from viewstore.cli.command import command, given_options, options_of
from viewstore.cli.options import FILE, POSITIVE, STORE_OR_BUCKET
from viewstore.cli.outcome import not_fit, tell
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError
from viewstore.shards.executors import EXECUTORS
from viewstore.shards.place import CPU

if TYPE_CHECKING:
    from viewstore.build.request import BuildRequest
    from viewstore.images.policy_values import PolicySetting

OWN_POLICY = "expert"  # the generator of --policy
DRY_RUN_SAMPLES = 64

_MAX_MISSED = click.option(
    "--max-missed",
    default="50%",
    show_default=True,
    metavar="P%",
    callback=lambda context, option, text: _share(text),
    help="Exit 1 where a larger share of the samples, or of their anchors, missed its goal.",
)
HOW = (
    click.option(
        "--executor",
        type=click.Choice(list(EXECUTORS)),
        default="local",
        show_default=True,
        help="Build shards on this machine, or on every node of a Ray cluster.",
    ),
    shared.WORKERS,
    click.option(
        "--device",
        default=CPU,
        show_default=True,
        metavar="D[,D..]|auto",
        help="Run networks on these torch devices, with a worker on each; auto takes every GPU.",
    ),
    click.option(
        "--shard",
        metavar="I/N|auto",
        help="Build slice I of N, counted from 0; auto asks the variables of Slurm, Kubernetes, "
        "AWS Batch or torchrun. Run finalise after all slices.",
    ),
    click.option(
        "--only", metavar="K,K-K", help="Build the shards of these numbers only, say 17,20-22."
    ),
    click.option(
        "--on-error",
        type=shared.ON_ERROR,
        default="fail",
        show_default=True,
        help="At an image that cannot be read: fail ends the build, skip goes on without it.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Exit with 1 if more than N samples failed.",
    ),
    _MAX_MISSED,
    click.option(
        "--grace",
        type=shared.NOT_NEGATIVE,
        default=25.0,
        show_default=True,
        metavar="S",
        help="After SIGTERM or SIGUSR1, let running shards go on for S seconds.",
    ),
)
_OPTIONS = (
    click.option(
        "--source", metavar="SRC", help=f"{shared.SOURCES}  [default: the store's, or digits]"
    ),
    click.option(
        "-o",
        "--out",
        type=shared.FOLDER_OR_BUCKET,
        default=Path("views"),
        show_default=True,
        metavar="STORE",
        help="Build into the store in this folder, or in a bucket: s3://, gs://, az://.",
    ),
    shared.SINGLE_WRITER,
    click.option(
        "--view-set", metavar="NAME", help="Name the view set.  [default: as the generator]"
    ),
    click.option(
        "--limit", type=POSITIVE, metavar="N", help="Take the first N images of the source only."
    ),
    click.option(
        "--of",
        metavar="SET",
        help="Make it from the views of this view set.  [default: as the generator says]",
    ),
    click.option("--seed", type=int, metavar="N", help="Seed all random draws.  [default: 0]"),
    *shared.WEIGHTS,
    shared.SETTINGS,
    click.option(
        "--shard-rows",
        type=click.IntRange(1, 8192),
        metavar="S",
        help="Put S samples into each shard of a new store.  [default: chosen by size]",
    ),
    *HOW,
)


class _CodecChoice(click.Choice):  # type: ignore[type-arg]
    """The names in the table of codecs, which are looked for no sooner than somebody asks."""

    def __init__(self) -> None:
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        from viewstore.images.codec import CODECS

        return tuple(CODECS)


class _GeneratorOption(click.Option):
    """An option whose help lists the generators, which are imported when it is shown.

    It must be given, but for --help-settings, which then lists the generators, and for --policy.
    """

    def process_value(self, ctx: click.Context, value: Any) -> Any:  # noqa: ANN401
        if self.value_is_missing(value) and (
            ctx.params.get("help_settings") or isinstance(ctx.params.get("policy"), Path)
        ):
            return None
        return super().process_value(ctx, value)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from viewstore.generators import GENERATORS

        self.help = f"Choose what makes the views: {', '.join(GENERATORS)}."
        return super().get_help_record(ctx)


@command("build", example="viewstore build --generator w-search --out views")
@click.option("--generator", cls=_GeneratorOption, required=True, metavar="NAME")
@click.option(
    "--help-settings",
    is_flag=True,
    is_eager=True,
    help="List the settings of the generator, without one the generators, and build nothing.",
)
@click.option(
    "--policy",
    type=FILE,
    is_eager=True,
    metavar="FILE",
    help="Make the views of the policy in this TOML file: generator expert, named as the policy.",
)
@click.option(
    "--views", type=click.IntRange(1, 100), metavar="V", help="Make V views of each sample."
)
@click.option(
    "--size",
    type=click.IntRange(1, 16384),
    metavar="PX",
    help="Make the views PX pixels wide and high.",
)
@click.option("--codec", type=_CodecChoice(), help="Store the views in this form.")
@click.option(
    "--plan",
    is_flag=True,
    help="Read the source, fix rows and settings in the store, and build nothing: slices and "
    "later builds need no --source then.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Build some samples on the side, and say what the whole would cost.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=2),
    metavar="N",
    help=f"Let --dry-run try N samples.  [default: {DRY_RUN_SAMPLES}]",
)
@options_of(_OPTIONS)
def build(terminal: Terminal, **options: Any) -> int:  # noqa: ANN401
    """Make a view set, or go on with one: what is committed is kept, the rest is built.

    Stopped at any moment, it goes on where it was when the same command runs again. What --set
    may set is listed by --help-settings, for example `viewstore build --generator w-search
    --help-settings`.
    """
    if options.pop("help_settings"):
        from viewstore.cli.settings_help import generators_help, settings_help

        name = options["generator"]
        terminal.result(*(generators_help() if name is None else settings_help(name)))
        return 0
    if options.pop("plan"):
        return _plan(terminal, options)
    sample = options.pop("sample")
    if not options.pop("dry_run"):
        if sample is not None:
            raise ConfigError("--sample has no effect without --dry-run", fix="add --dry-run")
        return _build(terminal, options)
    from viewstore.cli.costs import dry_run

    request = _request(terminal, options)
    terminal.result(*dry_run(request, sample or DRY_RUN_SAMPLES, terminal))
    return 0


@command("invert", example="viewstore gan invert --source digits --out views")
@options_of(_OPTIONS)
def invert(terminal: Terminal, **options: Any) -> int:  # noqa: ANN401
    """Find the latents whose images are nearest to the source's: the view set "recon".

    It is what w-search and w-perturb start from; they build it themselves where it is missing.
    """
    fixed = {"generator": "recon", "policy": None, "views": None, "size": None, "codec": None}
    return _build(terminal, options | fixed)


def _plan(terminal: Terminal, options: dict[str, Any]) -> int:
    from viewstore.build.planning import plan
    from viewstore.cli.planned import check_alone, plan_facts, plan_text

    check_alone(given_options(click.get_current_context()))
    found = plan(_request(terminal, options), terminal)
    files = shared.weight_files(options)
    facts = plan_facts(options["out"], found, files, options["device"])
    terminal.result(facts, plan_text(facts))
    return 0


def _build(terminal: Terminal, options: dict[str, Any]) -> int:
    from viewstore.build.run import build as run

    request = _request(terminal, options)
    return tell(terminal, run(request, terminal), options)


@command("finalise", example="viewstore finalise views")
@STORE_OR_BUCKET
@shared.SINGLE_WRITER
@click.option("--allow-partial", is_flag=True, help="Also publish view sets with missing shards.")
@_MAX_MISSED
def finalise(
    terminal: Terminal,
    store: Path | str,
    single_writer: bool,
    allow_partial: bool,
    max_missed: float,
) -> int:
    """Write the manifest of what is built; run once after all slices.

    STORE is a folder, or the URL of a bucket. Until then readers see the store as it was. If a view
    set that has a plan misses shards, what is complete is published all the same, and the exit
    code is 1.
    """
    from viewstore.build.finalise import finalise as run
    from viewstore.build.going_on import unbuilt
    from viewstore.cli.status import gone_from_disk, gone_words
    from viewstore.files.working_copy import store_at
    from viewstore.format.paths import StorePaths
    from viewstore.store.advice import STORE_FOLDER
    from viewstore.store.committed import is_store, no_store
    from viewstore.store.store import open_store
    from viewstore.store.verdict import verdict_of

    with store_at(store, single_writer=single_writer) as (root, upstream):
        if not is_store(StorePaths(root)):
            raise no_store(root, fix=STORE_FOLDER)
        upstream.check_writers()
        manifest = run(root, allow_partial=allow_partial, upstream=upstream)
        left, gone = unbuilt(root, str(store)), gone_from_disk(root)
    terminal.store_id = manifest.store_id
    opened = open_store(store)
    verdict = verdict_of(opened, opened.view_sets.values(), max_missed=max_missed)
    facts = {
        "generation": manifest.generation,
        "view_sets": sorted(manifest.view_sets),
        "missing_shards": {name: each.missing for name, each in left.items()},
        "gone": gone,
    }
    reasons = not_fit(verdict)
    if (left or gone) and not allow_partial:
        names = ", ".join([*left, *gone])
        reasons.append(f"exit code 1: {names} not complete (--allow-partial)")
    lines = [
        f"generation {manifest.generation}: {', '.join(sorted(manifest.view_sets))}",
        f"store id {manifest.store_id}",
        *verdict.lines(),
        *(f"{name}: {each.words}; to build: {each.command}" for name, each in left.items()),
        *(gone_words(store, name) for name in gone),
        *reasons,
    ]
    terminal.result(facts | {"verdict": verdict.to_json()}, "\n".join(lines))
    return int(bool(reasons))


def _request(terminal: Terminal, options: dict[str, Any]) -> BuildRequest:
    from viewstore.build.request import BuildRequest
    from viewstore.images.policy_values import name_of

    policy = None if options["policy"] is None else _policy_of(options)
    flags = {
        "policy": policy,
        "views": options["views"],
        "height": options["size"],
        "width": options["size"],
        "of": options["of"],
    }
    return BuildRequest(
        generator=options["generator"] or OWN_POLICY,
        out=options["out"],
        settings=shared.merge_settings(shared.parse_assignments(options["assignments"]), flags),
        source=options["source"],
        view_set=options["view_set"] if policy is None else options["view_set"] or name_of(policy),
        limit=options["limit"],
        seed=options["seed"],
        codec=options["codec"],
        shard_rows=options["shard_rows"],
        single_writer=options["single_writer"],
        files=shared.weight_files(options),
        **how_of(terminal, options),
    )


def _policy_of(options: dict[str, Any]) -> PolicySetting:
    """Return the values in the file of --policy. Raises ConfigError: another generator is named."""
    if options["generator"] not in (None, OWN_POLICY):
        raise ConfigError(
            f"--policy goes with --generator {OWN_POLICY}, not with {options['generator']}",
            where=f"--policy {options['policy']}",
            fix="leave --generator out",
        )
    from viewstore.images.policy_values import read_policy

    return read_policy(options["policy"])


def how_of(terminal: Terminal, options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a BuildRequest that the options HOW say."""
    executor = EXECUTORS[options["executor"]]
    executor.check(options["device"])
    return {
        "executor": executor.run,
        "workers": options["workers"] or 0,
        "device": options["device"],
        "slice_of": shared.slice_of(options["shard"], terminal),
        "only": shared.parse_shards(options["only"]),
        "on_error": options["on_error"],
        "grace_seconds": options["grace"],
    }


def _share(text: str) -> float:
    """Return the share that "50%", or "50", says. Raises ConfigError."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(
            f"--max-missed must be from 0% to 100%, got {text!r}",
            where=f"--max-missed {text}",
            fix="give a share such as 50%",
        )
    return share
