"""The texts of job files: word for word, field for field, and with any path in them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from viewstore.build.jobfile import SliceJob, shell_line, slurm
from viewstore.build.kubernetes_job import kubernetes
from viewstore.errors import ConfigError

WORDS = ("viewstore", "build", "--generator", "w-search", "--out", "/data/in1k", "--view-set", "w")
JOB = SliceJob(
    store="/data/in1k",
    view_set="w",
    command=(*WORDS, "--device", "auto"),
    slices=64,
    at_once=16,
    gpus=1,
    shards=130,
    shard_bytes=3 * 2**30,
)
SLURM = """\
#!/bin/bash
#SBATCH --job-name=viewstore-w --output=viewstore-w-%A_%a.out --open-mode=append
#SBATCH --array=0-63%16 --requeue --signal=B:USR1@120 --nodes=1 --gpus=1
viewstore build --generator w-search --out /data/in1k --view-set w --device auto \
--shard "$SLURM_ARRAY_TASK_ID/64" --grace 100 & pid=$! again=no
trap 'again=yes; kill -USR1 $pid' USR1                         # its time ends; to this shell only
trap 'again=no; kill -USR1 $pid' TERM                          # cancelled, or preempted
wait $pid; rc=$?
while kill -0 $pid 2>/dev/null; do wait $pid; rc=$?; done      # a trap ends wait early
case $again$rc in
  yes4|yes138)
    if [ "${SLURM_RESTART_COUNT:-0}" -ge 23 ]; then
      echo "came back 23 times, and is not done: is --time too short for a shard?" >&2
    else
      scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    fi;;
esac
exit $rc
# when all are done: viewstore finalise /data/in1k
"""
KUBERNETES = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "viewstore-w"},
    "spec": {
        "completionMode": "Indexed",
        "completions": 64,
        "parallelism": 16,
        "backoffLimitPerIndex": 5,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [4, 143]}},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}},
            ]
        },
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 120,
                "containers": [
                    {
                        "name": "build",
                        "image": "registry.example/viewstore:1",
                        "command": [
                            *JOB.command,
                            *("--shard", "auto", "--grace", "100"),
                        ],
                        "env": [{"name": "VIEWSTORE_SHARDS", "value": "64"}],
                        "resources": {"limits": {"nvidia.com/gpu": 1}},
                        "volumeMounts": [{"name": "store", "mountPath": "/data/in1k"}],
                    }
                ],
                "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": "in1k"}}],
            }
        },
    },
}
HOSTILE = [
    "a b", "it's", 'say "no"', "$(touch hacked)", "`touch hacked`", "$HOME", "a\nb # c", "\t",
    "\\n", "\x7f\x1b", "\x85", "\u00a0\u2028\u200b", "ä", "\U0001f600", "a b: c", "- c", "%s", "!x",
    "'\n'",
]  # fmt: skip


COMMENTED = re.compile(  # by the key of a line that is to be uncommented
    r"^( *)# ( *(?:resources|limits|cpu|memory|ephemeral-storage|envFrom):)", re.M
)


def uncommented(text: str) -> Any:  # noqa: ANN401
    """Return the container of a file whose lines to be filled in are there."""
    pod = yaml.safe_load(COMMENTED.sub(r"\1\2", text))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return container


def pod_of_finalise(text: str) -> tuple[list[str], Any]:
    """Return the words of the comment that runs finalise in a pod, and the pod of its last one."""
    (line,) = re.findall(r"^# the same in a pod: (.*)$", text, re.M)
    *words, overrides = shlex.split(line)
    return words, json.loads(overrides.removeprefix("--overrides="))["spec"]


def kubernetes_of(job: SliceJob) -> str:
    return kubernetes(job, image="registry.example/viewstore:1", claim="in1k")


def test_the_slurm_file_is_this_one() -> None:
    assert slurm(JOB) == SLURM
    assert "%" not in slurm(replace(JOB, at_once=64)).splitlines()[2]
    assert "gpus" not in slurm(replace(JOB, gpus=0))
    subprocess.run(["bash", "-n"], input=SLURM, text=True, check=True)


@pytest.mark.parametrize(("restarts", "goes_on"), [("", True), ("22", True), ("23", False)])
def test_a_task_that_never_commits_is_not_requeued_for_ever(
    tmp_path: Path, restarts: str, goes_on: bool
) -> None:
    """A builder that is told of its time limit by its shell, once that listens, and ends with 4."""
    for name, script in {
        "builder": "trap 'exit 4' USR1\n"
        "until (( 0x$(awk '/^SigCgt/ {print $2}' /proc/$PPID/status) & 0x200 )); do :; done\n"
        "kill -USR1 $PPID\nwhile :; do sleep 0.01; done",
        "scontrol": 'echo "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    own = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": restarts}
    done = subprocess.run(
        ["bash", "-c", slurm(replace(JOB, command=(str(tmp_path / "builder"),)))],
        env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **own},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = "came back 23 times, and is not done: is --time too short for a shard?\n"
    expected = ("requeue 7_1\n", "") if goes_on else ("", said)
    assert (done.returncode, done.stdout, done.stderr) == (4, *expected)


@pytest.mark.parametrize(
    ("number", "requeued"),
    [(signal.SIGUSR1, "requeue 7_0\n"), (signal.SIGTERM, "")],
    ids=["time", "cancelled"],
)
def test_a_task_that_could_not_hear_yet_is_requeued_as_its_time_ends(
    tmp_path: Path, number: int, requeued: str
) -> None:
    """Its command dies of the signal, as Python does in its first moments."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" >> requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "requeued").touch()
    script = slurm(replace(JOB, command=("sh", "-c", "exec sleep 600")))
    ids = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    variables = os.environ | ids | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with (tmp_path / "said").open("w") as said:
        task = subprocess.Popen(
            ["bash", "-xc", script], cwd=tmp_path, env=variables, stdout=said, stderr=said
        )
        while "+ wait " not in (tmp_path / "said").read_text():
            time.sleep(0.01)
        task.send_signal(number)
        assert task.wait(60) == 128 + signal.SIGUSR1
    assert (tmp_path / "requeued").read_text() == requeued


def test_the_kubernetes_file_has_these_fields() -> None:
    text = kubernetes_of(JOB)
    assert yaml.safe_load(text) == KUBERNETES
    assert "# when all are done: viewstore finalise /data/in1k\n" in text
    (container,) = yaml.safe_load(kubernetes_of(replace(JOB, gpus=0)))["spec"]["template"]["spec"][
        "containers"
    ]
    assert "resources" not in container
    assert yaml.safe_load(kubernetes_of(replace(JOB, at_once=99)))["spec"]["parallelism"] == 64


@pytest.mark.parametrize("gpus", [0, 2])
def test_the_lines_to_be_filled_in_are_limits_of_the_container(gpus: int) -> None:
    limits = uncommented(kubernetes_of(replace(JOB, gpus=gpus)))["resources"]["limits"]
    own = {"nvidia.com/gpu": 2} if gpus else {}
    assert limits == own | {"cpu": 8, "memory": "16Gi"}


def test_the_kubernetes_file_says_how_to_publish_and_how_to_begin_again() -> None:
    text = kubernetes_of(JOB)
    words, pod = pod_of_finalise(text)
    image = "registry.example/viewstore:1"
    assert words == [
        *("kubectl", "run", "viewstore-w-finalise", "--attach", "--rm", "--restart=Never"),
        f"--image={image}",
    ]
    (container,) = pod["containers"]
    assert container == {
        "name": "finalise",
        "image": image,
        "command": ["viewstore", "finalise", "/data/in1k"],
        "volumeMounts": [{"name": "store", "mountPath": "/data/in1k"}],
    }
    assert pod["volumes"] == [{"name": "store", "persistentVolumeClaim": {"claimName": "in1k"}}]
    assert "kubectl delete job viewstore-w, then apply it" in text
    assert "  # activeDeadlineSeconds: 604800  # ends a Job whose pods only come back" in text


@pytest.mark.parametrize("view_set", ["a_b", "a" * 63, "x" * 39 + "___y"])
def test_a_job_has_a_name_that_kubernetes_takes(view_set: str) -> None:
    """Of its pods, too, which have a number behind it: letters, digits and - between them."""
    name = yaml.safe_load(kubernetes_of(replace(JOB, view_set=view_set)))["metadata"]["name"]
    assert name.replace("-", "").isalnum()
    assert name[-1] != "-"
    assert len(f"{name}-99999") <= 63


@pytest.mark.parametrize("word", [*HOSTILE, os.fsdecode(b"\xff/\xc3")], ids=ascii)
def test_a_shell_reads_each_word_as_it_was(word: str) -> None:
    """Alone, and in a comment, where nothing of it is run."""
    line = shell_line(["printf", "%s", word])
    done = subprocess.run(["bash", "-c", f"# {line}\n{line}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word)
    assert all(character.isprintable() for character in line)


@pytest.mark.parametrize("word", HOSTILE, ids=ascii)
def test_kubernetes_reads_each_word_as_it_was(word: str) -> None:
    """After YAML, and after $$, which stands for $ in a command and nowhere else."""
    store = f"/{word.replace(':', '')}"
    text = kubernetes(replace(JOB, store=store, command=(word,)), image=word, claim=word)
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][0].replace("$$", "$") == word
    assert container["command"][0].replace("$$", "").count("$") == 0
    assert container["image"] == word
    assert container["volumeMounts"] == [{"name": "store", "mountPath": store}]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == word
    _, finalising = pod_of_finalise(text)
    assert finalising["containers"][0]["command"][-1].replace("$$", "$") == store
    assert finalising["volumes"] == pod["volumes"]
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_store_in_a_bucket_needs_credentials_and_no_volume() -> None:
    in_bucket = replace(JOB, store="s3://bucket/in1k")
    text = kubernetes(in_bucket, image="registry.example/viewstore:1")
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (expected,) = KUBERNETES["spec"]["template"]["spec"]["containers"]  # type: ignore[index]
    expected = expected | {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    assert pod["containers"] == [expected]
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    container = uncommented(text)
    assert container["envFrom"] == [{"secretRef": {"name": "NAME"}}]
    assert container["resources"]["limits"]["ephemeral-storage"] == "9Gi"
    assert "# (workers + 1) x 3.0 GiB, in /tmp" in text
    _, finalising = pod_of_finalise(text)
    assert finalising["containers"][0]["envFrom"] == container["envFrom"]
    assert finalising["volumes"] == pod["volumes"]
    with pytest.raises(ConfigError, match="is on no volume"):
        kubernetes_of(in_bucket)
    with pytest.raises(ConfigError, match="needs a volume that all pods share"):
        kubernetes(JOB, image="i")
    script = slurm(in_bucket).splitlines()
    assert [line for line in script if line not in SLURM.splitlines()] == [
        "# the environment, with the address and credentials of the bucket, is that of sbatch",
        "# when all are done: viewstore finalise s3://bucket/in1k",
    ]


def test_kubernetes_is_given_nothing_that_it_cannot_take() -> None:
    with pytest.raises(ConfigError, match="cannot be mounted at a path with a colon"):
        kubernetes_of(replace(JOB, store="/data:1"))
    with pytest.raises(ConfigError, match="UTF-8, and a path is not"):
        kubernetes_of(replace(JOB, command=(os.fsdecode(b"\xff"),)))
