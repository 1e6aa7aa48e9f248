"""Stands in for what starts tasks on a cluster: each task runs here, one after the other.

Usage: stand_ins.py PROGRAM WORDS.., where PROGRAM is sbatch, kubectl, aws, ssh or parallel.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

FOREIGN = re.compile(r"SLURM_|JOB_COMPLETION|AWS_BATCH|VIEWSTORE_SHARD|RANK$|WORLD_SIZE")
PROGRAMS = ("sbatch", "kubectl", "aws", "ssh", "parallel")


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return that of a task: this installation, and nothing of another cluster."""
    own = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**own, "PATH": path, **variables}


def one_core() -> None:
    """Leave one core to the process that begins: its build then works in itself."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def install(folder: Path) -> None:
    """Write the programs into a folder, which is to come first on the PATH."""
    for name in PROGRAMS:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        program.chmod(0o755)


def run(command: Iterable[str], **variables: str) -> None:
    subprocess.run([*command], env={**os.environ, **variables}, check=True)


def array(text: str) -> Iterator[int]:
    """Yield the numbers of "0-3,7%2"."""
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def sbatch(*words: str) -> None:
    script = Path(words[-1])
    found = re.findall(r"--array=(\S+)", "\n".join([script.read_text(), *words]))
    for task in array(found[-1]):
        run(["bash", str(script)], SLURM_ARRAY_JOB_ID="1", SLURM_ARRAY_TASK_ID=str(task))


def kubectl(*words: str) -> None:
    job = yaml.safe_load(Path(words[-1]).read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    command = [word.replace("$$", "$") for word in container["command"]]
    _indexed("JOB_COMPLETION_INDEX", job["completions"], command, container["env"])


def aws(*words: str) -> None:
    options = dict(zip(words[2::2], words[3::2], strict=True))
    json.loads(options["--retry-strategy"])
    size = int(options["--array-properties"].removeprefix("size="))
    container = json.loads(options["--container-overrides"])
    _indexed("AWS_BATCH_JOB_ARRAY_INDEX", size, container["command"], container["environment"])


def _indexed(
    name: str, count: int, command: Iterable[str], variables: Iterable[Mapping[str, str]]
) -> None:
    own = {each["name"]: each["value"] for each in variables}
    for index in range(count):
        run(command, **own, **{name: str(index)})


def ssh(*words: str) -> None:
    run(["bash", "-c", " ".join(words[2:])])  # behind -n and the host


def parallel(*words: str) -> None:
    command = words[words.index("viewstore") :]
    for line in sys.stdin.read().split():
        run(word.replace("{}", line) for word in command)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
