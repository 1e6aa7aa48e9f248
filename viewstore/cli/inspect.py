"""Commands that look at views: inspect, stats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command, given_options
from viewstore.cli.looking import (
    CHOICE,
    Chosen,
    check_together,
    chosen_samples,
    one_shard,
)
from viewstore.cli.options import FILE, ONE_VIEW_SET, check_file
from viewstore.cli.terminal import Terminal, write_stdout
from viewstore.cli.web import show_pages
from viewstore.errors import ConfigError, counted, quoted

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
@click.option(
    "--at",
    metavar="SHARD[:ROW]",
    help="Show one shard and a row of it; the rest of the store may be damaged or gone.",
)
@click.option(
    "--web",
    is_flag=True,
    help="Show pages in a browser on this machine: print an address that works once.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open --web in your browser.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="P",
    help="Serve --web at this port.  [default: a free one]",
)
@click.option(
    "--root-path", metavar="/P", help="Addresses of --web begin with this, as behind a proxy."
)
@ONE_VIEW_SET
@CHOICE
def inspect(
    terminal: Terminal,
    store: str,
    key: str | None,
    **options: Any,  # noqa: ANN401
) -> int | None:
    """Show what is in a store, or what is known of the sample KEY.

    --sheet and --html draw originals with their crop boxes beside their views.
    """
    given = given_options(click.get_current_context())
    check_together(given)
    if options["web"]:
        show_pages(terminal, store, options)
        return None
    for name, suffixes in DRAWN.items():
        if options[name] is not None:
            check_file(f"--{name}", options[name], suffixes)
    if options["at"] is not None:
        facts, text = one_shard(store, options["at"], options["view_set"])
        terminal.result(facts, text, ok=not facts["faults"])
        return int(bool(facts["faults"]))
    if options["page"] is not None:
        return _page(terminal, store, options["page"])
    opened = _opened(terminal, store)

    from viewstore.inspect.chosen_rows import choose_view_sets

    view_sets = choose_view_sets(opened, options["view_set"])
    chosen = chosen_samples(opened, view_sets, key, options, given)
    drawn = _draw(opened, chosen, view_sets, options)
    if drawn:
        _warn_of_originals(terminal, opened, chosen.rows)
    facts, text = _answer(opened, view_sets, key, chosen)
    lines = [f"{path}: {counted(len(chosen.rows), 'sample')}" for path in drawn.values()]
    terminal.result({**facts, **drawn}, "\n".join(lines) or text)
    return None


def _answer(
    store: Store, view_sets: Sequence[ViewSet], key: str | None, chosen: Chosen
) -> tuple[dict[str, Any], str]:
    """Return the facts of what was asked for, and them as text."""
    from viewstore.inspect.summary import sample_facts, store_facts, without_histograms
    from viewstore.inspect.text import rows_text, sample_text, store_text

    if key is not None:
        facts = sample_facts(store, chosen.rows[0], view_sets)
        roles = {each.name: each.roles for each in view_sets}
        of_sample = {
            each.name: [name for name in each.params if not each.plan.per_view(name)]
            for each in view_sets
        }
        describing = {each.name: str(each.of) for each in view_sets if each.kind == "columns"}
        return facts, sample_text(facts, roles, of_sample, describing)
    if chosen.facts is not None:
        return dict(chosen.facts), rows_text(chosen.facts)
    facts = store_facts(store, view_sets)
    return without_histograms(facts), store_text(facts)


def _page(terminal: Terminal, place: str, address: str) -> int:
    """Print a page on stdout; return 1 if it is one of an error.

    Raises:
        ConfigError: It is a picture, or there is no store at `place`.
    """
    from viewstore.build.draws import drawn_anew
    from viewstore.files.local import is_url, local_path
    from viewstore.format.paths import StorePaths
    from viewstore.inspect.pages.site import Site
    from viewstore.store.committed import is_store
    from viewstore.store.store import open_store

    folder = None if is_url(place) else local_path(place).resolve()
    if folder and is_store(StorePaths(folder)) and not StorePaths(folder).manifest.exists():
        name, site = (
            folder.name,
            Site({folder.name: lambda: open_store(place)}, {folder.name: folder}),
        )
    else:
        store = _opened(terminal, place)
        name, site = store.name, Site({store.name: lambda: store}, replays=drawn_anew)
    path, _, query = address.removeprefix("/").partition("?")
    page = site.get(name, path, query)
    if page.media_type.startswith("image/"):
        raise ConfigError(f"--get prints pages, and {address[:80]} is a picture")
    body = page.body.decode()
    if terminal.json:
        facts = {"status": page.status, "media_type": page.media_type, "body": body}
        terminal.result(facts, "", ok=page.status < 400)
    else:
        write_stdout(body)
    return int(page.status >= 400)


@command("stats", example="viewstore stats views --column distance")
@click.argument("store")
@click.option("--column", metavar="C", help="Show this column only, with its histogram.")
@ONE_VIEW_SET
def stats(terminal: Terminal, store: str, column: str | None, view_set: str | None) -> None:
    """Show the columns of params, and what the view sets cost on this machine."""
    from viewstore.cli.costs import cost_lines, store_costs
    from viewstore.inspect.chosen_rows import choose_view_sets
    from viewstore.inspect.summary import column_facts, unsummarised
    from viewstore.inspect.text import histogram_lines, stats_table, unsummarised_lines

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
        lines += unsummarised_lines(unsummarised(each)) if column is None else []
        for name, summary in found.items() if column else ():
            lines += ["", name, *histogram_lines(name, summary)]
        if each.name in costs:
            lines += cost_lines(costs[each.name], machine)
        lines.append("")
    answer = {"view_sets": facts, "machine": machine, "costs": costs}
    terminal.result(answer, "\n".join(lines).rstrip())


def _opened(terminal: Terminal, path: str) -> Store:
    from viewstore.files.remedy import remedy_at
    from viewstore.store.committed import not_complete
    from viewstore.store.store import open_store

    store = open_store(path)
    terminal.store_id = store.store_id
    for name in store.gone:
        forget = remedy_at(path, f"viewstore rm {quoted(path)} {name} forgets it")
        terminal.warn(f"view set {name} is gone from disk; {forget}")
    for name, there in {**store.unfinished, **_partial(store)}.items():
        terminal.warn(not_complete(name, there))
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
    store: Store, samples: Chosen, view_sets: Sequence[ViewSet], options: dict[str, Any]
) -> dict[str, str]:
    """Write the files that the options ask for; return their paths by option."""
    from viewstore.files import disk
    from viewstore.inspect.told import chosen_of, looked_at

    drawn: dict[str, str] = {}
    rows = samples.rows
    if options["sheet"] is options["html"] is None or not rows:
        return drawn
    view_sets = looked_at(store, view_sets)
    pick = options["pick"]
    chosen = None if pick is None else chosen_of(store, view_sets, pick)
    for name, path in (("sheet", options["sheet"]), ("html", options["html"])):
        if path is None:
            continue
        if name == "sheet":
            from viewstore.inspect.sheet import draw_sheet

            data = draw_sheet(
                store,
                rows,
                view_sets,
                seed=options["seed"],
                query=json.dumps(samples.query) if samples.query else "",
                chosen=chosen,
            )
        else:
            from viewstore.inspect.report import write_report

            data = write_report(store, rows, view_sets, chosen=chosen)
        disk.make_directory(path.absolute().parent)
        disk.write_atomic(path, data)
        drawn[name] = str(path)
    return drawn
