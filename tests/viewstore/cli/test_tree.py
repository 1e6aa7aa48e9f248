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
# Ends a program with a line of what it has loaded that its start must not load.
HEAVY = (
    "import atexit, sys; from viewstore.cli.main import main\n"
    "heavy = 'torch ray obstore fsspec starlette uvicorn'.split()\n"
    "atexit.register(lambda: print(*[m for m in heavy if m in sys.modules], file=sys.stderr))\n"
    "main(sys.argv[1:])"
)


@pytest.mark.parametrize("command", OPTIONS, ids=lambda command: str(command.name))
def test_options_keep_their_names(command: click.Command) -> None:
    context = click.Context(command, **command.context_settings)
    found = {name for each in command.get_params(context) for name in each.opts}
    assert set(f"{OPTIONS[command]} {COMMON}".split()) - found == set()


@pytest.mark.parametrize(
    "words",
    [
        "build --help",
        "finalise --help",
        "gc --help",
        "jobfile --help",
        "jobfile slurm --help",
        "jobfile kubernetes -h",
        "status --help",
    ],
)
def test_a_help_loads_nothing_heavy(words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, *words.split()], capture_output=True, text=True, check=True
    )
    assert f"Usage: viewstore {words.rpartition(' ')[0]}" in done.stdout
    assert done.stderr.strip() == ""


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
