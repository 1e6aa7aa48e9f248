"""What every command shares: common options, lazy loading, and how failures end.

Commands are looked up by name and imported only when they run, so that `viewstore --help`
stays fast; a test compares the table with what the modules define.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from viewstore.cli.terminal import Terminal, write_stdout

ALWAYS = frozenset({"store", "verbose", "quiet", "as_json", "progress_form"})  # in every form
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Entry(NamedTuple):
    """One row of a command table: where the command lives, and its line in the help."""

    target: str  # "module:function"
    help: str
    section: str = ""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def __init__(self, *, table: Mapping[str, Entry], **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            write_stdout(ctx.get_help() + "\n")
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.table.get(cmd_name)
        if entry is None:
            close = difflib.get_close_matches(cmd_name, self.table, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.table)}"
            ctx.fail(f"No such command {cmd_name!r}; {hint}")
        module, name = entry.target.split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.table.items():
            sections.setdefault(entry.section or "Commands", []).append((name, entry.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)


class _Command(click.Command):
    """A command none of whose values is empty, but for keys of samples, which may be any text.

    An empty path would be the current folder, an empty name the default; a script whose variable
    is not set means neither. Its help shows options in the groups that they have by name.
    """

    groups: Mapping[str, str] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                group = self.groups.get(str(parameter.name), "Options")
                shown.setdefault(group, []).append(record)
        for group, records in shown.items():
            with formatter.section(group):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # What a value is refused with names the command, too.
        ctx.ensure_object(Terminal).command = ctx.command_path.partition(" ")[2]
        values, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter in order:
            value = None if parameter.name == "key" else values.get(str(parameter.name))
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                raise click.BadParameter("it must not be empty.", ctx, parameter)
        return super().parse_args(ctx, args)


_COMMON = (
    click.option("-v", "--verbose", count=True, help="Say more; -vv adds tracebacks to errors."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print the answer as one JSON object on stdout."
    ),
    click.option(
        "--progress",
        "progress_form",
        type=click.Choice(["auto", "bar", "plain", "json", "off"]),
        default=None,
        help="Choose how progress is shown; auto is a bar on a terminal, else plain lines."
        "  [default: auto]",
    ),
)


def given_options(context: click.Context) -> set[str]:
    """Return the names of the arguments and options that stand on the command line."""
    names = (str(parameter.name) for parameter in context.command.params)
    given = {
        name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    return given - ALWAYS


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options_of(options: Sequence[Decorator]) -> Decorator:
    """Return what adds options that several commands share, in their order."""
    return lambda function: functools.reduce(lambda f, add: add(f), reversed(options), function)


common_options = options_of(_COMMON)  # what every command takes, before and after its name


def apply_common(
    terminal: Terminal,
    *,
    verbose: int,
    quiet: bool,
    as_json: bool,
    progress_form: Any,  # noqa: ANN401
) -> None:
    """Merge common options: those after the name of the command add to those before it."""
    if quiet or verbose:
        terminal.verbosity = -1 if quiet else max(terminal.verbosity, verbose)
    terminal.json = terminal.json or as_json
    terminal.progress_form = progress_form or terminal.progress_form


def _names(options: Sequence[Decorator]) -> list[str]:
    """Return the names of the parameters that these options add."""
    made = click.command()(options_of(options)(lambda: None))
    return [str(parameter.name) for parameter in made.params]


def command(
    name: str, *, example: str, groups: Mapping[str, Sequence[Decorator]] | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command; its first argument is the Terminal, its docstring the help.

    Args:
        name: The command's name.
        example: One command line, shown at the end of the help.
        groups: Options that the help shows together, by the title of their group; the function
            gets them before its own.
    """
    grouped = groups or {}

    def decorate(function: Callable[..., Any]) -> click.Command:
        @click.pass_context
        @functools.wraps(function)
        def run(
            context: click.Context,
            /,
            *args: Any,  # noqa: ANN401
            verbose: int,
            quiet: bool,
            as_json: bool,
            progress_form: str | None,
            **options: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            terminal = context.ensure_object(Terminal)
            apply_common(
                terminal,
                verbose=verbose,
                quiet=quiet,
                as_json=as_json,
                progress_form=progress_form,
            )
            return function(terminal, *args, **options)

        epilog = f"\b\nExample:\n  {example}"
        made = click.command(name, _Command, context_settings=CONTEXT, epilog=epilog)
        every = [option for options in grouped.values() for option in options]
        found = made(options_of(every)(common_options(run)))
        found.groups = {name: title for title in grouped for name in _names(grouped[title])}
        return found

    return decorate
