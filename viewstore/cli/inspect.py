"""Commands that look at views: inspect, stats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.options import FILE, ONE_VIEW_SET, check_file
from viewstore.cli.terminal import Terminal, write_stdout
from viewstore.errors import ConfigError, counted

if TYPE_CHECKING:
    from viewstore.store.store import Store
    from viewstore.store.view_set import ViewSet

DRAWN = {"sheet": (".png",), "html": (".html", ".htm")}  # what is drawn, and how its file ends


@command("inspect", example="viewstore inspect views --sheet views.png --random -n 20")
@click.argument("store")
@click.argument("key", required=False)
@click.option(
    "--sheet", type=FILE, metavar="F.png", help="Write a contact sheet, one picture with all views."
)
@click.option("--html", type=FILE, metavar="F.html", help="Write a report to open in a browser.")
@click.option(
    "--pick",
    metavar="SET.COLUMN",
    help="Frame the views that a columns set chose, on the sheet and in the report.",
)
@click.option(
    "--get",
    "page",
    metavar="PATH",
    help="Print one page of --web, such as '/browse?sort=distance'.",
)
@ONE_VIEW_SET
@click.option(
    "--worst",
    is_flag=True,
    help="Show the samples of --view-set that are farthest from their goal, the worst first.",
)
@click.option("-n", "count", default=10, show_default=True, metavar="N", help="Show N samples.")
@click.option(
    "--random", "at_random", is_flag=True, help="Choose them at random, not spread over the store."
)
@click.option(
    "--seed", default=0, show_default=True, metavar="N", help="Seed the choice of samples."
)
def inspect(
    terminal: Terminal,
    store: str,
    key: str | None,
    **options: Any,  # noqa: ANN401
) -> int | None:
    """Show what is in a store, or what is known of the sample KEY.

    --sheet and --html draw originals with their crop boxes beside their views.
    """
    from viewstore.inspect.shown_rows import choose_rows, choose_view_sets
    from viewstore.inspect.summary import sample_facts, store_facts, without_histograms
    from viewstore.inspect.text import sample_text, store_text

    for name, suffixes in DRAWN.items():
        if options[name] is not None:
            check_file(f"--{name}", options[name], suffixes)
    if options["pick"] is not None and options["sheet"] is options["html"] is None:
        raise ConfigError(
            "--pick frames views that are drawn, and none are", fix="add --sheet or --html"
        )
    opened = _opened(terminal, store)
    if options["page"] is not None:
        return _page(opened, options["page"])
    view_sets = choose_view_sets(opened, options["view_set"])
    if options["worst"]:
        rows = _worst(view_sets, key, options)
    else:
        rows = choose_rows(
            opened,
            count=options["count"],
            random=options["at_random"],
            seed=options["seed"],
            key=key,
        )
    drawn = _draw(opened, rows, view_sets, options)
    if drawn:
        _warn_of_originals(terminal, opened, rows)
    if key is None:
        facts = store_facts(opened, view_sets)
        text = "" if drawn else store_text(facts)
        facts = without_histograms(facts)
    else:
        facts = sample_facts(opened, rows[0], view_sets)
        roles = {each.name: each.roles for each in view_sets}
        of_sample = {
            each.name: [name for name in each.params if not each.plan.per_view(name)]
            for each in view_sets
        }
        describing = {each.name: str(each.of) for each in view_sets if each.kind == "columns"}
        text = "" if drawn else sample_text(facts, roles, of_sample, describing)
    lines = [f"{path}: {counted(len(rows), 'sample')}" for path in drawn.values()]
    terminal.result({**facts, **drawn}, text or "\n".join(lines))
    return None


def _page(store: Store, address: str) -> int:
    """Print a page on stdout; return 1 if it is one of an error."""
    from viewstore.build.draws import drawn_anew
    from viewstore.inspect.pages.site import Site

    path, _, query = address.removeprefix("/").partition("?")
    page = Site({store.name: lambda: store}, replays=drawn_anew).get(store.name, path, query)
    write_stdout(page.body.decode())
    return int(page.status >= 400)


def _worst(view_sets: Sequence[ViewSet], key: str | None, options: dict[str, Any]) -> list[int]:
    """Return the rows that --worst shows. Raises ConfigError: there are none to choose from."""
    from viewstore.inspect.inversion import farthest_rows, is_inversion
    from viewstore.inspect.shown_rows import worst_rows

    if key is not None or options["at_random"]:
        raise ConfigError("--worst chooses the samples: leave out KEY and --random")
    if len(view_sets) != 1:
        names = ", ".join(each.name for each in view_sets)
        raise ConfigError("--worst is about one view set", fix=f"name it with --view-set: {names}")
    (view_set,) = view_sets
    choose = farthest_rows if is_inversion(view_set) else worst_rows
    rows = choose(view_set, options["count"])
    if not rows:
        raise ConfigError(f"no view of {view_set.name} failed or missed its goal")
    return rows


@command("stats", example="viewstore stats views --column distance")
@click.argument("store")
@click.option("--column", metavar="C", help="Show this column only, with its histogram.")
@ONE_VIEW_SET
def stats(terminal: Terminal, store: str, column: str | None, view_set: str | None) -> None:
    """Show the columns of params, and what the view sets cost on this machine."""
    from viewstore.cli.costs import cost_lines, store_costs
    from viewstore.inspect.shown_rows import choose_view_sets
    from viewstore.inspect.summary import column_facts
    from viewstore.inspect.text import histogram_lines, stats_table

    opened = _opened(terminal, store)
    chosen = choose_view_sets(opened, view_set)
    if column is not None and view_set is None:
        name = column.partition(".")[0]
        chosen = [each for each in chosen if name in each.stats] or chosen
    machine, costs = ({}, {}) if column or opened.remote else store_costs(opened, chosen)
    facts = {}
    lines = []
    for each in chosen:
        found = facts[each.name] = column_facts(each, column or None)
        lines += [f"view set {each.name}", *stats_table(found)]
        for name, summary in found.items() if column else ():
            lines += ["", name, *histogram_lines(name, summary)]
        if each.name in costs:
            lines += cost_lines(costs[each.name], machine)
        lines.append("")
    answer = {"view_sets": facts, "machine": machine, "costs": costs}
    terminal.result(answer, "\n".join(lines).rstrip())


def _opened(terminal: Terminal, path: str) -> Store:
    from viewstore.store.store import open_store

    store = open_store(path)
    terminal.store_id = store.store_id
    for name in store.gone:
        terminal.warn(f"view set {name} is gone from disk; viewstore rm {path} {name} forgets it")
    for name, there in {**store.unfinished, **_partial(store)}.items():
        terminal.warn(
            f"view set {name} is not complete: {there}; run its build again, with the same command"
        )
    return store


def _partial(store: Store) -> dict[str, str]:
    """Return how far the view sets are that were published without some of their shards."""
    from viewstore.store.committed import shards_there

    return {
        name: shards_there(len(each.index.shards), each.plan)
        for name, each in store.view_sets.items()
        if not each.complete
    }


def _warn_of_originals(terminal: Terminal, store: Store, rows: Sequence[int]) -> None:
    """Say why originals are gray, and what to do."""
    from viewstore.inspect.shown_rows import unreadable_originals

    errors = unreadable_originals(store, rows)
    if errors:
        first = errors[0]
        why = f" ({first.why})" if first.why else ""
        terminal.warn(
            f"{len(errors)} of {counted(len(rows), 'original')} cannot be shown: {first}{why}; "
            f"{first.fix}"
        )


def _draw(
    store: Store, rows: Sequence[int], view_sets: Sequence[ViewSet], options: dict[str, Any]
) -> dict[str, str]:
    """Write the files that the options ask for; return their paths by option."""
    from viewstore.files import disk
    from viewstore.inspect.told import chosen_of, looked_at

    drawn: dict[str, str] = {}
    if options["sheet"] is options["html"] is None:
        return drawn
    view_sets = looked_at(store, view_sets)
    pick = options["pick"]
    chosen = None if pick is None else chosen_of(store, view_sets, pick)
    for name, path in (("sheet", options["sheet"]), ("html", options["html"])):
        if path is None:
            continue
        if name == "sheet":
            from viewstore.inspect.sheet import draw_sheet

            data = draw_sheet(store, rows, view_sets, seed=options["seed"], chosen=chosen)
        else:
            from viewstore.inspect.report import write_report

            data = write_report(store, rows, view_sets, chosen=chosen)
        disk.make_directory(path.absolute().parent)
        disk.write_atomic(path, data)
        drawn[name] = str(path)
    return drawn
