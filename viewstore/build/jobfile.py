"""Job files for clusters: from a build in slices to the text of its file.

Nothing is read or written here. `viewstore jobfile` prints what these functions return; each
slice is a task of a Slurm array, or an index of a Kubernetes Job.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from viewstore.errors import ConfigError, StoppedError
from viewstore.files.local import is_url

STOP_SECONDS = 120  # from the signal that announces the end of a task to its end
GRACE_SECONDS = STOP_SECONDS - 20  # for running shards; the rest is for workers to end
RETRIES = 5  # of an index that fails; stops and preemptions do not count
RESUMABLE, UNUSABLE = StoppedError.exit_code, ConfigError.exit_code
ENDED_BY = 128  # and the number of the signal, of a process that had no handler for it yet
UNHEARD_USR1, UNHEARD_TERM = ENDED_BY + signal.SIGUSR1, ENDED_BY + signal.SIGTERM
NAME_LETTERS = 50  # a pod is called as its Job with "-99999" behind, in 63 letters
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
    """

    store: str
    view_set: str
    command: tuple[str, ...]
    slices: int
    at_once: int
    gpus: int

    @property
    def name(self) -> str:
        """What the cluster lists the job as."""
        return f"viewstore-{self.view_set}"

    @property
    def finalise(self) -> tuple[str, ...]:
        """The command that publishes the view set when all slices are built."""
        return ("viewstore", "finalise", self.store)

    @property
    def is_in_bucket(self) -> bool:
        """Whether tasks need credentials, and no file system that they share."""
        return is_url(self.store)


def slurm(job: SliceJob) -> str:
    """Return a batch script for `sbatch`: an array whose tasks are requeued as their time ends.

    USR1 says so, to the shell alone, which passes it on. TERM comes to all processes, of a task
    that is cancelled or preempted: Slurm requeues the preempted one itself, and the cancelled one
    must not come back. The two signals are one stop. A task whose time ends while Python begins
    cannot hear it yet, and is requeued as well.
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
case $again$rc in yes{RESUMABLE}|yes{UNHEARD_USR1}) \
scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID";; esac
exit $rc
# when all are done: {shell_line(job.finalise)}
"""


def kubernetes(job: SliceJob, *, image: str, claim: str | None = None) -> str:
    """Return an Indexed Job for `kubectl apply`, which needs Kubernetes 1.29.

    Args:
        job: What is built.
        image: The container image, in which viewstore is installed.
        claim: Name of the claim to a ReadWriteMany volume, which is mounted at the store; None
            for a store in a bucket, and for no other.

    Raises:
        ConfigError: The store needs a claim, or takes none, or cannot be mounted at its path; or a
            path is no UTF-8.
    """
    words = (*job.command, "--shard", "auto", "--grace", str(GRACE_SECONDS))
    place = _in_bucket(claim) if job.is_in_bucket else _on_volume(job.store, claim)
    _check_texts((*words, image, *place))
    command = "".join(f"\n            - {_yaml(_unexpanded(word))}" for word in words)
    gpus = f"\n          resources:\n            limits:\n              nvidia.com/gpu: {job.gpus}"
    return f"""\
# when all are done: {shell_line(job.finalise)}
apiVersion: batch/v1
kind: Job
metadata:
  name: {_yaml(_label(job.name))}
spec:
  completionMode: Indexed
  completions: {job.slices}
  parallelism: {min(job.at_once, job.slices)}
  backoffLimitPerIndex: {RETRIES}
  podReplacementPolicy: Failed  # never two pods of one index
  podFailurePolicy:
    rules:
      - action: Ignore  # a preempted pod costs no try
        onPodConditions:
          - type: DisruptionTarget
      - action: Ignore  # stopped, also before it could hear: resumable by the same command
        onExitCodes:
          operator: In
          values: [{RESUMABLE}, {UNHEARD_TERM}]
      - action: FailJob  # settings that no other try makes right
        onExitCodes:
          operator: In
          values: [{UNUSABLE}]
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: {STOP_SECONDS}
      containers:
        - name: build
          image: {_yaml(image)}
          command:{command}
          env:
            - name: VIEWSTORE_SHARDS
              value: "{job.slices}"{gpus if job.gpus else ""}
{place}"""


def _in_bucket(claim: str | None) -> str:
    """Return how a container comes to its bucket."""
    if claim is not None:
        raise ConfigError(
            "a store in a bucket is on no volume",
            where=f"--claim {claim}",
            why="each pod writes to the bucket, and needs credentials alone",
            fix="leave --claim out",
        )
    return f"""\
          # {CREDENTIALS} comes
          # from a Secret of yours, unless pods have a role that the bucket knows:
          # envFrom: [{{secretRef: {{name: NAME}}}}]
"""


def _on_volume(store: str, claim: str | None) -> str:
    """Return how a container comes to its store on a volume."""
    if claim is None:
        raise ConfigError(
            "a store in a folder needs a volume that all pods share",
            where=store,
            fix="give --claim CLAIM, of a ReadWriteMany volume; a store in a bucket needs none",
        )
    if ":" in store:
        raise ConfigError(
            "a Kubernetes volume cannot be mounted at a path with a colon",
            where=store,
            fix="move the store to a path without one",
        )
    return f"""\
          volumeMounts:
            - name: store
              mountPath: {_yaml(store)}
      volumes:
        - name: store
          persistentVolumeClaim:
            claimName: {_yaml(claim)}
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


def _yaml(text: str) -> str:
    """Return text as a double-quoted scalar of YAML 1.2 on one line."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def _unexpanded(word: str) -> str:
    """Return a word of a command that Kubernetes leaves as it is: it replaces $(NAME)."""
    return word.replace("$", "$$")


def _label(name: str) -> str:
    """Return the name of a Job for a checked name of a view set: of letters, digits and -."""
    return name.replace("_", "-")[:NAME_LETTERS].rstrip("-")


def _check_texts(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                "a Kubernetes file is UTF-8, and a path is not", where=repr(text), fix="rename it"
            ) from error
