"""What `viewstore inspect` was asked for: options that go together, and the samples they choose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import options_of
from viewstore.errors import ConfigError

if TYPE_CHECKING:
    from viewstore.inspect.query import Query
    from viewstore.store.store import Store
    from viewstore.store.view_set import ViewSet

COUNT = 10  # samples that are shown unless -n says another number
CHOOSING = ("where", "sort", "worst", "at_random", "count", "seed")
SHARD_ROW = re.compile(r"(\d{1,6})(?::(\d{1,6}))?", re.ASCII)
FLAGS = {
    "web": "--web",
    "open_browser": "--open",
    "port": "--port",
    "root_path": "--root-path",
    "page": "--get",
    "at": "--at",
    "key": "KEY",
    "view_set": "--view-set",
    "where": "--where",
    "sort": "--sort",
    "worst": "--worst",
    "at_random": "--random",
    "count": "-n",
    "seed": "--seed",
    "sheet": "--sheet",
    "html": "--html",
    "pick": "--pick",
}
OF_WEB = ("open_browser", "port", "root_path")
# What does not go with an option: each of these, if both are given.
AGAINST: Mapping[str, Sequence[str]] = {
    "web": [name for name in FLAGS if name not in ("web", *OF_WEB)],
    "page": [name for name in FLAGS if name != "page"],
    "at": [name for name in FLAGS if name not in ("at", "view_set")],
    "key": CHOOSING,
    "worst": ("at_random", "sort", "seed"),
    "at_random": ("sort",),
}

CHOICE = options_of(
    (
        click.option(
            "--where",
            metavar="Q",
            help="Show the samples for which a filter is true: 'distance > 0.32 and flip = true'.",
        ),
        click.option(
            "--sort",
            metavar="[-]COLUMN",
            help="Order them by a column, the least first; with - the greatest first.",
        ),
        click.option(
            "--worst",
            is_flag=True,
            help="Show the samples of --view-set that are farthest from their goal, the worst "
            "first.",
        ),
        click.option(
            "-n", "count", default=COUNT, show_default=True, metavar="N", help="Show N samples."
        ),
        click.option(
            "--random",
            "at_random",
            is_flag=True,
            help="Choose them at random, not spread over the store.",
        ),
        click.option(
            "--seed", default=0, show_default=True, metavar="N", help="Seed the choice of samples."
        ),
    )
)


def check_together(given: set[str]) -> None:
    """Raise ConfigError if two options contradict each other, or one has no effect."""
    if given & {"worst"} and given & {"key", "at_random", "sort", "seed"}:
        raise ConfigError("--worst chooses the samples: leave out KEY, --random, --sort and --seed")
    for name, others in AGAINST.items():
        wrong = [FLAGS[other] for other in others if other in given and other != name]
        if name in given and wrong:
            raise ConfigError(f"{FLAGS[name]} does not go with {' and '.join(wrong)}")
    if given & set(OF_WEB) and "web" not in given:
        names = " and ".join(FLAGS[name] for name in OF_WEB if name in given)
        raise ConfigError(f"{names} needs --web", fix="add --web")
    drawn = bool(given & {"sheet", "html"})
    if "pick" in given and not drawn:
        raise ConfigError(
            "--pick frames views that are drawn, and none are", fix="add --sheet or --html"
        )
    ordered = bool(given & {"where", "sort"}) and "at_random" not in given
    if "seed" in given and (ordered or not (drawn or given & {"at_random", "count"})):
        raise ConfigError(
            "--seed seeds a choice of samples, and none is made",
            fix="add --random, or leave out --seed",
        )


def shard_and_row(text: str) -> tuple[int, int | None]:
    """Return shard and row of "17:85" or "17". Raises ConfigError."""
    match = SHARD_ROW.fullmatch(text)
    if match is None:
        raise ConfigError(f"--at must be SHARD or SHARD:ROW, such as 17:85, got {text[:40]!r}")
    return int(match[1]), None if match[2] is None else int(match[2])


@dataclass(frozen=True)
class Chosen:
    """The samples to show.

    Attributes:
        rows: In their order.
        query: What chose them, for the text chunk of a contact sheet.
        facts: The list of them, as `--json` prints it; None where none was asked for.
    """

    rows: list[int]
    query: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] | None = None


def chosen_samples(
    store: Store,
    view_sets: Sequence[ViewSet],
    key: str | None,
    options: Mapping[str, Any],
    given: set[str],
) -> Chosen:
    """Return the samples that the options choose.

    Raises:
        ConfigError: The filter is none, a column or key is unknown, or -n is below 1.
    """
    from viewstore.inspect.chosen_rows import choose_rows
    from viewstore.inspect.query import understand

    if key is not None:
        return Chosen([store.keys.find(key)])
    count = options["count"]
    spread = choose_rows(store, count=count, seed=options["seed"])
    if not given & set(CHOOSING):
        return Chosen(spread)
    query = _query(view_sets, options)
    asked = understand(store, query, view_sets[0] if len(view_sets) == 1 else None)
    found = asked.find()
    rows = found.page(0, count) if given & {"where", "sort", "worst", "at_random"} else spread
    facts = {
        "samples": store.num_samples,
        "count": len(found),
        "understood": asked.text,
        "columns": asked.columns,
        "ranked": asked.ranked(found),
        "rows": asked.listed(rows),
    }
    return Chosen(rows, {"where": asked.text, "sort": query.sort}, facts)


def _query(view_sets: Sequence[ViewSet], options: Mapping[str, Any]) -> Query:
    from viewstore.inspect.query import RANDOM, WORST, Query
    from viewstore.inspect.ranking import ranking_of

    sort = options["sort"] or ""
    if options["worst"]:
        if len(view_sets) != 1:
            names = ", ".join(each.name for each in view_sets if ranking_of(each) is not None)
            raise ConfigError(
                "--worst is about one view set that has a goal",
                fix=f"name it with --view-set: {names}" if names else "order by a column: --sort",
            )
        sort = WORST
    elif options["at_random"]:
        sort = RANDOM
    return Query(where=options["where"] or "", sort=sort, seed=options["seed"])


def one_shard(path: str, at: str, view_set: str | None) -> tuple[dict[str, Any], str]:
    """Return what is known of one shard, read without the rest of its store: facts and text.

    Raises:
        ConfigError: There is no such store, view set, shard or row.
        FormatError: Its plan is damaged.
    """
    from viewstore.files.local import is_url, local_path
    from viewstore.format.paths import StorePaths
    from viewstore.inspect.one_shard import shard_facts
    from viewstore.inspect.text import shard_text
    from viewstore.store.committed import no_store, no_view_set, view_sets

    shard, row = shard_and_row(at)
    if is_url(path):
        raise ConfigError("--at reads a shard of this machine, and this store is at a URL")
    paths = StorePaths(Path(local_path(path)))
    names = view_sets(paths)
    if not names:
        raise no_store(path, why="it has no view set with a plan")
    if view_set is None and len(names) > 1:
        raise ConfigError("--at is about one view set", fix=f"--view-set: {', '.join(names)}")
    name = view_set or names[0]
    if name not in names:
        raise no_view_set(name, names, path)
    facts = shard_facts(paths.view_set(name), shard, row)
    return facts, shard_text(facts)
