"""The command line: the tree of commands, and the exit code of whatever happens.

Exit codes: 0 done; 1 done, the answer is no; 2 settings; 3 cannot; 4 stopped, resumable;
70 our bug; 130 interrupted; 141 stdout closed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import click

from viewstore.cli.command import CONTEXT, Entry, LazyGroup, apply_common, common_options
from viewstore.cli.stopping import INTERRUPTED
from viewstore.cli.terminal import Terminal, write_stdout
from viewstore.errors import StoppedError, ViewStoreError, bug
from viewstore.shards.signals import STOP_SIGNALS, Stopped, stop_signals_raise

MAKE, LOOK, MEND, MOVE = "Make views", "Look at them", "Mend a store", "Move them elsewhere"
LEARN, SHARE = "Learn from them", "Share them"
COMMANDS = {
    "build": Entry("viewstore.cli.build:build", "Make a view set, or go on with one.", MAKE),
    "refresh": Entry("viewstore.cli.refresh:refresh", "Make a new round of a view set.", MAKE),
    "status": Entry("viewstore.cli.status:status", "Say how far a build is.", MAKE),
    "finalise": Entry("viewstore.cli.build:finalise", "Write the manifest after slices.", MAKE),
    "jobfile": Entry("viewstore.cli.jobfile:jobfile", "Print a job file for a cluster.", MAKE),
    "gan": Entry("viewstore.cli.gan:gan", "Train, invert, sample and convert GANs.", MAKE),
    "inspect": Entry("viewstore.cli.inspect:inspect", "Show what is in a store.", LOOK),
    "stats": Entry("viewstore.cli.inspect:stats", "Show the columns of params.", LOOK),
    "replay": Entry("viewstore.cli.replay:replay", "Make a view anew from its params.", LOOK),
    "bench": Entry("viewstore.cli.bench:bench", "Measure how fast a store loads here.", LOOK),
    "verify": Entry("viewstore.cli.mend:verify", "Prove a store whole; repair it.", MEND),
    "rm": Entry("viewstore.cli.view_sets:remove", "Take out a view set.", MEND),
    "mv": Entry("viewstore.cli.view_sets:rename", "Rename a view set.", MEND),
    "gc": Entry("viewstore.cli.mend:gc", "Drop files that nothing names.", MEND),
    "export": Entry("viewstore.cli.export:export", "Write views for other loaders.", MOVE),
    "conformance": Entry(
        "viewstore.cli.conformance:conformance", "Hold a package's additions to the suites.", MEND
    ),
    "serve": Entry("viewstore.cli.serve:serve", "Serve stores to many jobs, and as pages.", SHARE),
    "train": Entry("viewstore.cli.train:train", "Train an encoder on views.", LEARN),
    "eval": Entry("viewstore.cli.evaluate:evaluate", "Probe a trained encoder.", LEARN),
}


@click.group(
    "viewstore",
    cls=LazyGroup,
    table=COMMANDS,
    context_settings=CONTEXT,
    help="""Make expensive views once, keep them with their params, stream them into training.

    \b
    Example:
      viewstore build --generator w-search && viewstore inspect views
    """,
    epilog="Exit codes: 0 done, 1 the answer is no, 2 settings, 3 cannot, 4 stopped and resumable, "
    "70 our bug, 130 interrupted, 141 stdout closed.",
)
@click.version_option(package_name="viewstore")
@common_options
@click.pass_context
def root(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401
    apply_common(context.ensure_object(Terminal), **options)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code of what happened.

    A stop signal ends it with 4; builds and trainings take stop signals themselves while they
    run. Without `arguments` the process ends here, and ignores later signals; those that came
    before are heard now.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if arguments is None:
        _open_streams()
        _name_crashes()
    terminal = Terminal(arguments=given)
    code: int | None = None
    try:
        ignored = signal.SIG_IGN if arguments is None else None
        with stop_signals_raise(then=ignored), _warnings_shown(terminal):
            if arguments is None:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, *STOP_SIGNALS))
            code = _run(terminal, given)
    except Stopped as stopped:
        if code is None:
            name = signal.Signals(stopped.number).name
            code = _failed(terminal, _stopped(f"stopped by {name}"))
    except KeyboardInterrupt:  # before the command began, or a second one
        code = _interrupted(terminal, given) if code is None else code
    sys.exit(code)


def _open_streams() -> None:
    """Open what of stdin, stdout and stderr was closed by whoever started the process.

    The next file would get its number, and a worker process that is given it never begins.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)  # no stdout is an answer: 141


def _name_crashes() -> None:
    """Let a crash, as of a shard that was cut while it was mapped, end with a line and a stack."""
    with contextlib.suppress(RuntimeError, OSError, ValueError):  # stderr is closed or no file
        faulthandler.enable()


@contextlib.contextmanager
def _warnings_shown(terminal: Terminal) -> Iterator[None]:
    """Let what the library warns of be said as a command says it, without lines of code."""
    before = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: terminal.warn(str(message))
    try:
        yield
    finally:
        warnings.showwarning = before


def _stopped(by: str) -> StoppedError:
    return StoppedError(
        by,
        why="every committed shard is kept, and whatever else was finished",
        fix="run the same command again",
    )


def _run(terminal: Terminal, arguments: list[str]) -> int:
    try:
        code = root.main(arguments, standalone_mode=False, obj=terminal, prog_name="viewstore")
    except ViewStoreError as error:
        terminal.json = terminal.json or "--json" in arguments  # it was not parsed yet
        return _failed(terminal, error)
    except SystemExit as error:  # Click's, where the reader of a pipe has gone, is 1
        return 141 if error.code == 1 else _code(error.code)
    except click.UsageError as error:
        terminal.json = terminal.json or "--json" in arguments  # it was not parsed yet
        if error.ctx:
            terminal.command = error.ctx.command_path.partition(" ")[2]
        hint = f"{error.ctx.command_path} --help" if error.ctx else "viewstore --help"
        usage = ViewStoreError(error.format_message(), code="VS100", fix=hint)
        terminal.error(usage)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return _interrupted(terminal, arguments)
    except OSError as error:
        return _failed(terminal, _explained(error))
    except Exception as error:  # the one place where a bug of ours becomes exit 70
        return _failed(terminal, bug(error, "run again with -vv and report the traceback"))
    return _code(code)


def _interrupted(terminal: Terminal, arguments: list[str]) -> int:
    terminal.json = terminal.json or "--json" in arguments  # it may not be parsed yet
    _failed(terminal, _stopped("interrupted"))
    return INTERRUPTED


def _explained(error: OSError) -> ViewStoreError:
    """Return the error of what was refused: stdout, to which Click writes help, or else."""
    from viewstore.files.disk import explain

    try:
        write_stdout("")
    except ViewStoreError as unwritten:
        return unwritten
    return explain(error)


def _code(code: object) -> int:
    return code if isinstance(code, int) else 0


def _failed(terminal: Terminal, error: ViewStoreError) -> int:
    """Print an error; return its exit code, which for one without a kind is that of a bug."""
    terminal.error(error)
    if terminal.verbosity >= 2 or os.environ.get("VIEWSTORE_DEBUG") == "1":
        traceback.print_exc()
    return 70 if error.code == ViewStoreError.code else error.exit_code
