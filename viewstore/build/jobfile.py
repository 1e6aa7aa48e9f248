"""A build in slices, and the text of the Slurm file that runs it.

Nothing is read or written here: `viewstore jobfile` prints what `slurm` returns. Each slice is a
task of an array; `kubernetes_job` makes it an index of a Job.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from viewstore.errors import StoppedError
from viewstore.files.local import is_url

STOP_SECONDS = 120  # from the signal that announces the end of a task to its end
GRACE_SECONDS = STOP_SECONDS - 20  # for running shards; the rest is for workers to end
PREEMPTIONS = 20  # of a Slurm task, whose count of restarts has them too
RESUMABLE = StoppedError.exit_code
ENDED_BY = 128  # and the number of the signal, of a process that had no handler for it yet
UNHEARD_USR1, UNHEARD_TERM = ENDED_BY + signal.SIGUSR1, ENDED_BY + signal.SIGTERM
CREDENTIALS = "the environment, with the address and credentials of the bucket,"


@dataclass(frozen=True, kw_only=True)
class SliceJob:
    """A view set that is built in slices, each in a task of its own.

    Attributes:
        store: Absolute path of the store, the same on every node, or its URL in a bucket.
        view_set: Name of the view set.
        command: The words that go on with its plan, but for the slice and the grace.
        slices: Number of tasks.
        at_once: How many of them may run at a time.
        gpus: That each task asks for.
        shards: Of the view set.
        shard_bytes: Most that one of them takes.
    """

    store: str
    view_set: str
    command: tuple[str, ...]
    slices: int
    at_once: int
    gpus: int
    shards: int
    shard_bytes: int

    @property
    def name(self) -> str:
        """What the cluster lists the job as."""
        return f"viewstore-{self.view_set}"

    @property
    def finalise(self) -> tuple[str, ...]:
        """The command that publishes the view set when all slices are built."""
        return ("viewstore", "finalise", self.store)

    @property
    def restarts(self) -> int:
        """How often a task may come back: once for each shard of its slice, and by preemptions."""
        return math.ceil(self.shards / self.slices) + PREEMPTIONS

    @property
    def is_in_bucket(self) -> bool:
        """Whether tasks need credentials, and no file system that they share."""
        return is_url(self.store)


def slurm(job: SliceJob) -> str:
    """Return a batch script for `sbatch`: an array whose tasks are requeued as their time ends.

    USR1 says so, to the shell alone, which passes it on. TERM comes to all processes, of a task
    that is cancelled or preempted: Slurm requeues the preempted one itself, and the cancelled one
    must not come back. The two signals are one stop. A task whose time ends while Python begins
    cannot hear it yet, and is requeued as well. One that comes back and commits nothing would do so
    for ever: its restarts are bounded by what a slice can need.
    """
    at_once = f"%{job.at_once}" if job.at_once < job.slices else ""
    gpus = f" --gpus={job.gpus}" if job.gpus else ""
    bucket = f"# {CREDENTIALS} is that of sbatch\n" if job.is_in_bucket else ""
    return f"""\
#!/bin/bash
#SBATCH --job-name={job.name} --output={job.name}-%A_%a.out --open-mode=append
#SBATCH --array=0-{job.slices - 1}{at_once} --requeue --signal=B:USR1@{STOP_SECONDS} --nodes=1{gpus}
{bucket}{shell_line(job.command)} \
--shard "$SLURM_ARRAY_TASK_ID/{job.slices}" --grace {GRACE_SECONDS} & pid=$! again=no
trap 'again=yes; kill -USR1 $pid' USR1                         # its time ends; to this shell only
trap 'again=no; kill -USR1 $pid' TERM                          # cancelled, or preempted
wait $pid; rc=$?
while kill -0 $pid 2>/dev/null; do wait $pid; rc=$?; done      # a trap ends wait early
case $again$rc in
  yes{RESUMABLE}|yes{UNHEARD_USR1})
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {job.restarts} ]; then
      echo "came back {job.restarts} times, and is not done: is --time too short for a shard?" >&2
    else
      scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
    fi;;
esac
exit $rc
# when all are done: {shell_line(job.finalise)}
"""


def shell_line(words: Sequence[str]) -> str:
    """Return words as one line of bash, whatever characters are in them."""
    return " ".join(map(_shell, words))


def _shell(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escaped = (c if c.isprintable() and c not in "\\'" else _hexadecimal(c) for c in word)
    return f"$'{''.join(escaped)}'"


def _hexadecimal(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
