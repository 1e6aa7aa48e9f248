"""Commands that make views: build, status, finalise."""

from __future__ import annotations

import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from viewstore.cli.command import command, options_of
from viewstore.cli.terminal import Progress, Terminal, duration
from viewstore.errors import ConfigError

DEFAULT_OUT = Path("views")
FILE = click.Path(path_type=Path)


STORE = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=DEFAULT_OUT,
    show_default=True,
    metavar="STORE",
    help="The store.",
)
WEIGHTS = (
    click.option("--gan", type=FILE, metavar="FILE", help="StyleGAN2 weights."),
    click.option("--encoder", type=FILE, metavar="FILE", help="SSL encoder."),
    click.option("--inverter", type=FILE, metavar="FILE", help="GAN inverter."),
)
_OPTIONS = (
    click.option(
        "--source",
        metavar="SRC",
        help="Folder of class folders, WebDataset tar or brace pattern, .npz, .beton, or digits."
        "  [default: the store's, or digits]",
    ),
    STORE,
    click.option("--view-set", metavar="NAME", help="Its name.  [default: generator's]"),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="First N samples only."),
    click.option("--seed", type=int, metavar="N", help="Seed of every draw.  [default: 0]"),
    *WEIGHTS,
    click.option("--set", "assignments", multiple=True, metavar="K=V", help="Another setting."),
    click.option("--shard-rows", type=click.IntRange(1, 8192), metavar="S", help="Rows a shard."),
    click.option("-j", "--workers", type=click.IntRange(min=1), metavar="N", help="Processes."),
    click.option("--device", default="cpu", show_default=True, metavar="D", help="Torch device."),
    click.option("--shard", metavar="I/N", help="Build slice I of N; finalise afterwards."),
    click.option("--only", metavar="K,K-K", help="Build these shards only."),
    click.option(
        "--on-error",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="At an image that cannot be read.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Exit 1 above this many failed samples.",
    ),
    click.option(
        "--grace",
        type=float,
        default=25.0,
        show_default=True,
        metavar="S",
        help="Seconds for the running shards after SIGTERM.",
    ),
)


class _CodecChoice(click.Choice):  # type: ignore[type-arg]
    """The names in the table of codecs, which is imported no sooner than somebody asks for one."""

    def __init__(self) -> None:
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        from viewstore.images.codec import CODECS

        return tuple(CODECS)


@command("build", example="viewstore build --generator w-search --out views")
@click.option("--generator", required=True, metavar="NAME", help="What makes the views.")
@click.option("--views", type=click.IntRange(1, 100), metavar="V", help="Views per sample.")
@click.option("--size", type=click.IntRange(1, 16384), metavar="PX", help="Side of the views.")
@click.option("--codec", type=_CodecChoice(), help="How to store.")
@click.option("--dry-run", is_flag=True, help="Try some samples, say what it would cost.")
@click.option(
    "--sample",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    metavar="N",
    help="Samples that --dry-run tries.",
)
@options_of(_OPTIONS)
def build(terminal: Terminal, **options: Any) -> int:  # noqa: ANN401
    """Make a view set, or go on with one: what is committed is kept, the rest is built.

    Stopped at any moment, it goes on where it was when the same command runs again.
    """
    sample = options.pop("sample")
    if not options.pop("dry_run"):
        return _build(terminal, options)
    from viewstore.cli.costs import dry_run

    with ExitStack() as stack:
        facts, text = dry_run(_request(options), sample, Shown(terminal, stack))
    terminal.result(facts, text)
    return 0


@command("invert", example="viewstore gan invert --source digits --out views")
@options_of(_OPTIONS)
def invert(terminal: Terminal, **options: Any) -> int:  # noqa: ANN401
    """Find the latents whose images are nearest to the source's: the view set "recon".

    It is what w-search and w-perturb start from; they build it themselves where it is missing.
    """
    fixed = {"generator": "recon", "views": None, "size": None, "codec": None}
    return _build(terminal, options | fixed)


def _build(terminal: Terminal, options: dict[str, Any]) -> int:
    from viewstore.build.run import build as run

    request = _request(options)
    with ExitStack() as stack:
        built = run(request, Shown(terminal, stack))
    if built.manifest is not None:
        terminal.store_id = built.manifest.store_id
    facts = _facts(built, request)
    terminal.result(facts, _told(facts, built.plan.view_set))
    return int(built.failures > options["max_failures"])


@command("status", example="viewstore status views --view-set w-search")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--view-set", metavar="NAME", help="One view set.  [default: all]")
@click.option("--missing", is_flag=True, help="Print the numbers of the missing shards.")
def status(terminal: Terminal, store: Path, view_set: str | None, missing: bool) -> int:
    """Say how much of each view set is built; exit 1 if something is missing."""
    from viewstore.build.run import status as read
    from viewstore.format.paths import StorePaths
    from viewstore.store.committed import view_sets

    names = [view_set] if view_set else view_sets(StorePaths(store))
    if not names:
        raise ConfigError(f"there is no store at {store}", code="VS202", where=str(store))
    facts = {}
    lines = []
    for name in names:
        plan, shards = read(store, name)
        left = sorted(set(range(plan.shards)) - set(shards))
        facts[name] = {"shards": plan.shards, "committed": len(shards), "missing": left}
        lines.append(f"{name}: {len(shards)} of {plan.shards} shards")
        if missing and left:
            lines.append("  missing: " + ",".join(map(str, left)))
    terminal.result({"view_sets": facts}, "\n".join(lines))
    return int(any(entry["missing"] for entry in facts.values()))


@command("finalise", example="viewstore finalise views")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--allow-partial", is_flag=True, help="Also name view sets with missing shards.")
def finalise(terminal: Terminal, store: Path, allow_partial: bool) -> None:
    """Write the manifest of what is built; run once after all slices."""
    from viewstore.build.finalise import finalise as run
    from viewstore.format.paths import StorePaths

    if not StorePaths(store).sources_record.is_file():
        raise ConfigError(f"there is no store at {store}", code="VS202", where=str(store))
    manifest = run(store, allow_partial=allow_partial)
    terminal.store_id = manifest.store_id
    terminal.result(
        {"generation": manifest.generation, "view_sets": sorted(manifest.view_sets)},
        f"generation {manifest.generation}: {', '.join(sorted(manifest.view_sets))}\n"
        f"store id {manifest.store_id}",
    )


class Shown:
    """Shows a build on the terminal."""

    def __init__(self, terminal: Terminal, stack: ExitStack) -> None:
        self.terminal, self.stack = terminal, stack

    def warn(self, message: str) -> None:
        self.terminal.warn(message)

    def note(self, message: str) -> None:
        self.terminal.note(message)

    def begin(self, plan: Any, total: int) -> Any:  # noqa: ANN401
        bar: Progress = self.stack.enter_context(
            self.terminal.progress(total, unit="samples", label=plan.view_set)
        )
        return lambda count: bar.advance(count)

    def end(self) -> None:
        self.stack.pop_all().close()


def _request(options: dict[str, Any]) -> Any:  # noqa: ANN401
    from viewstore.build.compose import WeightFiles
    from viewstore.build.run import BuildRequest

    settings = parse_assignments(options["assignments"])
    flags = {"views": options["views"], "height": options["size"], "width": options["size"]}
    for key, value in flags.items():
        if value is not None and key in settings:
            raise ConfigError(f"{key} is given twice: as a flag and with --set")
    settings |= {key: value for key, value in flags.items() if value is not None}
    roles = ("gan", "encoder", "inverter")
    return BuildRequest(
        generator=options["generator"],
        out=options["out"],
        settings=settings,
        source=options["source"],
        view_set=options["view_set"],
        limit=options["limit"],
        seed=options["seed"],
        codec=options["codec"],
        shard_rows=options["shard_rows"],
        files=WeightFiles(**{role: options[role] for role in roles}),
        workers=options["workers"] or 0,
        device=options["device"],
        slice_of=parse_slice(options["shard"]),
        only=parse_shards(options["only"]),
        on_error=options["on_error"],
        grace_seconds=options["grace"],
    )


def parse_assignments(texts: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of `--set K=V` options; a value that is not TOML is a string."""
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set must be K=V, got {text!r}")
        key = key.strip().removeprefix("generator.")
        if key in settings:
            raise ConfigError(f"--set {key} is given twice")
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key] = value
    return settings


def parse_slice(text: str | None) -> tuple[int, int] | None:
    """Return (i, n) of "i/n", 0 <= i < n."""
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--shard must be I/N with 0 <= I < N, got {text!r}")
    return int(index), int(count)


def parse_shards(text: str | None) -> tuple[int, ...] | None:
    """Return the shard numbers of "17,20-22"."""
    if text is None:
        return None
    shards: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ConfigError(f"--only must list shards like 17,20-22, got {text!r}")
        shards += range(int(first), int(last or first) + 1)
    return tuple(shards)


def _facts(built: Any, request: Any) -> dict[str, Any]:  # noqa: ANN401
    plan = built.plan
    facts = {
        "store": str(request.out),
        "view_set": plan.view_set,
        "samples": plan.rows,
        "views": plan.views,
        "shards": plan.shards,
        "built_samples": built.samples,
        "seconds": round(built.seconds, 3),
        "views_per_second": built.samples * plan.views / built.seconds if built.samples else None,
        "bytes": sum(outcome.num_bytes for outcome in built.outcomes),
        "failures": built.failures,
        "skipped": len(built.skipped),
        "complete": built.manifest is not None,
    }
    if built.manifest is not None:
        facts |= _goals(request.out, plan.view_set)
    return facts


def _goals(out: Path, view_set: str) -> dict[str, Any]:
    """Return the share of samples whose views all met their goal, where a generator has one."""
    import viewstore

    params = viewstore.open(out).view_set(view_set).params
    if "converged" not in params:
        return {}
    converged = (params["converged"] == 1).reshape(len(params["converged"]), -1).all(axis=1)
    return {"converged_samples": int(converged.sum()), "converged_share": float(converged.mean())}


def _told(facts: dict[str, Any], view_set: str) -> str:
    views = facts["built_samples"] * facts["views"]
    if facts["built_samples"]:
        lines = [
            f"{view_set}: {views} views of {facts['built_samples']} samples in "
            f"{duration(facts['seconds'])}, {facts['views_per_second']:.0f} views/s, "
            f"{facts['bytes'] / 2**20:.1f} MiB"
        ]
    else:
        lines = [f"{view_set}: all {facts['shards']} shards were there already"]
    if "converged_share" in facts:
        lines.append(
            f"{facts['converged_samples']} of {facts['samples']} samples converged "
            f"({facts['converged_share']:.1%}): every view within its tolerance on stored pixels"
        )
    if facts["failures"]:
        lines.append(f"{facts['failures']} samples failed and are kept with their status")
    if facts["complete"]:
        lines.append(f"look at them: viewstore inspect {facts['store']} --sheet views.png")
    else:
        lines.append(f"not complete yet: viewstore status {facts['store']}")
    return "\n".join(lines)
