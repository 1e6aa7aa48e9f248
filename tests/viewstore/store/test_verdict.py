"""The verdict on a view set is one on the whole chain that it was made from."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from tests.generators.latent_world import write_networks
from tests.viewstore.commands import run
from tests.viewstore.pages import Page
from tests.viewstore.small_stores import build_small, write_photographs
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.inspect.report import write_report
from viewstore.inspect.sheet import draw_sheet
from viewstore.store.store import open_store
from viewstore.store.verdict import verdict_of


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose anchors are nowhere near their images: all views converge around them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("blobs")
    files = write_networks(folder, samples=4)
    request = BuildRequest(
        generator="recon",
        out=folder / "store",
        source=str(folder / "images.npz"),
        settings={"max_steps": 1, "shift_stop": 0.001},
        files=files,
    )
    build(request)
    settings = {"views": 1, "lam": 0.0, "eps1": 0.2, "slots": 4, "tol": 0.1}
    search = {"generator": "w-search", "settings": settings}
    build(BuildRequest(**{**_fields(request), **search}))
    torch.set_num_threads(threads)
    return folder


def _fields(request: BuildRequest) -> dict[str, object]:
    return {name: getattr(request, name) for name in ("out", "source", "files")}


def _command(folder: Path, *more: str) -> list[str]:
    weights = [f"--{role}={folder / role}.safetensors" for role in ("gan", "encoder")]
    return ["build", "--generator", "w-search", "--out", str(folder / "store"), *weights, *more]


def test_views_that_converged_around_bad_anchors_are_not_fit_for_use(blobs: Path) -> None:
    store = open_store(blobs / "store")
    verdict = verdict_of(store, [store.view_set("w-search")])
    recon, search = verdict.view_sets
    assert (recon.view_set, recon.missed, recon.samples) == ("recon", 4, 4)
    assert (search.view_set, search.missed, search.samples) == ("w-search", 0, 4)
    assert (verdict.word, verdict.unfit) == ("not fit for use", [recon])
    assert verdict.headline() == (
        "verdict: not fit for use (as wanted: recon 0 of 4, w-search 4 of 4 samples)"
    )
    assert any("viewstore gan train" in line for line in verdict.lines())


def test_a_build_ends_with_the_verdict_and_exit_1(
    blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *_command(blobs))
    assert code == 1
    assert "verdict: not fit for use\n  recon: 0 of 4 samples meet their goal" in out
    assert out.rstrip().endswith("exit code 1: recon not fit for use (--max-missed)")
    assert "w-search: 4 of 4 samples meet their goal (every view 0.200 +- 0.1" in out
    code, out, _ = run(capsys, *_command(blobs, "--json"))
    verdict = json.loads(out)["result"]["verdict"]
    assert (code, verdict["word"]) == (1, "not fit for use")
    assert verdict["view_sets"]["recon"]["missed_share"] == 1.0
    assert verdict["view_sets"]["w-search"]["fit"] is True
    assert run(capsys, "finalise", str(blobs / "store"))[0] == 1


@pytest.mark.parametrize("most", ["100%", "100"])
def test_a_larger_share_may_be_allowed(
    blobs: Path, most: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *_command(blobs, "--max-missed", most))
    assert code == 0
    assert "verdict: usable" in out


@pytest.mark.parametrize("share", ["-1%", "101%", "half", "nan"])
def test_a_share_that_is_none_is_refused(
    blobs: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *_command(blobs, f"--max-missed={share}"))
    assert code == 2
    assert "--max-missed must be from 0% to 100%" in err


def test_sheet_and_report_begin_with_the_verdict(blobs: Path) -> None:
    store = open_store(blobs / "store")
    views = [store.view_set("w-search")]
    text = Page(write_report(store, [0], views)).text
    assert "verdict: not fit for use" in text
    assert text.index("verdict:") < text.index("Samples")
    other = open_store(blobs / "store").view_set("recon")
    assert draw_sheet(store, [0], views) != draw_sheet(store, [0], [other])


def test_samples_that_failed_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_photographs(tmp_path / "images", 5, cut=3)
    command = ["build", "--generator", "simclr", "--source", str(folder), "--size", "16"]
    command += ["--out", str(tmp_path / "s"), "--on-error", "skip", "--views", "2", "-j", "1"]
    code, out, _ = run(capsys, *command, "--json")
    told = json.loads(out)["result"]
    assert code == 1
    assert (told["failures"], told["failed_samples"]) == (1, ["3.jpg"])
    assert told["verdict"]["view_sets"]["simclr"]["failed"] == 1
    code, out, _ = run(capsys, *command)  # again: all shards are there, the failure still is too
    assert code == 1
    assert "1 sample failed and is kept with its status: 3.jpg" in out
    assert "verdict: usable" in out
    assert f"run viewstore verify {tmp_path / 's'} --repair --failed; or" in out
    assert out.rstrip().endswith("exit code 1: 1 sample failed, --max-failures allows 0")
    code, out, _ = run(capsys, *command, "--max-failures", "1")
    assert (code, "exit code" in out) == (0, False)


def test_the_remedy_names_the_store_as_a_shell_reads_it(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "images", 5, cut=3)
    build_small(tmp_path / "my views", str(folder), on_error="skip")
    store = open_store(tmp_path / "my views")
    (remedy,) = verdict_of(store, store.view_sets.values()).remedies()
    command = remedy.partition("then run ")[2].partition(";")[0]
    assert shlex.split(command)[:3] == ["viewstore", "verify", str(tmp_path / "my views")]


def test_columns_are_no_views(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "s")
    request = {"generator": "quality", "view_set": "images", "out": tmp_path / "s"}
    build(BuildRequest(**request, settings={"of": "source"}))  # type: ignore[arg-type]
    store = open_store(tmp_path / "s")
    (found,) = verdict_of(store, [store.view_sets["images"]]).view_sets
    assert found.line() == f"{len(store)} of {len(store)} samples have their columns"
