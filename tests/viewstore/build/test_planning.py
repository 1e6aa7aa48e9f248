"""The plan first: `build --plan`, and builds that read what it fixed and nothing else."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small
from viewstore.build.first import build_command, first_request
from viewstore.build.planning import plan
from viewstore.build.request import BuildRequest
from viewstore.build.roles import packaged_weights
from viewstore.build.run import build
from viewstore.build.stored_plan import says_all, stored_plan
from viewstore.cli.planned import plan_facts
from viewstore.costs.estimate import most_bytes
from viewstore.errors import ConfigError
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.progress import Silent
from viewstore.store.committed import committed_shards, view_sets
from viewstore.store.store import open_store

IMAGES = 64
SMALL = {"views": 2, "height": 16, "width": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A source of 64 pictures, each a file."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.Generator(np.random.Philox(3))
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number:02}.png")
    return images


def request_of(out: Path, source: Path | str | None = None, **changes: Any) -> BuildRequest:  # noqa: ANN401
    given: dict[str, Any] = {"generator": "simclr", "settings": SMALL, "workers": 1}
    return BuildRequest(
        out=out, source=None if source is None else str(source), **(given | changes)
    )


def test_a_plan_renders_nothing_and_is_that_of_the_build(tmp_path: Path, folder: Path) -> None:
    found = plan(request_of(tmp_path / "s", folder, shard_rows=8))
    paths = StorePaths(tmp_path / "s")
    assert committed_shards(paths.view_set("simclr")) == []
    assert not paths.manifest.exists()
    whole = build(request_of(tmp_path / "whole", folder, shard_rows=8))
    assert found.id == whole.plan.id
    first = build(BuildRequest(generator="simclr", out=tmp_path / "s", workers=1)).manifest
    assert first is not None
    assert whole.manifest is not None
    assert first.store_id == whole.manifest.store_id


WATCHED = """
import json, sys
from collections import Counter
from pathlib import Path
from viewstore.build.planning import plan
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.shards.local import run_local

folder, out = sys.argv[1:]
opened, phase = {"plan": Counter(), "parent": Counter(), "worker": Counter()}, "plan"

def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(folder + "/"):
        opened[phase][Path(arguments[0]).name] += 1

def executor(job):
    global phase
    phase = "worker"
    yield from run_local(job)
    phase = "parent"

sys.addaudithook(watch)
small = {"views": 2, "height": 16, "width": 16}
plan(BuildRequest(generator="simclr", settings=small, out=Path(out), source=folder, shard_rows=1))
phase, left = "parent", []
for number in range(64):
    again = BuildRequest(
        generator="simclr", settings=small if number % 2 else {}, out=Path(out), workers=1,
        executor=executor, slice_of=(number, 64),
    )
    left.append(build(again).left)
heavy = [name for name in ("torch", "viewstore.train", "viewstore.generators.gan")
         if name in sys.modules]
print(json.dumps([opened, left, heavy]))
"""


def test_sixty_four_slices_open_no_image_to_begin(tmp_path: Path, folder: Path) -> None:
    arguments = [sys.executable, "-c", WATCHED, str(folder), str(tmp_path / "s")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    opened, left, heavy = json.loads(done.stdout)
    names = [f"{number:02}.png" for number in range(IMAGES)]
    assert opened["plan"] == dict.fromkeys(names, 1)
    assert opened["parent"] == {}
    # Each worker reads one image of the only part, and the image of its own shard.
    assert opened["worker"] == dict.fromkeys(names, 1) | {names[0]: IMAGES + 1}
    assert left == list(reversed(range(IMAGES)))
    assert heavy == []


PARENT = """
import sys
from viewstore.cli.main import main
if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    finally:
        print("torch" in sys.modules)
"""


def test_the_parent_of_workers_with_networks_imports_none(tmp_path: Path) -> None:
    out = tmp_path / "s"
    embed = {"generator": "embed", "settings": {"of": "source"}, "limit": 4, "shard_rows": 2}
    planned = plan(request_of(out, **embed))
    assert planned.weights
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = ["build", "--generator", "embed", "--of", "source", "--out", str(out)]
    for workers, shard in (("2", []), ("1", ["--shard", "0/2"])):  # the second builds nothing
        arguments = [sys.executable, str(script), *command, "-j", workers, *shard]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"
    assert open_store(out).view_set("embed").complete


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """A store with a plan and no shard."""
    out = tmp_path_factory.mktemp("simple") / "s"
    return out, plan(request_of(out, limit=20, shard_rows=8, seed=3, codec="png"))


SAME: list[dict[str, Any]] = [
    {},
    {"settings": {"views": 2}},
    {"settings": {"policy": "simclr"}},
    {"limit": 20, "shard_rows": 8, "seed": 3, "codec": "png"},
    {"workers": 4, "on_error": "skip", "slice_of": (0, 2), "only": (1,), "grace_seconds": 0},
]
OTHERS: list[dict[str, Any]] = [
    {"settings": {"views": 3}},
    {"settings": {"height": 17}},
    {"settings": {"policy": "moco"}},
    {"settings": {"veiws": 2}},
    {"source": "digits"},
    {"limit": 19},
    {"shard_rows": 4},
    {"seed": 0},
    {"codec": "raw"},
    {"codec": "params"},
    {"proof": True},
    {"inputs": {"parent": "recon"}},
    {"generator": "moco"},
    {"files": {"gan": packaged_weights("gan")}},
]


@pytest.mark.parametrize("changes", SAME)
def test_a_request_for_what_is_planned_reads_the_plan(
    simple: tuple[Path, Plan], changes: dict[str, Any]
) -> None:
    out, planned = simple
    request = request_of(out, **({"settings": {}} | changes))
    assert says_all(planned, request)
    assert stored_plan(request, StorePaths(out)) == planned


@pytest.mark.parametrize("changes", OTHERS)
def test_a_request_for_anything_else_does_not(
    simple: tuple[Path, Plan], changes: dict[str, Any]
) -> None:
    out, planned = simple
    request = request_of(out, view_set="simclr", **({"settings": {}} | changes))
    assert says_all(planned, request) == ("files" in changes)
    assert stored_plan(request, StorePaths(out)) is None


def test_the_proof_of_a_recipe_set_is_asked_for(tmp_path: Path) -> None:
    request = request_of(tmp_path / "s", limit=4, codec="params")
    planned = plan(request)
    assert says_all(planned, replace(request, proof=True))
    assert not says_all(planned, replace(request, proof=False))


def test_files_of_weights_are_compared_by_their_content(tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(packaged_weights("encoder").read_bytes())
    embed = {"generator": "embed", "settings": {"of": "source"}}
    planned = plan(request_of(tmp_path / "s", limit=4, **embed))
    paths = StorePaths(tmp_path / "s")
    for files in ({}, {"encoder": own}):
        assert stored_plan(request_of(tmp_path / "s", files=files, **embed), paths) == planned
    own.write_bytes(b"another")
    assert stored_plan(request_of(tmp_path / "s", files={"encoder": own}, **embed), paths) is None


def test_rows_that_are_lost_are_not_taken_for_read(tmp_path: Path) -> None:
    request = request_of(tmp_path / "s", limit=4)
    plan(request)
    paths = StorePaths(tmp_path / "s")
    assert stored_plan(request, paths) is not None
    next(paths.sources.glob("label-*.npy")).unlink()
    assert stored_plan(request, paths) is None


def test_what_a_set_is_made_from_must_stand(tmp_path: Path) -> None:
    build_small(tmp_path / "s", None, limit=8)
    cutmix = request_of(tmp_path / "s", generator="cutmix", settings={"of": "simclr"})
    planned = plan(cutmix)
    paths = StorePaths(tmp_path / "s")
    assert stored_plan(cutmix, paths) == planned
    paths.view_set("simclr").commit(0).unlink()
    paths.manifest.unlink()
    assert stored_plan(cutmix, paths) is None
    with pytest.raises(ConfigError, match="cutmix is made from simclr, which is not complete"):
        build(replace(cutmix, slice_of=(0, 2)))


KEYS = [
    "store", "view_set", "plan_id", "samples", "views", "codec", "shards", "shard_rows",
    "left_shards", "left_samples", "most_bytes", "shard_bytes", "free_bytes", "shard_seconds",
    "seconds", "command",
]  # fmt: skip


def test_the_command_prints_units_bytes_and_later_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("build", "--generator", "simclr", "--out", tmp_path / "s", "--size", 16)
    plans = (*command, "--plan")
    code, text, _ = run(capsys, *plans, "--limit", 20, "--shard-rows", 8)
    assert code == 0
    assert "3 shards of up to 8 samples; 3 to build" in text
    assert "not known before a shard is built; --dry-run in place of --plan measures it" in text
    building = f"viewstore build --generator simclr --out {tmp_path / 's'} --view-set simclr"
    assert text.splitlines()[-2:] == [
        f"to build it: {building}",
        "with --shard I/N that builds one slice of N; the plan has source, limit and settings",
    ]
    assert run(capsys, *shlex.split(building)[1:], "--only", 1, "-j", 1)[0] == 0
    code, text, _ = run(capsys, *plans)
    assert code == 0
    assert "2 to build" in text
    assert "by the median of 1 shard" in text
    answer = json.loads(run(capsys, *plans, "--json")[1])["result"]
    assert list(answer) == KEYS
    assert (answer["left_shards"], answer["left_samples"]) == (2, 12)
    assert answer["seconds"] == 2 * answer["shard_seconds"]


def test_the_command_that_builds_a_plan_has_the_weights_and_the_device(tmp_path: Path) -> None:
    """What a plan does not keep: where the files lie, and where networks are to run."""
    found = plan(request_of(tmp_path / "s", limit=16))
    files = {"encoder": Path("my encoder.pt2")}
    facts = plan_facts(tmp_path / "s", found, files, "cuda")
    assert facts["command"][-4:] == ["--encoder", "my encoder.pt2", "--device", "cuda"]


@pytest.mark.parametrize("codec", ["raw", "png", "jpg", "params"])
def test_the_bytes_are_an_upper_bound(tmp_path: Path, folder: Path, codec: str) -> None:
    planned = plan(request_of(tmp_path / "s", folder, codec=codec))
    built = build(request_of(tmp_path / "s"))
    assert sum(outcome.num_bytes for outcome in built.outcomes) <= most_bytes(planned)


@pytest.mark.parametrize(
    "option",
    ["--dry-run", "--shard=0/2", "--only=1", "--workers=2", "--executor=local", "--grace=3",
     "--max-failures=1", "--max-missed=5%", "--sample=4"],
)  # fmt: skip
def test_options_of_building_are_refused(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("build", "--generator", "simclr", "--out", tmp_path / "s", "--plan", option)
    code, _, said = run(capsys, *command)
    assert code == 2
    assert option.partition("=")[0] in said
    assert not (tmp_path / "s").exists()


def fix_of(said: str) -> list[str]:
    """Return the arguments of the command that the error on stderr says to run."""
    (line,) = (line for line in said.splitlines() if line.startswith("  fix:"))
    words = shlex.split(line.partition("fix:")[2])
    assert words[0] == "viewstore"
    return words[1:]


@pytest.mark.parametrize("form", ["--plan", "--shard=0/2"])
def test_what_a_set_starts_from_is_planned_by_the_command_that_is_named(
    tmp_path: Path, folder: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a store"
    command = ("build", "--generator", "duplicates", "--out", out, "--source", folder, form)
    code, _, said = run(capsys, *command)
    assert code == 2
    assert "error[VS202]: view set 'quality' must be finished before duplicates" in said
    assert not out.exists()
    fix = fix_of(said)
    assert fix[-1] == "--plan"
    assert run(capsys, *fix)[0] == 0
    code, _, said = run(capsys, *command)
    assert code == 2
    assert fix_of(said) == fix[:-1]  # planned: now it is to be built
    assert run(capsys, *fix[:-1], "-j", 1, "--shard", "0/1")[0] == 0
    code, _, said = run(capsys, *command)
    assert code == 2
    assert fix_of(said) == ["finalise", str(out)]
    assert run(capsys, *fix_of(said))[0] == 0
    assert run(capsys, *command)[0] == 0


def test_the_command_has_settings_and_weights_that_the_child_needs() -> None:
    request = BuildRequest(
        generator="w-search",
        out=Path("in 1k"),
        source="images",
        seed=3,
        device="cuda:0",
        files={"gan": Path("g.safetensors"), "encoder": Path("e.safetensors")},
        slice_of=(0, 2),
        codec="png",
    )
    first = first_request(request, "recon", {"psi": 0.7})
    assert build_command(first) == (
        "viewstore build --generator recon --out 'in 1k' --source images --seed 3 "
        "--device cuda:0 --gan g.safetensors --encoder e.safetensors --set psi=0.7"
    )


class Said(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.parametrize("given", [{"source": "digits"}, {"limit": 16}, {}])
def test_slices_that_read_the_source_are_told_of_the_plan(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    plan(request_of(tmp_path / "s", limit=16))
    said = Said()
    build(BuildRequest(generator="simclr", out=tmp_path / "s", slice_of=(0, 2), **given), said)
    named = [each for each in said.warnings if "viewstore build --plan" in each]
    assert len(named) == bool(given)


@pytest.mark.parametrize("generator", ["simclr", "w-search"])
def test_a_slice_without_store_and_source_begins_none(tmp_path: Path, generator: str) -> None:
    missing = tmp_path / "not mounted"
    with pytest.raises(ConfigError, match=r"there is no store at .*not mounted") as failed:
        build(BuildRequest(generator=generator, out=missing, slice_of=(0, 2)))
    assert failed.value.code == "VS202"
    words = shlex.split(str(failed.value.fix))
    assert words[:2] == ["viewstore", "build"]
    assert words[-3:] == ["--source", "SRC", "--plan"]
    assert not missing.exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--generator", "moco"), "no view set 'moco' in this store; there are simclr\n"),
        (
            ("--generator", "simclr", "--view-set", "simcrl"),
            "no view set 'simcrl' in this store; did you mean 'simclr'?\n",
        ),
    ],
)
def test_a_slice_of_a_set_without_a_plan_builds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], said: str
) -> None:
    """A name that was mistyped in a job file, or a set that nobody planned; the fix plans it."""
    store = tmp_path / "s"
    plan(request_of(store, limit=16))
    code, out, err = run(capsys, "build", *asked, "--out", store, "--shard", "0/2")
    assert (code, out) == (2, "")
    assert said in err
    assert "  why:   slices are built of a plan, which build --plan makes\n" in err
    assert view_sets(StorePaths(store)) == ["simclr"]
    if "did you mean" in said:  # its fix is no plan of the wrong name
        assert "fix:" not in err
        return
    assert fix_of(err) == ["build", *asked, "--out", str(store), "--plan"]
    assert run(capsys, *fix_of(err))[0] == 0
    assert view_sets(StorePaths(store)) == ["moco", "simclr"]


@pytest.mark.parametrize("name", ["mygen.py", "mymod:Gen", "moko"])
def test_a_generator_that_is_none_is_the_fault_and_not_a_view_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for more in ([], ["--plan"], ["--dry-run"], ["--shard", "0/2"], ["--view-set", "w"]):
        code, _, err = run(capsys, "build", "--generator", name, "--out", tmp_path / "s", *more)
        assert code == 2
        assert f"error[VS102]: there is no generator {name!r}; " in err
        assert ("did you mean 'moco'?" in err) == (name == "moko")
        assert err.endswith(
            "  fix:   give one of those that viewstore build --help-settings lists; a generator "
            "of yours is a package with an entry point: docs/plugins.md\n"
        )
        assert not (tmp_path / "s").exists()


def test_a_slice_that_makes_a_plan_says_so(tmp_path: Path) -> None:
    """Whoever mistyped --view-set would else build another set without a word."""
    plan(request_of(tmp_path / "s", limit=16))
    said = Said()
    given = request_of(tmp_path / "s", limit=16, source="digits")
    build(replace(given, view_set="simcrl", slice_of=(0, 2)), said)
    assert any(each.startswith("there is no plan of simcrl in") for each in said.warnings)


def test_a_slice_says_what_it_took_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(request_of(tmp_path / "s", limit=20, shard_rows=8))
    command = ("build", "--generator", "simclr", "--out", tmp_path / "s", "-j", 1)
    monkeypatch.setenv("VIEWSTORE_SHARD", "1/2")
    code, text, said = run(capsys, *command, "--shard", "auto")
    assert code == 0
    assert "slice 1 of 2, by VIEWSTORE_SHARD=1/2" in said
    assert f"not complete yet: viewstore status {tmp_path / 's'}" in text
    _, text, _ = run(capsys, *command, "--shard", "auto")
    assert "nothing is left to build of what was asked for" in text
    assert "all 3 shards" not in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), date(2020, 1, 1)])
def test_a_setting_that_no_record_can_hold_is_refused_as_one(
    tmp_path: Path, folder: Path, value: object
) -> None:
    plan(request_of(tmp_path / "store", folder))
    with pytest.raises(ConfigError):
        plan(request_of(tmp_path / "store", settings={"views": value}))
