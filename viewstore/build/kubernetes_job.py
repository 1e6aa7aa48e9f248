"""The Kubernetes file of a build in slices: an Indexed Job, with an index for each slice.

Nothing is read or written here: `viewstore jobfile` prints what `kubernetes` returns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from viewstore.build.jobfile import (
    CREDENTIALS,
    GRACE_SECONDS,
    RESUMABLE,
    STOP_SECONDS,
    UNHEARD_TERM,
    SliceJob,
    shell_line,
)
from viewstore.costs.estimate import size
from viewstore.errors import ConfigError

RETRIES = 5  # of an index that fails; stops and preemptions do not count
UNUSABLE = ConfigError.exit_code
NAME_LETTERS = 50  # a pod is called as its Job with "-99999" behind, in 63 letters
SECRET = [{"secretRef": {"name": "NAME"}}]


@dataclass(frozen=True, kw_only=True)
class _Volume:
    """What is mounted at a path of a container: the store, or room for shards on their way."""

    name: str
    path: str
    kind: Mapping[str, Any]


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
    volume = _in_bucket(claim) if job.is_in_bucket else _on_volume(job.store, claim)
    _check_texts((*words, image, volume.path, claim or ""))
    name = _label(job.name)
    (kind,) = volume.kind
    command = "".join(f"\n            - {_yaml(_unexpanded(word))}" for word in words)
    return f"""\
# when all are done: {shell_line(job.finalise)}
# the same in a pod: {_finalise_in_a_pod(job, name, image, volume)}
# again, if the Job has failed: kubectl delete job {name}, then apply it; what is built stays
apiVersion: batch/v1
kind: Job
metadata:
  name: {_yaml(name)}
spec:
  # activeDeadlineSeconds: 604800  # ends a Job whose pods only come back, say from a full disk
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
      - action: Ignore  # stopped, at whatever moment, or the disk is full: resumable
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
              value: "{job.slices}"
{_resources(job)}{_credentials(job)}\
          volumeMounts:
            - name: {volume.name}
              mountPath: {_yaml(volume.path)}
      volumes:
        - name: {volume.name}
          {kind}: {_yaml(volume.kind[kind])}
"""


def _resources(job: SliceJob) -> str:
    """Return the limits of a container, of which the user knows all but the GPUs."""
    lines = ["resources:", "  limits:"]
    asked = ["cpu: 8  # a worker on each, or on each GPU"]
    asked += ["memory: 16Gi  # build --dry-run tells it"]
    if job.is_in_bucket:
        asked.append(f"ephemeral-storage: 9Gi  # (workers + 1) x {size(job.shard_bytes)}, in /tmp")
    if job.gpus:
        lines += [f"    nvidia.com/gpu: {job.gpus}", *(f"    # {each}" for each in asked)]
    else:
        lines = [f"# {line}" for line in (*lines, *(f"    {each}" for each in asked))]
    return "".join(f"          {line}\n" for line in lines)


def _credentials(job: SliceJob) -> str:
    """Return how a container comes to those of its bucket."""
    if not job.is_in_bucket:
        return ""
    return f"""\
          # {CREDENTIALS} comes
          # from a Secret of yours, unless pods have a role that the bucket knows:
          # envFrom: {_yaml(SECRET)}
"""


def _finalise_in_a_pod(job: SliceJob, name: str, image: str, volume: _Volume) -> str:
    """Return the line that runs `viewstore finalise` in a pod with the image and the store."""
    container = {
        "name": "finalise",
        "image": image,
        "command": [_unexpanded(word) for word in job.finalise],
        **({"envFrom": SECRET} if job.is_in_bucket else {}),
        "volumeMounts": [{"name": volume.name, "mountPath": volume.path}],
    }
    volumes = [{"name": volume.name, **volume.kind}]
    pod = json.dumps({"apiVersion": "v1", "spec": {"containers": [container], "volumes": volumes}})
    words = ["kubectl", "run", f"{name}-finalise", "--attach", "--rm", "--restart=Never"]
    return shell_line([*words, f"--image={image}", f"--overrides={pod}"])


def _in_bucket(claim: str | None) -> _Volume:
    """Return the room that a builder into a bucket needs for shards on their way."""
    if claim is not None:
        raise ConfigError(
            "a store in a bucket is on no volume",
            where=f"--claim {claim}",
            why="each pod writes to the bucket, and needs credentials alone",
            fix="leave --claim out",
        )
    return _Volume(name="tmp", path="/tmp", kind={"emptyDir": {}})


def _on_volume(store: str, claim: str | None) -> _Volume:
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
    return _Volume(name="store", path=store, kind={"persistentVolumeClaim": {"claimName": claim}})


def _yaml(value: object) -> str:
    """Return a value as YAML 1.2 on one line: texts are double-quoted."""
    quoted = json.dumps(value, ensure_ascii=False)
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
