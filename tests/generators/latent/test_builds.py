"""Latent views through whole builds: the same bytes whatever cut them into units."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.generators.latent_world import small_encoder, small_gan, source_images, write_networks
from viewstore.build.adopt import check_same_settings
from viewstore.build.repair import repair
from viewstore.build.request import BuildRequest
from viewstore.build.roles import WeightFiles, packaged_weights
from viewstore.build.run import build
from viewstore.errors import CheckpointError, ConfigError
from viewstore.format.paths import StorePaths
from viewstore.generators.latent.checks import SLOTS_CPU
from viewstore.generators.latent.inversion import Inversion
from viewstore.generators.latent.search import WSearch
from viewstore.generators.latent.starts import STEPS_FROM_AVERAGE
from viewstore.store.committed import read_plan
from viewstore.store.verify import verify
from viewstore.store.view_set import ViewSet
from viewstore.train.encoder_file import save_encoder

ROWS = 10
SEARCH: dict[str, Any] = {"slots": 2, "views": 2, "eps1": 0.3, "max_steps": 25}


@dataclass(frozen=True)
class Files:
    weights: WeightFiles
    source: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    weights = write_networks(folder, samples=ROWS)
    return Files(weights, folder / "images.npz")


def inverted(files: Files, out: Path, *, shard_rows: int) -> BuildRequest:
    """Build the view set `recon` at `out`; return the request of a search that starts from it."""
    recon = BuildRequest(
        generator="recon",
        out=out,
        source=str(files.source),
        files=files.weights,
        settings={"max_steps": 20, "slots": 2, "shift_stop": 0.05},
        shard_rows=shard_rows,
        workers=1,
    )
    build(recon)
    return replace(recon, generator="w-search", settings=SEARCH)


@pytest.fixture(scope="module", params=["adam", "secant"])
def solver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def start(files: Files, solver: str, tmp_path_factory: pytest.TempPathFactory) -> BuildRequest:
    request = inverted(files, tmp_path_factory.mktemp("start") / "store", shard_rows=4)
    return replace(request, settings={**SEARCH, "solver": solver})


@pytest.fixture
def whole(start: BuildRequest, tmp_path: Path) -> BuildRequest:
    """A search in a copy of the inverted store."""
    shutil.copytree(start.out, tmp_path / "store")
    return replace(start, out=tmp_path / "store")


def test_a_trial_of_a_few_rows_is_calibrated_on_the_whole_source(
    files: Files, tmp_path: Path
) -> None:
    """The store of a limited build, and one that goes on with it, know no source but that."""
    request = BuildRequest(
        generator="recon",
        out=tmp_path / "whole",
        source=str(files.source),
        files=files.weights,
        settings={"max_steps": 1, "slots": 2},
        workers=1,
    )
    trial = replace(request, out=tmp_path / "trial", limit=3)
    again = replace(trial, source=None, limit=None, view_set="again")
    plans = [build(each).plan for each in (request, trial, again)]
    assert [plan.rows for plan in plans] == [ROWS, 3, 3]
    calibrations = [plan.generator["args"]["calibration"] for plan in plans]
    assert calibrations[0]["samples"] == ROWS
    assert calibrations == calibrations[:1] * 3


def searched(request: BuildRequest) -> ViewSet:
    return viewstore.open(request.out).view_sets["w-search"]


def rows_of(views: ViewSet) -> list[tuple[bytes, dict[str, bytes]]]:
    return [
        (views[row].tobytes(), {name: views.params[name][row].tobytes() for name in views.params})
        for row in range(ROWS)
    ]


@pytest.fixture(scope="module")
def expected(files: Files, solver: str, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The views of a build with one shard."""
    request = inverted(files, tmp_path_factory.mktemp("expected") / "store", shard_rows=16)
    request = replace(request, settings={**SEARCH, "solver": solver})
    build(request)
    return rows_of(searched(request))


def test_small_shards_change_no_byte(whole: BuildRequest, expected: list[Any]) -> None:
    plan = build(whole).plan
    assert plan.shards == 3
    assert {weights.role for weights in plan.weights} == {"gan", "encoder"}
    assert rows_of(searched(whole)) == expected
    assert set(np.unique(searched(whole).params["status"])) <= {1, 2}


def test_three_spawned_workers_change_no_byte(whole: BuildRequest, expected: list[Any]) -> None:
    build(replace(whole, workers=3))
    assert rows_of(searched(whole)) == expected


def test_a_build_that_goes_on_changes_no_byte(whole: BuildRequest, expected: list[Any]) -> None:
    build(replace(whole, only=(1,)))
    build(replace(whole, settings={}))
    assert rows_of(searched(whole)) == expected


@pytest.mark.parametrize("changes", [{"slots": 3}, {"eps1": 0.31}])
def test_a_build_cannot_go_on_with_other_settings(
    whole: BuildRequest, changes: dict[str, Any]
) -> None:
    build(replace(whole, only=(1,)))
    with pytest.raises(ConfigError, match=next(iter(changes))):
        build(replace(whole, settings={**whole.settings, **changes}))


def test_a_plan_of_before_there_were_solvers_goes_on_as_adam(files: Files, tmp_path: Path) -> None:
    request = inverted(files, tmp_path / "store", shard_rows=4)
    build(replace(request, only=(0,), settings={**SEARCH, "solver": "adam"}))
    path = StorePaths(request.out).view_set("w-search")
    plan = read_plan(path)
    args = {key: value for key, value in plan.generator["args"].items() if key not in WSearch.LATER}
    check_same_settings(path, plan)
    path.plan.chmod(0o644)
    path.plan.write_bytes(replace(plan, generator={**plan.generator, "args": args}).pack())
    check_same_settings(path, plan)
    other = {**plan.generator["args"], "solver": "secant"}
    with pytest.raises(ConfigError, match="solver was adam, is secant"):
        check_same_settings(path, replace(plan, generator={**plan.generator, "args": other}))


def test_another_encoder_is_another_plan(files: Files, whole: BuildRequest, tmp_path: Path) -> None:
    plan = build(replace(whole, only=(0,))).plan
    other = small_encoder(source_images(small_gan(), 16))
    save_encoder(tmp_path / "other.safetensors", other.settings, other.network)
    weights = {**files.weights, "encoder": tmp_path / "other.safetensors"}
    second = build(replace(whole, view_set="second", files=weights, only=(0,))).plan
    assert second.id != plan.id


def test_another_psi_than_that_of_the_inversion_is_refused(whole: BuildRequest) -> None:
    with pytest.raises(ConfigError, match=r"psi must be that of the inversion, 1, got 0\.7"):
        build(replace(whole, settings={**SEARCH, "psi": 0.7}))


def test_perturbed_views_build_too(whole: BuildRequest) -> None:
    build(replace(whole, generator="w-perturb", settings={"views": 2}))
    params = viewstore.open(whole.out).view_sets["w-perturb"].params
    assert params["distance"].shape == (ROWS, 2)
    assert params["distance"].min() > 0


def test_a_parent_is_built_at_the_psi_of_its_child_and_its_own_defaults(
    files: Files, tmp_path: Path
) -> None:
    """One command builds both; lr, max_steps and slots of the search are not the inversion's."""
    request = BuildRequest(
        generator="w-search",
        out=tmp_path / "store",
        source=str(files.source),
        limit=2,
        files=files.weights,
        settings={"preset": "paper", "views": 2, "lr": 0.5, "max_steps": 3, "slots": 2},
        workers=1,
    )
    built = build(request)
    assert built.before
    inversion = built.before[0].plan.generator["args"]
    assert {name: inversion[name] for name in ("psi", "lr", "max_steps", "slots")} == {
        "psi": 0.7,
        "lr": Inversion().lr,
        "max_steps": STEPS_FROM_AVERAGE,
        "slots": SLOTS_CPU,
    }
    assert built.plan.generator["args"]["psi"] == 0.7
    assert searched(request)[1].shape == (2, 16, 16, 3)


def damage_shard(request: BuildRequest, name: str, shard: int) -> None:
    """Cut a shard of a view set short."""
    folder = request.out / "views" / name
    (path,) = folder.glob(f"{shard:06d}-*.tar")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1024])


def test_a_child_is_not_repaired_from_a_parent_that_was_rebuilt(
    files: Files, tmp_path: Path
) -> None:
    request = inverted(files, tmp_path / "store", shard_rows=4)
    build(request)
    shutil.rmtree(request.out / "views" / "recon")
    build(replace(request, generator="recon", settings={"max_steps": 30, "slots": 2}))
    faults = list(verify(request.out))
    assert [(fault.view_set, fault.kind) for fault in faults] == [("w-search", "parent")]
    damage_shard(request, "w-search", 1)
    faults = list(verify(request.out))
    with pytest.raises(ConfigError, match="was made from another 'recon'"):
        repair(request.out, faults, files=files.weights)
    assert [f.kind for f in verify(request.out)] == ["parent", "size"]  # nothing was given up


def test_nothing_is_given_up_for_a_repair_with_other_weights_or_versions(
    whole: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(whole)
    damage_shard(whole, "w-search", 1)
    faults = list(verify(whole.out))
    others = {**whole.files, "encoder": tmp_path / "other.safetensors"}
    others["encoder"].write_bytes(whole.files["encoder"].read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="the encoder is not the one"):
        repair(whole.out, faults, files=others)
    versions = importlib.metadata.version
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib.metadata, "version", lambda name: "0.1" if name == "numpy" else versions(name)
        )
        with pytest.raises(ConfigError, match=r"numpy was .*, is 0\.1"):
            repair(whole.out, faults, files=whole.files)
    assert [(f.kind, f.shard) for f in verify(whole.out)] == [("size", 1)]
    repair(whole.out, faults, files=whole.files)
    assert list(verify(whole.out)) == []


@pytest.mark.skipif(
    not packaged_weights("gan").is_file(),
    reason="the weights for the digits are not in this checkout: make demo-weights",
)
@pytest.mark.parametrize("generator", ["w-search", "w-perturb", "recon"])
def test_the_packaged_generator_refuses_colour_before_anything_is_written(
    generator: str, tmp_path: Path
) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    colour[:3] = colour[:3, ..., :1]  # the first ones are gray
    np.savez(tmp_path / "images.npz", images=colour)
    out = tmp_path / "store"
    request = BuildRequest(generator=generator, out=out, source=str(tmp_path / "images.npz"))
    with pytest.raises(ConfigError, match="1 channel") as error:
        build(request)
    assert "no --gan was given" in str(error.value.why)
    assert "viewstore gan train" in str(error.value.fix)
    assert not out.exists()
