"""What `viewstore jobfile` prints for a store in a bucket builds it there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.remote.bucket_builds import SHARDS, Place, Undisturbed, build_into, run
from tests.viewstore.cli.stand_ins import environment, one_core

SLICES = 2
ASKED = ("--view-set", "simclr", "--slices", str(SLICES))


def task(command: list[str], folder: Path, **variables: str) -> int:
    """Run a task with this environment, which has the credentials; return its exit code."""
    own = environment(folder, **variables)
    return subprocess.run(command, cwd=folder, env=own, preexec_fn=one_core, timeout=100).returncode


def test_the_pods_of_a_kubernetes_job_build_into_a_bucket(
    place: Place, source: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    build_into(place.url, source, slice_of=(SHARDS, SHARDS + 1))  # the plan is all that is made
    printed = run("jobfile", "kubernetes", place.url, *ASKED, "--image", "i")
    assert printed.exit_code == 0, printed.output
    job = yaml.safe_load(printed.stdout)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert ["--out", place.url] == container["command"][4:6]
    variables = {each["name"]: each["value"] for each in container["env"]}
    for index in range(job["spec"]["completions"]):
        own = variables | {"JOB_COMPLETION_INDEX": str(index)}
        assert task(container["command"], tmp_path, **own) == 0
    assert run("finalise", place.url).exit_code == 0
    place.check(undisturbed)


def test_a_slurm_script_builds_its_slice_into_a_bucket(
    place: Place, source: str, tmp_path: Path
) -> None:
    build_into(place.url, source, slice_of=(SHARDS, SHARDS + 1))
    answer = json.loads(run("jobfile", "slurm", f"{place.url}/", *ASKED, "--json").stdout)["result"]
    assert answer["finalise"] == ["viewstore", "finalise", place.url]
    own = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    assert task(["bash", "-c", answer["file"]], tmp_path, **own) == 0
    built = [name for name in place.inside.names() if "/commits/" in name]
    assert [int(name[-11:-5]) % SLICES for name in built] == [1] * (SHARDS // SLICES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("kubernetes", "URL", *ASKED, "--image", "i", "--claim", "c"), "leave --claim out"),
        (("slurm", "URL", *ASKED), "--out URL --view-set simclr --plan"),
        (("slurm", "http://127.0.0.1:9/store", *ASKED), "can be read, and not listed"),
    ],
)
def test_what_no_job_can_be_made_of_is_refused(
    place: Place, source: str, words: tuple[str, ...], said: str
) -> None:
    if "--claim" in words:
        build_into(place.url, source, slice_of=(SHARDS, SHARDS + 1))
    refused = run("jobfile", *(word.replace("URL", place.url) for word in words))
    told = getattr(refused.exception, "fix", "") or ""
    assert said.replace("URL", place.url) in f"{refused.exception} {told}", refused.output
