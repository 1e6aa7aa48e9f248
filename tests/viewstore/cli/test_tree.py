"""The tree of commands and options: what is there, is completed, and loads nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from viewstore.cli.build import build
from viewstore.cli.jobfile import kubernetes, slurm
from viewstore.cli.status import status

WEIGHTS = "--gan --encoder --inverter --scorer"
OPTIONS = {
    build: (
        "--generator --source -o --out --view-set --views --size --limit --seed --codec --of --set "
        "--shard-rows -j --workers --device --shard --only --executor --plan --on-error "
        f"--max-failures --max-missed --grace --dry-run --sample {WEIGHTS}"
    ),
    status: "--view-set --missing --format --slices",
    slurm: f"--view-set --slices --at-once --gpus {WEIGHTS}",
    kubernetes: f"--view-set --slices --at-once --gpus --image --claim {WEIGHTS}",
}
COMMON = "-h --help -v --verbose -q --quiet --json --progress"
NEVER_AT_FIRST = "numpy cv2 PIL torch zarr rich ray obstore fsspec starlette uvicorn jinja2 pyarrow"
# Ends a program with a line of what it has loaded that its start must not load.
HEAVY = (
    "import atexit, sys; from viewstore.cli.main import main\n"
    f"heavy = {NEVER_AT_FIRST!r}.split()\n"
    "atexit.register(lambda: print(*[m for m in heavy if m in sys.modules], file=sys.stderr))\n"
    "main(sys.argv[1:])"
)
# Shows the help of every command, and says of which the modules are there that none must load.
EVERY_HELP = f"""
import contextlib, sys, click
from viewstore.cli.main import main, root

def show(group, words):
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    found = [name for name in {NEVER_AT_FIRST!r}.split() if name in sys.modules]
    if found:
        print(*words, "loads", *found, file=sys.stderr)
    context = click.Context(group)
    for word in group.list_commands(context) if isinstance(group, click.Group) else ():
        show(group.get_command(context, word), [*words, word])

show(root, [])
"""


@pytest.mark.parametrize("command", OPTIONS, ids=lambda command: str(command.name))
def test_options_keep_their_names(command: click.Command) -> None:
    context = click.Context(command, **command.context_settings)
    found = {name for each in command.get_params(context) for name in each.opts}
    assert set(f"{OPTIONS[command]} {COMMON}".split()) - found == set()


def test_no_help_loads_anything_heavy() -> None:
    """Shown one after the other in one process: the first one that is named is at fault."""
    done = subprocess.run(
        [sys.executable, "-c", EVERY_HELP], capture_output=True, text=True, check=True
    )
    shown = [line for line in done.stdout.splitlines() if line.startswith("Usage: viewstore")]
    words = {line.removeprefix("Usage: ").partition(" [")[0] for line in shown}
    assert words > {
        "viewstore",
        "viewstore build",
        "viewstore gan train",
        "viewstore jobfile slurm",
    }
    assert done.stderr.splitlines() == []


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("ins", ["inspect"]),
        ("job", ["jobfile"]),
        ("status --mi", ["--missing"]),
        ("jobfile ", ["slurm", "kubernetes"]),
        ("jobfile slurm --at", ["--at-once"]),
    ],
)
def test_a_shell_completes_commands_and_options(words: str, completed: list[str]) -> None:
    asked = {
        "_VIEWSTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"viewstore {words}",
        "COMP_CWORD": str(words.count(" ") + 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", HEAVY], capture_output=True, text=True, env={**os.environ, **asked}
    )
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == completed
    assert done.stderr.strip() == ""
