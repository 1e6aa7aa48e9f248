"""What `viewstore jobfile` prints builds the view set, through stops, to the same store id."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.generators.latent_world import small_encoder
from tests.viewstore.cli.stand_ins import environment, one_core
from tests.viewstore.commands import invoke, run
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
from viewstore.build.refresh import refresh
from viewstore.build.repair import withdraw
from viewstore.build.roles import packaged_weights
from viewstore.build.slice_job import _without_packaged
from viewstore.costs.disk_space import shard_bytes
from viewstore.files import disk
from viewstore.format.paths import StorePaths, ViewSetPaths
from viewstore.store.committed import committed_shards, read_plan
from viewstore.store.store import Store
from viewstore.train.encoder_file import save_encoder

SLICES, SHARDS = 2, 10
DEADLINE = 120.0  # seconds until a process that does not come to the point is given up
HOSTILE = 'a b\'s "$(touch hacked)"\n`touch hacked`'
NO_SLICE = (99, 100)  # of a view set with fewer shards: its plan is all that is made


def planned(folder: Path, source: str) -> Path:
    """Return a store with a plan of ten shards, none of which is built."""
    build_small(folder / HOSTILE, source, shard_rows=2, slice_of=NO_SLICE)
    return folder / HOSTILE


@pytest.fixture(scope="module")
def whole_id(tmp_path_factory: pytest.TempPathFactory, source: str) -> str:
    """The store id of a build in one process that nothing disturbs."""
    built = build_small(tmp_path_factory.mktemp("whole") / "s", source, shard_rows=2)
    assert built.manifest is not None
    return built.manifest.store_id


def start(command: list[str], folder: Path, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a task in a folder; what it says goes to the file "said" there."""
    with (folder / "said").open("a") as said:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder, **variables),
            stdout=said,
            stderr=said,
            preexec_fn=one_core,
            text=True,
        )


def ended(task: subprocess.Popen[str]) -> int:
    """Return the exit code of a task, and end it if it takes for ever."""
    try:
        return task.wait(DEADLINE)
    finally:
        task.kill()


def wait_until(true: Iterator[bool]) -> None:
    """Wait until a generator yields True, or raise TimeoutError."""
    deadline = time.monotonic() + DEADLINE
    for found in true:
        if found:
            return
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


@contextmanager
def in_mid_shard(view_set: ViewSetPaths) -> Iterator[None]:
    """Run the block while a builder cannot commit the shard that it has written.

    A builder holds this lock, shared with others, while it commits.
    """
    with disk.file_lock(view_set.gc_lock):
        yield


def writes(view_set: ViewSetPaths) -> Iterator[bool]:
    """Yield whether some builder has begun to write a shard; names of records begin with a dot."""
    while True:
        yield any(not path.name.startswith(".") for path in view_set.tmp.iterdir())


@pytest.mark.parametrize(
    ("number", "requeued"),
    [
        pytest.param(signal.SIGUSR1, "requeue 7_0\n", id="time"),
        pytest.param(signal.SIGTERM, "", id="cancelled"),
    ],
)
def test_the_slurm_script_builds_and_is_requeued_once_when_its_time_ends(
    tmp_path: Path, source: str, whole_id: str, number: int, requeued: str
) -> None:
    """By bash, with a stand-in for scontrol; the first task is signalled in its first shard."""
    store = planned(tmp_path, source)
    view_set = StorePaths(store).view_set("simclr")
    script = tmp_path / "job.sh"
    asked = ("--view-set", "simclr", "--slices", SLICES)
    script.write_text(invoke("jobfile", "slurm", store, *asked).stdout)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" >> requeued\n')
    scontrol.chmod(0o755)
    (tmp_path / "requeued").touch()

    def task(index: int) -> subprocess.Popen[str]:
        ids = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(index)}
        return start(["bash", "-x", str(script)], tmp_path, ids)

    def passed_on() -> Iterator[bool]:
        """Yield whether the shell has passed the signal on, and waits again."""
        while True:
            yield (tmp_path / "said").read_text().count("+ wait ") > 1

    with in_mid_shard(view_set):
        signalled = task(0)
        wait_until(writes(view_set))
        signalled.send_signal(number)
        wait_until(passed_on())
    assert ended(signalled) == 4
    assert committed_shards(view_set) == [0]
    assert [ended(task(index)) for index in range(SLICES)] == [0, 0]
    assert (tmp_path / "requeued").read_text() == requeued
    assert finalise(store).store_id == whole_id
    assert not (tmp_path / "hacked").exists()


def test_the_pods_of_the_kubernetes_job_build_and_come_back_after_sigterm(
    tmp_path: Path, source: str, whole_id: str
) -> None:
    """Its command with its environment, as the container of each index has them."""
    store = planned(tmp_path, source)
    view_set = StorePaths(store).view_set("simclr")
    asked = ("--view-set", "simclr", "--slices", SLICES, "--image", "i", "--claim", "c")
    job = yaml.safe_load(invoke("jobfile", "kubernetes", store, *asked).stdout)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command = [word.replace("$$", "$") for word in container["command"]]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert container["volumeMounts"][0]["mountPath"] == str(store)

    def pod(index: int) -> subprocess.Popen[str]:
        return start(command, tmp_path, variables | {"JOB_COMPLETION_INDEX": str(index)})

    with in_mid_shard(view_set):
        preempted = pod(1)
        wait_until(writes(view_set))
        preempted.send_signal(signal.SIGTERM)
    assert ended(preempted) == 4
    assert committed_shards(view_set) == [1]
    assert [ended(pod(index)) for index in range(job["spec"]["completions"])] == [0, 0]
    assert finalise(store).store_id == whole_id
    assert not (tmp_path / "hacked").exists()


def test_the_answer_as_json_has_the_file_and_its_commands(tmp_path: Path, source: str) -> None:
    store = tmp_path / "s"
    build_small(store, source, slice_of=NO_SLICE)
    asked = ("--view-set", "simclr", "--slices", "3", "--at-once", "2")
    answer = json.loads(invoke("jobfile", "slurm", store, *asked, "--json").stdout)
    assert answer["command"] == "jobfile slurm"
    result = answer["result"]
    assert result.pop("file") == invoke("jobfile", "slurm", store, *asked).stdout
    words = ["viewstore", "build", "--generator", "simclr", "--out", str(store)]
    assert result == {
        "store": str(store),
        "view_set": "simclr",
        "command": [*words, "--view-set", "simclr"],
        "slices": 3,
        "at_once": 2,
        "gpus": 0,
        "shards": 3,
        "shard_bytes": shard_bytes(read_plan(StorePaths(store).view_set("simclr"))),
        "finalise": ["viewstore", "finalise", str(store)],
    }


def test_a_store_is_named_from_the_root(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_small(tmp_path / "s", source, slice_of=NO_SLICE)
    monkeypatch.chdir(tmp_path)
    text = invoke("jobfile", "slurm", "s", "--view-set", "simclr", "--slices", "1").stdout
    assert f"--out {tmp_path}/s " in text
    assert "--source" not in text
    assert "--device" not in text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--view-set", "simclr", "--slices", "4"), "simclr has 3 shards, too few for 4 slices"),
        (("--view-set", "simcl", "--slices", "1"), "did you mean 'simclr'"),
        (("--view-set", "other", "--slices", "1"), "--view-set other --plan"),
        (("--view-set", "../simclr", "--slices", "1"), "view set name must match"),
        (("--view-set", "simclr", "--slices", "1", "--gpus", "1"), "uses no GPU"),
        (("--view-set", "simclr", "--slices", "1", "--gan", "g"), "--gan cannot be given"),
        (("--view-set", "simclr", "--slices", "0"), "'--slices'"),
        (("--view-set", "simclr"), "give --slices 3, one for each shard, or fewer"),
        ((), "--view-set is missing; there are simclr in this store"),
        (("--slices", "1"), "  fix:   add --view-set simclr\n"),
    ],
)
def test_what_no_job_can_be_made_of_is_2(
    raw_store: Store, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, "jobfile", "slurm", raw_store.paths.root, *asked)
    assert (code, out, said in err) == (2, "", True), err


@pytest.mark.parametrize(("slices", "warned"), [(1000, False), (1001, True)])
def test_more_tasks_than_slurm_takes_by_default_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slices: int, warned: bool
) -> None:
    """The file is printed all the same, and nothing of the warning is in it."""
    source = write_npz(tmp_path / "images.npz", rows=1001, side=4)
    build_small(tmp_path / "s", source, shard_rows=1, slice_of=(1001, 1002))
    asked = ("--view-set", "simclr", "--slices", slices)
    code, out, err = run(capsys, "jobfile", "slurm", tmp_path / "s", *asked)
    assert (code, f"--array=0-{slices - 1} " in out) == (0, True)
    assert err == (
        "warning: an array of Slurm has at most 1000 tasks unless the site sets a larger "
        f"MaxArraySize, and this one has {slices}; see: scontrol show config\n"
        if warned
        else ""
    )


def test_a_mistyped_view_set_is_not_to_be_planned(
    raw_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--view-set", "simcl", "--slices", "1")
    code, _, err = run(capsys, "jobfile", "slurm", raw_store.paths.root, *asked)
    assert (code, err) == (
        2,
        "error[VS102]: there is no view set 'simcl' in this store; did you mean 'simclr'?\n"
        f"  where: {raw_store.paths.root}\n",
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [(("--claim", "c"), "Missing option '--image'"), (("--image", "i"), "give --claim CLAIM")],
)
def test_a_kubernetes_job_needs_an_image_and_a_volume(
    raw_store: Store, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], said: str
) -> None:
    asked = ("--view-set", "simclr", "--slices", "1", *given)
    code, _, err = run(capsys, "jobfile", "kubernetes", raw_store.paths.root, *asked)
    assert (code, said in err) == (2, True), err


def test_a_folder_without_a_store_is_planned_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "jobfile", "slurm", tmp_path, "--view-set", "w", "--slices", "1")
    assert code == 2
    assert f"--source SRC --out {tmp_path} --view-set w --plan" in err


@dataclass(frozen=True)
class Rounds:
    """A store with two rounds of embeddings: of the packaged encoder, and of one of a user."""

    store: Path
    encoder: Path


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory, source: str) -> Rounds:
    """The encoder lies at a path that a shell would read otherwise."""
    folder = tmp_path_factory.mktemp("rounds")
    (folder / HOSTILE).mkdir()
    made = Rounds(folder / "s", folder / HOSTILE / "encoder.safetensors")
    encoder = small_encoder(np.zeros((4, 16, 16, 3), np.uint8))
    save_encoder(made.encoder, encoder.settings, encoder.network)
    build_small(made.store, source)
    described = {"generator": "embed", "settings": {"of": "simclr"}, "shard_rows": None}
    build_small(made.store, None, **described)
    refresh(made.store, "embed", {"encoder": made.encoder}, workers=1)
    return made


def test_packaged_weights_are_not_named(rounds: Rounds) -> None:
    """Each node has them; their networks run on the GPU that is asked for, unless none is."""
    asked = ("jobfile", "slurm", rounds.store, "--view-set", "embed", "--slices", 3)
    text = invoke(*asked).stdout
    assert "--view-set embed --device auto --shard" in text
    assert text.splitlines()[2].endswith(" --gpus=1")
    assert "--gpus" not in invoke(*asked, "--gpus", 0).stdout


def test_a_copy_of_packaged_weights_is_not_named_and_asks_for_no_other(
    rounds: Rounds, tmp_path: Path
) -> None:
    """What fits the packaged file fits its copy: the inverter is not asked for beside the GAN."""
    asked = ("jobfile", "slurm", rounds.store, "--view-set", "embed", "--slices", 3)
    roles = ("gan", "encoder", "inverter")
    copies = {role: tmp_path / f"{role}.safetensors" for role in roles}
    for role, path in copies.items():
        path.write_bytes(packaged_weights(role).read_bytes())
    assert invoke(*asked, "--encoder", copies["encoder"]).stdout == invoke(*asked).stdout
    assert _without_packaged({"gan": copies["gan"]}) == {}
    copies["gan"].write_bytes(b"of a user")
    assert _without_packaged(copies) == {"gan": copies["gan"]}


def test_weights_are_named_from_the_root_and_taken_by_the_command(
    rounds: Rounds, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a second round too, which is gone on with by the command of a build."""
    monkeypatch.chdir(rounds.encoder.parent)
    asked = (rounds.store, "--view-set", "embed-r2", "--slices", 3)
    answer = invoke("jobfile", "slurm", *asked, "--encoder", rounds.encoder.name, "--json")
    command = json.loads(answer.stdout)["result"]["command"]
    assert command[-4:] == ["--encoder", str(rounds.encoder), "--device", "auto"]
    command = command[:-2]  # this machine has none
    withdraw(StorePaths(rounds.store).view_set("embed-r2"), 1)
    code, out, _ = run(capsys, "finalise", rounds.store)
    assert code == 1
    assert "--view-set embed-r2 --encoder encoder.safetensors\n" in out  # packaged ones are not
    code, out, _ = run(capsys, *command[1:], "--shard", "1/3", "--grace", "100")
    assert (code, "embed-r2: 16 views of 8 samples" in out) == (0, True)


def test_a_file_that_the_package_does_not_have_is_asked_for(
    rounds: Rounds, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has one of that role, which is not that of the plan."""
    asked = ("jobfile", "slurm", rounds.store, "--view-set", "embed-r2", "--slices", 1)
    code, _, err = run(capsys, *asked)
    assert code == 2
    assert "--encoder is missing: embed-r2 was planned with encoder.safetensors" in err


def test_another_file_than_that_of_the_plan_is_refused(
    rounds: Rounds, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--view-set", "embed", "--slices", 1, "--encoder", rounds.encoder)
    code, _, err = run(capsys, "jobfile", "slurm", rounds.store, *given)
    assert (code, "error[VS210]: the encoder is not the one" in err) == (3, True)
