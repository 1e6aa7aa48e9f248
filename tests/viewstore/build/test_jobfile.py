"""The texts of job files: word for word, field for field, and with any path in them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from viewstore.build.jobfile import SliceJob, kubernetes, shell_line, slurm
from viewstore.errors import ConfigError

WORDS = ("viewstore", "build", "--generator", "w-search", "--out", "/data/in1k", "--view-set", "w")
JOB = SliceJob(
    store="/data/in1k",
    view_set="w",
    command=(*WORDS, "--device", "auto"),
    slices=64,
    at_once=16,
    gpus=1,
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
case $again$rc in yes4|yes138) scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID";; esac
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


def kubernetes_of(job: SliceJob) -> str:
    return kubernetes(job, image="registry.example/viewstore:1", claim="in1k")


def test_the_slurm_file_is_this_one() -> None:
    assert slurm(JOB) == SLURM
    assert "%" not in slurm(replace(JOB, at_once=64)).splitlines()[2]
    assert "gpus" not in slurm(replace(JOB, gpus=0))
    subprocess.run(["bash", "-n"], input=SLURM, text=True, check=True)


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
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_store_in_a_bucket_needs_credentials_and_no_volume() -> None:
    in_bucket = replace(JOB, store="s3://bucket/in1k")
    text = kubernetes(in_bucket, image="registry.example/viewstore:1")
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (expected,) = KUBERNETES["spec"]["template"]["spec"]["containers"]  # type: ignore[index]
    expected = {name: value for name, value in expected.items() if name != "volumeMounts"}
    assert pod["containers"] == [expected]
    assert "volumes" not in pod
    uncommented = yaml.safe_load(text.replace("# envFrom", "envFrom"))
    (container,) = uncommented["spec"]["template"]["spec"]["containers"]
    assert container == expected | {"envFrom": [{"secretRef": {"name": "NAME"}}]}
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
